//! What the cluster secret proves.
//!
//! Every use of the secret has a key of its own, derived with HMAC-SHA256 and a label, so nothing
//! that is seen of one use helps with another. HMAC and SHA-256 are the RustCrypto crates'.
//!
//! Limits: whoever knows the secret is a member. Heartbeats are authenticated, not encrypted; sync
//! streams are authenticated at their beginning only.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use testudo_packet::siphash::{HashKey, hash_words};

/// The length of a message authentication code: HMAC-SHA256 cut to half (RFC 2104 §5).
pub const TAG_BYTES: usize = 16;

/// A message authentication code.
pub type Tag = [u8; TAG_BYTES];

/// One derived key.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    fn derive(secret: &[u8], label: &str) -> Self {
        Self(keyed(secret, &[label.as_bytes()]).finalize().into_bytes().into())
    }

    /// The code of a message given in parts. The parts are joined as they are: the caller keeps
    /// their borders unambiguous.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let whole: [u8; 32] = keyed(&self.0, parts).finalize().into_bytes().into();
        *whole.first_chunk().expect("a code is half of the whole")
    }

    /// Whether a code belongs to a message; takes the same time wherever they differ.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        tag.len() == TAG_BYTES && keyed(&self.0, parts).verify_truncated_left(tag).is_ok()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

/// All keys of a cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Authenticates heartbeats.
    pub heartbeat: Key,
    /// Proves knowledge of the secret when a sync session begins.
    pub sync: Key,
    /// Spreads flows over a hash table, and sums tables up.
    pub table: TableKey,
    /// Tells configurations apart.
    pub configuration: Key,
}

impl Keys {
    /// Derives the keys from the cluster secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let Key(table) = Key::derive(secret, "testudo table");
        Self {
            heartbeat: Key::derive(secret, "testudo heartbeat"),
            sync: Key::derive(secret, "testudo sync"),
            table: TableKey(HashKey::from_bytes(*table.first_chunk().expect("half of a key"))),
            configuration: Key::derive(secret, "testudo configuration"),
        }
    }
}

/// The key of a keyed hash (SipHash-1-3) that strangers can't find collisions for.
#[derive(Clone, Copy)]
pub struct TableKey(HashKey);

impl TableKey {
    /// The hash of some words.
    #[must_use]
    pub fn hash<const N: usize>(&self, words: &[u64; N]) -> u64 {
        hash_words(self.0, words)
    }
}

impl std::fmt::Debug for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TableKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_fits_its_message_and_key_alone() {
        let (ours, theirs) = (Keys::new(b"secret"), Keys::new(b"Secret"));
        let tag = ours.heartbeat.tag(&[b"a", b"b"]);
        assert!(ours.heartbeat.verify(&[b"ab"], &tag));
        assert!(!ours.heartbeat.verify(&[b"ac"], &tag));
        assert!(!ours.heartbeat.verify(&[b"ab"], &tag[1..]));
        assert!(!ours.sync.verify(&[b"ab"], &tag));
        assert!(!theirs.heartbeat.verify(&[b"ab"], &tag));
    }

    #[test]
    fn keys_do_not_show_themselves() {
        assert_eq!(format!("{:?}", Keys::new(b"x").sync), "Key(..)");
    }

    #[test]
    fn hashes_depend_on_key_and_words() {
        let keys = Keys::new(b"secret").table;
        assert_ne!(keys.hash(&[1, 2]), keys.hash(&[2, 1]));
        assert_ne!(keys.hash(&[1, 2]), Keys::new(b"other").table.hash(&[1, 2]));
    }
}
