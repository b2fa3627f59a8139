//! The control socket: how a running node is asked, by the command line, the lab and scripts.
//!
//! One JSON object a line in, one JSON object a line out, over a Unix stream socket. The types in
//! [`protocol`] are the only definition of either; [`server`] is the daemon's end, [`client`] the
//! other.

pub mod client;
mod connect;
pub mod protocol;
pub mod server;
mod session;
mod socket;
#[cfg(test)]
pub(crate) mod tests;
