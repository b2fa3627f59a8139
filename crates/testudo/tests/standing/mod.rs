//! A lab that stands for one test, with what its operators can do and see, and a load on it.
//!
//! It goes when the test ends, whatever way it ends. Its hosts are built with one node more than the
//! cluster has: the last one's host is free for whoever is to be a stranger.

pub mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

const TESTUDO: &str = env!("CARGO_BIN_EXE_testudo");
/// How long anything may take that has to come.
const LIMIT: Duration = Duration::from_secs(120);
/// For how long a map must not have changed to count as settled: longer than a dead voter is kept.
const SETTLED: Duration = Duration::from_secs(4);

/// A lab.
pub struct Standing {
    name: String,
    nodes: u8,
}

/// What the cluster has agreed on, and whose the buckets are by it: what must not move.
#[derive(Debug, PartialEq)]
pub struct Agreed {
    version: Value,
    voters: Value,
    /// Owner and epoch of each bucket.
    buckets: Vec<(Value, Value)>,
}

impl Agreed {
    /// How many commands have changed the map.
    pub fn version(&self) -> u64 {
        self.version.as_u64().expect("a number")
    }

    /// Whose a bucket is.
    pub fn owner(&self, bucket: usize) -> String {
        self.buckets[bucket].0.as_str().unwrap_or_default().to_owned()
    }
}

impl Standing {
    /// Its name, and its cluster's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Builds the hosts and writes the configurations of a cluster of `nodes`; no daemon runs yet.
    pub fn bare(story: &str, nodes: u8, options: &[&str]) -> Self {
        let hosts = (nodes + 1).to_string();
        let standing = Self::hosts(story, nodes, &hosts, options);
        let last = format!("\n[[member]]\nname = \"n{hosts}\"\n");
        for node in 1..=nodes {
            standing.edit(&format!("n{node}"), |text| {
                let (before, after) = text.split_once(&last).expect("the last member");
                let (_, after) = after.split_once("\n\n").expect("sections behind it");
                format!("{}\n{after}", still(before))
            });
        }
        standing
    }

    /// As [`Standing::up`], without the host for a stranger: routers spread packets over all nodes' hosts.
    pub fn whole(story: &str, nodes: u8, options: &[&str]) -> Self {
        let standing = Self::hosts(story, nodes, &nodes.to_string(), options);
        (1..=nodes).for_each(|node| standing.edit(&format!("n{node}"), |text| still(&text)));
        standing.start(options);
        standing
    }

    fn hosts(story: &str, nodes: u8, hosts: &str, options: &[&str]) -> Self {
        let name = format!("test-{story}-{}", std::process::id());
        let standing = Self { name, nodes };
        let up = ["up", "--bare", "--nodes", hosts, "--name", &standing.name];
        // A busy machine is no fault of the cluster's here.
        let timing = ["--timing", "600,1000,100"];
        let output = lab(&[&up[..], &timing[..], options].concat());
        assert!(output.status.success(), "{output:?}");
        standing
    }

    /// As [`Standing::bare`], and starts the nodes; all have buckets when this returns.
    pub fn up(story: &str, nodes: u8, options: &[&str]) -> Self {
        let standing = Self::bare(story, nodes, options);
        standing.start(options);
        standing
    }

    fn start(&self, options: &[&str]) {
        if options.contains(&"etcd") {
            self.order("start", "etcd");
        }
        for node in 1..=self.nodes {
            self.order("start", &format!("n{node}"));
        }
        self.await_owners(&[1, 2, 3][..usize::from(self.nodes)]);
    }

