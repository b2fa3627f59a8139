//! Letting in a flow that a program has determined: what can be checked here, and what has come of it.

use std::net::SocketAddr;

use testudo_cluster::replica::Outcome;
use testudo_packet::bucket::{Epoch, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::placement::{Identifiers, PacketType};
use testudo_packet::tracking::Phase;

use super::{Answerer, NoAnswer, ask, engine};
use crate::control::protocol::Admitted;
use crate::node::engine::determined::Question;
use crate::protocol_names;

/// The rule of flows that no rule has let in.
const NO_RULE: u16 = u16::MAX;

/// Ports of ISAKMP, whose packets are not placed by their ports (RFC 3948 §2.2).
const ISAKMP: [u16; 2] = [500, 4500];

/// Why a flow was not let in. Unless it says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// Not a protocol whose flows can be told by two addresses and two ports.
    #[error("protocol {seen:?}; expected tcp, udp or sctp")]
    Protocol {
        /// What was given.
        seen: String,
    },
    /// The ends are of two families.
    #[error("{initiator} and {responder} are of two families; expected both IPv4 or both IPv6")]
    Families {
        /// One end.
        initiator: SocketAddr,
        /// The other.
        responder: SocketAddr,
    },
    /// An end that no packet comes from or goes to.
    #[error("{seen} is no end of a flow; expected a unicast address and a port from 1 to 65535")]
    End {
        /// The end.
        seen: SocketAddr,
    },
    /// Which bucket it belongs to is not known from its ports.
    #[error(
        "UDP port {port} is ISAKMP's, which belongs to a bucket by what is in its packets; expected another port"
    )]
    Isakmp {
        /// The port.
        port: u16,
    },
    /// Too many of these are under way at this node.
    #[error("too many flows are being let in by this node; ask again")]
    Many,
    /// At the owner of the bucket.
    #[error("too many flows are being let in by {owner}, which owns the bucket; ask again")]
    Busy {
        /// Its name.
        owner: String,
    },
    /// The tables of the owner are full.
    #[error(
        "{owner}, which owns the bucket, has no room for the flow; expected a larger table_entries"
    )]
    Full {
        /// Its name.
        owner: String,
    },
    /// Nobody has said in time that it has the flow.
    #[error(
        "{owner} did not say in time that it has let the flow in; it may have, and then forgets it unless a packet comes; ask again"
    )]
    Late {
        /// The bucket's owner as far as this node knows.
        owner: String,
    },
}

impl Answerer {
    pub(super) fn admit(
        &self,
        protocol: &str,
        initiator: SocketAddr,
        responder: SocketAddr,
    ) -> Result<Admitted, NoAnswer> {
        let (key, packet_type) = flow(protocol, initiator, responder)?;
        let table = self.table()?;
        let bucket = table.placing().place(&key, packet_type, Identifiers::default()).bucket;
        let phase = match key.protocol {
            Protocol::TCP | Protocol::SCTP => Phase::SynSent,
            _ => Phase::Unreplied,
        };
        let state = FlowState { phase, confirmed: false, rule: NO_RULE, sequence: 0 };
        let record = FlowRecord { translation: None, bucket, epoch: Epoch(0), key, state };
        let question = |answers| engine::Input::Determine(Question { record, answers });
        let outcome = ask("engine", &self.engine, question)?.ok_or(NotAdmitted::Many)?;
        let name = |node: NodeId| match node {
            NodeId::NONE => "nobody".to_owned(),
            node => self.cluster.member(node).to_owned(),
        };
        Ok(match outcome {
            Outcome::Placed { owner, copies, was_there } => {
                Admitted { bucket: bucket.0, owner: name(owner), copies, was_there }
            }
            Outcome::Full { owner } => return Err(NotAdmitted::Full { owner: name(owner) }.into()),
            Outcome::Busy { owner } => return Err(NotAdmitted::Busy { owner: name(owner) }.into()),
            Outcome::Late { owner } => return Err(NotAdmitted::Late { owner: name(owner) }.into()),
        })
    }
}

/// The flow between two ends, as packets are compared with it.
fn flow(
    protocol: &str,
    initiator: SocketAddr,
    responder: SocketAddr,
) -> Result<(FlowKey, PacketType), NotAdmitted> {
    let (number, packet_type) = match protocol_names::parse(protocol) {
        Some(Protocol::TCP) => (Protocol::TCP, PacketType::Tcp),
        Some(Protocol::UDP) => (Protocol::UDP, PacketType::Udp),
        Some(Protocol::SCTP) => (Protocol::SCTP, PacketType::Sctp),
        _ => return Err(NotAdmitted::Protocol { seen: protocol.to_owned() }),
    };
    if initiator.is_ipv4() != responder.is_ipv4() {
        return Err(NotAdmitted::Families { initiator, responder });
    }
    for end in [initiator, responder] {
        let address = end.ip();
        if end.port() == 0 || address.is_unspecified() || address.is_multicast() {
            return Err(NotAdmitted::End { seen: end });
        }
        if number == Protocol::UDP && ISAKMP.contains(&end.port()) {
            return Err(NotAdmitted::Isakmp { port: end.port() });
        }
    }
    let end = |end: SocketAddr| Endpoint { address: end.ip().into(), port: end.port() };
    let key = FlowKey { initiator: end(initiator), responder: end(responder), protocol: number };
    Ok((key, packet_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(protocol: &str, initiator: &str, responder: &str) -> String {
        let parse = |text: &str| text.parse().expect("an address and a port");
        match flow(protocol, parse(initiator), parse(responder)) {
            Ok((key, _)) => format!("{key:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_what_can_be_placed_by_its_ends_is_a_flow_to_let_in() {
        let (key, packet_type) =
            flow("udp", "10.0.0.1:5".parse().unwrap(), "10.0.0.2:6".parse().unwrap()).unwrap();
        assert_eq!((key.protocol, packet_type), (Protocol::UDP, PacketType::Udp));
        assert_eq!((key.initiator.port, key.responder.port), (5, 6));
        for (protocol, initiator, responder, reason) in [
            ("icmp", "10.0.0.1:5", "10.0.0.2:6", "protocol \"icmp\"; expected tcp, udp or sctp"),
            ("tcp", "10.0.0.1:5", "[fd00::1]:6", "of two families"),
            ("tcp", "10.0.0.1:0", "10.0.0.2:6", "10.0.0.1:0 is no end of a flow"),
            ("tcp", "10.0.0.1:5", "224.0.0.1:6", "224.0.0.1:6 is no end of a flow"),
            ("udp", "10.0.0.1:4500", "10.0.0.2:6", "UDP port 4500 is ISAKMP's"),
        ] {
            let words = refused(protocol, initiator, responder);
            assert!(words.contains(reason), "{words}");
        }
        assert!(refused("tcp", "10.0.0.1:500", "10.0.0.2:6").starts_with("FlowKey"));
    }
}
