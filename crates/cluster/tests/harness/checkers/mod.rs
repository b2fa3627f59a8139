//! What must hold, one statement a module. None of them looks into a state machine for what it
//! thinks of itself: kernel slots, lease words and tables are all that packets meet.

#![allow(unused_imports, reason = "each file of tests uses its checkers")]

mod every_bucket_owned;
mod one_owner;
mod tables_agree;
mod takeover_time;

pub use every_bucket_owned::every_bucket_owned;
pub use one_owner::one_owner;
pub use tables_agree::tables_agree;
pub use takeover_time::takeover_time;
