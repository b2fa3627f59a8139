//! What a packet would meet: the engine's half of the answer.

use std::sync::Arc;

use testudo_datapath::{Error, Explained};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;
use testudo_packet::rule::Links;

use super::{Answers, Engine};
use crate::node::clock;
use crate::rules::ruling::Ruling;

/// The question what the first packet of a flow would meet.
#[derive(Debug)]
pub struct Question {
    /// The flow.
    pub key: FlowKey,
    /// The numbers of the interfaces that the packet may come in by: few, for each costs a table.
    pub interfaces: Vec<u32>,
    /// The number of the interface that routes send it out by; 0 if that is not known.
    pub egress: u32,
    /// The way back.
    pub answers: Answers<Result<Found, Error>>,
}

/// What the engine knows of it.
#[derive(Debug)]
pub struct Found {
    /// The rules in force.
    pub ruling: Arc<Ruling>,
    /// What the packet would meet by each interface.
    pub explained: Vec<Explained>,
    /// The flow that it belongs to, as the whole cluster knows it.
    pub flow: Option<FlowRecord>,
}

impl Engine {
    /// Answers, unless the asker has given up.
    pub(super) fn explain(&self, question: Question) {
        let Question { key, interfaces, egress, answers } = question;
        let _given_up = answers.try_send(self.found(&key, &interfaces, egress)).is_err();
    }

    fn found(&self, key: &FlowKey, interfaces: &[u32], output: u32) -> Result<Found, Error> {
        let table = self.parts.replica.table();
        let now = clock::now();
        let mut resolve = |bucket, key: &FlowKey| table.of_packet(bucket, key);
        let explain = |&input: &u32| {
            let links = Links { input, output };
            self.parts.datapath.explain(now, key, links, &mut resolve)
        };
        let explained = interfaces.iter().map(explain).collect::<Result<Vec<_>, _>>()?;
        let bucket = explained.first().and_then(|first| first.bucket);
        let flow = bucket.and_then(|bucket| {
            table.of_packet(bucket, key).or_else(|| table.of_packet(bucket, &key.reversed()))
        });
        Ok(Found { ruling: self.rulings.in_force(), explained, flow })
    }
}
