//! A node's configuration: one TOML file, read whole and checked whole.
//!
//! Invariant: a [`Config`] is valid as a whole. Whoever holds one checks nothing again; whoever has
//! a file that would not make one gets a [`ConfigError`] with the place of the first thing wrong,
//! before anything on the machine has been touched.
//!
//! The file goes through three steps: text to TOML with places ([`document`]), TOML to values
//! section by section (the module of each section), and what sections have to do with each other
//! (here). Reading knows no machine: whether an interface exists is found out when it is used.

pub mod agreement;
pub mod cluster;
mod document;
pub mod error;
pub mod etcd;
pub mod health;
pub mod interface;
pub mod limits;
mod mac;
pub mod mapping;
pub mod member;
mod names;
pub mod node;
pub mod prefix;
pub mod probe;
pub mod rule;
pub mod service;
pub mod snat;
pub mod source;
#[cfg(test)]
mod tests;
mod timeouts;
pub mod tls;
pub mod translation;

use std::path::Path;

use testudo_datapath::Limits;
use testudo_datapath::likenesses::Likenesses;
use testudo_packet::bucket::NodeId;
use testudo_packet::env::Mac;
use testudo_packet::tracking::Timeouts;

use agreement::Agreement;
use cluster::{Cluster, Mode};
use document::Section;
use error::{ConfigError, Fault};
use health::Health;
use interface::Interface;
use mapping::Mapping;
use member::Member;
use node::Node;
use probe::Probe;
use rule::Rule;
use service::Service;

use crate::rules::{self, Known, Lines, Surroundings};

/// The exit code of a command whose configuration is refused.
pub const EXIT_REFUSED: u8 = 2;

/// A node's configuration, valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What all nodes agree on.
    pub cluster: Cluster,
    /// How the nodes come to an agreement on whose the buckets are.
    pub agreement: Agreement,
    /// What is this node's own.
    pub node: Node,
    /// What it proves who it is by; nothing if streams are not encrypted.
    pub tls: Option<tls::Files>,
    /// All nodes; the place in the list is the [`NodeId`].
    pub members: Vec<Member>,
    /// The interfaces whose packets are handled.
    pub interfaces: Vec<Interface>,
    /// What destinations are translated by; the same on all nodes.
    pub services: Vec<Service>,
    /// What addresses are translated by, one to one; the same on all nodes.
    pub mappings: Vec<Mapping>,
    /// The sections `[[rule]]`.
    pub rules: Vec<Rule>,
    /// Which flows may begin, by these sections or by the file in their place; the first match decides, none
    /// is a drop.
    pub lines: Lines,
    /// Whom to reach is to be in good health.
    pub probes: Vec<Probe>,
    /// What is good health.
    pub health: Health,
    /// How long silent flows are kept.
    pub timeouts: Timeouts,
    /// How much one source may ask for.
    pub limits: Limits,
    own: NodeId,
}

impl Config {
    /// Which of the members this node is.
    pub const fn own_id(&self) -> NodeId {
        self.own
    }

    /// This node among the members.
    pub fn own_member(&self) -> &Member {
        &self.members[usize::from(self.own.0)]
    }

    /// The names of the interfaces whose packets are handled.
    pub fn interface_names(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// What a file of rules may name.
    pub fn surroundings(&self) -> Surroundings<'_> {
        let known = Known {
            interfaces: &self.interfaces,
            services: &self.services,
            mappings: &self.mappings,
        };
        Surroundings { known: Some(known), tap: self.is_tap() }
    }

    /// Which endpoints are placed alike.
    pub fn likenesses(&self) -> Likenesses {
        let groups: Vec<_> = self.services.iter().flat_map(Service::groups).collect();
        let mappings: Vec<_> = self.mappings.iter().map(Mapping::to_packet).collect();
        Likenesses::new(&groups, &mappings)
    }

    /// Whether packets go to an analyser, and so none is answered.
    pub fn is_tap(&self) -> bool {
        self.cluster.mode == Mode::Tap
    }
}

/// The largest file that is read, in bytes: several times one with all the rules and members.
const MAX_FILE: u64 = 4 << 20;

/// Reads the configuration in a file, and the file of rules that it names.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let mut config = load_alone(file)?;
    if let Some(file) = &config.node.rules {
        config.lines = rules::load(file, config.surroundings())?;
    }
    Ok(config)
}

/// Reads the configuration in a file, and no file that it names: with such a file it has no rules.
pub fn load_alone(file: &Path) -> Result<Config, ConfigError> {
    parse(file, &source::read(file, MAX_FILE, "a configuration", Fault::locate)?)
}

/// Reads the configuration in a text that stands in `file`; see [`load_alone`].
pub fn parse(file: &Path, source: &str) -> Result<Config, ConfigError> {
    read(source).map_err(|fault| fault.locate(file, source))
}

const SECTIONS: &[&str] = &[
    "cluster",
    "node",
    "member",
    "interface",
    "service",
    "mapping",
    "rule",
    "probe",
    "health",
    "timeouts",
    "limits",
];