    /// A file of the lab: `n1.toml`, `n1.log`, `n1.sock`.
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new("/run/testudo/lab").join(&self.name).join(name)
    }

    /// Changes a node's configuration.
    pub fn edit(&self, node: &str, change: impl FnOnce(String) -> String) {
        let file = self.file(&format!("{node}.toml"));
        let text = fs::read_to_string(&file).expect("a configuration");
        fs::write(&file, change(text)).expect("a configuration");
    }

    /// Has the lab do something to a node: `start`, `kill`, `cut`… A node that was killed has ended when
    /// this returns.
    pub fn order(&self, verb: &str, node: &str) {
        let output = lab(&[verb, "--name", &self.name, node]);
        assert!(output.status.success(), "{verb} {node}: {output:?}");
        if verb == "kill" && node != "etcd" {
            self.until(&format!("{node} has ended"), || !self.runs(node));
        }
    }

    /// Whether a node's daemon runs.
    pub fn runs(&self, node: &str) -> bool {
        let output = lab(&["status", "-j", "--name", &self.name]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("a status");
        let nodes = status["nodes"].as_array().expect("nodes");
        let found = nodes.iter().find(|found| found["name"] == node).expect("the node");
        found["process"] == "running"
    }

    /// What a node answers to a command; nothing if it does not answer.
    pub fn ask(&self, node: &str, command: &[&str]) -> Option<Value> {
        let socket = self.file(&format!("{node}.sock"));
        let mut testudo = Command::new(TESTUDO);
        let output = testudo.args(command).args(["-j", "--socket"]).arg(socket).output();
        serde_json::from_slice(&output.expect("start testudo").stdout).ok()
    }

    /// Has a node do something; says whether it does.
    pub fn tell(&self, node: &str, command: &[&str]) -> bool {
        let socket = self.file(&format!("{node}.sock"));
        let output = Command::new(TESTUDO).args(command).arg("--socket").arg(socket).output();
        output.expect("start testudo").status.success()
    }

    /// A counter of a node.
    pub fn counter(&self, node: &str, name: &str) -> u64 {
        let status = self.ask(node, &["status"]).expect("a status");
        status["counters"][name].as_u64().unwrap_or_else(|| panic!("{name} in {status}"))
    }

    /// What a node's daemon has written.
    pub fn log(&self, node: &str) -> String {
        let bytes = fs::read(self.file(&format!("{node}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a node has written a line with all of `words` in it.
    pub fn await_line(&self, node: &str, words: &[&str]) {
        self.until(&format!("{node} writes {words:?}"), || {
            self.log(node).lines().any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    /// Waits until these nodes own all buckets between them.
    pub fn await_owners(&self, nodes: &[u8]) {
        let mut seen = Vec::new();
        self.until(&format!("{nodes:?} own all buckets"), || {
            let status = |node: &u8| self.ask(&format!("n{node}"), &["status"]);
            seen = nodes.iter().map(status).collect::<Vec<_>>();
            let count = |status: &Option<Value>| status.as_ref()?["buckets"]["owned"].as_u64();
            let owned: Vec<u64> = seen.iter().filter_map(count).collect();
            owned.iter().sum::<u64>() == 256 && owned.iter().all(|owned| *owned > 0)
        });
    }

    /// Waits until nothing has been agreed on for some time; gives what is agreed on.
    pub fn settled(&self) -> Agreed {
        let mut agreed = self.agreed();
        let mut since = Instant::now();
        self.until("the map settles", || {
            let now = self.agreed();
            if now != agreed {
                (agreed, since) = (now, Instant::now());
            }
            since.elapsed() > SETTLED
        });
        agreed
    }

    /// What is agreed on, by the first node.
    pub fn agreed(&self) -> Agreed {
        let map = self.ask("n1", &["map", "show"]).expect("a map");
        let buckets = self.ask("n1", &["bucket", "show"]).expect("buckets");
        let buckets = buckets["buckets"].as_array().expect("a list");
        Agreed {
            version: map["version"].clone(),
            voters: map["nodes"].clone(),
            buckets: buckets.iter().map(|b| (b["owner"].clone(), b["epoch"].clone())).collect(),
        }
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            if begun.elapsed() > LIMIT {
                let tail = |node: u8| {
                    let log = self.log(&format!("n{node}"));
                    let lines: Vec<&str> = log.lines().rev().take(12).collect();
                    format!("n{node}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
                };
                let logs: Vec<String> = (1..=self.nodes + 1).map(tail).collect();
                panic!("still not: {what}\n{}", logs.join("\n"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Does `work` on a thread inside a host's network namespace.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.namespace(host)).expect("the host's namespace");
        thread::scope(|scope| {
            let enter = || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the host");
                work()
            };
            scope.spawn(enter).join().expect("the work in the host")
        })
    }

    /// Where a host's network namespace has its name.
    pub fn namespace(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("{}-{host}", self.name))
    }
}

/// A configuration under which nothing moves but for what a test does.
fn still(text: &str) -> String {
    text.replacen("[cluster]", "[cluster]\nbalance_moves_per_minute = 0", 1)
}

impl Drop for Standing {
    fn drop(&mut self) {
        lab(&["down", "--name", &self.name]);
    }
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(TESTUDO).arg("lab").args(arguments).output().expect("start testudo")
}
