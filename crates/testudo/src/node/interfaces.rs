//! What the kernel knows of the configured interfaces: their numbers and MAC addresses.
//!
//! Both are asked for over netlink and ioctl, which follow the calling thread's network namespace.
//! `/sys/class/net` does not: it shows the namespace that it was mounted in.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;
use testudo_datapath::Answer;
use testudo_packet::env::Mac;
use testudo_packet::mss::MostBytes;
use testudo_packet::reverse_path::ReversePath;

use crate::config::interface::{Interface, MssClamp};
use crate::netlink::{self, Netlink, Request, attributes};

/// Why an interface can't be used. Nothing has been touched; the file or the machine is to change.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error("no interface {name} here ({source}); expected one, in the node's network namespace")]
    Missing {
        /// The name in the configuration.
        name: String,
        /// What the operating system said.
        source: Errno,
    },
    /// It is no Ethernet interface.
    #[error("interface {name} has no Ethernet address; expected an Ethernet interface")]
    NotEthernet {
        /// The name in the configuration.
        name: String,
    },
    /// The kernel does not say how large its packets may be.
    #[error("interface {name} has no MTU to make segments fit ({source})")]
    NoMtu {
        /// The name in the configuration.
        name: String,
        /// What the kernel said.
        source: netlink::Error,
    },
    /// The interfaces could not be listed.
    #[error("the interfaces could not be listed: {0}")]
    Unlisted(Errno),
}

/// An interface as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    number: u32,
    own: Mac,
}

/// The configured interfaces as the kernel knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links(BTreeMap<String, Link>);

impl Links {
    /// Asks the kernel for all of them.
    pub fn resolve(interfaces: &[Interface]) -> Result<Self, InterfaceError> {
        let addresses = ethernet_addresses()?;
        let mut links = BTreeMap::new();
        for Interface { name, .. } in interfaces {
            let missing = |source| InterfaceError::Missing { name: name.clone(), source };
            let number = if_nametoindex(name.as_str()).map_err(missing)?;
            let not_ethernet = || InterfaceError::NotEthernet { name: name.clone() };
            let own = *addresses.get(name).ok_or_else(not_ethernet)?;
            links.insert(name.clone(), Link { number, own });
        }
        Ok(Self(links))
    }

    /// The number of a configured interface.
    pub fn number(&self, name: &str) -> Result<u32, InterfaceError> {
        let missing = || InterfaceError::Missing { name: name.to_owned(), source: Errno::ENODEV };
        self.0.get(name).map(|link| link.number).ok_or_else(missing)
    }

    /// The numbers of all of them.
    pub fn numbers(&self) -> Vec<u32> {
        self.0.values().map(|link| link.number).collect()
    }

    /// All of them by number and address, in the order of the configuration.
    pub fn all(&self, interfaces: &[Interface]) -> Vec<(u32, Mac)> {
        let links = interfaces.iter().filter_map(|interface| self.0.get(&interface.name));
        links.map(|link| (link.number, link.own)).collect()
    }

    /// What these interfaces ask of the sources of first packets, by their numbers.
    pub fn reverse_paths(
        &self,
        interfaces: &[Interface],
    ) -> Result<HashMap<u32, ReversePath>, InterfaceError> {
        let check = |interface: &Interface| Ok((self.number(&interface.name)?, interface.rp_check));
        interfaces.iter().map(check).collect()
    }

    /// The largest segments that these interfaces take, by the numbers of those that ask for it.
    pub fn mss_clamps(
        &self,
        interfaces: &[Interface],
    ) -> Result<HashMap<u32, MostBytes>, InterfaceError> {
        let mut clamps = HashMap::new();
        for Interface { name, mss_clamp, .. } in interfaces {
            let number = self.number(name)?;
            let most = match mss_clamp {
                None => continue,
                Some(MssClamp::Bytes(bytes)) => MostBytes { v4: *bytes, v6: *bytes },
                Some(MssClamp::Mtu) => MostBytes::of_mtu(mtu(name, number)?),
            };
            clamps.insert(number, most);
        }
        Ok(clamps)
    }

    /// The cluster's addresses on these interfaces, with what answers for them are sent from.
    pub fn answers(&self, interfaces: &[Interface]) -> Result<Vec<Answer>, InterfaceError> {
        let mut answers = Vec::new();
        for Interface { name, addresses, .. } in interfaces {
            let interface = self.number(name)?;
            let own = self.0[name].own;
            let answer = |&address| Answer { interface, address: From::from(address), own };
            answers.extend(addresses.iter().map(answer));
        }
        Ok(answers)
    }
}

/// The number of an interface that is not among the configured ones.
pub fn number(name: &str) -> Result<u32, InterfaceError> {
    let missing = |source| InterfaceError::Missing { name: name.to_owned(), source };
    if_nametoindex(name).map_err(missing)
}

/// All IP addresses of this machine.
pub fn addresses() -> Result<Vec<IpAddr>, InterfaceError> {
    let address = |entry: InterfaceAddress| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(getifaddrs().map_err(InterfaceError::Unlisted)?.filter_map(address).collect())
}

fn ethernet_addresses() -> Result<BTreeMap<String, Mac>, InterfaceError> {
    let mut found = BTreeMap::new();
    for entry in getifaddrs().map_err(InterfaceError::Unlisted)? {
        let address = entry.address.as_ref().and_then(|address| address.as_link_addr()?.addr());
        // The loopback has an address of zeros, which is none.
        if let Some(bytes) = address.filter(|bytes| *bytes != [0; 6]) {
            found.insert(entry.interface_name, Mac::from_bytes(bytes));
        }
    }
    Ok(found)
}

/// Bytes of `struct ifinfomsg`, and where in it the interface's number is.
const LINK_HEADER: usize = 16;
const LINK_NUMBER: usize = 4;

/// The largest packet of an interface, in bytes.
fn mtu(name: &str, number: u32) -> Result<u32, InterfaceError> {
    let action = format!("tell the MTU of {name}");
    let no_mtu = |source| InterfaceError::NoMtu { name: name.to_owned(), source };
    let mut header = [0; LINK_HEADER];
    header[LINK_NUMBER..][..4].copy_from_slice(&number.to_ne_bytes());
    let request = Request::new(action.clone(), libc::RTM_GETLINK, 0).raw(&header);
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).map_err(no_mtu)?;
    let replies = netlink.request(request).map_err(no_mtu)?;
    let link = replies.first().and_then(|reply| reply.get(LINK_HEADER..)).unwrap_or_default();
    let mtu = attributes(link).find(|(kind, _)| *kind == libc::IFLA_MTU);
    let mtu = mtu.and_then(|(_, value)| Some(u32::from_ne_bytes(*value.first_chunk()?)));
    let reason = "an answer without it".to_owned();
    mtu.ok_or_else(|| no_mtu(netlink::Error::Broken { action, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_large_packets_may_be() {
        assert_eq!(mtu("lo", 1).expect("a loopback"), 65_536);
        let error = mtu("none", i32::MAX as u32).expect_err("no such interface").to_string();
        assert!(error.starts_with("interface none has no MTU to make segments fit ("), "{error}");
    }

    fn resolve(name: &str) -> String {
        let (name, addresses, rp_check) = (name.to_owned(), Vec::new(), ReversePath::Off);
        let interface = Interface { name, addresses, rp_check, mss_clamp: None };
        Links::resolve(&[interface]).expect_err("no such interface").to_string()
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        assert!(resolve("nothere0").starts_with("no interface nothere0 here (ENODEV"));
        assert!(resolve("lo").starts_with("interface lo has no Ethernet address"));
    }
}
