//! Programs that stay on their interfaces when the daemon dies, so that nothing passes without it.
//!
//! In `steered` mode packets are sent to the node's own address. Without programs its kernel would
//! forward them like any router, past ownership and rules. So the links have names in a directory of a
//! BPF file system: they outlive a process that is killed, the lease in their memory ends, and from then
//! on they drop what is the cluster's.
//!
//! Invariant: a process that begins anew puts its own programs into the links that it finds, each in one
//! step. At no moment is an interface without them, and nothing of the dead process's memory is in force.
//!
//! Why only links: they keep their programs, and those their maps. Entries of a life that is over are
//! not to be found again; what a restart needs is pinned elsewhere, see [`super::pinning`].
//!
//! Limits: from a kill to the end of the lease the old slots are in force, as in every mode. What stages
//! behind the main one decide is dropped already, first packets among it: the map of stages ends with the
//! process that holds it. So no flow begins of which no peer would ever hear.

use std::fs;
use std::io;
use std::path::Path;

use super::KernelDatapath;
use super::attachment::Attachment;
use super::pinning::{self, PACKETS_LINK, STACK_LINK, failed};
use crate::Error;

/// Has everything that is attached from now on, and what is attached already, guarded in a directory.
pub(super) fn guard(datapath: &mut KernelDatapath, directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for attachment in &datapath.attached {
        if !is_guarded(directory, attachment.interface) {
            pinning::pin_attachment(directory, attachment)?;
        }
    }
    datapath.guarded = Some(directory.to_owned());
    Ok(())
}

fn is_guarded(directory: &Path, interface: u32) -> bool {
    [PACKETS_LINK, STACK_LINK]
        .iter()
        .all(|link| directory.join(format!("{link}{interface}")).exists())
}

/// Puts the programs into the links that a dead process has left on an interface; `None` if there are
/// none that can be taken.
pub(super) fn take(
    datapath: &mut KernelDatapath,
    interface: u32,
) -> Result<Option<Attachment>, Error> {
    let Some(directory) = datapath.guarded.clone() else { return Ok(None) };
    if is_guarded(&directory, interface) {
        match pinning::take_over(datapath, &directory, interface) {
            Ok(Some(attachment)) => {
                tracing::info!(interface, "the programs of a dead process were replaced");
                return Ok(Some(attachment));
            }
            Ok(None) => {}
            // The interface of that number was another one: the links hold nothing.
            Err(error) => {
                tracing::debug!(%error, interface, "links that can't be taken are removed")
            }
        }
    }
    remove(&directory, interface)?;
    Ok(None)
}

/// Takes the programs off every interface, for an end that somebody wants.
pub(super) fn stand_down(datapath: &mut KernelDatapath) -> Result<(), Error> {
    let Some(directory) = datapath.guarded.take() else { return Ok(()) };
    for Attachment { interface, .. } in &datapath.attached {
        remove(&directory, *interface)?;
    }
    // Of other interfaces there may be some left, by an earlier configuration: they stay closed.
    let _ = fs::remove_dir(&directory);
    datapath.attached.clear();
    Ok(())
}

fn remove(directory: &Path, interface: u32) -> Result<(), Error> {
    // The order in which programs may go.
    for link in [PACKETS_LINK, STACK_LINK] {
        let path = directory.join(format!("{link}{interface}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}