fn read(source: &str) -> Result<Config, Fault> {
    let document = document::parse(source)?;
    let file = Section::root(source, document.get_ref());
    file.only(SECTIONS)?;
    let common = required(&file, "cluster", "[cluster]")?;
    let cluster = cluster::read(&common)?;
    let own_section = required(&file, "node", "[node]")?;
    let node = node::read(&own_section, &cluster)?;
    let listed = file.sections("member", "[[member]]")?;
    let members = member::read(&file, &listed)?;
    let own = own_id(&own_section, &node, &members)?;
    tls::check_names(&cluster, &members, &listed)?;
    let section = own_section.section(node::TLS, "[node.tls]")?;
    let tls = tls::read(&own_section, section.as_ref(), (&cluster, &node.name))?;
    let agreement = agreement::read(&common, &cluster, &members)?;
    let witness = members[usize::from(own.0)].witness;
    let purpose = interface::Use {
        witness,
        answers: cluster.mac != Mac::default(),
        tap: cluster.mode == Mode::Tap,
    };
    let sections = file.sections("interface", "[[interface]]")?;
    let interfaces = interface::read(&file, &sections, purpose)?;
    check_tap(&own_section, (&cluster, &node), witness, &interfaces)?;
    let sections = file.sections("rule", "[[rule]]")?;
    if let Some(section) = sections.first().filter(|_| witness) {
        let seen = "in the file of a witness, which handles no packets";
        return Err(section.refuse(seen, "no [[rule]]"));
    }
    check_one_kind(&own_section, &sections, witness)?;
    let services = service::read(&file.sections("service", "[[service]]")?)?;
    let mappings = mapping::read(&file.sections("mapping", "[[mapping]]")?, &services)?;
    let named = translation::Named { services: &services, mappings: &mappings };
    let rules = rule::read(&sections, &interfaces, named)?;
    snat::check_mode(&sections, cluster.mode)?;
    let lines = Lines::of_sections(&rules);
    let probes = probe::read(&file.sections("probe", "[[probe]]")?)?;
    let health = health::read(file.section("health", "[health]")?.as_ref(), &cluster.timing)?;
    let timeouts = match file.section("timeouts", "[timeouts]")? {
        Some(section) => timeouts::read(&section)?,
        None => Timeouts::default(),
    };
    let limits = match file.section("limits", "[limits]")? {
        Some(section) => limits::read(&section)?,
        None => limits::usual(),
    };
    Ok(Config {
        cluster,
        agreement,
        node,
        tls,
        members,
        interfaces,
        services,
        mappings,
        rules,
        lines,
        probes,
        health,
        timeouts,
        limits,
        own,
    })
}

/// Rules are in a file or in sections, not in both.
fn check_one_kind(own: &Section<'_>, sections: &[Section<'_>], witness: bool) -> Result<(), Fault> {
    let Some(value) = own.value(node::RULES) else { return Ok(()) };
    if witness {
        let why = "in the file of a witness, which handles no packets";
        return Err(value.refuse_because(why, "no rules"));
    }
    match sections.first() {
        None => Ok(()),
        Some(section) => {
            let seen = "beside rules in [node]";
            Err(section.refuse(seen, "a file of rules or sections [[rule]], not both"))
        }
    }
}

/// In tap mode packets go out by an interface that none come in by.
fn check_tap(
    section: &Section<'_>,
    (cluster, node): (&Cluster, &Node),
    witness: bool,
    interfaces: &[Interface],
) -> Result<(), Fault> {
    let expected = "the analyser's interface, which is no [[interface]]";
    match &node.tap {
        None if cluster.mode == Mode::Tap && !witness => {
            Err(section.refuse("without tap, in tap mode", expected))
        }
        Some(tap) if interfaces.iter().any(|interface| interface.name == *tap) => {
            let value = section.required("tap", expected)?;
            Err(value.refuse_because("where packets come in", expected))
        }
        _ => Ok(()),
    }
}

fn required<'d>(file: &Section<'d>, key: &str, title: &'static str) -> Result<Section<'d>, Fault> {
    let missing = || file.refuse(format!("has no {title}"), format!("a section {title}"));
    file.section(key, title)?.ok_or_else(missing)
}

/// How many names a message lists before it breaks off.
const MAX_LISTED: usize = 8;

fn own_id(section: &Section<'_>, node: &Node, members: &[Member]) -> Result<NodeId, Fault> {
    if let Some(at) = members.iter().position(|member| member.name == node.name)
        && let Ok(id) = u8::try_from(at)
    {
        return Ok(NodeId(id));
    }
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let listed = names[..names.len().min(MAX_LISTED)].join(", ");
    let more = if names.len() > MAX_LISTED { ", …" } else { "" };
    let value = section.required("name", "")?;
    Err(value.refuse_because("which no [[member]] has", format!("one of {listed}{more}")))
}
