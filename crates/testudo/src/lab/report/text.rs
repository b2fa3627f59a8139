//! The report as people read it: under a screen.

use std::fmt::{self, Display, Formatter};

use super::{
    Connections, Connects, EventReport, Memory, Minority, NodeReport, Packets, Quantiles, Report,
    RouterReport, Steps,
};
use crate::lab::traffic::Counts;

/// Lines of one kind that are shown; the JSON has all.
const SHOWN: usize = 6;

impl Display for Quantiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Quantiles { p50, p99, max } = self;
        write!(f, "p50 {p50:.1} ms   p99 {p99:.1} ms   max {max:.1} ms")
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Counts { sent, received, lost, doubled, reordered } = self;
        write!(
            f,
            "sent {sent}   received {received}   lost {lost}   doubled {doubled}   reordered \
             {reordered}"
        )
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        self.traffic(f)?;
        self.events(f)?;
        self.nodes(f)?;
        for failure in self.failures.iter().take(2 * SHOWN) {
            writeln!(f, "  {failure}")?;
        }
        match self.passed {
            true => write!(f, "passed: nothing was lost that had to arrive"),
            false => write!(f, "FAILED; again: {}", self.replay),
        }
    }
}

impl Report {
    fn traffic(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Connections { opened, alive, lost, reset, verified_bytes, stall_ms } =
            &self.connections;
        let Packets { sent, received, lost: gone, duplicated } = &self.packets;
        writeln!(f, "connections   opened {opened}   alive {alive}   lost {lost}   reset {reset}")?;
        let megabytes = *verified_bytes as f64 / 1e6;
        writeln!(f, "stalls        {stall_ms}   ({megabytes:.1} MB verified)")?;
        writeln!(
            f,
            "packets       sent {sent}   received {received}   lost {gone}   duplicated \
             {duplicated}   ({} of {} UDP flows alive)",
            self.flows.alive, self.flows.opened
        )?;
        writeln!(f, "  to server   {}", self.up)?;
        writeln!(f, "  back        {}", self.down)?;
        if let Some([up, down]) = &self.analysed {
            writeln!(f, "analysers     {up}")?;
            writeln!(f, "  back        {down}")?;
        }
        writeln!(f, "blackout      {}", self.blackout_ms)
    }

    fn events(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.events.len() > 1 {
            writeln!(f, "  by event    {}   ({})", self.event_blackout_ms, self.events.len())?;
        }
        for EventReport { node, first_packet_micros, flipped_micros, loaded_micros, .. } in
            self.events.iter().take(SHOWN)
        {
            let micros = |time: &Option<f64>| {
                time.map_or_else(|| "–".to_owned(), |micros| format!("{micros:.0} µs"))
            };
            writeln!(
                f,
                "takeover      of {node}: slots {}   first packet {}   all entries {}",
                micros(flipped_micros),
                micros(first_packet_micros),
                micros(loaded_micros)
            )?;
        }
        for RouterReport { router, node, up, after_ms } in self.routers.iter().take(SHOWN) {
            let verb = if *up { "took back" } else { "withdrew" };
            writeln!(f, "router        {router} {verb} {node} after {after_ms:.0} ms")?;
        }
        for Steps { what, count, took_ms } in &self.steps {
            writeln!(f, "{what:<12}  {count} done   {took_ms}")?;
        }
        if let Some(Minority { node, for_ms, forwarded }) = &self.minority {
            writeln!(
                f,
                "minority      {node} forwarded {forwarded} packets in {for_ms:.0} ms without a \
                 majority"
            )?;
        }
        if let Some(balance) = &self.balance {
            writeln!(
                f,
                "balance       {} buckets moved   most/mean load {:.2} → {:.2} → {:.2} held",
                balance.moved, balance.before, balance.after, balance.held
            )?;
        }
        if self.churned > 0 {
            writeln!(f, "churn         {} flows opened meanwhile", self.churned)?;
        }
        let Connects { acknowledged, checked, lost, opening_ms } = &self.connects;
        if *acknowledged > 0 {
            writeln!(
                f,
                "connects      {acknowledged} answered   {checked} checked   {lost} lost   opening \
                 {:.2} ms p50, {:.2} ms p99",
                opening_ms.p50, opening_ms.p99
            )?;
        }
        for Memory { node, before_kib, peak_kib } in &self.memory {
            let mib = |kib: &u64| *kib as f64 / 1024.0;
            writeln!(f, "memory        {node} {:.0} → {:.0} MiB", mib(before_kib), mib(peak_kib))?;
        }
        writeln!(f, "buckets       moved {}", self.buckets_moved)
    }

    fn nodes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "node          {:>16}  {:>16}  {:>16}",
            "buckets", "node table", "common table"
        )?;
        for NodeReport { name, alive, buckets, node_table, common_table, before } in &self.nodes {
            let pair = |before: u64, after: u64| match alive {
                true => format!("{before} → {after}"),
                false => format!("{before} → –"),
            };
            writeln!(
                f,
                "{name:<6}{:<8}{:>16}  {:>16}  {:>16}",
                if *alive { "alive" } else { "dead" },
                pair(before.buckets.into(), u64::from(*buckets)),
                pair(before.node_table, *node_table),
                pair(before.common_table, *common_table),
            )?;
        }
        writeln!(f)
    }
}
