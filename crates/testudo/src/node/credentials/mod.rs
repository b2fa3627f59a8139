//! What this node proves who it is by, and whom it believes: its certificate and key, and the
//! authorities of the cluster.
//!
//! Invariant: [`Credentials`] are good as a whole at the moment at which they are read. Own certificate,
//! own key and authorities belong together and the certificate names this node, so a handshake that
//! fails is the fault of the peer, or of the files of one of both sides, and never of half a file.
//!
//! [`verify`] decides whom to believe, [`Keeper`](keeper::Keeper) notices new files, [`refusal`] says
//! in words why a handshake failed.

pub mod keeper;
pub mod refusal;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use testudo_packet::bucket::NodeId;

use crate::config::tls::Files;
use crate::pki::facts::{Facts, Moment};
use crate::pki::files;

use self::verify::{AnyMember, Judge, OneMember};

/// Why files can't be used. Whatever was in force before still is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// One file.
    #[error("{}: {why}; expected {expected}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The key is another certificate's.
    #[error(
        "{} is not the key of {}; expected the two that were issued together", key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The certificate is another member's, or nobody's.
    #[error(
        "{} names {}; expected \"{own}\", which is this node; `testudo pki issue {own}` makes one",
        certificate.display(), named(seen)
    )]
    Name {
        /// The certificate.
        certificate: PathBuf,
        /// Whom it names.
        seen: Vec<String>,
        /// This node.
        own: String,
    },
    /// Peers that trust the same authorities would not believe it.
    #[error(
        "{} is not to be believed by {}: {why}; expected a certificate that an authority in it has issued \
         to a member", certificate.display(), ca.display()
    )]
    Unbelievable {
        /// The certificate.
        certificate: PathBuf,
        /// The authorities.
        ca: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The TLS library refuses.
    #[error("TLS can't be set up: {0}")]
    Library(String),
}

fn named(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
    }
}

/// Whom credentials are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The names of all members, by number.
    pub members: Vec<String>,
    /// This node among them.
    pub own: NodeId,
}

/// How long a certificate may be valid still, in days, before its end is told of.
const WARN_DAYS: i64 = 30;

/// How long, for what is valid for a short time: a third of it.
const WARN_SHARE: i64 = 3;

/// A node's credentials.
#[derive(Debug)]
pub struct Credentials {
    acceptor: Arc<ClientConfig>,
    /// By the number of the peer that is dialled.
    diallers: Vec<Arc<ServerConfig>>,
    judge: Arc<Judge>,
    /// What this node's certificate says.
    pub own: Facts,
    /// Authorities that are trusted; those that are not valid now are left out.
    pub authorities: Vec<Facts>,
    /// Authorities in the file that are not trusted, and why.
    pub left_out: Vec<String>,
}

impl Credentials {
    /// Reads and checks the files.
    pub fn load(files: &Files, identity: &Identity, now: Moment) -> Result<Self, CredentialError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Authorities { roots, authorities, left_out } = Authorities::load(&files.ca, now)?;
        let (chain, own) = certificate_of(&files.certificate, now)?;
        let key = key_of(&files.key, &provider)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| CredentialError::Mismatch {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
        })?;
        let judge = Arc::new(Judge::new(roots, &identity.members, provider.clone())?);
        let named = certified.cert.first().map(|own| judge.member(own));
        if !matches!(named, Some(Ok(node)) if node == identity.own) {
            return Err(CredentialError::Name {
                certificate: files.certificate.clone(),
                seen: own.names,
                own: identity.members[usize::from(identity.own.0)].clone(),
            });
        }
        judge.believe(&certified.cert, now).map_err(|why| CredentialError::Unbelievable {
            certificate: files.certificate.clone(),
            ca: files.ca.clone(),
            why: match why {
                rustls::Error::InvalidCertificate(why) => refusal::of_certificate("it", &why),
                why => why.to_string(),
            },
        })?;
        let key = Arc::new(SingleCertAndKey::from(certified));
        let nodes = (0..identity.members.len()).map(|node| NodeId(node as u8));
        let diallers = nodes.map(|peer| dialler(&provider, &judge, peer, key.clone()));
        Ok(Self {
            diallers: diallers.collect::<Result<_, _>>()?,
            acceptor: acceptor(&provider, judge.clone(), key)?,
            judge,
            own,
            authorities,
            left_out,
        })
    }

    /// For a stream that somebody dialled.
    pub fn acceptor(&self) -> Arc<ClientConfig> {
        self.acceptor.clone()
    }

    /// For a stream to a peer.
    pub fn dialler(&self, peer: NodeId) -> Option<Arc<ServerConfig>> {
        self.diallers.get(usize::from(peer.0)).cloned()
    }

    /// The member that a certificate names, which was believed.
    pub fn member(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, rustls::Error> {
        self.judge.member(certificate)
    }

    /// What the end of this node's certificate is to be told of, if it is near or past.
    pub fn warning(&self, now: Moment) -> Option<String> {
        let Facts { not_before, not_after, .. } = self.own;
        let warn = WARN_DAYS.min(not_after.days_since(not_before) / WARN_SHARE);
        if now > not_after {
            let what = "peers refuse new streams of this node";
            return Some(format!("this node's certificate has expired at {not_after}: {what}"));
        }
        let left = not_after.days_since(now);
        (left < warn).then(|| {
            let what = "after that peers refuse new streams of this node";
            format!("this node's certificate expires in {left} days, at {not_after}: {what}")
        })
    }

    /// When the first of what is trusted, or proved by, ends. What was read is to be read anew then.
    pub fn ends(&self) -> Moment {
        let authorities = self.authorities.iter().map(|facts| facts.not_after);
        authorities.fold(self.own.not_after, Moment::min)
    }
}

