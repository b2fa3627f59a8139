//! What nodes prove to each other who they are by.

use super::*;

const MAC: &str = "mac = \"02:74:65:73:00:01\"\n";

fn off(rest: &str) -> String {
    GOOD.replace(MAC, &format!("{MAC}tls = \"off\"\n")).replace(TLS, rest)
}

fn said(text: &str) -> String {
    let error = parse(Path::new("f"), text).expect_err("it is refused").to_string();
    error.lines().next().unwrap_or("").to_owned()
}

#[test]
fn streams_are_encrypted_unless_the_file_says_otherwise() {
    let config = parse(Path::new("f"), GOOD).unwrap();
    let files = config.tls.unwrap();
    assert_eq!(files.ca, Path::new("/etc/testudo/tls/ca.pem"));
    assert_eq!(files.certificate, Path::new("/etc/testudo/tls/n1.pem"));
    assert_eq!(files.key, Path::new("/etc/testudo/tls/n1.key"));
    assert_eq!(parse(Path::new("f"), &off("")).unwrap().tls, None);
}

#[test]
fn a_file_without_certificates_says_how_to_make_them() {
    assert_eq!(
        said(&GOOD.replace(TLS, "")),
        "f:7:1: [node] without [node.tls]; expected a section [node.tls] with ca, certificate and key, \
         which `testudo pki init` and `testudo pki issue n1` make, or tls = \"off\" in [cluster]"
    );
    assert_eq!(
        said(&off(TLS)),
        "f:30:1: [node.tls] beside tls = \"off\"; expected no [node.tls], or tls = \"on\" in [cluster]"
    );
}

#[test]
fn wrong_values_are_refused() {
    refused(&[
        (MAC, &format!("{MAC}tls = true\n"), "f:6:7: tls is true; expected \"on\" or \"off\""),
        (
            "key = \"/etc/testudo/tls/n1.key\"",
            "",
            "f:29:1: [node.tls] without key; expected the absolute path of a file",
        ),
        (
            "ca = \"/etc/testudo/tls/ca.pem\"",
            "ca = \"ca.pem\"",
            "f:30:6: ca is \"ca.pem\"; expected an absolute path of at most 1024 bytes",
        ),
        (
            "key = \"/etc/testudo/tls/n1.key\"",
            "keys = 1",
            "f:32:1: [node.tls] has the key keys; expected one of ca, certificate, key",
        ),
    ]);
}

#[test]
fn members_whom_no_certificate_tells_apart_are_refused() {
    let expected = "expected a name that a certificate can have, or tls = \"off\" in [cluster]";
    let host = "which is none of a host, as those in certificates are";
    let two = "name = \"n2\"";
    for (name, why) in
        [("2", host), ("n2-", host), ("N1", "which certificates do not tell from n1")]
    {
        let text = format!("name = \"{name}\"");
        let seen = format!("f:15:8: name is \"{name}\", {why}; {expected}");
        assert_eq!(refusal(two, &text), seen);
        assert!(parse(Path::new("f"), &off("").replace(two, &text)).is_ok(), "{name}");
    }
}
