//! What a Testudo node decides, without I/O.
//!
//! Two state machines, each driven by `handle_*` and `poll_*` calls, with the time as an argument:
//! [`membership::Membership`] says who is there, who may own which bucket and until when;
//! [`replica::Replica`] keeps the flows of all nodes equal on all nodes. The first tells the second
//! of changes in [`ownership::Ownership`] messages, so that each can run on a thread of its own and
//! bulk work never delays a heartbeat.
//!
//! Nothing here reads a clock, opens a socket, starts a thread, draws a random number or waits.

mod bits;
pub mod common_table;
pub mod config;
pub mod heartbeat;
pub mod keys;
pub mod map;
pub mod membership;
pub mod node_set;
pub mod ownership;
pub mod plan;
pub mod planner;
pub mod replica;
pub mod sync;
mod time;
mod wire;
