//! What a lab leaves on the machine, written down before it is made.
//!
//! Each lab has a directory, `/run/testudo/lab/<name>`, with its state file, and the nodes'
//! configurations, sockets and logs. While the program that built the lab runs, it is the lab's owner;
//! a lab that `lab up` left standing has none.
//!
//! Invariants: a lab is removed by its owner, by `lab down` with its name if it stands, or by any lab
//! command once its owner is dead; never otherwise. Names are taken and leftovers removed under one
//! lock, so two labs never build or remove the same name at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use testudo_datapath::kernel::pinning;

use super::netns;
use super::plan::{Coordinator, Host, Mode, Plan};
use super::process::Process;
use super::topology::Topology;

const ROOT: &str = "/run/testudo/lab";
const FILE: &str = "lab.json";
/// How long nodes may take to detach themselves before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// A lab, as its state file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Who builds or runs it; nobody if it stands by itself.
    pub owner: Option<Process>,
    /// The number of buckets that its nodes were configured with.
    pub buckets: u32,
    /// What it is built of.
    #[serde(default)]
    pub plan: Plan,
    /// Its network namespaces.
    pub namespaces: Vec<String>,
    /// Its nodes, in order.
    pub nodes: Vec<Node>,
    /// Its etcd, if the nodes agree by one.
    #[serde(default)]
    pub etcd: Option<Etcd>,
}

/// The etcd of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etcd {
    /// Its process, once it was started.
    pub process: Option<Process>,
    /// Its data.
    pub data: PathBuf,
    /// What it writes to standard output and standard error.
    pub log: PathBuf,
}

/// One node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `n1`, `n2`...
    pub name: String,
    /// Whether it votes and owns nothing.
    #[serde(default)]
    pub witness: bool,
    /// Its daemon, once it was started.
    pub process: Option<Process>,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its control socket.
    pub control: PathBuf,
    /// What its daemon writes to standard output and standard error.
    pub log: PathBuf,
    /// Where its daemon keeps what has to outlive it.
    #[serde(default)]
    pub state: PathBuf,
}

impl State {
    /// Where its cluster's authority is.
    pub fn pki(&self) -> PathBuf {
        directory(&self.name).join("pki")
    }

    /// Take a name for a lab of this process, after removing what dead labs left.
    pub fn claim(name: &str, plan: Plan, buckets: u32) -> Result<State> {
        check_name(name)?;
        let _lock = lock()?;
        sweep()?;
        let directory = directory(name);
        if directory.exists() {
            bail!(
                "a lab named {name} is already there ({}); `testudo lab down --name {name}` \
                 removes it if it stands",
                directory.display()
            );
        }
        let taken = Topology::names(name, plan);
        if let Some(taken) = taken.iter().find(|name| netns::path(name).exists()) {
            bail!("the network namespace {taken} is there already, and is no lab's");
        }
        let state = State {
            name: name.to_owned(),
            owner: Some(Process::own()?),
            buckets,
            plan,
            namespaces: taken,
            nodes: (1..=plan.members())
                .map(|number| Node::new(&directory, number, plan.is_witness(number)))
                .collect(),
            etcd: (plan.coordinator == Coordinator::Etcd).then(|| Etcd {
                process: None,
                data: directory.join("etcd.data"),
                log: directory.join("etcd.log"),
            }),
        };
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        state.save()?;
        if plan.mode == Mode::Steered {
            let pins = state.pins();
            fs::create_dir(&pins).with_context(|| format!("create {}", pins.display()))?;
            pinning::mount_file_system(&pins)?;
        }
        Ok(state)
    }

    /// Where the programs of its nodes have names, in a BPF file system of its own.
    pub fn pins(&self) -> PathBuf {
        directory(&self.name).join("bpf")
    }

