//! From a packet that may pass to the frame that goes out.

use testudo_datapath::SliceFrame;
use testudo_packet::env::Mac;
use testudo_packet::pipeline::{NotDirect, check_direct, forward};
use testudo_packet::wire::{Link, parse_link};

use crate::packets::{CLUSTER_MAC, SENDER_MAC, checksum, ethernet, tagged, udp};

const HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const OWN: [u8; 6] = [2, 0, 0, 0, 1, 0];

fn link(frame: &SliceFrame<'_>) -> Link {
    parse_link(frame).expect("an Ethernet header")
}

/// Sends a frame on, or leaves it as it was.
fn sent(frame: &[u8]) -> Result<Vec<u8>, NotDirect> {
    let mut bytes = frame.to_vec();
    let mut sent = SliceFrame(&mut bytes);
    let link = link(&sent);
    let direct = check_direct(&sent, &link);
    let done = forward(&mut sent, &link, Mac::from_bytes(OWN), Mac::from_bytes(HOP));
    assert_eq!(done, direct);
    match done {
        Ok(()) => Ok(bytes),
        Err(error) => {
            assert_eq!(bytes, frame, "{error:?} changed the frame");
            Err(error)
        }
    }
}

#[test]
fn a_packet_goes_on_with_a_hop_less_and_new_addresses() {
    let frame = udp(("10.10.2.7", 1), ("10.20.0.1", 2), &[7; 10]);
    let mut expected = [&HOP[..], &OWN, &frame[12..]].concat();
    expected[22] = 63;
    expected[24..26].fill(0);
    let sum = checksum(&expected[14..34]).to_be_bytes();
    expected[24..26].copy_from_slice(&sum);
    assert_eq!(sent(&frame), Ok(expected));

    let frame = udp(("fd10::7", 1), ("fd20::1", 2), &[7; 10]);
    let mut expected = [&HOP[..], &OWN, &frame[12..]].concat();
    expected[21] = 63;
    assert_eq!(sent(&frame), Ok(expected));
    assert_eq!((&frame[..6], &frame[6..12]), (&CLUSTER_MAC[..], &SENDER_MAC[..]));
}

#[test]
fn the_ipv4_checksum_stays_right_from_every_checksum_and_time_to_live() {
    let mut frame = udp(("10.10.2.7", 1), ("10.20.0.1", 2), &[]);
    // The identification runs the checksum through all its values.
    for identification in 0..=u16::MAX {
        let time_to_live = 2 + (identification % 254) as u8;
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        frame[22] = time_to_live;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        let out = sent(&frame).expect("sent on");
        let mut header = out[14..34].to_vec();
        assert_eq!(header[8], time_to_live - 1);
        header[10..12].fill(0);
        let right = checksum(&header);
        assert_eq!(out[24..26], right.to_be_bytes(), "{identification}, {time_to_live}");
    }
}

#[test]
fn every_time_to_live_meets_every_checksum() {
    let mut frame = udp(("10.10.2.7", 1), ("10.20.0.1", 2), &[]);
    for time_to_live in 2..=255u8 {
        frame[22] = time_to_live;
        frame[18..20].fill(0);
        frame[24..26].fill(0);
        let base = checksum(&frame[14..34]);
        // These make the checksum what it is to be; 0xffff is the checksum of no header.
        for wanted in (0..0xffffu16).step_by(251).chain(0xfe00..0xffff) {
            let difference = u32::from(base) + u32::from(!wanted);
            let identification = (difference & 0xffff) + (difference >> 16);
            frame[18..20].copy_from_slice(&(identification as u16).to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            let out = sent(&frame).expect("sent on");
            let mut header = out[14..34].to_vec();
            header[10..12].fill(0);
            assert_eq!(out[24..26], checksum(&header).to_be_bytes(), "{wanted}, {time_to_live}");
        }
    }
}

#[test]
fn a_packet_at_its_last_hop_is_left_to_the_stack() {
    for hops in [0, 1] {
        let mut frame = udp(("10.10.2.7", 1), ("10.20.0.1", 2), &[]);
        frame[22] = hops;
        assert_eq!(sent(&frame), Err(NotDirect::Hops));
        let mut frame = udp(("fd10::7", 1), ("fd20::1", 2), &[]);
        frame[21] = hops;
        assert_eq!(sent(&frame), Err(NotDirect::Hops));
    }
}

#[test]
fn a_tagged_packet_is_left_to_the_stack() {
    let frame = tagged(&udp(("10.10.2.7", 1), ("10.20.0.1", 2), &[]));
    assert_eq!(sent(&frame), Err(NotDirect::Tagged));
}

#[test]
fn what_is_no_whole_ip_header_is_left_to_the_stack() {
    assert_eq!(sent(&ethernet(0x0806, &[0; 28])), Err(NotDirect::Unreadable));
    assert_eq!(sent(&ethernet(0x0800, &[0x45; 8])), Err(NotDirect::Unreadable));
    assert_eq!(sent(&ethernet(0x86dd, &[0x60; 7])), Err(NotDirect::Unreadable));
}
