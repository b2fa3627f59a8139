//! `tls` in `[cluster]`, and `[node.tls]`: what nodes prove to each other who they are by.

use std::path::PathBuf;

use super::cluster::Cluster;
use super::document::Section;
use super::error::Fault;
use super::member::Member;
use crate::pki;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["ca", "certificate", "key"];

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificates of the cluster's authorities, as PEM. Required; an absolute path.
    pub ca: PathBuf,
    /// This node's certificate, as PEM. Required; an absolute path.
    pub certificate: PathBuf,
    /// Its key, as PEM; readable by its owner only. Required; an absolute path.
    pub key: PathBuf,
}

/// Whether streams are encrypted, and the peers' certificates asked for.
pub(super) fn is_on(cluster: &Section<'_>) -> Result<bool, Fault> {
    let expected = r#""on" or "off""#;
    let Some(value) = cluster.value("tls") else { return Ok(true) };
    match value.text(expected)? {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(value.refuse(expected)),
    }
}

/// Reads and checks the section.
pub(super) fn read(
    node: &Section<'_>,
    section: Option<&Section<'_>>,
    (cluster, own): (&Cluster, &str),
) -> Result<Option<Files>, Fault> {
    let Some(section) = section else {
        if !cluster.tls {
            return Ok(None);
        }
        let expected = format!(
            "a section [node.tls] with ca, certificate and key, which `testudo pki init` and `testudo pki \
             issue {own}` make, or tls = \"off\" in [cluster]"
        );
        return Err(node.refuse("without [node.tls]", expected));
    };
    if !cluster.tls {
        let expected = "no [node.tls], or tls = \"on\" in [cluster]";
        return Err(section.refuse("beside tls = \"off\"", expected));
    }
    section.only(KEYS)?;
    let file = |key| section.required(key, "the absolute path of a file")?.absolute_path();
    Ok(Some(Files { ca: file("ca")?, certificate: file("certificate")?, key: file("key")? }))
}

/// Refuses members that no certificate can tell apart, by the place where their names stand.
pub(super) fn check_names(
    cluster: &Cluster,
    members: &[Member],
    sections: &[Section<'_>],
) -> Result<(), Fault> {
    let expected = "a name that a certificate can have, or tls = \"off\" in [cluster]";
    for (at, (member, section)) in members.iter().zip(sections).enumerate() {
        if !cluster.tls {
            return Ok(());
        }
        let value = section.required("name", expected)?;
        if pki::check_name(&member.name).is_err() {
            let why = "which is none of a host, as those in certificates are";
            return Err(value.refuse_because(why, expected));
        }
        let before = members[..at].iter();
        if let Some(other) = before.map(|m| &m.name).find(|n| n.eq_ignore_ascii_case(&member.name))
        {
            let why = format!("which certificates do not tell from {other}");
            return Err(value.refuse_because(&why, expected));
        }
    }
    Ok(())
}
