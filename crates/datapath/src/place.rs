//! Which packet a frame is, for those that wait in user space.

use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::flow::FlowKey;
use testudo_packet::packet_hash::{PacketHash, packet_hash};
use testudo_packet::verdict::DropReason;
use testudo_packet::wire;

use crate::fragments::Fragments;
use crate::frame::SliceFrame;
use crate::likenesses::Placing;

/// Which packet it is, and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub bucket: BucketId,
    pub key: FlowKey,
    pub hash: PacketHash,
}

/// Which packet a frame is, if it is one that has a bucket: a fragment behind the first has none before that has come.
/// An ICMP error has the bucket of the packet that it quotes, and that packet's key: it is the flow that the error
/// belongs to which has to be known.
pub(crate) fn place_of(
    placing: &Placing,
    fragments: &Fragments,
    now: Nanos,
    frame: &mut [u8],
) -> Option<Place> {
    let frame = SliceFrame(frame);
    let link = wire::parse_link(&frame).ok()?;
    let headers = match wire::parse(&frame, &link) {
        Err(DropReason::Fragment) => {
            let (key, place) = fragments.place(placing, &frame, &link, now)?;
            let hash = packet_hash(&frame, &link, placing.placer.key)?;
            return Some(Place { bucket: place.bucket, key, hash });
        }
        Err(DropReason::Unrelated) => {
            let error = wire::quote::parse_error(&frame, &link).ok()?;
            wire::quote::parse(&frame, &error).ok()?
        }
        headers => headers.ok()?,
    };
    let hash = packet_hash(&frame, &link, placing.placer.key)?;
    let place = placing.place(&headers.key, headers.packet_type, headers.identifiers);
    Some(Place { bucket: place.bucket, key: headers.key, hash })
}
