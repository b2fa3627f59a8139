//! The directory that an authority is kept in.
//!
//! ```text
//! ca.pem     what members trust: the authority, and beside it the one before while it is replaced
//! ca.key     the key of one of them, which signs; mode 0600
//! NAME.pem   the certificate of a member
//! NAME.key   its key; mode 0600
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::facts::{Facts, Moment};
use super::files::{self, PRIVATE, PUBLIC};
use super::making::{self, Made};

const BUNDLE: &str = "ca";

/// Why nothing was made. What was there before is still there, and whole.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// There is an authority already, and members that trust it.
    #[error(
        "{} is there already; expected a directory without an authority, for a new one would be \
         trusted by no member; `testudo pki rotate` replaces one", file.display()
    )]
    Exists {
        /// What is there.
        file: PathBuf,
    },
    /// There is no authority, or no use for what is there.
    #[error("{}: {why}; expected {expected}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The name is none for a certificate.
    #[error("{0}")]
    Name(String),
    /// The authority ends before anything that it signs now would.
    #[error("the authority {subject} is {why}; `testudo pki rotate` replaces it")]
    Authority {
        /// Its name.
        subject: String,
        /// What is wrong with it.
        why: String,
    },
    /// An authority is being replaced.
    #[error(
        "{} trusts {count} authorities: the last rotation is not finished; once all members have their \
         new certificates, `testudo pki rotate --finish` drops the old authority", file.display()
    )]
    Unfinished {
        /// The bundle.
        file: PathBuf,
        /// How many.
        count: usize,
    },
    /// Nothing is being replaced.
    #[error("{} trusts one authority; expected a rotation to finish", file.display())]
    NothingToFinish {
        /// The bundle.
        file: PathBuf,
    },
    /// Nothing can be signed.
    #[error("no certificate can be made: {0}")]
    Making(String),
    /// The operating system refuses.
    #[error("{}: {source}; expected to write there", file.display())]
    Write {
        /// What was to be written.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The member's name.
    pub name: String,
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// Until when it is valid.
    pub until: Moment,
}

/// The directory of an authority that can sign.
pub struct Directory {
    path: PathBuf,
    /// What members trust, the authority included.
    trusted: Vec<Trusted>,
    /// The authority, by its place among them.
    authority: usize,
    key: String,
}

struct Trusted {
    der: CertificateDer<'static>,
    facts: Facts,
}

impl Directory {
    /// Makes an authority for a cluster.
    pub fn init(path: &Path, cluster: &str, now: Moment, days: u32) -> Result<Self, PkiError> {
        let bundle = path.join(BUNDLE).with_extension("pem");
        let key = path.join(BUNDLE).with_extension("key");
        if let Some(file) = [&bundle, &key].into_iter().find(|file| file.exists()) {
            return Err(PkiError::Exists { file: file.clone() });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| PkiError::Write { file: path.to_owned(), source })?;
        let made = making::authority(cluster, now, days).map_err(PkiError::Making)?;
        // In this order: a bundle without a key is told, and does no harm.
        write(&bundle, &made.certificate, PUBLIC)?;
        write(&key, &made.key, PRIVATE)?;
        Self::open(path)
    }

