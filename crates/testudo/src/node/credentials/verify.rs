//! Whom to believe: whoever has a certificate that an authority of the cluster has issued to one
//! member, and, if a member was dialled, to that one.
//!
//! In TLS 1.3 the server shows its certificate first, to whoever asks. So here the side that dials is
//! the server and the side that accepts is the client: whoever dials a member has to show a certificate
//! of the cluster before the member says anything but which ciphers it knows. A port scan learns no
//! name. Who is dialled by address and answers learns the name of who dialled, and nothing else.
//!
//! Invariant: chains are verified by the TLS library and names by it, too; what is decided here is only
//! which of the names counts. A certificate that names two members proves nothing about either.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use testudo_packet::bucket::NodeId;

use super::{CredentialError, server_name};
use crate::pki::facts::Moment;

/// A certificate that the cluster has issued to somebody else than it should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's certificate names {seen}; expected {expected}")]
pub struct NameError {
    seen: String,
    expected: String,
}

/// Knows the cluster's authorities and its members.
#[derive(Debug)]
pub struct Judge {
    roots: Arc<RootCertStore>,
    /// By number.
    members: Vec<ServerName<'static>>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    pub fn new(
        roots: RootCertStore,
        members: &[String],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, CredentialError> {
        let roots = Arc::new(roots);
        let algorithms = provider.signature_verification_algorithms;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
            // Whoever is dialled need not be told whose certificates would do.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| CredentialError::Library(error.to_string()))?;
        let members = members.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        Ok(Self { roots, members, clients, algorithms })
    }

    /// The one member that a certificate names. It says nothing about whether that is true.
    pub fn member(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let mut presented = String::from("nobody");
        let mut named = Vec::new();
        for (node, name) in (0..=u8::MAX).map(NodeId).zip(&self.members) {
            match verify_server_name(&parsed, name) {
                Ok(()) => named.push(node),
                Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                    presented: names,
                    ..
                })) if !names.is_empty() => presented = names.join(", "),
                Err(_) => {}
            }
        }
        match named[..] {
            [node] => Ok(node),
            [] => Err(self.refuse(presented, "one of the members".to_owned())),
            _ => {
                let seen = named.iter().map(|&node| self.name(node)).collect::<Vec<_>>().join(", ");
                Err(self.refuse(seen, "one member and no other".to_owned()))
            }
        }
    }

    /// Whether both a dialler and who was dialled would believe a chain.
    pub fn believe(&self, chain: &[CertificateDer<'_>], now: Moment) -> Result<(), Error> {
        let Some((own, rest)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        let seconds = u64::try_from(now.0).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verify_acceptor(own, rest, now)?;
        self.verify_dialler(own, rest, now)
    }

    fn verify_dialler(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(own)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, algorithms)
    }

    fn verify_acceptor(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.clients.verify_client_cert(own, rest, now).map(|_verified| ())
    }

    fn name(&self, node: NodeId) -> String {
        self.members.get(usize::from(node.0)).map_or(String::new(), |name| name.to_str().into())
    }

    fn refuse(&self, seen: String, expected: String) -> Error {
        let why = Arc::new(NameError { seen, expected });
        Error::InvalidCertificate(CertificateError::Other(OtherError(why)))
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// There is no TLS 1.2 here, and its verifiers are never called.
fn older() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

/// Believes whoever is a member: which one, is for what is said afterwards.
#[derive(Debug)]
pub struct AnyMember(pub Arc<Judge>);

impl ServerCertVerifier for AnyMember {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_dialler(own, rest, now)?;
        self.0.member(own)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        older()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Believes the member that was dialled.
#[derive(Debug)]
pub struct OneMember {
    pub judge: Arc<Judge>,
    pub peer: NodeId,
}

impl ClientCertVerifier for OneMember {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.verify_acceptor(own, rest, now)?;
        let node = self.judge.member(own)?;
        if node != self.peer {
            let expected = format!("{}, which was dialled", self.judge.name(self.peer));
            return Err(self.judge.refuse(self.judge.name(node), expected));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        older()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}
