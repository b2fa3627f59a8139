//! How fast all entries are put in, read and taken out: takeover, aging, `flow show`, hand-over.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testudo_datapath::{BucketSet, NodeTable, SharedTable};
use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::flow::KEY_WORDS;
use testudo_packet::tracking::Timeouts;

use crate::bpf_call;
use crate::kernel::{Kernel, VALUE_WORDS};
use crate::population::{self, BUCKETS};
use crate::statistics::Samples;

/// Entries of the hash map that are read or written by one call.
const BATCH: usize = 65_536;

/// Millions of entries a second, for each kind of work.
#[derive(Default)]
pub struct Rates {
    /// How many entries there were.
    pub entries: u32,
    /// The node table: put all in.
    pub install: Samples,
    /// Read all, whole.
    pub scan: Samples,
    /// Look whether any is silent for too long; none is.
    pub expire: Samples,
    /// Take all out.
    pub clear: Samples,
    /// The hash map: `BPF_MAP_UPDATE_BATCH`.
    pub map_update: Samples,
    /// `BPF_MAP_LOOKUP_BATCH`.
    pub map_lookup: Samples,
    /// `BPF_MAP_DELETE_BATCH`.
    pub map_delete: Samples,
}

/// Measures both tables, round by round. They hold the first `entries` flows when this is called,
/// and none at the end.
pub fn measure(
    table: &SharedTable,
    kernel: Option<&Kernel>,
    entries: u32,
    rounds: usize,
) -> Result<Rates> {
    let placer = population::placer();
    let records: Vec<_> = (0..entries).map(|number| population::record(&placer, number)).collect();
    let keys: Vec<_> = records.iter().map(|record| record.key.to_words()).collect();
    let mut rates = Rates { entries, ..Rates::default() };
    let mut every_bucket = BucketSet::new(BUCKETS);
    (0..BUCKETS as u16).for_each(|bucket| every_bucket.insert(BucketId(bucket)));
    // Written to once, so that no page of theirs is met for the first time by what is timed.
    let mut values = vec![[1u64; VALUE_WORDS]; BATCH];
    let mut read_keys = vec![[1u64; KEY_WORDS]; BATCH];
    table.clear(&every_bucket);
    if let Some(kernel) = kernel {
        map_delete(kernel, &keys)?;
    }
    for _ in 0..rounds {
        let rate = timed(|| Ok(table.install(&records, Nanos(1)).installed));
        rates.install.push(rate?);
        let mut seen = 0;
        rates.scan.push(timed(|| {
            table.scan(&mut |view| seen += usize::from(view.last_seen == Nanos(1)));
            Ok(seen)
        })?);
        rates.expire.push(timed(|| {
            let gone = table.expire(Nanos(2), &Timeouts::default(), &mut |_| {});
            ensure!(gone == 0, "{gone} entries were aged out, expected none");
            Ok(table.len())
        })?);
        rates.clear.push(timed(|| Ok(table.clear(&every_bucket)))?);
        if let Some(kernel) = kernel {
            rates.map_update.push(timed(|| map_update(kernel, &keys, &values))?);
            rates.map_lookup.push(timed(|| {
                let map = kernel.map();
                bpf_call::lookup_all(map, &mut read_keys, &mut values).context("lookup")
            })?);
            rates.map_delete.push(timed(|| map_delete(kernel, &keys))?);
        }
    }
    Ok(rates)
}

/// The rate of work that returns how many entries it did.
fn timed(work: impl FnOnce() -> Result<usize>) -> Result<f64> {
    let start = Instant::now();
    let entries = work()?;
    Ok(entries as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn map_update(
    kernel: &Kernel,
    keys: &[[u64; KEY_WORDS]],
    values: &[[u64; VALUE_WORDS]],
) -> Result<usize> {
    for keys in keys.chunks(BATCH) {
        bpf_call::update_batch(kernel.map(), keys, &values[..keys.len()]).context("update")?;
    }
    Ok(keys.len())
}

fn map_delete(kernel: &Kernel, keys: &[[u64; KEY_WORDS]]) -> Result<usize> {
    for keys in keys.chunks(BATCH) {
        bpf_call::delete_batch(kernel.map(), keys).context("delete")?;
    }
    Ok(keys.len())
}
