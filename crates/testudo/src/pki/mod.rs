//! The cluster's own certificates: its authority, and what it issues to the members.
//!
//! A cluster has an authority of its own, a key and a certificate in a directory on a machine of the
//! operator's; what it signs is a member of this cluster and of no other. [`Directory`] makes and keeps
//! that directory, for `testudo pki` and for the lab alike. [`facts`] reads what a certificate says.
//!
//! Invariant: whatever a command is interrupted at, the directory can be used. Each file is written
//! beside its name and then renamed; the authority is the certificate in `ca.pem` that `ca.key` is the
//! key of, so a new authority is trusted before it begins to sign. No key is ever readable by others.
//!
//! Limits: there are no revocation lists. A member whose key is lost to somebody is put out by
//! `testudo pki rotate`, after which the old authority's certificates are worth nothing.

mod commands;
mod directory;
pub mod facts;
pub mod files;
mod making;

pub use commands::{Command, run};
pub use directory::Directory;
pub use making::check_name;

/// How long an authority is valid: longer than most clusters live.
pub const AUTHORITY_DAYS: u32 = 3650;

/// How long a member's certificate is valid: somebody who renews them once a year is never late.
pub const MEMBER_DAYS: u32 = 397;
