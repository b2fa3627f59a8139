//! Where the packet pipeline runs.
//!
//! [`Datapath`] is a node's packet handling as the daemon drives it, [`NodeTable`] its table of
//! flows. Two backends stand behind both traits: [`kernel`] (the pipeline as an XDP program, the
//! table in memory that kernel and daemon share) and [`user`] (the same pipeline over ordinary
//! memory).
//!
//! This crate and the eBPF shim are the only homes of `unsafe`: shared memory, sockets, bpf(2), and
//! a thread's priority.

mod announce;
mod bucket_set;
mod clamps;
mod committing;
mod early;
mod error;
pub mod expiry;
mod explain;
mod fragments;
mod frame;
mod held;
mod host_env;
mod interface;
pub mod kernel;
pub mod likenesses;
pub mod mapping;
mod memory;
mod meters;
mod place;
pub mod pools;
pub mod realtime;
mod reject;
mod routes;
mod sets;
mod settings;
mod shared_table;
pub mod signals;
mod stations;
pub mod user;

pub use bucket_set::BucketSet;
pub use error::Error;
pub use explain::Explained;
pub use frame::SliceFrame;
pub use held::Released;
pub use interface::{
    BucketLoad, Datapath, Drained, EntryView, Expired, Installed, Learned, NodeTable, Refused,
};
pub use memory::Words;
pub use meters::Limits;
pub use sets::{LoadedSet, PrefixSet, Sets};
pub use settings::{Answer, MAX_TABLE_SLOTS, Settings};
pub use shared_table::{HostSlot, SharedTable};
pub use stations::{MAX_LOCAL_ADDRESSES, MAX_STATIONS, Station};