/// What is in a file of authorities.
struct Authorities {
    roots: RootCertStore,
    authorities: Vec<Facts>,
    left_out: Vec<String>,
}

const AUTHORITIES: &str = "the certificates of the cluster's authorities, as `testudo pki init` makes \
                           them in ca.pem";

impl Authorities {
    fn load(file: &Path, now: Moment) -> Result<Self, CredentialError> {
        let refused = |why| CredentialError::File { file: file.into(), why, expected: AUTHORITIES };
        let mut found =
            Self { roots: RootCertStore::empty(), authorities: Vec::new(), left_out: Vec::new() };
        for der in certificates(file).map_err(refused)? {
            let facts = Facts::of(&der).map_err(refused)?;
            let reason = match facts.invalid_at(now) {
                None if !facts.is_authority => Some("no authority's certificate".to_owned()),
                reason => reason,
            };
            if let Some(reason) = reason {
                found.left_out.push(format!("{}: {reason}", facts.subject));
                continue;
            }
            found.roots.add(der).map_err(|error| refused(error.to_string()))?;
            found.authorities.push(facts);
        }
        if found.authorities.is_empty() {
            return Err(refused(match found.left_out.join("; ") {
                none if none.is_empty() => "no certificate in it".to_owned(),
                left_out => left_out,
            }));
        }
        Ok(found)
    }
}

const CERTIFICATE: &str = "this node's certificate, as `testudo pki issue` makes it";

fn certificate_of(
    file: &Path,
    now: Moment,
) -> Result<(Vec<CertificateDer<'static>>, Facts), CredentialError> {
    let refused = |why| CredentialError::File { file: file.into(), why, expected: CERTIFICATE };
    let chain = certificates(file).map_err(refused)?;
    let first = chain.first().ok_or_else(|| refused("no certificate in it".to_owned()))?;
    let facts = Facts::of(first).map_err(refused)?;
    match facts.invalid_at(now) {
        Some(why) => Err(refused(why)),
        None => Ok((chain, facts)),
    }
}

const KEY: &str =
    "the key of this node's certificate, as `testudo pki issue` makes it, with mode 0600";

fn key_of(
    file: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<dyn rustls::sign::SigningKey>, CredentialError> {
    let refused = |why| CredentialError::File { file: file.into(), why, expected: KEY };
    if let Some(why) = files::exposed(file).map_err(|error| refused(error.to_string()))? {
        return Err(refused(why));
    }
    let bytes = files::read(file).map_err(|error| refused(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    provider.key_provider.load_private_key(key).map_err(|error| refused(error.to_string()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = files::read(file).map_err(|error| error.to_string())?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    all.map_err(|error| error.to_string())
}

/// Who accepts is the client of TLS: [`verify`] says why.
fn acceptor(
    provider: &Arc<CryptoProvider>,
    judge: Arc<Judge>,
    key: Arc<SingleCertAndKey>,
) -> Result<Arc<ClientConfig>, CredentialError> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(library)?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyMember(judge)))
        .with_client_cert_resolver(key);
    config.enable_sni = false;
    // Each stream proves anew who is there.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn dialler(
    provider: &Arc<CryptoProvider>,
    judge: &Arc<Judge>,
    peer: NodeId,
    key: Arc<SingleCertAndKey>,
) -> Result<Arc<ServerConfig>, CredentialError> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(library)?;
    let mut config = builder
        .with_client_cert_verifier(Arc::new(OneMember { judge: judge.clone(), peer }))
        .with_cert_resolver(key);
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn library(error: rustls::Error) -> CredentialError {
    CredentialError::Library(error.to_string())
}

/// A name as TLS compares it.
fn server_name(name: &str) -> Result<ServerName<'static>, CredentialError> {
    let owned = ServerName::try_from(name.to_owned());
    owned.map_err(|error| CredentialError::Library(format!("{name}: {error}")))
}
