//! The node daemons of a lab: their configurations, starting them.
//!
//! Invariant: a node is what this same executable runs as `node`, and knows of the lab only what its
//! configuration file says.
//!
//! The rules let the client's side open connections and nobody else, so what comes from the server
//! passes only by the entry of its connection: an entry that a takeover lost shows as a lost
//! connection and is not made anew by a rule.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::plan::{CLUSTER_MAC, Host, Segment, sync_endpoint};
use super::random::Random;
use super::state::{Node, State};
use super::topology::Topology;

/// Slots of a node table, unless the flows ask for more.
const TABLE_ENTRIES: u32 = 65_536;
/// What the client may open through the cluster.
const ALLOWED: [[&str; 3]; 2] = [["tcp", "udp", "icmp"], ["tcp", "udp", "icmpv6"]];

/// Write the configuration of every node. The cluster's secret, and with it the spread of flows over
/// buckets, follows from `seed`; any node has room for `flows` flows.
pub fn configure(state: &State, seed: u64, flows: u32) -> Result<()> {
    let mut random = Random::new(seed);
    let secret = format!("{:016x}{:016x}", random.draw(), random.draw());
    let slots = TABLE_ENTRIES.max(4 * flows).next_power_of_two();
    for node in &state.nodes {
        fs::write(&node.config, configuration(state, node, &secret, slots))
            .with_context(|| format!("write {}", node.config.display()))?;
    }
    Ok(())
}

/// Start the daemon of node `number`; the state file knows it before this returns.
pub fn start(state: &mut State, topology: &Topology, number: u8) -> Result<Child> {
    let node = &mut state.nodes[usize::from(number) - 1];
    let log = File::create(&node.log).with_context(|| format!("open {}", node.log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["node", "--config"])
        .arg(&node.config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A terminal's Ctrl-C is for the lab, which then ends its nodes.
        .process_group(0);
    let child = topology
        .namespace(Host::Node(number))?
        .run(|| command.spawn())?
        .with_context(|| format!("start {}", node.name))?;
    node.process = super::process::Process::of(child.id() as i32).ok();
    state.save()?;
    Ok(child)
}

/// The end of what the node's daemon wrote, for an error message.
pub fn last_words(node: &Node) -> String {
    let text = fs::read(&node.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0 => "it wrote nothing".into(),
        count => format!("it wrote: {}", lines[count.saturating_sub(4)..].join(" | ")),
    }
}

fn configuration(state: &State, node: &Node, secret: &str, slots: u32) -> String {
    let mut text = format!(
        "[cluster]\nname = \"{}\"\nsecret = \"{secret}\"\nbuckets = {}\nmode = \"shared\"\n\
         mac = \"{CLUSTER_MAC}\"\n\n[node]\nname = \"{}\"\ncontrol = \"{}\"\n\
         table_entries = {slots}\n",
        state.name,
        state.buckets,
        node.name,
        node.control.display(),
    );
    for (number, member) in (1..).zip(&state.nodes) {
        let sync = sync_endpoint(number);
        let _ = write!(text, "\n[[member]]\nname = \"{}\"\nsync = \"{sync}\"\n", member.name);
    }
    for segment in [Segment::Inside, Segment::Outside] {
        let [v4, v6] = segment.cluster();
        let link = segment.node_link();
        let _ =
            write!(text, "\n[[interface]]\nname = \"{link}\"\naddresses = [\"{v4}\", \"{v6}\"]\n");
    }
    let families = Segment::Inside.networks().into_iter().zip(Segment::Outside.networks());
    for ((source, destination), protocols) in families.zip(ALLOWED) {
        for protocol in protocols {
            let _ = write!(
                text,
                "\n[[rule]]\naction = \"accept\"\nprotocol = \"{protocol}\"\n\
                 source = \"{source}\"\ndestination = \"{destination}\"\ninterface = \"{}\"\n",
                Segment::Inside.node_link(),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_configuration_is_one_that_a_node_takes() {
        let state: State = serde_json::from_value(serde_json::json!({
            "name": "t", "owner": null, "buckets": 64, "namespaces": [],
            "nodes": [
                {"name": "n1", "process": null, "config": "/c1", "control": "/s1", "log": "/l1"},
                {"name": "n2", "process": null, "config": "/c2", "control": "/s2", "log": "/l2"},
            ],
        }))
        .unwrap();
        let secret = "000102030405060708090a0b0c0d0e0f";
        let text = configuration(&state, &state.nodes[1], secret, 1024);
        let read = config::parse(&state.nodes[1].config, &text).unwrap();
        assert_eq!(read.own_member().name, "n2");
        assert_eq!(read.members[1].sync, "10.99.0.2:7400".parse().unwrap());
        assert_eq!(read.node.control, state.nodes[1].control);
        assert_eq!(read.interfaces.len(), 2);
        assert_eq!(read.rules.len(), 6);
    }
}
