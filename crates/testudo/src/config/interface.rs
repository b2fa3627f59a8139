//! `[[interface]]`: where packets come in, and the cluster's addresses there.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use testudo_packet::reverse_path::ReversePath;

use super::document::{Section, Value};
use super::error::Fault;
use super::prefix;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["name", "addresses", "rp_check", "mss_clamp"];

/// The most interfaces of a node.
pub const MAX_INTERFACES: usize = 64;

/// The most cluster addresses of one interface.
pub const MAX_ADDRESSES: usize = 64;

/// An interface whose packets the node handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the kernel. Required; no interface is named twice.
    pub name: String,
    /// The cluster's addresses on its link, answered with the shared MAC address; by default none.
    /// An address belongs to one interface, but for link-local ones, which mean another thing on
    /// each link.
    pub addresses: Vec<IpAddr>,
    /// What it asks of the sources of first packets that come in by it; by default nothing. Never anything in tap
    /// mode, where no packet is refused but by rules.
    pub rp_check: ReversePath,
    /// What the largest segments are that SYNs which leave or enter by it may name; by default any.
    pub mss_clamp: Option<MssClamp>,
}

/// The largest segments that an interface takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// So many bytes, without headers.
    Bytes(u16),
    /// What fits the interface's packets, as they are when the node starts.
    Mtu,
}

/// Whether there is something to do for an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Whether this node is a witness, which handles no packets.
    pub witness: bool,
    /// Whether the cluster has a MAC address to answer with for its addresses.
    pub answers: bool,
    /// Whether packets go to an analyser.
    pub tap: bool,
}

/// Reads and checks all sections.
pub(super) fn read(
    file: &Section<'_>,
    sections: &[Section<'_>],
    purpose: Use,
) -> Result<Vec<Interface>, Fault> {
    if purpose.witness {
        return match sections.first() {
            None => Ok(Vec::new()),
            Some(section) => Err(section
                .refuse("in the file of a witness, which handles no packets", "no [[interface]]")),
        };
    }
    let expected = format!("1 to {MAX_INTERFACES} sections [[interface]]");
    if sections.is_empty() {
        return Err(file.refuse("has no [[interface]]", expected));
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    for section in sections {
        if interfaces.len() == MAX_INTERFACES {
            return Err(section.refuse(format!("number {}", MAX_INTERFACES + 1), expected));
        }
        section.only(KEYS)?;
        let value = section.required("name", NAME)?;
        let name = device(&value)?;
        if interfaces.iter().any(|interface| interface.name == name) {
            return Err(value.refuse_because("listed twice", "each interface once"));
        }
        let addresses = match section.value("addresses") {
            Some(list) => {
                let addresses = addresses(&list, &name, &interfaces)?;
                if !purpose.answers && !addresses.is_empty() {
                    let why = "but the cluster has no mac to answer with for them";
                    return Err(list.refuse_because(why, "no addresses"));
                }
                addresses
            }
            None => Vec::new(),
        };
        let rp_check = section.value("rp_check").map(|value| rp_check(&value, purpose.tap));
        let rp_check = rp_check.transpose()?.unwrap_or_default();
        let mss_clamp = section.value("mss_clamp").map(|value| mss_clamp(&value, purpose.tap));
        let mss_clamp = mss_clamp.transpose()?;
        interfaces.push(Interface { name, addresses, rp_check, mss_clamp });
    }
    Ok(interfaces)
}

fn rp_check(value: &Value<'_>, tap: bool) -> Result<ReversePath, Fault> {
    let expected = r#""off", "loose" or "strict""#;
    let check = match value.text(expected)? {
        "off" => ReversePath::Off,
        "loose" => ReversePath::Loose,
        "strict" => ReversePath::Strict,
        _ => return Err(value.refuse(expected)),
    };
    if tap && check != ReversePath::Off {
        let why = "in tap mode, where packets are shown and not routed";
        return Err(value.refuse_because(why, r#""off""#));
    }
    Ok(check)
}

/// RFC 9293 §3.7.1: an end that names no size means 536 bytes, so every link takes those.
const MSS: RangeInclusive<u32> = 536..=65_495;

fn mss_clamp(value: &Value<'_>, tap: bool) -> Result<MssClamp, Fault> {
    let expected = r#"a number from 536 to 65495, or "mtu""#;
    if tap {
        let why = "in tap mode, where packets are shown and not changed";
        return Err(value.refuse_because(why, "nothing"));
    }
    if value.is_text() {
        return match value.text(expected)? {
            "mtu" => Ok(MssClamp::Mtu),
            _ => Err(value.refuse(expected)),
        };
    }
    Ok(MssClamp::Bytes(value.integer(MSS, expected)? as u16))
}

const NAME: &str = "an interface name of 1 to 15 bytes";

/// The name of an interface.
pub(super) fn device(value: &Value<'_>) -> Result<String, Fault> {
    let name = value.text(NAME)?;
    if is_device(name) { Ok(name.to_owned()) } else { Err(value.refuse(NAME)) }
}

/// Whether an interface can have this name: as the kernel's dev_valid_name().
pub fn is_device(name: &str) -> bool {
    let reserved = matches!(name, "" | "." | "..");
    let spoilt = name.chars().any(|c| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    !reserved && !spoilt && name.len() <= 15
}

fn addresses(list: &Value<'_>, name: &str, before: &[Interface]) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses = Vec::new();
    let expected = format!("a list of at most {MAX_ADDRESSES} addresses");
    let items = list.items(&expected)?;
    if items.len() > MAX_ADDRESSES {
        let seen = format!("addresses is a list of {}", items.len());
        return Err(list.refuse_as(seen, expected));
    }
    for item in items {
        let address = address(&item)?;
        let elsewhere = before.iter().find(|interface| {
            interface.addresses.contains(&address) && !prefix::is_link_local(address)
        });
        let taken = if addresses.contains(&address) {
            Some(name)
        } else {
            elsewhere.map(|interface| interface.name.as_str())
        };
        if let Some(interface) = taken {
            let seen = format!("addresses has {}, which {interface} has", item.spelled());
            return Err(item.refuse_as(seen, "each address once"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn address(value: &Value<'_>) -> Result<IpAddr, Fault> {
    let expected = r#"addresses such as "10.10.0.1" or "fd10::1", without a prefix length"#;
    let seen = || format!("addresses has {}", value.spelled());
    let text = value.text(expected).map_err(|_| value.refuse_as(seen(), expected))?;
    let address: IpAddr = text.parse().map_err(|_| value.refuse_as(seen(), expected))?;
    if prefix::is_station(address) {
        return Ok(address);
    }
    let seen = format!("{}, which no single station can have", seen());
    Err(value.refuse_as(seen, expected))
}
