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

use testudo_cluster::config::Replicas;

use super::connects;
use super::plan::{
    CLUSTER_MAC, Coordinator, Host, Mode, Plan, Segment, TAP_LINK, etcd_endpoint, sync_endpoint,
};
use super::random::Random;
use super::state::{Node, State};
use super::topology::Topology;
use super::translated::Translated;
use crate::pki::Directory;
use crate::pki::facts::Moment;

/// Slots of a node table, unless the flows ask for more.
const TABLE_ENTRIES: u32 = 65_536;
/// More than these a node table has only if the flows do not fit otherwise.
const MOST_TABLE_ENTRIES: u32 = 1 << 22;
/// What the client may open through the cluster.
const ALLOWED: [[&str; 3]; 2] = [["tcp", "udp", "icmp"], ["tcp", "udp", "icmpv6"]];

/// How long the certificates of a lab are valid: longer than any lab stands.
const CERTIFICATE_DAYS: u32 = 365;

/// What the nodes of a lab have in common.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The cluster's secret, and with it the spread of flows over buckets, follows from it.
    pub seed: u64,
    /// Any node has room for so many flows.
    pub flows: u32,
    /// Another timing than the default.
    pub timing: Option<Timing>,
    /// Who keeps copies.
    pub replicas: Replicas,
    /// Whether flows that nobody answers are to be kept for the whole run.
    pub patient: bool,
    /// Whether buckets stay where they are, however uneven the load is.
    pub still: bool,
    /// Whether first packets of the connections that are opened all the time wait for the peers.
    pub committed: bool,
    /// What the cluster translates.
    pub translated: Translated,
}

/// The times that decide how fast a takeover is, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease.
    pub lease: u32,
    /// Silence before a takeover.
    pub takeover: u32,
    /// Between two heartbeats.
    pub heartbeat: u32,
}

/// Write the configuration of every node.
pub fn configure(state: &State, settings: &Settings) -> Result<()> {
    let mut random = Random::new(settings.seed);
    let secret = format!("{:016x}{:016x}", random.draw(), random.draw());
    let now = Moment::now();
    let authority = state.pki();
    let authority = Directory::init(&authority, &state.name, now, CERTIFICATE_DAYS)
        .context("make the cluster's authority")?;
    for node in &state.nodes {
        authority
            .issue(&node.name, now, CERTIFICATE_DAYS)
            .with_context(|| format!("issue a certificate to {}", node.name))?;
        fs::write(&node.config, configuration(state, node, &secret, settings))
            .with_context(|| format!("write {}", node.config.display()))?;
    }
    Ok(())
}

