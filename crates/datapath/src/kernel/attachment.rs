//! The programs on an interface.
//!
//! The classifier comes before the XDP program and goes after it: no packet is left to the stack
//! without the classifier to tell it so.

use aya::programs::links::FdLink;
use aya::programs::tc::{self, SchedClassifierLink, TcAttachType, TcError};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};
use aya::util::KernelVersion;

use super::{KernelDatapath, guard, pinning, refusal};
use crate::Error;

/// Where the programs are. Dropping it takes them off, unless they are pinned; the fields go in this
/// order.
pub struct Attachment {
    /// The number of the interface.
    pub interface: u32,
    pub packets: FdLink,
    pub stack: Stack,
}

/// How the classifier is held.
pub enum Stack {
    /// By a link, which can outlive the process.
    Link(FdLink),
    /// By the interface's queueing discipline, on kernels before 6.6.
    Filter(#[allow(dead_code, reason = "it is held, and dropped")] SchedClassifierLink),
}

/// Puts both programs on an interface.
pub fn attach(datapath: &mut KernelDatapath, interface: &str) -> Result<(), Error> {
    let failed = |error: &dyn std::error::Error| Error::Attach {
        interface: interface.into(),
        said: refusal::chain(error),
    };
    let number = nix::net::if_::if_nametoindex(interface).map_err(|error| failed(&error))?;
    if datapath.attached.iter().any(|one| one.interface == number) {
        return Ok(());
    }
    let attachment = match guard::take(datapath, number)? {
        Some(attachment) => attachment,
        None => {
            let stack = attach_stack(datapath, interface)?.map_err(|error| failed(&error))?;
            let packets = attach_packets(datapath, number)?.map_err(|error| failed(&error))?;
            let attachment = Attachment { interface: number, packets, stack };
            if let Some(directory) = &datapath.guarded {
                pinning::pin_attachment(directory, &attachment)?;
            }
            attachment
        }
    };
    if let Some(directory) = &datapath.pinned {
        pinning::pin_attachment(directory, &attachment)?;
    }
    datapath.attached.push(attachment);
    Ok(())
}

type Attached<T> = Result<Result<T, ProgramError>, Error>;

fn attach_stack(datapath: &mut KernelDatapath, interface: &str) -> Attached<Stack> {
    // From this kernel on classifiers have links of their own, which end with the process.
    let modern = KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 6, 0));
    if !modern {
        match tc::qdisc_add_clsact(interface) {
            Ok(()) | Err(TcError::AlreadyAttached) => {}
            Err(error) => return Ok(Err(error.into())),
        }
    }
    let program = datapath.programs.stack()?;
    let link = program.attach(interface, TcAttachType::Ingress);
    Ok(link.and_then(|id| program.take_link(id)).and_then(stack_of))
}

/// The classifier as it is held.
pub fn stack_of(link: SchedClassifierLink) -> Result<Stack, ProgramError> {
    if <&FdLink>::try_from(&link).is_err() {
        return Ok(Stack::Filter(link));
    }
    let link = FdLink::try_from(link).map_err(|error| ProgramError::IOError(other(error)))?;
    Ok(Stack::Link(link))
}

fn attach_packets(datapath: &mut KernelDatapath, interface: u32) -> Attached<FdLink> {
    let program = datapath.programs.packets()?;
    let link = program.attach_to_if_index(interface, XdpMode::Driver);
    Ok(link.and_then(|id| program.take_link(id)).and_then(packets_of))
}

/// The XDP program as it is held. Every kernel that has what the program needs has such links.
pub fn packets_of(link: XdpLink) -> Result<FdLink, ProgramError> {
    FdLink::try_from(link).map_err(|error| ProgramError::IOError(other(error)))
}

fn other(error: aya::programs::links::LinkError) -> std::io::Error {
    std::io::Error::other(error)
}
