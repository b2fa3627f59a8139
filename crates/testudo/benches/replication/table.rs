//! The common table by itself: what a flow takes of memory, and what a change of it costs.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;
use testudo_cluster::common_table::{Authority, CommonTable};
use testudo_cluster::keys::Keys;
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const BUCKETS: u32 = 256;
/// Multiplies a number into one that looks like any other, so that neighbours are not neighbours.
const SPREAD: u32 = 0x9e37_79b1;

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Flows in the table.
    pub flows: u32,
    /// Bytes a flow.
    pub memory: f64,
    /// Nanoseconds for a flow that is new.
    pub insert: f64,
    /// Nanoseconds for a flow that is known.
    pub update: f64,
}

/// Fills a table, then changes every flow in it.
pub fn measure(flows: u32) -> Figures {
    let mut table = CommonTable::new(Keys::new(b"benchmark").table, BUCKETS, flows as usize);
    let each = |begun: Instant| begun.elapsed().as_nanos() as f64 / f64::from(flows);
    let begun = Instant::now();
    for number in 0..flows {
        table.apply(record(number, 1), Authority::Owner).expect("a new flow");
    }
    let insert = each(begun);
    let begun = Instant::now();
    for number in 0..flows {
        table.apply(record(number, 2), Authority::Owner).expect("a newer state");
    }
    let update = each(begun);
    black_box(&table);
    Figures { flows, memory: table.memory() as f64 / f64::from(flows), insert, update }
}

fn record(number: u32, sequence: u32) -> FlowRecord {
    let mixed = number.wrapping_mul(SPREAD);
    let end = |address, port| Endpoint { address: Address::v4(address), port };
    FlowRecord {
        translation: None,
        bucket: BucketId((mixed >> 16) as u16 % BUCKETS as u16),
        epoch: Epoch(1),
        key: FlowKey {
            initiator: end(0x0a0b_0000 | mixed >> 12, mixed as u16),
            responder: end(0x0a15_0001 + (number >> 28), 80),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence },
    }
}
