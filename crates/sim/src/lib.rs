//! Whole Testudo clusters in virtual time, with seeded faults and one checker per promise.
//!
//! A simulated node is the daemon's own state machines: membership, replica, agreement and planner,
//! driven by three threads that tell each other everything by messages with small random delays. Its
//! kernel, its disk, the network, the operators and the clocks are models that misbehave by a seed.
//!
//! Invariant: a run follows from its seed alone, so a failure is replayed by the one command that it
//! prints.
//!
//! Limits: the models stand for what they leave out. Packets have no contents, a disk loses what was
//! not synced and nothing else, and machines are never suspended with their clocks stopped: the
//! cluster's promise does not cover that.

pub mod checkers;
pub mod clock;
pub mod fault;
pub mod kernel;
pub mod machine;
pub mod options;
pub mod rng;
pub mod run;
pub mod seeds;
pub mod streams;
pub mod tally;
mod threads;
pub mod traffic;
pub mod translations;
pub mod world;
