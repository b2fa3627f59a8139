//! Files that are taken, files that are refused, and files that change.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::keeper::Keeper;
use super::*;
use crate::node::health::Finding;
use crate::pki::Directory;

/// A directory with authorities of a test's own.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(story: &str) -> Self {
        let place = format!("testudo-credentials-{story}-{}", std::process::id());
        let place = Self(std::env::temp_dir().join(place));
        let _ = fs::remove_dir_all(&place.0);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An authority that has issued certificates to these members.
    pub(crate) fn authority(&self, name: &str, members: &[&str]) -> Directory {
        let authority = Directory::init(&self.path(name), "test", now(), 100).unwrap();
        for member in members {
            authority.issue(member, now(), 50).unwrap();
        }
        authority
    }

    pub(crate) fn files(&self, authority: &str, member: &str) -> Files {
        let path = |name: String| self.path(authority).join(name);
        Files {
            ca: path("ca.pem".into()),
            certificate: path(format!("{member}.pem")),
            key: path(format!("{member}.key")),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn now() -> Moment {
    Moment::now()
}

pub(crate) fn identity(own: u8) -> Identity {
    Identity { members: ["n1", "n2", "n3"].map(str::to_owned).to_vec(), own: NodeId(own) }
}

fn refusal(files: &Files, now: Moment) -> String {
    Credentials::load(files, &identity(0), now).expect_err("they are refused").to_string()
}

#[test]
fn good_files_are_taken_and_their_end_is_told_of_before() {
    let place = Place::new("good");
    place.authority("a", &["n1"]);
    let credentials = Credentials::load(&place.files("a", "n1"), &identity(0), now()).unwrap();
    assert_eq!(credentials.own.names, ["n1"]);
    assert_eq!(credentials.authorities.len(), 1);
    assert_eq!(credentials.warning(now()), None);
    // A third of its fifty days.
    let soon = credentials.warning(now().plus_days(40)).unwrap();
    assert!(soon.contains("expires in 10 days"), "{soon}");
    let late = credentials.warning(now().plus_days(51)).unwrap();
    assert!(late.contains("has expired at"), "{late}");
}

#[test]
fn each_file_that_is_wrong_is_told_by_its_name() {
    let place = Place::new("wrong");
    let own = place.authority("a", &["n1", "n2"]);
    place.authority("b", &["n1"]);
    let good = place.files("a", "n1");
    let said = |change: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        change(&mut files);
        refusal(&files, now())
    };
    let missing = said(&|files| files.ca = place.path("nothing"));
    assert!(missing.contains("nothing: No such file"), "{missing}");
    let other = said(&|files| *files = Files { ca: files.ca.clone(), ..place.files("b", "n1") });
    assert!(other.contains("signed by no authority that this node trusts"), "{other}");
    let name = said(&|files| *files = place.files("a", "n2"));
    assert!(name.contains("names \"n2\"; expected \"n1\""), "{name}");
    assert!(name.contains("pki issue n1"), "{name}");
    let key = said(&|files| files.key = place.files("a", "n2").key);
    assert!(key.contains("is not the key of"), "{key}");
    let swapped = said(&|files| files.certificate = files.key.clone());
    assert!(swapped.contains("no certificate in it"), "{swapped}");
    let authority = said(&|files| files.certificate = files.ca.clone());
    assert!(authority.contains("is not the key of"), "{authority}");
    let member = said(&|files| files.ca = files.certificate.clone());
    assert!(member.contains("no authority's certificate"), "{member}");
    let expired = refusal(&good, now().plus_days(51));
    assert!(expired.contains("n1.pem: expired since"), "{expired}");
    let ended = refusal(&good, now().plus_days(101));
    assert!(ended.contains("ca.pem: ") && ended.contains("expired since"), "{ended}");
    let early = refusal(&good, Moment(now().0 - 7200));
    assert!(early.contains("not valid before"), "{early}");
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o644)).unwrap();
    let open = refusal(&good, now());
    assert!(open.contains("n1.key: its mode is 0644") && open.contains("0600"), "{open}");
    own.issue("n1", now(), 50).unwrap();
    assert!(Credentials::load(&good, &identity(0), now()).is_ok());
}

#[test]
fn an_authority_that_has_ended_is_left_out_and_another_one_counts() {
    let place = Place::new("ended");
    let mut authority = place.authority("a", &["n1"]);
    let day = now().plus_days(90);
    authority.rotate("test", day, [200, 50]).unwrap();
    let files = place.files("a", "n1");
    assert_eq!(Credentials::load(&files, &identity(0), day).unwrap().authorities.len(), 2);
    let later = Credentials::load(&files, &identity(0), now().plus_days(120)).unwrap();
    assert_eq!(later.authorities.len(), 1);
    assert!(later.left_out[0].contains("expired since"), "{:?}", later.left_out);
}

#[test]
fn new_files_come_into_force_when_they_have_rested_and_bad_ones_never() {
    let place = Place::new("keeper");
    let authority = place.authority("a", &["n1", "n2"]);
    let files = place.files("a", "n1");
    let mut keeper = Keeper::open(files.clone(), identity(0)).unwrap();
    let handle = keeper.handle();
    let first = handle.current().own.public_key.clone();
    assert!(!keeper.look(false, now()));
    authority.issue("n1", now(), 50).unwrap();
    assert!(!keeper.look(false, now()), "the copy may not be done yet");
    assert!(keeper.look(false, now()));
    assert!(!keeper.look(false, now()));
    let second = handle.current().own.public_key.clone();
    assert_ne!(second, first);
    assert_eq!((handle.generation(), handle.refusals()), (2, 0));
    assert!(matches!(keeper.finding(now()), Finding::Well(_)));
    fs::copy(place.files("a", "n2").certificate, &files.certificate).unwrap();
    keeper.look(false, now());
    assert!(keeper.look(false, now()));
    assert!(!keeper.look(false, now()), "it is told once");
    assert_eq!((handle.generation(), handle.refusals()), (2, 1));
    assert_eq!(handle.current().own.public_key, second);
    let Finding::Doubtful(why) = keeper.finding(now()) else {
        panic!("{:?}", keeper.finding(now()))
    };
    assert!(
        why.contains("new certificates are refused") && why.contains("is not the key"),
        "{why}"
    );
    authority.issue("n1", now(), 50).unwrap();
    assert!(keeper.look(true, now()), "it was asked for");
    assert_eq!((handle.generation(), handle.refused()), (3, None));
}
