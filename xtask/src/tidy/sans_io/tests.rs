//! Planted violations of the sans-I/O rule, and code that looks like one.

use super::*;

fn lines(text: &str) -> Vec<usize> {
    let tree = Tree::planted(&[("crates/cluster/src/sync.rs", text)]);
    check(&tree).iter().map(|finding| finding.line).collect()
}

#[test]
fn every_forbidden_path_is_found_in_code_and_in_use() {
    for (path, _) in FORBIDDEN.iter().chain(&FORBIDDEN_CRATES) {
        assert_eq!(lines(&format!("\nuse {path};")), [2], "{path}");
        assert_eq!(lines(&format!("\nfn f() {{ {path}::now(); }}")), [2], "{path}");
        assert_eq!(lines(&format!("struct S {{\n at: {path} }}")), [2], "{path}");
    }
}

#[test]
fn groups_globs_and_new_names_do_not_hide_a_path() {
    assert_eq!(lines("use std::{fmt,\n time::{Duration, Instant}};"), [2]);
    assert_eq!(lines("use std::time::Instant as Moment;\nfn f() { Moment::now(); }"), [1]);
    assert_eq!(lines("use std::time;\nfn f() { time::Instant::now(); }"), [2]);
    assert_eq!(lines("use std::{time::{self as t}};\nfn f() { t::SystemTime::now(); }"), [2]);
    assert_eq!(lines("use std::net::*;"), [1]);
    assert_eq!(lines("fn f() { ::std::thread::spawn(g); }"), [1]);
}

#[test]
fn macros_do_not_hide_a_path() {
    assert_eq!(lines("fn f() {\n assert!(g(std::time::Instant::now())); }"), [2]);
    assert_eq!(lines("use std::time;\nfn f() { m!(vec![time::Instant::now()]); }"), [2]);
}

#[test]
fn async_is_found() {
    assert_eq!(lines("async fn f() {}"), [1]);
    assert_eq!(lines("fn f() {\n async { g().await } }"), [2, 2]);
    assert_eq!(lines("trait T {\n async fn f(); }"), [2]);
    assert_eq!(lines("fn f() { m!(async { 1 }) }"), [1]);
}

#[test]
fn code_that_reaches_nothing_passes() {
    assert!(lines("use std::time::Duration;\nuse std::net::{IpAddr, SocketAddr};").is_empty());
    assert!(lines("use crate::time::Instant;\nfn f(now: Instant) {}").is_empty());
    assert!(lines("mod time;\nfn f(now: time::Instant) { rand::rngs::StdRng::f(); }").is_empty());
}

#[test]
fn tests_are_free() {
    let outside = "use std::time::Instant;";
    assert!(lines(&format!("#[cfg(test)] mod tests {{ {outside} }}")).is_empty());
    let tree = Tree::planted(&[
        ("crates/packet/src/lib.rs", "#[cfg(test)] mod stories;"),
        ("crates/packet/src/stories.rs", outside),
        ("crates/packet/tests/a.rs", outside),
        ("crates/testudo/src/main.rs", outside),
    ]);
    assert!(check(&tree).is_empty());
}
