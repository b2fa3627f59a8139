//! What operators call the IP protocols, both ways. Protocols without a name here go by number.

use testudo_packet::flow::Protocol;

const NAMES: [(Protocol, &str); 8] = [
    (Protocol::TCP, "tcp"),
    (Protocol::UDP, "udp"),
    (Protocol::ICMP, "icmp"),
    (Protocol::ICMPV6, "icmpv6"),
    (Protocol::ESP, "esp"),
    (Protocol::AH, "ah"),
    (Protocol::SCTP, "sctp"),
    (Protocol::GRE, "gre"),
];

/// The protocol's name, or its number.
pub fn name(protocol: Protocol) -> String {
    match NAMES.iter().find(|(known, _)| *known == protocol) {
        Some((_, name)) => (*name).to_owned(),
        None => protocol.0.to_string(),
    }
}

/// The protocol of this name or number.
pub fn parse(text: &str) -> Option<Protocol> {
    match NAMES.iter().find(|(_, name)| *name == text) {
        Some((protocol, _)) => Some(*protocol),
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().map(Protocol),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_survives_its_name() {
        for number in 0..=u8::MAX {
            assert_eq!(parse(&name(Protocol(number))), Some(Protocol(number)));
        }
        assert_eq!(parse("6"), Some(Protocol::TCP));
        for text in ["", "TCP", "256", "-1", "+6"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
