//! `testudo flow admit`: what a program calls that has learned of a flow before its first packet.

use std::net::SocketAddr;

use crate::control::protocol::Admitted;
use crate::inspect::{Connection, InspectError};

/// Let a flow in that no rule lets in, wherever its packets are handled.
///
/// Any node may be asked. When this returns without an error, the flow's first packet finds its entry. Without
/// packets the entry goes like that of any flow that nobody answers.
#[derive(Debug, clap::Args)]
pub struct AdmitArgs {
    /// tcp, udp or sctp
    protocol: String,
    /// Who sends the first packet, as ADDRESS:PORT
    initiator: SocketAddr,
    /// To whom, as ADDRESS:PORT
    responder: SocketAddr,
    #[command(flatten)]
    connection: Connection,
}

/// `testudo flow admit`
pub fn run(args: &AdmitArgs) -> Result<(), InspectError> {
    let AdmitArgs { protocol, initiator, responder, connection } = args;
    let admitted = connection.open()?.admit(protocol.clone(), *initiator, *responder)?;
    connection.print(&admitted, |Admitted { bucket, owner, copies, was_there }| {
        let before = if *was_there { "had been let in before" } else { "is let in" };
        format!("the flow {before}: bucket {bucket}, by {owner}; {copies} other nodes know it\n")
    })
}
