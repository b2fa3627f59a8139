//! Traffic stories: what a node makes of packets, one after the other.
//!
//! ```text
//!   inside 10.10.2.0/24, fd10::/64 ── 1 [ node ] 2 ── outside 10.20.0.0/16, fd20::/64
//! ```
//!
//! Flows may begin inside. After each packet a story states the verdict, the bytes that come out,
//! the one counter that moved, the whole entry, and the event; see [`node::Node::plays`].

mod commit;
mod datagrams;
mod destinations;
mod errors;
mod errors_owned;
mod explained;
mod floods;
mod forwarding;
mod fragments;
mod fragments_steered;
mod headers;
mod limits;
mod moves;
mod neighbours;
mod node;
mod ownership;
mod packets;
mod reverse_path;
mod rules;
mod sctp;
#[path = "../sctp_wire/mod.rs"]
mod sctp_wire;
mod steered;
mod tap;
mod tcp;
#[path = "../traffic/mod.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod traffic;
mod translation;
mod tunnels;