/// Start the daemon of node `number`; the state file knows it before this returns.
pub fn start(state: &mut State, topology: &Topology, number: u8) -> Result<Child> {
    let node = &mut state.nodes[usize::from(number) - 1];
    // A node that comes back goes on in its log.
    let log = File::options().create(true).append(true).open(&node.log);
    let log = log.with_context(|| format!("open {}", node.log.display()))?;
    fs::create_dir_all(&node.state).with_context(|| format!("create {}", node.state.display()))?;
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

fn configuration(state: &State, node: &Node, secret: &str, settings: &Settings) -> String {
    let mode = state.plan.mode;
    let mut text = format!(
        "[cluster]\nname = \"{}\"\nsecret = \"{secret}\"\nbuckets = {}\nmode = \"{}\"\n",
        state.name,
        state.buckets,
        mode.name(),
    );
    if mode == Mode::Shared {
        let _ = writeln!(text, "mac = \"{CLUSTER_MAC}\"");
    }
    if let Some(Timing { lease, takeover, heartbeat }) = settings.timing {
        let _ = writeln!(
            text,
            "lease_ms = {lease}\ntakeover_ms = {takeover}\nheartbeat_ms = {heartbeat}"
        );
    }
    if let Replicas::Successors(count) = settings.replicas {
        let _ = writeln!(text, "replicas = {count}");
    }
    if settings.still {
        text.push_str("balance_moves_per_minute = 0\n");
    }
    if state.plan.coordinator == Coordinator::Etcd {
        let _ = writeln!(
            text,
            "coordinator = \"etcd\"\n\n[cluster.etcd]\nendpoints = [\"http://{}\"]",
            etcd_endpoint()
        );
    }
    let slots = TABLE_ENTRIES.max(settings.flows.saturating_mul(4)).next_power_of_two();
    let slots = slots.min(MOST_TABLE_ENTRIES.max(settings.flows.next_power_of_two()));
    let _ = write!(
        text,
        "\n[node]\nname = \"{}\"\ncontrol = \"{}\"\ntable_entries = {slots}\n",
        node.name,
        node.control.display(),
    );
    let _ = writeln!(text, "state = \"{}\"", node.state.display());
    if mode == Mode::Steered && !node.witness {
        let _ = writeln!(text, "pins = \"{}\"", state.pins().join(&node.name).display());
    }
    if mode == Mode::Tap && !node.witness {
        let _ = writeln!(text, "tap = \"{TAP_LINK}\"");
    }
    let own = state.pki().join(&node.name);
    let _ = write!(
        text,
        "\n[node.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        state.pki().join("ca.pem").display(),
        own.with_extension("pem").display(),
        own.with_extension("key").display(),
    );
    for (number, member) in (1..).zip(&state.nodes) {
        let sync = sync_endpoint(number);
        let _ = write!(text, "\n[[member]]\nname = \"{}\"\nsync = \"{sync}\"\n", member.name);
        if member.witness {
            text.push_str("witness = true\n");
        }
    }
    if !node.witness {
        packet_sections(&mut text, state.plan, settings);
    }
    if settings.patient {
        text.push_str("\n[timeouts]\nunreplied = 86400\nreplied = 86400\n");
    }
    text
}

/// The interfaces, with the cluster's addresses where it has some, and the rules.
fn packet_sections(text: &mut String, plan: Plan, settings: &Settings) {
    for &segment in plan.data() {
        let _ = write!(text, "\n[[interface]]\nname = \"{}\"\n", segment.node_link());
        if plan.mode == Mode::Shared {
            let addresses = settings.translated.addresses(segment);
            let addresses = addresses.iter().map(|address| format!("\"{address}\""));
            let addresses = addresses.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "addresses = [{addresses}]");
        }
    }
    settings.translated.sections(text, plan);
    if settings.committed {
        let _ = write!(
            text,
            "\n[[rule]]\naction = \"accept\"\ncommit = \"sync\"\nprotocol = \"tcp\"\n\
             destination_ports = \"{}\"\ninterface = \"{}\"\n",
            connects::PORT,
            Segment::Inside.node_link(),
        );
    }
    let [client, server] = plan.ends().map(Segment::networks);
    let families = client.into_iter().zip(server).zip(ALLOWED).enumerate();
    for (family, ((source, destination), protocols)) in families {
        for protocol in protocols {
            let (words, names_destination) = settings.translated.words(family, protocol);
            // What a mapping is about is the one address of the client.
            let source = match settings.translated.mapping {
                true => plan.client()[family].to_string(),
                false => format!("{}/{}", source.0, source.1),
            };
            let _ = write!(
                text,
                "\n[[rule]]\naction = \"accept\"\nprotocol = \"{protocol}\"\n\
                 source = \"{source}\"\ninterface = \"{}\"\n{words}",
                Segment::Inside.node_link(),
            );
            if names_destination {
                let _ = writeln!(text, "destination = \"{}/{}\"", destination.0, destination.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn state(plan: Plan) -> State {
        let node = |number: u8| {
            let name = format!("n{number}");
            serde_json::json!({
                "name": name, "witness": plan.is_witness(number), "process": null,
                "config": format!("/c{number}"), "control": format!("/s{number}"), "log": "/l",
                "state": "/d",
            })
        };
        serde_json::from_value(serde_json::json!({
            "name": "t", "owner": null, "buckets": 64, "namespaces": [], "plan": plan,
            "nodes": (1..=plan.members()).map(node).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    const SECRET: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn a_configuration_is_one_that_a_node_takes() {
        let state = state(Plan { mode: Mode::Shared, nodes: 2, witness: false, ..Plan::default() });
        let timing = Some(Timing { lease: 30, takeover: 45, heartbeat: 5 });
        let settings = Settings { timing, patient: true, committed: true, ..Settings::default() };
        let text = configuration(&state, &state.nodes[1], SECRET, &settings);
        let read = config::parse(&state.nodes[1].config, &text).unwrap();
        assert_eq!(read.own_member().name, "n2");
        assert_eq!(read.members[1].sync, "10.99.0.2:7400".parse().unwrap());
        assert_eq!(read.node.control, state.nodes[1].control);
        assert_eq!(read.interfaces.len(), 2);
        assert_eq!(read.rules.len(), 7);
    }

    #[test]
    fn only_the_shared_mode_has_addresses_of_the_clusters_own() {
        for (mode, has) in [(Mode::Shared, true), (Mode::Steered, false), (Mode::Tap, false)] {
            let state = state(Plan { mode, nodes: 2, witness: true, ..Plan::default() });
            let settings = Settings::default();
            let text = configuration(&state, &state.nodes[0], SECRET, &settings);
            assert_eq!(text.contains("addresses = "), has, "{text}");
            assert_eq!(text.contains("mac = "), has, "{text}");
            assert_eq!(text.matches("witness = true").count(), 1, "{text}");
            let witness = configuration(&state, &state.nodes[2], SECRET, &settings);
            assert!(!witness.contains("[[interface]]") && !witness.contains("[[rule]]"));
        }
    }

    #[test]
    fn nodes_that_agree_by_an_etcd_know_where_it_is() {
        let plan = Plan { nodes: 2, coordinator: Coordinator::Etcd, ..Plan::default() };
        let state = state(plan);
        let timing = Some(Timing { lease: 30, takeover: 45, heartbeat: 5 });
        let settings = Settings { timing, ..Settings::default() };
        let text = configuration(&state, &state.nodes[0], SECRET, &settings);
        let read = config::parse(&state.nodes[0].config, &text).unwrap();
        let config::agreement::Coordinator::Etcd(etcd) = read.agreement.coordinator else {
            panic!("{text}")
        };
        assert_eq!(etcd.endpoints, ["http://10.99.0.254:2379"]);
    }

    #[test]
    fn two_million_flows_fit_half_of_a_node_table() {
        let state = state(Plan { mode: Mode::Shared, nodes: 3, witness: false, ..Plan::default() });
        let slots = |flows| {
            let settings = Settings { flows, ..Settings::default() };
            let text = configuration(&state, &state.nodes[0], SECRET, &settings);
            let (_, rest) = text.split_once("table_entries = ").unwrap();
            rest.lines().next().unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(slots(1_064), 65_536);
        assert_eq!(slots(100_000), 524_288);
        assert_eq!(slots(2_000_000), 4_194_304);
    }
}
