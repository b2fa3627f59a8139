//! No packet is handled twice; and while nothing but planned moves goes on, none is lost.
//!
//! A packet is settled some time after it was sent: by then, whoever held it has let it go.

use std::collections::VecDeque;

use crate::options::MS;

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: u64,
    bucket: usize,
    /// Whether it has to be handled.
    exact: bool,
    by: Option<usize>,
}

/// What became of the packets that are not settled.
#[derive(Debug, Default)]
pub struct HandledOnce {
    first: u64,
    sent: VecDeque<Sent>,
}

impl HandledOnce {
    /// A packet is sent; returns its number.
    pub(crate) fn sent(&mut self, at: u64, bucket: usize, exact: bool) -> u64 {
        self.sent.push_back(Sent { at, bucket, exact, by: None });
        self.first + self.sent.len() as u64 - 1
    }

    /// A node handles a packet.
    pub(crate) fn handled(&mut self, node: usize, id: u64) -> Result<(), String> {
        let index = id.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(sent) = index.and_then(|index| self.sent.get_mut(index)) else { return Ok(()) };
        let bucket = sent.bucket;
        match sent.by.replace(node) {
            None => Ok(()),
            Some(other) => Err(format!(
                "packet {id} of bucket {bucket} was handled by node {other} and by node {node}"
            )),
        }
    }

    /// Settles what was sent before.
    pub(crate) fn settle(&mut self, before: u64) -> Result<(), String> {
        while let Some(sent) = self.sent.front().filter(|sent| sent.at < before) {
            let Sent { at, bucket, exact, by } = *sent;
            if exact && by.is_none() {
                let (id, at) = (self.first, at as f64 / MS as f64);
                return Err(format!("packet {id} of bucket {bucket}, sent at {at} ms, was lost"));
            }
            self.sent.pop_front();
            self.first += 1;
        }
        Ok(())
    }
}
