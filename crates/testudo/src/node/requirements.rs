//! What a node needs from its machine, found out before anything is touched.
//!
//! Invariant: the daemon never changes a setting of the machine. It says which one is wrong and
//! with which command to set it; an operator who reads that has decided, a daemon would only hide
//! it. Its own limits it raises as far as it may.

use std::fs;
use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// What is missing. Nothing has been touched; the operator has to act.
#[derive(Debug, thiserror::Error)]
pub enum RequirementError {
    /// This process lacks capabilities.
    #[error(
        "not permitted: this process lacks {missing}; expected to run as root or with \
         CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON"
    )]
    NotPermitted {
        /// Names of capabilities.
        missing: String,
    },
    /// The kernel does not forward packets, so it gives no next hops either.
    #[error(
        "{name} is {seen}; expected 1, or the kernel gives no routes to forward by; set it with \
         `sysctl -w {name}=1` in the node's network namespace"
    )]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// Its value.
        seen: String,
    },
    /// Something that Linux tells of itself could not be read.
    #[error("{path} could not be read: {source}; expected Linux with /proc mounted")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Numbers of capabilities, from linux/capability.h.
const NEEDED: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Implies the last two.
const SYS_ADMIN: u32 = 21;

/// `bpf_fib_lookup` gives a next hop only where forwarding is on.
const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];

/// Checks capabilities and settings.
pub fn check() -> Result<(), RequirementError> {
    let missing = missing_capabilities(effective_capabilities()?);
    if !missing.is_empty() {
        return Err(RequirementError::NotPermitted { missing: missing.join(", ") });
    }
    for name in FORWARDING {
        // The files show the settings of the reading thread's network namespace.
        let seen = read(&format!("/proc/sys/{}", name.replace('.', "/")))?;
        if seen.trim() != "1" {
            return Err(RequirementError::Setting { name, seen: seen.trim().to_owned() });
        }
    }
    Ok(())
}

/// Raises limits of this process to what it may have: a descriptor for each peer and client, and
/// locked memory, which kernels before 5.11 count maps as. Where it may not, what then fails says so.
pub fn raise_limits() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the limit of open files stays at {soft}");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}

fn read(path: &str) -> Result<String, RequirementError> {
    let unreadable = |source| RequirementError::Unreadable { path: path.to_owned(), source };
    fs::read_to_string(path).map_err(unreadable)
}

fn effective_capabilities() -> Result<u64, RequirementError> {
    const PATH: &str = "/proc/thread-self/status";
    let status = read(PATH)?;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let unreadable = || RequirementError::Unreadable {
        path: PATH.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, "no CapEff in it"),
    };
    let digits = effective.ok_or_else(unreadable)?.trim();
    u64::from_str_radix(digits, 16).map_err(|_| unreadable())
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective >> number & 1 == 1;
    let lacks = |&&(number, _): &&(u32, &str)| !(has(number) || number >= 38 && has(SYS_ADMIN));
    NEEDED.iter().filter(lacks).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        assert!(missing_capabilities(u64::MAX).is_empty());
        assert_eq!(missing_capabilities(0).len(), 4);
        assert_eq!(missing_capabilities(1 << 12 | 1 << 13), ["CAP_PERFMON", "CAP_BPF"]);
        assert!(missing_capabilities(1 << 12 | 1 << 13 | 1 << 21).is_empty());
    }

    #[test]
    fn this_thread_has_capabilities_that_can_be_read() {
        assert!(effective_capabilities().is_ok());
    }
}
