//! `testudo explain`: asks a node, or works it out from files alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use testudo_datapath::pools::Pool;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Datapath, Explained, Settings};
use testudo_packet::bucket::{Nanos, NodeId};
use testudo_packet::flow::FlowKey;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::Links;

use super::{chosen, decisions, end, invented, key, place, text};
use crate::config::{self, Config, cluster, translation};
use crate::control::protocol::{Explanation, Request};
use crate::inspect::{Connection, InspectError, finish};
use crate::protocol_names;
use crate::rules::ruling::Ruling;
use crate::rules::{self, Lines};

/// Say what the first packet of a flow would meet: bucket, owner, rule, translation.
///
/// A running node answers with what is in force on it. With --config or --rules no node is asked: then rules,
/// translation and, by a configuration, the bucket are told, and nothing of who owns it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the packet comes from
    source: IpAddr,
    /// Where it goes to
    destination: IpAddr,
    /// tcp, udp, icmp, icmpv6, esp, ah or a number [default: a ping]
    protocol: Option<String>,
    /// TO or FROM:TO for tcp and udp; an identifier for icmp; an SPI for esp and ah
    ports: Option<String>,
    /// Only if it comes in by this interface
    #[arg(long, value_name = "NAME")]
    iif: Option<String>,
    /// As if routes sent it out by this interface; a node that is asked knows its own
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    oif: Option<String>,
    /// Ask no node but this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Ask no node but this file of rules
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// `testudo explain`
pub fn run(args: &Args) -> ExitCode {
    finish(explain(args))
}

fn explain(args: &Args) -> Result<(), InspectError> {
    let explanation = match (&args.config, &args.rules) {
        (None, None) => args.connection.open()?.explain(&Request::Explain {
            source: args.source,
            destination: args.destination,
            protocol: args.protocol.clone(),
            ports: args.ports.clone(),
            interface: args.iif.clone(),
        })?,
        (config, rules) => {
            let protocol = args.protocol.as_deref();
            let key = key(args.source, args.destination, protocol, args.ports.as_deref())?;
            let links = (args.iif.as_deref(), args.oif.as_deref());
            alone(&key, links, config.as_deref(), rules.as_deref())?
        }
    };
    args.connection.print(&explanation, text::render)
}

/// What files say without a node.
fn alone(
    key: &FlowKey,
    (interface, egress): (Option<&str>, Option<&str>),
    config: Option<&Path>,
    file: Option<&Path>,
) -> Result<Explanation, InspectError> {
    let config = config.map(|path| match file {
        Some(_) => config::load_alone(path),
        None => config::load(path),
    });
    let config = config.transpose()?;
    let surroundings = config.as_ref().map(Config::surroundings).unwrap_or_default();
    let lines = match (file, &config) {
        (Some(file), _) => rules::load(file, surroundings)?,
        (None, Some(config)) => config.lines.clone(),
        (None, None) => Lines::default(),
    };
    let interfaces = config.as_ref().map_or_else(|| named(&lines), Config::interface_names);
    let numbers = invented(&interfaces);
    let pools = translation::pools(&lines);
    let file = file.map(Path::to_owned);
    let number = |name: &str| numbers.get(name).copied().ok_or(());
    let flows = BTreeSet::new();
    // Neither numbers nor interfaces can be missing: there is no flow, and the lines name those that there are.
    let mut datapath = UserDatapath::new(settings(config.as_ref(), pools))?;
    let ruling = Ruling::default().next(file, lines, &flows, datapath.sets(), number);
    let ruling = ruling.unwrap_or_default();
    datapath.set_rules(&ruling.compiled.rules)?;
    let mut explained = Vec::new();
    let output = match egress {
        Some(name) => {
            let name = chosen(&interfaces, Some(name))?.remove(0);
            numbers.get(name.as_str()).copied().unwrap_or(0)
        }
        None => 0,
    };
    for name in chosen(&interfaces, interface)? {
        let number = numbers.get(name.as_str()).copied().unwrap_or(0);
        let links = Links { input: number, output };
        let found = datapath.explain(Nanos(1), key, links, &mut |_, _| None)?;
        explained.push((name.clone(), found));
    }
    let place = |explained: &(String, Explained)| place(&explained.1);
    Ok(Explanation {
        node: None,
        protocol: protocol_names::name(key.protocol),
        from: end(key.initiator),
        to: end(key.responder),
        place: explained.first().and_then(place).filter(|_| config.is_some()),
        bucket: None,
        lease: None,
        flow: None,
        decisions: decisions(&ruling, &explained),
        next_hop: None,
    })
}

