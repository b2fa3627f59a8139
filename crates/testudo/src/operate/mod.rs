//! What an operator does to a cluster: `testudo node drain|undrain|restart`, `testudo bucket move`,
//! `testudo flow admit`, `testudo rule …` and `testudo sync show|verify`, and the daemon's end of the first ones.
//!
//! The commands ask one node over its control socket; [`Operator`] there checks what can be checked
//! without an agreement (is there such a node, such a bucket) and hands the rest to the thread that
//! runs the coordinator, as an [`order::Request`] with a way back.
//!
//! Invariant: a command that is refused has changed nothing, and says so. One whose answer is late may
//! still come to pass: agreement can't be called back. The message says where to look.

mod admit;
mod commands;
mod operator;
pub mod order;
mod rule;
mod sync;

pub use admit::{AdmitArgs, run as admit};
pub use commands::{MoveArgs, NodeCommand, move_bucket, node};
pub use operator::{OperateError, Operator};
pub use rule::{Args as RuleArgs, run as rule};
pub use sync::{Args as SyncArgs, run as sync};
