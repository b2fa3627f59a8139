//! Keys and certificates, made in memory.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, DnsName};
use x509_parser::prelude::ASN1Time;

use super::facts::Moment;

/// How far the clocks of the cluster's machines may be apart for a new certificate to be taken, in
/// seconds.
const SKEW: i64 = 3600;

/// A certificate and its key, both PEM.
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Made {
    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Whether a member of this name can have a certificate: if not, what is wrong with the name. TLS
/// compares names as those of hosts.
pub fn check_name(name: &str) -> Result<(), String> {
    match DnsName::try_from(name) {
        Ok(_) if !name.ends_with('.') => Ok(()),
        _ => Err(format!(
            "no certificate can have the name \"{name}\": it would not be one of a host, which has \
             letters, digits, '-', '_' and '.', no dash at the end of a part and a last part that is no \
             number"
        )),
    }
}

/// Makes an authority that signs itself. Two authorities of a cluster differ in their names, too, so
/// that messages tell which one is meant.
pub fn authority(cluster: &str, now: Moment, days: u32) -> Result<Made, String> {
    let mut token = [0; 4];
    getrandom::fill(&mut token).map_err(|error| format!("no random number: {error}"))?;
    let name = format!("Testudo authority {:08x} of {cluster}", u32::from_ne_bytes(token));
    let mut params = params(&name, now, now.plus_days(days))?;
    // Nobody but members: an authority below this one would be one too many.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().map_err(said)?;
    Ok(Made::new(&params.self_signed(&key).map_err(said)?, &key))
}

/// Makes a member's certificate, signed by an authority.
pub fn member(
    name: &str,
    (authority, key): (&CertificateDer<'_>, KeyPair),
    now: Moment,
    end: Moment,
) -> Result<Made, String> {
    let issuer = Issuer::from_ca_cert_der(authority, key).map_err(said)?;
    let mut params = params(name, now, end)?;
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(said)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A member dials some peers and is dialled by others.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(said)?;
    Ok(Made::new(&params.signed_by(&key, &issuer).map_err(said)?, &key))
}

fn params(name: &str, now: Moment, end: Moment) -> Result<CertificateParams, String> {
    let calendar = |moment: Moment| ASN1Time::from_timestamp(moment.0).map_err(|e| e.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = calendar(Moment(now.0 - SKEW))?.to_datetime();
    params.not_after = calendar(end)?.to_datetime();
    Ok(params)
}

fn said(error: rcgen::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_tls_can_compare() {
        for good in ["n1", "gw-1", "rack_2.gw1", "N1"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "1", "gw.1", "gw-", "gw..1x", "gw.", "10.0.0.1", "a b"] {
            let error = check_name(bad).unwrap_err();
            assert!(error.contains(&format!("\"{bad}\"")), "{error}");
        }
    }
}
