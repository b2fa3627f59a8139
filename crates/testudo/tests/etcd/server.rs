//! An etcd of a test's own: on loopback, in a directory that goes with it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::certificates::Certificates;
use crate::etcd::Tls;

pub struct Server {
    directory: PathBuf,
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
    certificates: Option<Certificates>,
}

impl Server {
    /// Why no etcd can be started, if so.
    pub fn missing() -> Option<String> {
        let found = Command::new("etcd").arg("--version").output();
        found.err().map(|error| format!("needs the program etcd (Debian: etcd-server): {error}"))
    }

    pub fn start() -> Self {
        Self::prepare(|_| None)
    }

    /// One that is believed by its certificate, and asks for one.
    pub fn start_encrypted() -> Self {
        Self::prepare(|directory| Some(Certificates::make(directory)))
    }

    fn prepare(certificates: impl FnOnce(&Path) -> Option<Certificates>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("testudo-etcd-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let free = || TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let (client, peer) = (free(), free());
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let (client_port, peer_port) = (port(&client), port(&peer));
        drop((client, peer));
        let certificates = certificates(&directory);
        let mut server = Self { directory, client_port, peer_port, process: None, certificates };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        self.url_of(self.client_port)
    }

    /// A member of it that is not there.
    pub fn url_of_nobody(&self) -> String {
        self.url_of(9)
    }

    fn url_of(&self, port: u16) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }

    /// What a client needs.
    pub fn tls(&self) -> Option<Tls> {
        let Certificates { ca, client, .. } = self.certificates.as_ref()?;
        Some(Tls { ca: ca.clone(), identity: Some(client.clone()) })
    }

    /// Starts it on the data that it left.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let log = fs::File::create(self.directory.join("log")).expect("a file");
        let mut etcd = Command::new("etcd");
        if let Some(Certificates { ca, server: (cert, key), .. }) = &self.certificates {
            etcd.args(["--client-cert-auth", "--trusted-ca-file"]).arg(ca);
            etcd.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        }
        let process = etcd
            .arg("--data-dir")
            .arg(self.directory.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.process = Some(process);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.client_port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it ends");
    }

    fn control(&self, arguments: &[&str]) -> Output {
        let mut control = Command::new("etcdctl");
        control.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(arguments);
        let output = control.output().expect("etcdctl comes with etcd");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {said}");
        output
    }

    fn key(name: &str) -> String {
        format!("/testudo/test/{name}")
    }

    /// How many keys there are in a range.
    pub fn count(&self, from: &str, end: &str) -> usize {
        let keys = self.control(&["get", &Self::key(from), &Self::key(end), "--keys-only"]);
        String::from_utf8_lossy(&keys.stdout).lines().filter(|line| !line.is_empty()).count()
    }

    pub fn delete(&self, from: &str, end: &str) {
        self.control(&["del", &Self::key(from), &Self::key(end)]);
    }

    /// Drops all history before now.
    pub fn compact(&self) {
        let status = self.control(&["endpoint", "status", "--write-out", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        let revision = status[0]["Status"]["header"]["revision"].as_u64().expect("a revision");
        self.control(&["compaction", &revision.to_string(), "--physical"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