    /// Read the state of the lab `name`.
    pub fn load(name: &str) -> Result<State> {
        let path = directory(name).join(FILE);
        let text = fs::read(&path)
            .with_context(|| format!("no lab named {name} (no {})", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Write it down; a reader sees the old or the new state, never a part of one.
    pub fn save(&self) -> Result<()> {
        let path = directory(&self.name).join(FILE);
        let draft = path.with_extension("draft");
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Remove the lab: its processes, its namespaces, its directory.
    pub fn remove(&self) -> Result<()> {
        let recorded = self.nodes.iter().filter_map(|node| node.process);
        let started = self.nodes.iter().flat_map(|node| Process::with_argument(&node.config));
        let mut processes: Vec<Process> = recorded.chain(started).collect();
        if let Some(etcd) = &self.etcd {
            processes.extend(etcd.process);
            processes.extend(Process::with_argument(&etcd.data));
        }
        processes.sort_by_key(|process| process.pid);
        processes.dedup();
        Process::end(&processes, GRACE)?;
        for namespace in &self.namespaces {
            netns::remove(namespace)?;
        }
        // Programs that outlive their daemons end with their names.
        match umount2(&self.pins(), MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => bail!("unmount {}: {errno}", self.pins().display()),
        }
        remove_directory(&directory(&self.name))
    }

    /// The index of the node called `name`.
    pub fn node(&self, name: &str) -> Result<usize> {
        self.nodes.iter().position(|node| node.name == name).with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            format!("lab {} has no node {name}; it has {}", self.name, names.join(", "))
        })
    }
}

impl Node {
    fn new(directory: &Path, number: u8, witness: bool) -> Node {
        let name = Host::Node(number).name();
        let file = |extension: &str| directory.join(format!("{name}.{extension}"));
        Node {
            witness,
            process: None,
            state: file("state"),
            config: file("toml"),
            control: file("sock"),
            log: file("log"),
            name: name.clone(),
        }
    }
}

/// Remove the standing lab `name`, and what dead labs left.
pub fn down(name: &str) -> Result<()> {
    check_name(name)?;
    let _lock = lock()?;
    sweep()?;
    let state = State::load(name)?;
    match state.owner {
        Some(owner) => bail!("lab {name} belongs to process {}, which still runs", owner.pid),
        None => state.remove(),
    }
}

/// Remove every lab whose owner is dead. Needs the lock. One that can't be removed is told and does
/// not stand in the way of others.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().join(FILE).exists() {
            // Its owner died between making the directory and writing the state: there is no more.
            remove_directory(&entry.path())?;
            continue;
        }
        let state = match State::load(&name) {
            Ok(state) => state,
            // Its owner, who needs no lock for that, removed it meanwhile.
            Err(_) if !entry.path().join(FILE).exists() => continue,
            Err(error) => {
                eprintln!("testudo lab: left alone, since nobody can tell whose it is: {error:#}");
                continue;
            }
        };
        if state.owner.is_some_and(|owner| !owner.alive())
            && let Err(error) = state.remove()
        {
            eprintln!("testudo lab: the dead lab {name} could not be removed: {error:#}");
        }
    }
    Ok(())
}

/// The directory of the lab `name`.
fn directory(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// A name becomes a part of file names and of namespaces' names, and the cluster's name.
fn check_name(name: &str) -> Result<()> {
    let fits = (1..=63).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !fits {
        bail!(
            "{name:?} is no name for a lab: expected 1 to 63 letters, digits, '-' and '_', \
             beginning with a letter or digit"
        );
    }
    Ok(())
}

fn lock() -> Result<Flock<File>> {
    fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT}"))?;
    let path = Path::new(ROOT).join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", path.display()))
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::{Coordinator, Mode};

    const PLAN: Plan =
        Plan { mode: Mode::Shared, nodes: 2, witness: false, coordinator: Coordinator::Embedded };

    #[test]
    fn the_state_file_reads_back_as_written() {
        let state = State {
            name: "t".into(),
            owner: Some(Process { pid: 7, started: 4711 }),
            buckets: 256,
            plan: PLAN,
            namespaces: Topology::names("t", PLAN),
            nodes: (1..=2).map(|number| Node::new(Path::new("/run/x"), number, false)).collect(),
            etcd: None,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        assert_eq!(state.namespaces, ["t-switch", "t-client", "t-server", "t-n1", "t-n2"]);
        assert_eq!(state.nodes[1].control, Path::new("/run/x/n2.sock"));
        assert_eq!(state.node("n2").unwrap(), 1);
        assert!(state.node("n3").unwrap_err().to_string().contains("it has n1, n2"));
    }

    #[test]
    fn a_name_can_not_lead_out_of_the_directory() {
        for name in ["", "..", "a/b", "a b", "-a", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("lab-1_a").is_ok());
    }
}
