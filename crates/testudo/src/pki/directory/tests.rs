//! An authority's directory from the first day to the last, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: Moment = Moment(1_790_000_000);

struct Place(PathBuf);

impl Place {
    fn new(story: &str) -> Self {
        let name = format!("testudo-pki-{story}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn init(&self) -> Directory {
        Directory::init(&self.0, "lab", NOW, 100).unwrap()
    }

    fn facts(&self, name: &str) -> Facts {
        let bytes = fs::read(self.0.join(name)).unwrap();
        Facts::of(&CertificateDer::from_pem_slice(&bytes).unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_authority_signs_for_members_and_only_for_as_long_as_it_lives() {
    let place = Place::new("issue");
    let directory = place.init();
    assert!(directory.authority().is_authority);
    assert!(directory.authority().subject.ends_with("of lab"), "{:?}", directory.authority());
    let issued = directory.issue("n1", NOW, 30).unwrap();
    assert_eq!((issued.name.as_str(), issued.until), ("n1", NOW.plus_days(30)));
    let facts = place.facts("n1.pem");
    assert_eq!((facts.names, facts.is_authority), (vec!["n1".to_owned()], false));
    assert_eq!(facts.not_after, NOW.plus_days(30));
    assert!(facts.not_before < NOW);
    assert_eq!(directory.issue("n1", NOW, 1000).unwrap().until, NOW.plus_days(100));
    for key in ["n1.key", "ca.key"] {
        let mode = fs::metadata(place.0.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let late = directory.issue("n1", NOW.plus_days(101), 30).unwrap_err().to_string();
    assert!(late.contains("expired since") && late.contains("pki rotate"), "{late}");
    for name in ["1", "ca", "a/b"] {
        let refused = directory.issue(name, NOW, 30).unwrap_err().to_string();
        assert!(refused.contains(&format!("\"{name}\"")), "{refused}");
    }
}

#[test]
fn a_rotation_trusts_both_authorities_until_it_is_finished() {
    let place = Place::new("rotate");
    let mut directory = place.init();
    for name in ["n1", "n2"] {
        directory.issue(name, NOW, 30).unwrap();
    }
    let (old, old_key) = (directory.authority().clone(), fs::read(place.0.join("ca.key")).unwrap());
    let nothing = directory.finish().unwrap_err().to_string();
    assert!(nothing.contains("trusts one authority"), "{nothing}");
    let before = place.facts("n1.pem");
    let issued = directory.rotate("lab", NOW, [200, 40]).unwrap();
    assert_eq!(issued.iter().map(|one| &one.name).collect::<Vec<_>>(), ["n1", "n2"]);
    assert_ne!(place.facts("n1.pem").public_key, before.public_key);
    assert_ne!(directory.authority().subject, old.subject);
    assert_ne!(fs::read(place.0.join("ca.key")).unwrap(), old_key);
    let trusted = bundle_of(&directory.bundle()).unwrap();
    assert_eq!(trusted.len(), 2);
    assert!(trusted.iter().any(|one| one.facts == old));
    let again = directory.rotate("lab", NOW, [200, 40]).unwrap_err().to_string();
    assert!(again.contains("trusts 2 authorities") && again.contains("--finish"), "{again}");
    assert_eq!(directory.finish().unwrap(), [old.subject]);
    let reopened = Directory::open(&place.0).unwrap();
    assert_eq!(reopened.trusted.len(), 1);
    assert_eq!(reopened.authority(), directory.authority());
}

#[test]
fn a_rotation_that_was_interrupted_leaves_an_authority_that_signs() {
    let place = Place::new("interrupted");
    let directory = place.init();
    let new = making::authority("lab", NOW, 100).unwrap();
    let bundle = fs::read_to_string(directory.bundle()).unwrap();
    // Trusted already, and its key was not written any more.
    fs::write(directory.bundle(), new.certificate + &bundle).unwrap();
    let mut reopened = Directory::open(&place.0).unwrap();
    assert_eq!(reopened.authority(), directory.authority());
    reopened.issue("n1", NOW, 30).unwrap();
    assert_eq!(reopened.finish().unwrap().len(), 1);
    assert_eq!(
        fs::read_to_string(directory.bundle()).unwrap().trim(),
        bundle.replace('\r', "").trim()
    );
}

#[test]
fn what_is_there_is_never_overwritten_by_a_new_authority() {
    let place = Place::new("twice");
    place.init();
    let again = Directory::init(&place.0, "lab", NOW, 100).err().unwrap().to_string();
    assert!(again.contains("is there already"), "{again}");
}

#[test]
fn a_directory_that_can_not_sign_says_why() {
    let place = Place::new("unusable");
    let said = |place: &Place| Directory::open(&place.0).err().unwrap().to_string();
    assert!(said(&place).contains("pki init"));
    place.init();
    let key = place.0.join("ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(said(&place).contains("mode is 0640"), "{}", said(&place));
    let other = making::authority("lab", NOW, 100).unwrap();
    files::replace(&key, &other.key, PRIVATE).unwrap();
    assert!(said(&place).contains("the key of no certificate"), "{}", said(&place));
    files::replace(&key, "nothing", PRIVATE).unwrap();
    assert!(said(&place).contains("ca.key"), "{}", said(&place));
    fs::write(place.0.join("ca.pem"), "nothing").unwrap();
    assert!(said(&place).contains("no certificate in it"), "{}", said(&place));
}
