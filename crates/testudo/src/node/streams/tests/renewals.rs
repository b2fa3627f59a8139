//! New certificates, in the middle of everything: nobody is without a stream for a moment.

use super::*;
use crate::pki::Directory;

/// Lets both run until both have renewed their stream; sees to it that both know each other all the
/// time.
fn renewed(a: &mut Node, b: &mut Node, times: u64) {
    let begun = Instant::now();
    while b.count("tls_renewed") < times {
        assert!(begun.elapsed() < LIMIT, "{:?} {:?}", a.streams.counters(), b.streams.counters());
        a.turn();
        b.turn();
        assert!(a.knows(1) && b.knows(0), "no moment without a stream");
    }
    run_for(&mut [&mut *a, &mut *b], Duration::from_millis(300));
    assert!(a.knows(1) && b.knows(0));
    assert_eq!((a.streams.streams.len(), b.streams.streams.len()), (1, 1));
    assert_eq!(a.streams.streams[0].terms.generation, a.streams.terms.generation);
    assert_eq!(b.streams.streams[0].terms.generation, b.streams.terms.generation);
}

fn reload(node: &mut Node) {
    assert!(node.keeper.as_mut().unwrap().look(true, now()));
    assert_eq!(node.keeper.as_ref().unwrap().handle().refused(), None);
}

#[test]
fn a_new_certificate_on_either_side_renews_the_stream_without_a_gap() {
    let (mut net, place) = (Net::new(), Place::new("renewal"));
    let [mut a, mut b] = pair(&mut net, &place);
    let authority = Directory::open(&place.path("own")).unwrap();
    // Who dials notices itself; who is dialled asks for it.
    authority.issue("n2", now(), 50).unwrap();
    reload(&mut b);
    renewed(&mut a, &mut b, 1);
    authority.issue("n1", now(), 50).unwrap();
    reload(&mut a);
    renewed(&mut a, &mut b, 2);
    assert_eq!((a.count("tls_outdated"), b.count("tls_outdated")), (0, 0));
}

#[test]
fn an_authority_is_replaced_step_by_step_and_the_old_one_is_worth_nothing_then() {
    let (mut net, place) = (Net::new(), Place::new("rotation"));
    let [mut a, mut b] = pair(&mut net, &place);
    let mut authority = Directory::open(&place.path("own")).unwrap();
    let old: Vec<_> = ["n1", "n2", "n3"].map(|name| place.files("own", name)).to_vec();
    let keep = |from: &std::path::Path| {
        let mut to = from.as_os_str().to_owned();
        to.push(".old");
        let to = std::path::PathBuf::from(to);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let kept = old.iter().map(|files| [keep(&files.certificate), keep(&files.key)]);
    let kept: Vec<_> = kept.collect();
    authority.rotate("test", now(), [100, 50]).unwrap();
    let back = |member: usize| {
        std::fs::copy(&kept[member][0], &old[member].certificate).unwrap();
        std::fs::copy(&kept[member][1], &old[member].key).unwrap();
    };
    let new: Vec<_> = old
        .iter()
        .map(|f| (std::fs::read(&f.certificate).unwrap(), std::fs::read(&f.key).unwrap()))
        .collect();
    let forth = |member: usize| {
        std::fs::write(&old[member].certificate, &new[member].0).unwrap();
        std::fs::write(&old[member].key, &new[member].1).unwrap();
    };
    // 1. All trust both authorities, and have their old certificates still.
    back(0);
    back(1);
    reload(&mut a);
    reload(&mut b);
    renewed(&mut a, &mut b, 1);
    // 2. One after the other has its new one.
    forth(0);
    reload(&mut a);
    renewed(&mut a, &mut b, 2);
    forth(1);
    reload(&mut b);
    renewed(&mut a, &mut b, 3);
    // 3. The old authority is dropped. Node 3 was forgotten.
    back(2);
    let keeper = Keeper::open(place.files("own", "n3"), identity(2)).unwrap();
    let mut c = Node::new(&mut net, 2, Some(keeper));
    until(&mut [&mut a, &mut b, &mut c], "node 3 is known", |n| n[0].knows(2) && n[1].knows(2));
    authority.finish().unwrap();
    reload(&mut a);
    reload(&mut b);
    run_for(&mut [&mut a, &mut b, &mut c], Duration::from_millis(500));
    assert!(a.knows(1) && b.knows(0));
    assert!(a.knows(2), "for as long as it may");
    assert!(c.count("tls_turned_away") > 0, "{:?}", c.streams.counters());
    for node in [&mut a, &mut b, &mut c] {
        node.ahead = RENEWAL_MILLIS;
    }
    until(&mut [&mut a, &mut b, &mut c], "node 3 is gone", |n| !n[0].knows(2) && !n[1].knows(2));
    run_for(&mut [&mut a, &mut b, &mut c], Duration::from_millis(500));
    assert!(a.knows(1) && b.knows(0) && !a.knows(2) && !b.knows(2));
    assert!(a.refused(Reason::UnknownAuthority) > 0, "{:?}", a.streams.counters());
}
