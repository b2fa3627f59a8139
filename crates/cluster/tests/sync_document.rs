//! docs/sync-protocol.md is true: its examples are decoded, and say what the page says they say.
//!
//! A block holds bytes in hexadecimal, comments behind `#`, and, in lines that begin with `=`, what the
//! bytes above decode to; a line that begins with `!` is the error that they are refused with.

mod two_nodes;

use testudo_cluster::config::Settings;
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::replica::{Replica, Side};
use testudo_cluster::sync::SyncError;
use testudo_cluster::sync::frame::{FRAME_BYTES, Frame};
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, Item};
use testudo_packet::bucket::Nanos;

const PAGE: &str = include_str!("../../../docs/sync-protocol.md");

/// The blocks of a language: their bytes, and the lines that tell what they mean.
fn blocks(language: &str) -> Vec<(Vec<u8>, Vec<String>)> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if line != format!("```{language}") {
            continue;
        }
        let (mut bytes, mut meanings) = (Vec::new(), Vec::new());
        for line in lines.by_ref().take_while(|line| *line != "```") {
            if let Some(meaning) = line.strip_prefix("= ").or_else(|| line.strip_prefix("! ")) {
                meanings.push(meaning.to_owned());
                continue;
            }
            let hex = line.split('#').next().unwrap_or_default().split_whitespace();
            bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
        }
        blocks.push((bytes, meanings));
    }
    blocks
}

/// What a stream of version 3 says; the error that ends it comes last.
fn decode(mut bytes: &[u8]) -> Vec<String> {
    let mut said = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::from_bytes(*head);
        bytes = rest;
        let known = match head.check() {
            Ok(known) => known,
            Err(error) => {
                said.push(error.to_string());
                return said;
            }
        };
        for _ in 0..head.count {
            let (item, rest) = bytes.split_at(head.size.into());
            bytes = rest;
            if known {
                let item: Result<_, SyncError> = Item::decode(head.kind, item);
                said.push(format!("{:?}", item.expect("an item")));
            }
        }
    }
    assert!(bytes.is_empty(), "{bytes:02x?} at the end");
    said
}

#[test]
fn streams_of_version_3_say_what_the_page_says() {
    let blocks = blocks("wire-3");
    assert_eq!(blocks.len(), 3);
    for (bytes, meanings) in blocks {
        assert_eq!(decode(&bytes), meanings);
    }
}

#[test]
fn frames_of_version_2_say_what_the_page_says() {
    let blocks = blocks("wire-2");
    assert_eq!(blocks.len(), 1);
    for (bytes, meanings) in blocks {
        let frames = bytes.chunks(FRAME_BYTES).map(Frame::decode);
        let said: Vec<_> = frames.map(|frame| format!("{:?}", frame.expect("a frame"))).collect();
        assert_eq!(said, meanings);
    }
}

#[test]
fn a_node_greets_as_the_page_says() {
    let settings = two_nodes::settings(0);
    let cluster = two_nodes::cluster(Settings { name: "page".into(), max_flows: 10, ..settings });
    let mut replica = Replica::new(cluster, Incarnation(1));
    let connection = replica.handle_connected(Nanos(1), Side::Accepted, [2; 16]);
    let mut hello = Vec::new();
    replica.poll_transmit(Nanos(1), connection.expect("there is room"), &mut hello, 1 << 10);
    assert_eq!(blocks("hello"), [(hello, Vec::new())]);
}
