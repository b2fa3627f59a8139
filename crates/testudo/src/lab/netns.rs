//! Named network namespaces, and threads that live in them.
//!
//! Invariant: no thread that the lab did not start for the purpose ever changes its namespace. A
//! namespace belongs to a task, not to a process, so code enters one on a thread of its own, and
//! what that thread opens or starts (sockets, child processes) stays in the namespace when the
//! thread is gone.
//!
//! Names are bind mounts under `/run/netns`, as `ip netns` makes them, so its `exec` works on a lab.

use std::fs::{self, File};
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const DIRECTORY: &str = "/run/netns";
/// The calling task's network namespace (`/proc/self` would be the main thread's).
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A named network namespace. Dropping this leaves the namespace standing: [`remove`] ends it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Make a namespace and name it.
    pub fn create(name: &str) -> Result<Namespace> {
        let path = path(name);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("create {DIRECTORY}"))?;
        share_directory().with_context(|| format!("make {DIRECTORY} a shared mount"))?;
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        thread::spawn(move || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(CURRENT), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        })
        .join()
        .unwrap_or_else(|panic| resume_unwind(panic))
        .with_context(|| format!("make the network namespace {name}"))?;
        Namespace::open(name)
    }

    /// Open an existing one by its name.
    pub fn open(name: &str) -> Result<Namespace> {
        let path = path(name);
        let file = File::open(&path)
            .with_context(|| format!("open the network namespace {}", path.display()))?;
        Ok(Namespace { name: name.to_owned(), file })
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Start a thread that works inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        label: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.file.try_clone()?;
        let name = self.name.clone();
        let enter = move || {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {name}"))?;
            Ok(work())
        };
        Ok(thread::Builder::new().name(label.to_owned()).spawn(enter)?)
    }

    /// Do `work` inside the namespace and wait for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter {}", self.name))?;
            Ok(work())
        };
        thread::scope(|scope| {
            scope.spawn(enter).join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Write one of the namespace's settings under `/proc/sys/net`.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }
}

/// Take the name away; the kernel ends the namespace with its last task and socket. A name that is
/// not there is no error.
pub fn remove(name: &str) -> Result<()> {
    let path = path(name);
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => continue,
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(errno).with_context(|| format!("unmount {}", path.display())),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Where the name of a namespace is.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// `ip netns` binds the directory on itself and shares it when it finds it unshared; names made
/// before that would stay pinned below the new mount, so the lab does the same first.
fn share_directory() -> nix::Result<()> {
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIRECTORY, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)?;
            share()
        }
        other => other,
    }
}