/// The interfaces that lines name, and one that stands for all others.
fn named(lines: &Lines) -> Vec<String> {
    let named: BTreeSet<String> = lines
        .0
        .iter()
        .flat_map(|line| [line.says.inputs.clone(), line.says.outputs.clone()].concat())
        .collect();
    let other = if named.is_empty() { "any" } else { "another" };
    named.into_iter().chain([other.to_owned()]).collect()
}

fn settings(config: Option<&Config>, pools: Vec<Pool>) -> Settings {
    let cluster = config.map(|config| &config.cluster);
    Settings {
        node: config.map_or(NodeId(0), Config::own_id),
        secret: cluster.map_or([0; 16], |cluster| *cluster.secret.bytes()),
        buckets: cluster.map_or(2, |cluster| cluster.buckets),
        grounds: Grounds::default(),
        cluster_mac: cluster.map_or_else(Default::default, |cluster| cluster.mac),
        table_slots: 1024,
        answers: Vec::new(),
        mode: match cluster.map(|cluster| cluster.mode) {
            Some(cluster::Mode::Tap) => Mode::Tap { interface: 0 },
            _ => Mode::Shared,
        },
        pools,
        likenesses: config.map(Config::likenesses).unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Outcome;

    fn explained(text: &str, ports: &str) -> Explanation {
        let file =
            std::env::temp_dir().join(format!("testudo-explain-{}-{ports}", std::process::id()));
        std::fs::write(&file, text).expect("a file of rules");
        let ends = ["10.1.0.7", "10.2.0.9"].map(|text| text.parse().expect("an address"));
        let key = key(ends[0], ends[1], Some("tcp"), Some(ports)).expect("a question");
        let explanation = alone(&key, (None, None), None, Some(&file)).expect("an answer");
        std::fs::remove_file(&file).expect("the file");
        explanation
    }

    const RULES: &str = "# by hand\niif in0 proto tcp dport 22 accept replicate never\n\
                         saddr 10.1.0.0/16 proto tcp dport { 80, 443 } accept commit sync timeout 20ms\n\
                         proto tcp dport 25 reject\n";

    #[test]
    fn the_line_that_decides_is_told_for_each_interface() {
        let ssh = explained(RULES, "22");
        let [by_in0, by_others] = &ssh.decisions[..] else { panic!("{ssh:?}") };
        assert_eq!(
            (&by_in0.interfaces[..], by_in0.outcome),
            (&["in0".to_owned()][..], Outcome::Forward)
        );
        assert_eq!(by_in0.rule.as_ref().map(|rule| (rule.line, rule.number)), Some((2, 0)));
        assert_eq!(by_in0.replicate.as_deref(), Some("never"));
        assert_eq!(
            (by_others.outcome, by_others.drop.as_deref()),
            (Outcome::Drop, Some("drop.no-rule"))
        );
        assert_eq!(by_others.rule, None);
    }

    #[test]
    fn what_is_the_same_by_all_interfaces_is_told_once() {
        let web = explained(RULES, "443");
        let [one] = &web.decisions[..] else { panic!("{web:?}") };
        assert_eq!(one.interfaces, ["in0", "another"]);
        assert_eq!((one.outcome, one.commit_ms), (Outcome::Forward, Some(20)));
        assert_eq!(one.rule.as_ref().map(|rule| rule.line), Some(3));
        let mail = explained(RULES, "25");
        let [one] = &mail.decisions[..] else { panic!("{mail:?}") };
        assert_eq!((one.outcome, one.drop.as_deref()), (Outcome::Reject, Some("drop.rule")));
        assert_eq!((web.place, web.node), (None, None));
    }
}
