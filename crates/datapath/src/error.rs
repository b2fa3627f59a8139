//! What can go wrong when a node's packet handling is set up.

use testudo_packet::rule::MAX_RULES;

/// Why a node's packet handling could not be set up or changed. What was set up before stays as it
/// was; what was begun is undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number in the settings is none that a map can have.
    #[error("{what} is {seen}; expected a power of two from {least} to {most}")]
    NotAPowerOfTwo {
        /// Which number.
        what: &'static str,
        /// What it is.
        seen: u32,
        /// The smallest that it may be.
        least: u32,
        /// The largest that it may be.
        most: u32,
    },
    /// More of something than a packet is compared with.
    #[error("{seen} {what}; expected at most {most}; those in force stay")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        seen: usize,
        /// How many there may be.
        most: usize,
    },
    /// More rules than a packet is compared with.
    #[error("{seen} rules; expected at most {MAX_RULES}; the rules in force stay")]
    TooManyRules {
        /// How many there are.
        seen: usize,
    },
    /// The kernel lacks something that the programs need.
    #[error(
        "the kernel refused the packet program: {feature} is missing, which came with Linux \
         {since} (the kernel said: {said})"
    )]
    MissingFeature {
        /// What is missing.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
        /// The kernel's own words.
        said: String,
    },
    /// This process may not load programs.
    #[error(
        "not permitted to load the packet program; expected to run as root or with CAP_BPF, \
         CAP_NET_ADMIN and CAP_PERFMON (the kernel said: {said})"
    )]
    NotPermitted {
        /// The kernel's own words.
        said: String,
    },
    /// The verifier refused a program for a reason that no known feature explains.
    #[error("the kernel's verifier refused program {program}: {said}")]
    Refused {
        /// Which program.
        program: &'static str,
        /// The end of the verifier's log.
        said: String,
    },
    /// The program could not be put on an interface.
    #[error(
        "the packet program could not be put on interface {interface}: {said}; expected an \
         interface whose driver runs XDP programs and that has none yet"
    )]
    Attach {
        /// Which interface.
        interface: String,
        /// The kernel's own words.
        said: String,
    },
    /// Nothing was left in this directory for a successor.
    #[error("{directory} holds no packet handling; expected one that was pinned there")]
    NothingPinned {
        /// Where.
        directory: String,
    },
    /// What was left there does not fit. It stays as it is, and goes on handling packets.
    #[error(
        "the packet handling in {directory} can't be adopted: {what} is {seen:#x}, expected \
         {expected:#x}; it stays as it is; unpin it to begin anew"
    )]
    OtherPinned {
        /// Where.
        directory: String,
        /// What differs.
        what: &'static str,
        /// As it is there.
        seen: u64,
        /// As this process has it.
        expected: u64,
    },
    /// Something could not be pinned, adopted or unpinned.
    #[error("{path}: {said}; expected a directory of a BPF file system")]
    Pin {
        /// Which file.
        path: String,
        /// What went wrong.
        said: String,
    },
    /// A map could not be made, found, read or written.
    #[error("map {map}: {said}")]
    Map {
        /// Which map.
        map: &'static str,
        /// What went wrong.
        said: String,
    },
    /// There is no memory for the node's tables.
    #[error("no memory for the node's tables: {0}")]
    Memory(std::io::Error),
    /// A socket to send packets by could not be made.
    #[error("no socket to send packets by: {0}")]
    Socket(std::io::Error),
}
