//! The words of a question: two addresses, a protocol and what tells its flows apart.

use std::net::IpAddr;

use testudo_packet::flow::{Endpoint, FlowKey, Protocol};

use crate::protocol_names;

/// The port of the sender unless the question has one: what the bucket is depends on it.
const SOURCE_PORT: u16 = 40_000;

/// Why there is nothing to explain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoQuestion {
    /// The ends are of two families.
    #[error(
        "{source_address} and {destination} are of two families; expected both IPv4 or both IPv6"
    )]
    Families {
        /// One end.
        source_address: IpAddr,
        /// The other.
        destination: IpAddr,
    },
    /// Not a protocol.
    #[error(
        "protocol {seen:?}; expected tcp, udp, icmp, icmpv6, esp, ah or a number from 0 to 255"
    )]
    Protocol {
        /// What was given.
        seen: String,
    },
    /// Something else than what tells flows of the protocol apart.
    #[error("{seen} for protocol {protocol}; expected {expected}")]
    Ports {
        /// What was given.
        seen: String,
        /// The protocol.
        protocol: String,
        /// What it takes.
        expected: &'static str,
    },
    /// An interface that packets do not come in by.
    #[error("interface {seen}, by which no packets come in; expected one of {expected}")]
    Interface {
        /// What was given.
        seen: String,
        /// Those that there are.
        expected: String,
    },
}

/// The key of the flow that is asked about. Without a protocol it is a ping; `ports` are `TO` or `FROM:TO` for TCP and
/// UDP, the identifier for ICMP, the SPI for ESP and AH.
pub fn key(
    source: IpAddr,
    destination: IpAddr,
    protocol: Option<&str>,
    ports: Option<&str>,
) -> Result<FlowKey, NoQuestion> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(NoQuestion::Families { source_address: source, destination });
    }
    let protocol = match protocol {
        None if source.is_ipv4() => Protocol::ICMP,
        None => Protocol::ICMPV6,
        Some(text) => protocol_names::parse(text)
            .ok_or_else(|| NoQuestion::Protocol { seen: text.to_owned() })?,
    };
    let (from, to) = numbers(protocol, ports)?;
    Ok(FlowKey {
        initiator: Endpoint { address: source.into(), port: from },
        responder: Endpoint { address: destination.into(), port: to },
        protocol,
    })
}

fn numbers(protocol: Protocol, ports: Option<&str>) -> Result<(u16, u16), NoQuestion> {
    let wrong = |expected| NoQuestion::Ports {
        seen: ports.map_or("nothing".to_owned(), |ports| format!("{ports:?}")),
        protocol: protocol_names::name(protocol),
        expected,
    };
    match (protocol, ports) {
        (protocol, ports) if protocol.has_ports() => {
            let expected = "a port such as 443, or both such as 40000:443";
            let text = ports.ok_or_else(|| wrong(expected))?;
            let (from, to) = match text.split_once(':') {
                Some((from, to)) => (number(from, 10), number(to, 10)),
                None => (Some(SOURCE_PORT.into()), number(text, 10)),
            };
            let port = |number: Option<u32>| number.and_then(|number| u16::try_from(number).ok());
            port(from).zip(port(to)).ok_or_else(|| wrong(expected))
        }
        (Protocol::ICMP | Protocol::ICMPV6, ports) => {
            let identifier = ports.map_or(Some(1), |text| number(text, 10));
            let identifier = identifier.and_then(|number| u16::try_from(number).ok());
            let twice = |number| (number, number);
            identifier.map(twice).ok_or_else(|| wrong("an identifier from 0 to 65535"))
        }
        (Protocol::ESP | Protocol::AH, ports) => {
            let spi = ports.and_then(|text| match text.strip_prefix("0x") {
                Some(digits) => number(digits, 16),
                None => number(text, 10),
            });
            let spi = spi.ok_or_else(|| wrong("an SPI such as 4096 or 0x1000"))?;
            Ok(((spi >> 16) as u16, spi as u16))
        }
        (_, None) => Ok((0, 0)),
        (_, Some(_)) => Err(wrong("nothing, for nothing tells its flows apart")),
    }
}

fn number(text: &str, base: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.chars().all(|digit| digit.is_digit(base));
    u32::from_str_radix(text, base).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        source: &str,
        destination: &str,
        protocol: Option<&str>,
        ports: Option<&str>,
    ) -> Result<(u8, u16, u16), String> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        match key(source, destination, protocol, ports) {
            Ok(key) => Ok((key.protocol.0, key.initiator.port, key.responder.port)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_flow_is_named_by_what_tells_its_protocols_flows_apart() {
        for (protocol, ports, expected) in [
            (Some("tcp"), Some("443"), (6, 40_000, 443)),
            (Some("udp"), Some("5353:53"), (17, 5353, 53)),
            (Some("icmp"), Some("7"), (1, 7, 7)),
            (None, None, (1, 1, 1)),
            (Some("esp"), Some("0x00010002"), (50, 1, 2)),
            (Some("ah"), Some("65536"), (51, 1, 0)),
            (Some("47"), None, (47, 0, 0)),
        ] {
            assert_eq!(ask("10.0.0.1", "10.0.0.2", protocol, ports), Ok(expected), "{protocol:?}");
        }
        assert_eq!(ask("fd00::1", "fd00::2", None, None), Ok((58, 1, 1)));
    }

    #[test]
    fn what_names_no_flow_is_told() {
        let v4 = |protocol, ports| ask("10.0.0.1", "10.0.0.2", Some(protocol), ports).unwrap_err();
        let both = "expected a port such as 443, or both such as 40000:443";
        assert_eq!(v4("tcp", None), format!("nothing for protocol tcp; {both}"));
        for text in ["", "+443", "65536", "1:", ":1", "1:2:3"] {
            assert_eq!(v4("udp", Some(text)), format!("{text:?} for protocol udp; {both}"));
        }
        assert!(v4("esp", Some("0x100000000")).ends_with("expected an SPI such as 4096 or 0x1000"));
        assert!(v4("47", Some("1")).contains("expected nothing"));
        assert!(v4("TCP", Some("1")).starts_with("protocol \"TCP\"; expected tcp, udp"));
        let mixed = ask("10.0.0.1", "fd00::1", None, None).unwrap_err();
        assert_eq!(
            mixed,
            "10.0.0.1 and fd00::1 are of two families; expected both IPv4 or both IPv6"
        );
    }
}
