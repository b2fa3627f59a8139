//! Writes which endpoints are placed alike into the maps that the program reads.
//!
//! Before the program runs for the first time, and never again: what memory is placed by is part of what it means, so
//! whoever adopts it ([`super::pinning`]) writes what is there.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use testudo_packet::flow::Address;
use testudo_packet::likeness::LIKENESS_WORDS;

use super::{loader, refusal};
use crate::Error;
use crate::likenesses::{Likenesses, MAX_ENDPOINTS, MAX_PREFIXES};

const ENDPOINTS: &str = "LIKE_ENDPOINTS";
const PREFIXES: &str = "LIKE_PREFIXES";

pub fn write(programs: &mut Ebpf, likenesses: &Likenesses) -> Result<(), Error> {
    let failed = |map| move |error: MapError| Error::Map { map, said: refusal::chain(&error) };
    let mut endpoints: HashMap<MapData, [u64; 3], [u64; LIKENESS_WORDS]> =
        loader::typed(programs, ENDPOINTS, HashMap::try_from)?;
    for (key, words) in likenesses.endpoints() {
        endpoints.insert(key, words, 0).map_err(failed(ENDPOINTS))?;
    }
    let mut prefixes: LpmTrie<MapData, [u8; 16], [u64; LIKENESS_WORDS]> =
        loader::typed(programs, PREFIXES, LpmTrie::try_from)?;
    for ((prefix, length), words) in likenesses.prefixes() {
        let key = Key::new(length.into(), Address::to_bytes(prefix));
        prefixes.insert(&key, words, 0).map_err(failed(PREFIXES))?;
    }
    Ok(())
}

/// The sizes of the maps in `crates/xdp/src/maps.rs`.
const _: () = assert!(MAX_ENDPOINTS == 4096 && MAX_PREFIXES == 128);
