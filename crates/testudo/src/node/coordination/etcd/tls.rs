//! How an etcd proves who it is, and what the node shows it.
//!
//! Invariant: an etcd is believed by the certificates in the settings and by no others; those that the
//! machine or this program may have are not looked at. A file that can't be used is told at the start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::StartError;

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificates that an etcd's is signed by, as PEM.
    pub ca: PathBuf,
    /// This node's certificate and its key, as PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<TlsConfig, StartError> {
        let roots = certificates(&self.ca)?;
        let client = match &self.identity {
            Some((cert, key)) => {
                Some(ClientCert::new_with_certs(&certificates(cert)?, key_of(key)?))
            }
            None => None,
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(client)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, StartError> {
    let mut found = Vec::new();
    for item in parse_pem(&read(file)?) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(unusable(file, error)),
        }
    }
    if found.is_empty() { Err(unusable(file, "no certificate in it")) } else { Ok(found) }
}

fn key_of(file: &Path) -> Result<PrivateKey<'static>, StartError> {
    PrivateKey::from_pem(&read(file)?).map_err(|error| unusable(file, error))
}

fn read(file: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(file).map_err(|error| unusable(file, error))
}

fn unusable(file: &Path, why: impl ToString) -> StartError {
    StartError::File { path: file.to_owned(), why: why.to_string() }
}
