//! An authority of a test's own, with a certificate for an etcd and one for its clients.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The files, all PEM.
pub struct Certificates {
    pub ca: PathBuf,
    /// Certificate and key of the etcd, for 127.0.0.1.
    pub server: (PathBuf, PathBuf),
    /// Certificate and key of a client.
    pub client: (PathBuf, PathBuf),
}

impl Certificates {
    /// Writes them to a directory.
    pub fn make(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let write = |name: &str, text: String| {
            let file = directory.join(name);
            fs::write(&file, text).expect("a file");
            file
        };
        let signed = |name: &str, host: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            let file = write(&format!("{name}.pem"), certificate.pem());
            (file, write(&format!("{name}.key"), key.serialize_pem()))
        };
        Self {
            ca: write("ca.pem", authority.pem()),
            server: signed("server", "127.0.0.1"),
            client: signed("client", "node"),
        }
    }
}
