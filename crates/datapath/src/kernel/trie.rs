//! The trie of sets in the kernel: prefixes go in and out in batches.
//!
//! One system call for each prefix would take several times as long as the kernel's own work on it.

use std::io;
use std::os::fd::AsFd;

use aya::maps::MapData;
use testudo_packet::set::TrieKey;

use super::{bpf_call, refusal};
use crate::Error;

const MAP: &str = "SETS";

/// How many prefixes go in one call: the kernel copies them, and looks after others in between.
const BATCH: usize = 4096;

/// The trie.
pub struct Trie(MapData);

impl Trie {
    /// The trie that this is a handle of.
    pub const fn new(map: MapData) -> Self {
        Self(map)
    }

    /// Puts prefixes in; after an error some may be there.
    pub fn insert(&self, keys: &[TrieKey]) -> Result<(), Error> {
        self.in_batches(keys, |keys| bpf_call::update_batch(self.0.fd().as_fd(), keys))
    }

    /// Takes prefixes out that are there; after an error some may be gone.
    pub fn remove(&self, keys: &[TrieKey]) -> Result<(), Error> {
        self.in_batches(keys, |keys| bpf_call::delete_batch(self.0.fd().as_fd(), keys))
    }

    /// Takes out all prefixes of sets whose number is unwanted.
    pub fn remove_sets(&self, unwanted: &dyn Fn(u32) -> bool) -> Result<(), Error> {
        let mut keys = Vec::new();
        let mut last = None;
        while let Some(key) =
            bpf_call::next_key(self.0.fd().as_fd(), last.as_ref()).map_err(failed)?
        {
            if unwanted(u32::from_be(key.words[0])) {
                keys.push(key);
            }
            last = Some(key);
        }
        self.remove(&keys)
    }

    /// Returns when every packet has been handled that was under way.
    pub fn wait_for_packets(&self) -> Result<(), Error> {
        bpf_call::wait_for_grace_period().map_err(failed)
    }

    fn in_batches(
        &self,
        keys: &[TrieKey],
        call: impl Fn(&[TrieKey]) -> io::Result<()>,
    ) -> Result<(), Error> {
        keys.chunks(BATCH).try_for_each(|keys| call(keys).map_err(failed))
    }
}

fn failed(error: io::Error) -> Error {
    Error::Map { map: MAP, said: refusal::chain(&error) }
}
