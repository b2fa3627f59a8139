//! Whoever has no certificate of the cluster learns nothing and changes nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::*;
use crate::config::tls::Files;
use crate::pki::Directory;

/// A machine that is no member's.
const ELSEWHERE: [u8; 4] = [127, 0, 9, 200];

fn call(from: [u8; 4], to: SocketAddr) -> TcpStream {
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((from, 0)))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Believes everybody: a stranger has nothing to lose.
#[derive(Debug)]
struct Gullible;

fn schemes() -> Vec<rustls::SignatureScheme> {
    rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        schemes()
    }
}

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        schemes()
    }
}

fn chain(files: &Files) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_file(&files.certificate).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_file(&files.key).unwrap())
}

/// As a dialler has it: it shows a certificate first.
fn dialler(files: &Files, version: &'static SupportedProtocolVersion) -> Connection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = chain(files);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Gullible))
        .with_single_cert(chain, key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap().into()
}

/// As who is dialled has it, with a certificate or without.
fn dialled(files: Option<&Files>, version: &'static SupportedProtocolVersion) -> Connection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let config = match files.map(chain) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("anybody").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap().into()
}

/// What a stranger has got out of a node.
#[derive(Debug, Default)]
struct Loot {
    /// All that came, as it came.
    raw: Vec<u8>,
    /// What of it TLS has taken for words of the node.
    words: Vec<u8>,
    /// Whether a certificate was among it.
    certificate: bool,
    /// How TLS ended.
    error: Option<rustls::Error>,
}

/// Speaks TLS until it is over.
fn speak(mut tls: Connection, mut socket: TcpStream) -> Loot {
    let mut loot = Loot::default();
    let mut buffer = [0; 4096];
    loop {
        while tls.wants_write() {
            if tls.write_tls(&mut socket).is_err() {
                return loot;
            }
        }
        let Ok(count @ 1..) = socket.read(&mut buffer) else { return loot };
        loot.raw.extend_from_slice(&buffer[..count]);
        let mut raw = &buffer[..count];
        while !raw.is_empty() {
            tls.read_tls(&mut raw).unwrap();
            let processed = tls.process_new_packets();
            loot.certificate |= tls.peer_certificates().is_some();
            if let Err(error) = processed {
                let _ = tls.write_tls(&mut socket);
                loot.error = Some(error);
                return loot;
            }
            let _ = tls.reader().read_to_end(&mut loot.words);
        }
        // A stranger who is let in says something.
        if !tls.is_handshaking() {
            let _ = tls.writer().write_all(b"TESTUDOS");
        }
    }
}

/// What a node shows to nobody: names, the protocol, the authority.
fn check_nothing_learned(raw: &[u8]) {
    // Names as they stand in certificates: two letters alone turn up by chance.
    for secret in [&b"TESTUDO"[..], b"\x82\x02n1", b"\x82\x02n2", b"Testudo", b"authority"] {
        let found = raw.windows(secret.len()).any(|bytes| bytes == secret);
        assert!(!found, "{:?} in {raw:02x?}", String::from_utf8_lossy(secret));
    }
}

fn shown(stranger: impl FnOnce() -> Loot + Send + 'static) -> JoinHandle<Loot> {
    thread::spawn(stranger)
}

/// Has a stranger do something to node 0, and sees that it is refused for that reason and that nothing
/// else has changed.
fn refused(pair: &mut [Node; 2], reason: Reason, stranger: JoinHandle<Loot>) -> Loot {
    let [a, b] = pair;
    let before = (a.refused(reason), a.count("tls_handshakes"), a.replica.peer(NodeId(1)), a.lost);
    until(&mut [&mut *a, &mut *b], &format!("{reason:?} is counted"), |nodes| {
        nodes[0].refused(reason) > before.0 && stranger.is_finished()
    });
    let after = (before.0 + 1, a.count("tls_handshakes"), a.replica.peer(NodeId(1)), a.lost);
    assert_eq!((before.0 + 1, before.1, before.2, before.3), after);
    let loot = stranger.join().unwrap();
    assert_eq!(loot.words, b"", "{reason:?}");
    assert!(!loot.certificate, "{reason:?}: it has seen a certificate");
    check_nothing_learned(&loot.raw);
    loot
}

#[test]
fn who_dials_without_a_certificate_of_the_cluster_is_refused_and_learns_nothing() {
    let (mut net, place) = (Net::new(), Place::new("strangers"));
    let mut pair = pair(&mut net, &place);
    let to = net.addresses[0];
    place.authority("other", &["n2"]);
    let tls13 = &rustls::version::TLS13;
    let with =
        |files: Files, version| shown(move || speak(dialler(&files, version), call(ELSEWHERE, to)));
    let loot =
        refused(&mut pair, Reason::UnknownAuthority, with(place.files("other", "n2"), tls13));
    assert!(loot.error.is_some(), "it is told why");
    // Signed by nobody but itself: the certificate of the other authority is such a one.
    let own = Files {
        certificate: place.path("other/ca.pem"),
        key: place.path("other/ca.key"),
        ..place.files("other", "n2")
    };
    refused(&mut pair, Reason::Certificate, with(own, tls13));
    let past = crate::pki::facts::Moment(now().0 - 90 * 24 * 3600);
    Directory::open(&place.path("own")).unwrap().issue("n9", now(), 50).unwrap();
    refused(&mut pair, Reason::OtherName, with(place.files("own", "n9"), tls13));
    let long = Directory::init(&place.path("long"), "test", past, 400).unwrap();
    long.issue("n2", past, 30).unwrap();
    // The authority is not the cluster's, but the end of the certificate shows first.
    refused(&mut pair, Reason::Expired, with(place.files("long", "n2"), tls13));
    refused(&mut pair, Reason::Version, with(place.files("own", "n2"), &rustls::version::TLS12));
    let asks = shown(move || speak(dialled(None, tls13), call(ELSEWHERE, to)));
    refused(&mut pair, Reason::NoCertificate, asks);
}

#[test]
fn what_is_not_tls_is_refused() {
    let (mut net, place) = (Net::new(), Place::new("garbage"));
    let mut pair = pair(&mut net, &place);
    let to = net.addresses[0];
    let says = move |bytes: Vec<u8>, then: Option<Shutdown>| {
        shown(move || {
            let mut socket = call(ELSEWHERE, to);
            socket.write_all(&bytes).unwrap();
            if let Some(then) = then {
                socket.shutdown(then).unwrap();
            }
            let mut raw = Vec::new();
            let _ = socket.read_to_end(&mut raw);
            Loot { raw, ..Loot::default() }
        })
    };
    // As a release without TLS greets, or one with tls = "off".
    let greeting = [&b"TESTUDOS"[..], &2u16.to_le_bytes(), &[0; 6], &[3; 16]].concat();
    refused(&mut pair, Reason::Protocol, says(greeting, None));
    refused(&mut pair, Reason::Protocol, says(vec![0xa5; 70_000], None));
    refused(&mut pair, Reason::Protocol, says(b"GET / HTTP/1.1\r\n\r\n".to_vec(), None));
    // A record that says that it is longer than any may be.
    refused(&mut pair, Reason::Protocol, says(vec![22, 3, 3, 0xff, 0xff, 2, 0, 0, 9], None));
    // One that is cut.
    let cut = says(vec![22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3], Some(Shutdown::Write));
    refused(&mut pair, Reason::TurnedAway, cut);
    // One of which the rest never comes.
    let begun = Instant::now();
    refused(&mut pair, Reason::Late, says(vec![22, 3, 3, 0, 90, 2], None));
    assert!(begun.elapsed() >= Duration::from_millis(2900));
}

#[test]
fn a_member_that_says_inside_that_it_is_another_one_is_refused() {
    let (mut net, place) = (Net::new(), Place::new("another"));
    let [mut a, mut b] = pair(&mut net, &place);
    // Node 3 has its certificate, knows the secret, and speaks as node 2.
    net.listeners[1] = Some(TcpListener::bind(SocketAddr::from(([127, 0, 9, 77], 0))).unwrap());
    let keeper = Keeper::open(place.files("own", "n3"), identity(2)).unwrap();
    let mut liar = Node::new(&mut net, 1, Some(keeper));
    until(&mut [&mut a, &mut b, &mut liar], "the liar is refused", |nodes| {
        nodes[0].count("tls_handshakes") >= 2 && nodes[2].count("tls_handshakes") >= 1
    });
    run_for(&mut [&mut a, &mut b, &mut liar], Duration::from_millis(300));
    assert!(a.knows(1) && b.knows(0));
    assert_eq!((a.lost, b.lost), (0, 0));
    assert!(a.closed.is_empty(), "{:?}", a.closed);
    assert!(a.count("sync_refused") >= 1, "{:?}", a.streams.counters());
    assert_eq!(liar.number, NodeId(1));
}

/// Node 1 dials somebody who listens where node 0 should.
fn impostor(story: &str, files: impl FnOnce(&Place) -> Option<Files>) -> (Node, Loot) {
    let (mut net, place) = (Net::new(), Place::new(story));
    place.authority("own", &["n1", "n2", "n3"]);
    let listener = net.listener(0);
    let files = files(&place);
    let impostor = shown(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        speak(dialled(files.as_ref(), &rustls::version::TLS13), socket)
    });
    let mut dials = Node::member(&mut net, &place, "own", 1);
    let begun = Instant::now();
    while !impostor.is_finished() {
        assert!(begun.elapsed() < LIMIT);
        dials.turn();
    }
    let loot = impostor.join().unwrap();
    assert_eq!(loot.words, b"", "it was told nothing");
    assert!(!dials.knows(0));
    (dials, loot)
}

