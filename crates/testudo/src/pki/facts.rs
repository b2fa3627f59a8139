//! What a certificate says of itself. Nothing is believed by it: that is for TLS to verify.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for.
    pub subject: String,
    /// Its names as a member's certificate has them, in the order in which they stand there.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Moment,
    /// Until when.
    pub not_after: Moment,
    /// Whether it is an authority's.
    pub is_authority: bool,
    /// The key it is for, as an encoded `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl Facts {
    /// Reads a certificate in DER. Says in words what is wrong with one that can't be read.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes behind a certificate", rest.len()));
        }
        let names = match certificate.subject_alternative_name() {
            Ok(names) => names.map(|names| &names.value.general_names),
            Err(error) => return Err(format!("the names can't be read: {error}")),
        };
        let names = names.into_iter().flatten().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Ok(Self {
            subject: certificate.subject().to_string(),
            names: names.collect(),
            not_before: Moment(certificate.validity().not_before.timestamp()),
            not_after: Moment(certificate.validity().not_after.timestamp()),
            is_authority: certificate.is_ca(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Why it is not valid at a moment, if it is not.
    pub fn invalid_at(&self, now: Moment) -> Option<String> {
        if now < self.not_before {
            return Some(format!("not valid before {}; it is {now}", self.not_before));
        }
        (now > self.not_after).then(|| format!("expired since {}; it is {now}", self.not_after))
    }
}

/// A moment by the calendar, in seconds since 1970. Certificates know no other clock, and nothing else
/// in a node knows this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

const DAY: i64 = 24 * 3600;

impl Moment {
    /// By this machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// So many days later.
    pub const fn plus_days(self, days: u32) -> Self {
        Self(self.0.saturating_add(days as i64 * DAY))
    }

    /// How many whole days come after an earlier moment; negative if it is a later one.
    pub const fn days_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).div_euclid(DAY)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => {
                let time = time.to_datetime();
                let (hour, minute) = (time.hour(), time.minute());
                write!(f, "{} {hour:02}:{minute:02} UTC", time.date())
            }
            Err(_) => write!(f, "{} seconds after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_by_the_calendar() {
        let moment = Moment(1_764_040_440);
        assert_eq!(moment.to_string(), "2025-11-25 03:14 UTC");
        assert_eq!(moment.plus_days(30).days_since(moment), 30);
        assert_eq!(moment.days_since(moment.plus_days(1)), -1);
        assert_eq!(Moment(i64::MAX).to_string(), format!("{} seconds after 1970", i64::MAX));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_facts() {
        for bytes in [&b""[..], b"\x30\x03\x02\x01\x01", b"hello"] {
            assert!(Facts::of(bytes).unwrap_err().contains("no certificate"), "{bytes:?}");
        }
    }
}
