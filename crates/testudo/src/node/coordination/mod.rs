//! The coordinators' I/O: where the agreed log is kept, and the coordinator that is a real etcd.
//!
//! What is decided stands in `testudo_coordinator`; here are only files and sockets.

pub mod etcd;
pub mod store;
