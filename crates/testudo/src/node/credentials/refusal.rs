//! Why a handshake failed: a reason to count by, and words for the log.
//!
//! Invariant: words say whose fault it is. What the peer has shown is "the peer's"; what it says of this
//! node is told as its opinion.

use rustls::{AlertDescription, CertificateError, Error};

use super::verify::NameError;
use crate::pki::facts::Moment;

/// Why a stream did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No certificate was shown.
    NoCertificate,
    /// No authority of the cluster has signed it.
    UnknownAuthority,
    /// It is not valid any more, or not yet.
    Expired,
    /// It is another member's, or nobody's.
    OtherName,
    /// There is something else about it.
    Certificate,
    /// Not TLS 1.3.
    Version,
    /// Not TLS, or not as the protocol has it.
    Protocol,
    /// The peer has ended it, within the handshake.
    TurnedAway,
    /// It took too long.
    Late,
    /// Others came after it, and there was no room.
    Crowded,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::Expired,
        Self::OtherName,
        Self::Certificate,
        Self::Version,
        Self::Protocol,
        Self::TurnedAway,
        Self::Late,
        Self::Crowded,
    ];

    /// The name of its counter.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::NoCertificate => "tls_refused_no_certificate",
            Self::UnknownAuthority => "tls_refused_unknown_authority",
            Self::Expired => "tls_refused_expired",
            Self::OtherName => "tls_refused_other_name",
            Self::Certificate => "tls_refused_certificate",
            Self::Version => "tls_refused_version",
            Self::Protocol => "tls_refused_protocol",
            Self::TurnedAway => "tls_turned_away",
            Self::Late => "tls_refused_late",
            Self::Crowded => "tls_refused_crowded",
        }
    }

    /// What an error of the TLS library comes to.
    pub fn of(error: &Error) -> Self {
        match error {
            // Who asks for a certificate first has none to show: see `verify`.
            Error::NoCertificatesPresented
            | Error::InappropriateHandshakeMessage { .. }
            | Error::AlertReceived(AlertDescription::CertificateRequired) => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::PeerIncompatible(_)
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::Version,
            Error::AlertReceived(_) => Self::TurnedAway,
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::UnknownAuthority
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            CertificateError::Other(other) if other.0.is::<NameError>() => Self::OtherName,
            _ => Self::Certificate,
        }
    }
}

/// An error of the TLS library in words, about a peer.
pub fn words(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the peer shows no certificate".to_owned(),
        Error::InappropriateHandshakeMessage { .. } => {
            "the peer asks for a certificate before it shows one; who dials a member has to show one first"
                .to_owned()
        }
        Error::InvalidCertificate(error) => of_certificate("the peer's certificate", error),
        Error::PeerIncompatible(what) => {
            format!("the peer speaks no TLS 1.3 that this node speaks ({what:?})")
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            format!("what the peer sends is not TLS: it is no member, or has tls = \"off\" ({error})")
        }
        Error::AlertReceived(alert) => format!("the peer {}", opinion(*alert)),
        other => format!("the peer's TLS can't be followed: {other}"),
    }
}

/// What is wrong with a certificate, in words.
pub fn of_certificate(whose: &str, error: &CertificateError) -> String {
    let moment = |time: &rustls::pki_types::UnixTime| {
        Moment(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("{whose} is signed by no authority that this node trusts")
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let (time, end) = (moment(time), moment(not_after));
            format!("{whose} has expired at {end}; it is {time} by this node's clock")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (time, begin) = (moment(time), moment(not_before));
            format!("{whose} is not valid before {begin}; it is {time} by this node's clock")
        }
        CertificateError::Other(other) if other.0.is::<NameError>() => other.0.to_string(),
        other => format!("{whose} is refused: {other}"),
    }
}

/// What the peer has found, by its alert.
fn opinion(alert: AlertDescription) -> String {
    let known = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "does not trust the authority that has signed this node's certificate"
        }
        AlertDescription::CertificateExpired => {
            "finds this node's certificate expired, or not valid yet, by its clock"
        }
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate => {
            "finds that this node's certificate names somebody else than it should"
        }
        AlertDescription::CertificateRequired => "wants to be shown a certificate",
        AlertDescription::ProtocolVersion => "speaks no TLS 1.3",
        other => return format!("has ended it with the alert {other:?}; its log says why"),
    };
    format!("{known}; its log says more")
}
