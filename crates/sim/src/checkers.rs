//! What must hold, one statement a module.
//!
//! Invariant: a checker looks at what packets meet (slots, lease words, tables) and at what nodes say of
//! themselves to operators, never into a state machine for its reasons. The ones that hold at every
//! instant are asked by the world as it goes on; the others, when the faults are over.

mod acknowledged;
mod all_members;
mod bounded;
mod copies_kept;
mod drained_own_nothing;
mod every_bucket_owned;
mod handed_over_whole;
mod handled_once;
mod kept_back;
mod let_in;
mod never_apart;
mod never_back;
mod one_owner;
mod tables_agree;
mod takeover_time;
mod translated_alone;

pub use acknowledged::Acknowledged;
pub use all_members::all_members;
pub use bounded::bounded;
pub use copies_kept::Copies;
pub(crate) use copies_kept::whole_copies;
pub use drained_own_nothing::drained_own_nothing;
pub use every_bucket_owned::every_bucket_owned;
pub use handed_over_whole::handed_over_whole;
pub use handled_once::HandledOnce;
pub use kept_back::{KeptBack, kept_back};
pub use let_in::let_in;
pub use never_back::NeverBack;
pub use one_owner::one_owner;
pub use tables_agree::tables_agree;
pub use takeover_time::takeover_time;
pub use translated_alone::{TranslatedAlone, translated_alone};

use crate::world::World;

/// All that has to hold some time after the faults are over, but for what takes a quiet network.
///
/// # Errors
///
/// What does not hold.
pub fn healed(world: &World) -> Result<(), String> {
    every_bucket_owned(world)?;
    all_members(world)?;
    drained_own_nothing(world)
}