#[test]
fn who_is_dialled_and_is_another_one_is_told_nothing() {
    let (dials, _) = impostor("nobody", |_| None);
    assert!(dials.refused(Reason::NoCertificate) >= 1, "{:?}", dials.streams.counters());
    let (dials, _) = impostor("stranger", |place| {
        place.authority("other", &["n1"]);
        Some(place.files("other", "n1"))
    });
    assert!(dials.refused(Reason::UnknownAuthority) >= 1, "{:?}", dials.streams.counters());
    let (dials, _) = impostor("member", |place| Some(place.files("own", "n3")));
    assert!(dials.refused(Reason::OtherName) >= 1, "{:?}", dials.streams.counters());
}

#[test]
fn a_flood_of_silent_connections_keeps_no_member_out() {
    let (mut net, place) = (Net::new(), Place::new("flood"));
    place.authority("own", &["n1", "n2", "n3"]);
    let mut a = Node::member(&mut net, &place, "own", 0);
    let to = net.addresses[0];
    let flood = thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(3);
        let mut open = std::collections::VecDeque::new();
        let mut count = 0u64;
        while Instant::now() < end {
            open.push_back(call(ELSEWHERE, to));
            count += 1;
            if open.len() > 200 {
                open.pop_front();
            }
        }
        count
    });
    until(&mut [&mut a], "strangers make room", |nodes| nodes[0].refused(Reason::Crowded) > 20);
    // Members come in the middle of it.
    let mut b = Node::member(&mut net, &place, "own", 1);
    let begun = Instant::now();
    until(&mut [&mut a, &mut b], "they know each other", |n| n[0].knows(1) && n[1].knows(0));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let mut most = 0;
    while !flood.is_finished() {
        a.turn();
        b.turn();
        most = most.max(a.streams.streams.len());
    }
    assert!(most <= seats::STRANGERS + 2, "{most} streams");
    let count = flood.join().unwrap();
    assert!(a.knows(1) && (a.lost, b.lost) == (0, 0));
    println!("{count} connections came, {:?}", a.streams.counters());
}

#[test]
fn without_tls_streams_are_as_they_were() {
    let mut net = Net::new();
    let [mut a, mut b] = [0, 1].map(|number| Node::new(&mut net, number, None));
    until(&mut [&mut a, &mut b], "both know each other", |n| n[0].knows(1) && n[1].knows(0));
    assert_eq!(a.count("tls_handshakes"), 0);
}
