//! What a packet would meet, put together from those who know.

use std::net::IpAddr;

use testudo_datapath::NodeTable;

use super::{Answerer, NoAnswer, ask, engine, millis, viewed};
use crate::control::protocol::{Explanation, Flow, Lease};
use crate::explain::{NoQuestion, chosen, decisions, end, key, place};
use crate::node::clock;
use crate::node::engine::explaining::Question;
use crate::node::routes;
use crate::protocol_names;

/// What is asked, as it is asked.
pub struct Asked<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Option<&'a str>,
    pub ports: Option<&'a str>,
    pub interface: Option<&'a str>,
}

/// Why nothing is explained.
#[derive(Debug, thiserror::Error)]
pub enum NotExplained {
    /// A witness meets no packets.
    #[error("this node is a witness, which handles no packets; expected a node that does")]
    Witness,
    /// The question is none.
    #[error(transparent)]
    Question(#[from] NoQuestion),
    /// There is no room to find it out.
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
}

impl Answerer {
    pub(super) fn explain(&self, asked: &Asked<'_>) -> Result<Explanation, NoAnswer> {
        let table = self.table()?;
        let key = key(asked.source, asked.destination, asked.protocol, asked.ports)
            .map_err(NotExplained::from)?;
        if self.interfaces.is_empty() {
            return Err(NotExplained::Witness.into());
        }
        let all: Vec<String> = self.interfaces.iter().map(|own| own.name.clone()).collect();
        let names = chosen(&all, asked.interface).map_err(NotExplained::from)?;
        let interfaces = names.iter().filter_map(|name| self.links.number(name).ok()).collect();
        // Rules ask for the way of the packet as it comes, before it is translated.
        let egress = routes::next_hop(asked.destination).map_or(0, |(number, _)| number);
        let question =
            |answers| engine::Input::Explain(Question { key, interfaces, egress, answers });
        let found = ask("engine", &self.engine, question)?.map_err(NotExplained::from)?;
        let place = found.explained.first().and_then(place);
        let bucket = match place {
            Some(place) => self.buckets(Some(place.bucket))?.buckets.pop(),
            None => None,
        };
        let flow = match table.get(&key) {
            Some(view) => self.with_replication(vec![viewed(&view, clock::now())])?.pop(),
            None => found.flow.map(|record| Flow::new(&record, None)),
        };
        let view = self.view()?;
        let explained: Vec<_> = names.into_iter().cloned().zip(found.explained).collect();
        let decisions = decisions(&found.ruling, &explained);
        let translated = decisions.iter().find_map(|decision| decision.translation);
        let to = translated.map_or(asked.destination, |to| to.destination.address);
        Ok(Explanation {
            node: Some(self.cluster.member(self.cluster.node()).to_owned()),
            protocol: protocol_names::name(key.protocol),
            from: end(key.initiator),
            to: end(key.responder),
            place,
            bucket,
            lease: Some(Lease {
                held: view.lease.is_some(),
                remaining_ms: view.lease.map_or(0, millis),
            }),
            flow,
            decisions,
            next_hop: routes::next_hop(to).map(|(_, hop)| hop),
        })
    }
}
