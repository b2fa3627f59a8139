//! The test that the committed objects belong to the sources beside them.
//!
//! It runs with all the other tests and needs no eBPF toolchain. Whether the bytes are right only a
//! build can tell, and `cargo xtask bpf --check` does; but that they are *old*, which is what happens
//! by forgetting, anybody's machine can tell.

use super::inputs;
use crate::root::workspace_root;

#[test]
fn the_committed_objects_are_not_older_than_their_inputs() {
    if let Err(error) = inputs::check_fresh(&workspace_root()) {
        panic!("{error:#}");
    }
}