    /// Takes up what is there.
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        let bundle = path.join(BUNDLE).with_extension("pem");
        let trusted = bundle_of(&bundle)?;
        let file = path.join(BUNDLE).with_extension("key");
        let expected = "the key of the authority, as `testudo pki init` makes it, with mode 0600";
        let unusable = |why: String| PkiError::Unusable { file: file.clone(), why, expected };
        if let Some(why) = files::exposed(&file).map_err(|error| unusable(error.to_string()))? {
            return Err(unusable(why));
        }
        let key = files::read(&file).map_err(|error| unusable(error.to_string()))?;
        let key = String::from_utf8(key).map_err(|_| unusable("no PEM".to_owned()))?;
        let pair = KeyPair::from_pem(&key).map_err(|error| unusable(error.to_string()))?;
        let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let authority = trusted.iter().position(|one| one.facts.public_key == public);
        let none = || unusable(format!("it is the key of no certificate in {}", bundle.display()));
        let authority = authority.ok_or_else(none)?;
        Ok(Self { path: path.to_owned(), trusted, authority, key })
    }

    /// The file of what members trust.
    pub fn bundle(&self) -> PathBuf {
        self.path.join(BUNDLE).with_extension("pem")
    }

    /// The authority that signs.
    pub fn authority(&self) -> &Facts {
        &self.trusted[self.authority].facts
    }

    /// Issues a certificate to a member, with a new key. It ends with the authority at the latest.
    pub fn issue(&self, name: &str, now: Moment, days: u32) -> Result<Issued, PkiError> {
        making::check_name(name).map_err(PkiError::Name)?;
        if name == BUNDLE {
            return Err(PkiError::Name(format!(
                "a member of the name \"{name}\" would have its key where the authority's is"
            )));
        }
        let authority = self.authority();
        if let Some(why) = authority.invalid_at(now) {
            return Err(PkiError::Authority { subject: authority.subject.clone(), why });
        }
        let until = now.plus_days(days).min(authority.not_after);
        let key = KeyPair::from_pem(&self.key).map_err(|e| PkiError::Making(e.to_string()))?;
        let signer = (&self.trusted[self.authority].der, key);
        let Made { certificate, key } =
            making::member(name, signer, now, until).map_err(PkiError::Making)?;
        let files = ["pem", "key"].map(|kind| self.path.join(format!("{name}.{kind}")));
        let [certificate_file, key_file] = files;
        write(&key_file, &key, PRIVATE)?;
        write(&certificate_file, &certificate, PUBLIC)?;
        let name = name.to_owned();
        Ok(Issued { name, certificate: certificate_file, key: key_file, until })
    }

    /// Makes a new authority that is trusted beside the old one and signs from now on, and issues a
    /// new certificate to each member that has one. The old key is gone.
    pub fn rotate(
        &mut self,
        cluster: &str,
        now: Moment,
        days: [u32; 2],
    ) -> Result<Vec<Issued>, PkiError> {
        let count = self.trusted.len();
        if count > 1 {
            return Err(PkiError::Unfinished { file: self.bundle(), count });
        }
        let members = self.members()?;
        let [authority_days, member_days] = days;
        let made = making::authority(cluster, now, authority_days).map_err(PkiError::Making)?;
        let bundle = fs::read_to_string(self.bundle())
            .map_err(|source| PkiError::Write { file: self.bundle(), source })?;
        // Trusted before it signs.
        write(&self.bundle(), &format!("{}{bundle}", made.certificate), PUBLIC)?;
        write(&self.path.join(BUNDLE).with_extension("key"), &made.key, PRIVATE)?;
        *self = Self::open(&self.path)?;
        members.iter().map(|name| self.issue(name, now, member_days)).collect()
    }

    /// Trusts the authority and no other any more. Gives the names of those that were dropped.
    pub fn finish(&mut self) -> Result<Vec<String>, PkiError> {
        if self.trusted.len() == 1 {
            return Err(PkiError::NothingToFinish { file: self.bundle() });
        }
        let authority = self.trusted.swap_remove(self.authority);
        let dropped = self.trusted.drain(..).map(|one| one.facts.subject).collect();
        write(&self.bundle(), &pem(&authority.der), PUBLIC)?;
        (self.trusted, self.authority) = (vec![authority], 0);
        Ok(dropped)
    }

    /// The members that have certificates here.
    pub fn members(&self) -> Result<Vec<String>, PkiError> {
        let unreadable = |error: io::Error| PkiError::Unusable {
            file: self.path.clone(),
            why: error.to_string(),
            expected: "a directory of certificates",
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let stem = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
            let is_certificate = file.extension().is_some_and(|kind| kind == "pem");
            let Some(name) = stem.filter(|stem| is_certificate && stem != BUNDLE) else { continue };
            if file.with_extension("key").exists() && making::check_name(&name).is_ok() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

fn bundle_of(file: &Path) -> Result<Vec<Trusted>, PkiError> {
    let expected = "the certificates of authorities, as `testudo pki init` makes them";
    let unusable = |why: String| PkiError::Unusable { file: file.to_owned(), why, expected };
    let bytes = files::read(file).map_err(|error| unusable(error.to_string()))?;
    let mut trusted = Vec::new();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        let der = der.map_err(|error| unusable(error.to_string()))?;
        let facts = Facts::of(&der).map_err(unusable)?;
        trusted.push(Trusted { der, facts });
    }
    if trusted.is_empty() { Err(unusable("no certificate in it".to_owned())) } else { Ok(trusted) }
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned());
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    files::replace(file, text, mode)
        .map_err(|source| PkiError::Write { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests;
