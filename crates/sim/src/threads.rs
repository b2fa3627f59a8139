//! The threads of a daemon, each the driver of one part of it.
//!
//! Invariant: they drive the state machines as the daemon does, and tell each other everything by mail
//! that takes its time. None looks into what another drives.

mod audit;
mod coordinator;
mod determining;
mod engine;
mod heartbeat;
