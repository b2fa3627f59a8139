//! The packet pipeline of Testudo.
//!
//! Headers → flow key → bucket → ownership → entry → rules → verdict, written once and compiled
//! twice: to eBPF, where it handles the packets, and to the host, where it runs captures, tests,
//! fuzzers and the packets that the kernel passes up.
//!
//! Guarantees, whatever the bytes: no panic, no allocation, no unsafe code, no unbounded loop, no
//! clock or randomness but what [`env::Env`] gives. A packet that is not understood gets a
//! [`verdict::DropReason`], never a guess.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod association;
pub mod bucket;
pub mod crc32c;
pub mod entry;
pub mod env;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod hop;
pub mod likeness;
pub mod meter;
pub mod mss;
pub mod neighbour;
pub mod open;
pub mod packet_hash;
pub mod pipeline;
pub mod placement;
pub mod reception;
pub mod related;
pub mod reverse_path;
pub mod rule;
pub mod set;
pub mod siphash;
pub mod stage;
pub mod table;
pub mod tracking;
pub mod translate;
pub mod verdict;
pub mod window;
pub mod wire;
