//! Segments of packets that are decided in user space, and the interfaces that ask for smaller ones.

use std::collections::HashMap;

use testudo_packet::mss::{self, MostBytes};

use crate::frame::SliceFrame;

/// What interfaces ask, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Clamps(HashMap<u32, MostBytes>);

impl Clamps {
    /// They are replaced as a whole.
    pub fn new(clamps: &HashMap<u32, MostBytes>) -> Self {
        Self(clamps.clone())
    }

    /// Makes the size that a SYN names fit the interfaces that it comes in and goes out by; 0 is none. Other packets stay
    /// as they are.
    pub fn apply(&self, frame: &mut [u8], links: [u32; 2]) {
        let most = || {
            let [most, other] = links.map(|link| self.0.get(&link).copied());
            most.unwrap_or(MostBytes::ANY).and(other.unwrap_or(MostBytes::ANY))
        };
        if !self.0.is_empty() {
            mss::shrink(&mut SliceFrame(frame), most, |number| number);
        }
    }
}
