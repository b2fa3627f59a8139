//! How the lab's flows are translated, if they are: what the nodes' configurations say of it, and what the ends see.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::plan::{Plan, Segment};
use super::traffic;

/// What the cluster translates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Translated {
    /// The server sees the cluster's addresses in the place of the client's.
    #[arg(long)]
    pub snat: bool,
    /// The client finds the server under the cluster's addresses on its own side.
    #[arg(long)]
    pub dnat: bool,
    /// The server sees an address in the place of the client's that stands for it alone.
    #[arg(long, conflicts_with_all = ["snat", "dnat"])]
    pub mapping: bool,
}

/// What stands for the client where addresses are mapped, on the server's link.
fn counterparts() -> [IpAddr; 2] {
    Segment::Outside.host(0, 7)
}

impl Translated {
    /// Whether anything is.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// Where the client finds the server.
    pub fn server(self, plan: Plan) -> [IpAddr; 2] {
        if self.dnat { Segment::Inside.cluster() } else { plan.server() }
    }

    /// What the server sees in the place of the client, if it does.
    pub fn seen_as(self) -> Option<[IpAddr; 2]> {
        match self {
            Self { snat: true, .. } => Some(Segment::Outside.cluster()),
            Self { mapping: true, .. } => Some(counterparts()),
            _ => None,
        }
    }

    /// The cluster's addresses on a segment.
    pub fn addresses(self, segment: Segment) -> Vec<IpAddr> {
        let mut addresses = segment.cluster().to_vec();
        if self.mapping && segment == Segment::Outside {
            addresses.extend(counterparts());
        }
        addresses
    }

    /// What rules name.
    pub fn sections(self, text: &mut String, plan: Plan) {
        let [v4, v6] = plan.server();
        if self.dnat {
            let [service_v4, service_v6] = self.server(plan);
            let _ = write!(
                text,
                "\n[[service]]\nname = \"server\"\naddresses = [\"{service_v4}\", \"{service_v6}\"]\n\
                 port = {}\nbackends = [\"{v4}\", \"{v6}\"]\n",
                traffic::PORT
            );
        }
        if self.mapping {
            for (family, (inside, outside)) in
                plan.client().into_iter().zip(counterparts()).enumerate()
            {
                let _ = write!(
                    text,
                    "\n[[mapping]]\nname = \"client{family}\"\ninside = \"{inside}\"\n\
                     outside = \"{outside}\"\n"
                );
            }
        }
    }

    /// What a rule of a family says of its flows: of IPv4, 0, or of IPv6. And whether it may name a destination.
    pub fn words(self, family: usize, protocol: &str) -> (String, bool) {
        let mut words = String::new();
        if self.snat {
            let _ = writeln!(words, "snat = [\"{}\"]", Segment::Outside.cluster()[family]);
        }
        if self.mapping {
            let _ = writeln!(words, "mapping = \"client{family}\"");
        }
        let service = self.dnat && matches!(protocol, "tcp" | "udp");
        if service {
            words.push_str("dnat = \"server\"\n");
        }
        (words, !service)
    }

    /// The options that ask for it.
    pub fn options(self) -> String {
        let named = [(self.snat, " --snat"), (self.dnat, " --dnat"), (self.mapping, " --mapping")];
        named.into_iter().filter(|(is, _)| *is).map(|(_, option)| option).collect()
    }
}
