//! `[cluster.etcd]`: where the etcd is that orders the changes of the bucket map.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::document::{Section, Value};
use super::error::Fault;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["endpoints", "prefix", "ca", "cert", "key"];

/// The most endpoints.
pub const MAX_ENDPOINTS: usize = 16;

/// An etcd and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Its members' client URLs, `http://HOST:PORT` or `https://HOST:PORT`, all of one kind.
    /// Required: 1 to 16; recommended all of them.
    pub endpoints: Vec<String>,
    /// Below which key everything is: begins and does not end with a slash, at most 256 printable
    /// characters; by default `/testudo`.
    pub prefix: String,
    /// `ca`: the file of the certificates that an etcd's is signed by; an absolute path. Required
    /// with `https`, refused with `http`.
    pub ca: Option<PathBuf>,
    /// What this node shows the etcd.
    pub identity: Option<Identity>,
}

/// What a node shows an etcd. Both files or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `cert`: the file of the certificate; an absolute path.
    pub cert: PathBuf,
    /// `key`: the file of its key; an absolute path.
    pub key: PathBuf,
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>) -> Result<Etcd, Fault> {
    section.only(KEYS)?;
    let endpoints = endpoints(&section.required("endpoints", &endpoints_expected())?)?;
    let encrypted = endpoints.iter().any(|endpoint| endpoint.starts_with(HTTPS));
    let file = |key: &'static str| {
        let Some(value) = section.value(key) else { return Ok(None) };
        if !encrypted {
            return Err(value.refuse_because("but endpoints are http", "https endpoints"));
        }
        value.absolute_path().map(Some)
    };
    let (ca, cert, key) = (file("ca")?, file("cert")?, file("key")?);
    if encrypted && ca.is_none() {
        return Err(section.refuse("without ca, with https endpoints", "a file of certificates"));
    }
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        (Some(_), None) => return Err(section.refuse("with cert, without key", "both or none")),
        (None, Some(_)) => return Err(section.refuse("with key, without cert", "both or none")),
    };
    let prefix = section.value("prefix").map_or(Ok("/testudo".to_owned()), |v| prefix(&v))?;
    Ok(Etcd { endpoints, prefix, ca, identity })
}

const HTTPS: &str = "https://";

fn endpoints_expected() -> String {
    format!("a list of 1 to {MAX_ENDPOINTS} endpoints")
}

fn endpoints(list: &Value<'_>) -> Result<Vec<String>, Fault> {
    let expected = endpoints_expected();
    let items = list.items(&expected)?;
    if !(1..=MAX_ENDPOINTS).contains(&items.len()) {
        return Err(list.refuse_as(format!("endpoints is a list of {}", items.len()), expected));
    }
    let mut endpoints: Vec<String> = Vec::new();
    for item in &items {
        let expected = r#"endpoints such as "http://10.0.0.5:2379""#;
        let seen = || format!("endpoints has {}", item.spelled());
        let text = item.text(expected).map_err(|_| item.refuse_as(seen(), expected))?;
        if text.contains('@') {
            // It may hold a password, which is not repeated.
            let seen = "endpoints has one with a '@' in it".to_owned();
            return Err(item.refuse_as(seen, expected));
        }
        if !is_endpoint(text) {
            return Err(item.refuse_as(seen(), expected));
        }
        if endpoints.iter().any(|other| other == text) {
            return Err(item.refuse_as(format!("{}, listed twice", seen()), "each once"));
        }
        let mixed = |other: &String| other.starts_with(HTTPS) != text.starts_with(HTTPS);
        if let Some(other) = endpoints.iter().find(|other| mixed(other)) {
            let seen = format!("{}, beside {other}", seen());
            return Err(item.refuse_as(seen, "all endpoints http, or all https"));
        }
        endpoints.push(text.to_owned());
    }
    Ok(endpoints)
}

/// Whether this is `http://HOST:PORT` or `https://HOST:PORT`, and nothing behind.
fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix(HTTPS).or_else(|| text.strip_prefix("http://"));
    let Some((host, port)) = rest.and_then(|rest| rest.rsplit_once(':')) else { return false };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits && port.parse::<u16>().is_ok_and(|port| port > 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |host: &str| {
        let fits = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        fits && !host.is_empty() && host.len() <= 253
    };
    port && bracketed.map_or_else(|| name(host), |host| host.parse::<Ipv6Addr>().is_ok())
}

fn prefix(value: &Value<'_>) -> Result<String, Fault> {
    let expected = r#"a key such as "/testudo", of at most 256 printable characters"#;
    let prefix = value.text(expected)?;
    let printable = prefix.bytes().all(|byte| byte.is_ascii_graphic());
    let shaped = prefix.starts_with('/') && !prefix.ends_with('/') && prefix.len() <= 256;
    if printable && shaped { Ok(prefix.to_owned()) } else { Err(value.refuse(expected)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_of_hosts_with_ports() {
        for good in ["http://10.0.0.5:2379", "https://etcd-1.example:2379", "http://[fd00::1]:1"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "",
            "10.0.0.5:2379",
            "http://10.0.0.5",
            "http://10.0.0.5:0",
            "http://10.0.0.5:65536",
            "http://10.0.0.5:+1",
            "http://10.0.0.5:2379/",
            "http://:2379",
            "http://fd00::1:2379",
            "http://[fd00]:2379",
            "ftp://10.0.0.5:2379",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
