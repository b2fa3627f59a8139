//! An explanation as people read it.

use std::fmt::Write;

use crate::control::protocol::{Bucket, Decision, Explanation, Flow, Lease, Outcome};

/// One thing a line, its name first.
pub fn render(explanation: &Explanation) -> String {
    let Explanation { node, protocol, from, to, place, bucket, lease, flow, decisions, next_hop } =
        explanation;
    let by = node.as_deref().map_or_else(String::new, |node| format!(", by {node}"));
    let mut text = format!("{protocol} {from} -> {to}{by}\n");
    let mut line = |name: &str, says: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<10}{says}");
    };
    if let Some(place) = place {
        let classes = place
            .classes
            .map_or_else(String::new, |[a, b]| format!(", of the classes {a} and {b}"));
        line("bucket", format!("{}{classes}", place.bucket));
    }
    if let Some(bucket) = bucket {
        line("owner", owner(bucket));
    }
    if let Some(lease) = lease {
        line("lease", leased(lease));
    }
    match flow {
        Some(flow) => line("flow", known(flow)),
        None if node.is_some() => line("flow", "none is known; it would begin one:".to_owned()),
        None => {}
    }
    for decision in decisions {
        decided(decision, &mut line);
    }
    if let Some(hop) = next_hop {
        let gateway =
            hop.gateway.map_or("on that link".to_owned(), |gateway| format!("to {gateway}"));
        line("next hop", format!("by {}, {gateway}", hop.interface));
    }
    text
}

fn owner(bucket: &Bucket) -> String {
    let owner = bucket.owner.as_deref().unwrap_or("nobody");
    let then = match &bucket.successors[..] {
        [] => "nobody would succeed it".to_owned(),
        nodes => format!("then {}", nodes.join(", ")),
    };
    let state = format!("{:?}", bucket.state).to_lowercase();
    format!("{owner}, since epoch {}; {then}; here it is {state}", bucket.epoch)
}

fn leased(lease: &Lease) -> String {
    match lease.held {
        true => format!("held, for {} ms more", lease.remaining_ms),
        false => "not held: this node handles no packets".to_owned(),
    }
}

fn known(flow: &Flow) -> String {
    let confirmed = if flow.confirmed { "answered" } else { "not answered" };
    let mut text = format!("known: {}, {confirmed}, let in by rule {}", flow.phase, flow.rule);
    if let Some(to) = flow.translation {
        let _ = write!(text, ", as {} -> {}", to.source, to.destination);
    }
    if let Some(activity) = flow.activity {
        let _ = write!(text, "; {}/{} packets", activity.original_packets, activity.reply_packets);
    }
    text + "; its packets meet no rule. If it began now:"
}

fn decided(decision: &Decision, line: &mut impl FnMut(&str, String)) {
    let outcome = match decision.outcome {
        Outcome::Forward => "forwarded",
        Outcome::Drop => "dropped",
        Outcome::Reject => "rejected: its sender is told",
        Outcome::Stack => "left to the node itself",
        Outcome::Answer => "answered",
    };
    let counter = decision.drop.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    line("", format!("by {}: {outcome}{counter}", decision.interfaces.join(", ")));
    if let Some(rule) = &decision.rule {
        line("  rule", format!("line {}, number {}: {}", rule.line, rule.number, rule.text));
    }
    if let Some(replicate) = &decision.replicate {
        let waits = decision.commit_ms.map_or_else(String::new, |millis| {
            format!("; the packet waits for that, {millis} ms at most")
        });
        line("  peers", format!("are told: {replicate}{waits}"));
    }
    if let Some(to) = decision.translation {
        line("  as", format!("{} -> {}", to.source, to.destination));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{
        BucketState, DecidingLine, Endpoint, NextHop, Place, Translation,
    };

    #[test]
    fn each_thing_has_its_line() {
        let end = |address: &str, port| Endpoint { address: address.parse().unwrap(), port };
        let decision = Decision {
            interfaces: vec!["in0".into()],
            outcome: Outcome::Forward,
            drop: None,
            rule: Some(DecidingLine { line: 3, number: 2, text: "proto tcp accept".into() }),
            replicate: Some("first-packet".into()),
            commit_ms: Some(50),
            translation: Some(Translation {
                source: end("192.0.2.1", 2001),
                destination: end("10.20.0.9", 443),
            }),
        };
        let refused = Decision {
            interfaces: vec!["out0".into(), "out1".into()],
            outcome: Outcome::Drop,
            drop: Some("drop.no-rule".into()),
            rule: None,
            replicate: None,
            commit_ms: None,
            translation: None,
        };
        let explanation = Explanation {
            node: Some("n1".into()),
            protocol: "tcp".into(),
            from: end("10.10.0.9", 40_000),
            to: end("10.20.0.9", 443),
            place: Some(Place { bucket: 7, classes: Some([5, 2]) }),
            bucket: Some(Bucket {
                bucket: 7,
                owner: Some("n2".into()),
                successors: vec!["n3".into(), "n1".into()],
                epoch: 4,
                state: BucketState::Foreign,
                entries: 0,
            }),
            lease: Some(Lease { held: true, remaining_ms: 180 }),
            flow: None,
            decisions: vec![decision, refused],
            next_hop: Some(NextHop { interface: "out0".into(), gateway: None }),
        };
        let text = "\
tcp 10.10.0.9:40000 -> 10.20.0.9:443, by n1
bucket    7, of the classes 5 and 2
owner     n2, since epoch 4; then n3, n1; here it is foreign
lease     held, for 180 ms more
flow      none is known; it would begin one:
          by in0: forwarded
  rule    line 3, number 2: proto tcp accept
  peers   are told: first-packet; the packet waits for that, 50 ms at most
  as      192.0.2.1:2001 -> 10.20.0.9:443
          by out0, out1: dropped (drop.no-rule)
next hop  by out0, on that link
";
        assert_eq!(render(&explanation), text);
    }
}
