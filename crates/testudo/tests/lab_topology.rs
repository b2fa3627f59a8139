//! `testudo lab` builds its hosts and links, and leaves nothing behind.
//!
//! These tests need root; without it they are ignored, with the reason. Each uses a lab name of its
//! own, so they run beside each other and beside other labs; each looks only for what is its own.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

const TESTUDO: &str = env!("CARGO_BIN_EXE_testudo");

/// A lab that is removed when the test ends, whatever way it ends.
struct Standing {
    name: String,
}

impl Standing {
    fn up(story: &str) -> Standing {
        Standing::of(story, &[])
    }

    fn of(story: &str, options: &[&str]) -> Standing {
        let standing = Standing { name: name(story) };
        let mut arguments = vec!["up", "--bare", "--nodes", "2", "--name", &standing.name];
        arguments.extend_from_slice(options);
        let output = lab(&arguments);
        assert!(output.status.success(), "{output:?}");
        standing
    }

    /// Do `work` on a thread inside a host's network namespace.
    fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(format!("{}-{host}", self.name));
        let namespace = fs::File::open(path).expect("the host's namespace");
        thread::scope(|scope| {
            let enter = || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the host");
                work()
            };
            scope.spawn(enter).join().expect("the work in the host")
        })
    }

    /// Packets that a host's link has received.
    fn received(&self, host: &str, link: &str) -> u64 {
        let counters = text(&self.exec(host, &["cat", "/proc/net/dev"]));
        let line = counters.lines().find_map(|line| line.trim().strip_prefix(&format!("{link}:")));
        let fields = line.expect("the link").split_whitespace();
        fields.map(|field| field.parse().unwrap_or_default()).nth(1).expect("a counter")
    }

    /// Open TCP connections from the client to the server, all from different ports.
    fn connect(&self, server: &str, count: usize) {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7000));
        let listener = self.inside("server", || TcpListener::bind(any)).expect("a listener");
        let server = SocketAddr::new(server.parse().expect("an address"), 7000);
        for _ in 0..count {
            let connect = || TcpStream::connect_timeout(&server, Duration::from_secs(3));
            self.inside("client", connect).expect("a connection through the lab");
            listener.accept().expect("a connection at the server");
        }
    }

    fn exec(&self, host: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["exec", "--name", self.name.as_str(), host, "--"];
        arguments.extend_from_slice(command);
        lab(&arguments)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        lab(&["down", "--name", &self.name]);
    }
}

fn name(story: &str) -> String {
    format!("test-{story}-{}", std::process::id())
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(TESTUDO).arg("lab").args(arguments).output().expect("start testudo")
}

/// Everything on this machine that carries the lab's name.
fn traces(name: &str) -> Vec<PathBuf> {
    let entries = ["/run/netns", "/run/testudo/lab"].map(Path::new).map(fs::read_dir);
    entries
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(name))
        .collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hosts_are_built_and_nothing_is_left_after_down() {
    let standing = Standing::up("hosts");
    let name = standing.name.clone();
    let mut hosts: Vec<String> = traces(&name)
        .iter()
        .filter_map(|path| path.strip_prefix("/run/netns").ok())
        .map(|host| host.to_string_lossy()[name.len() + 1..].to_owned())
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["client", "n1", "n2", "server", "switch"]);

    let links = standing.exec("n2", &["cat", "/proc/net/dev"]);
    for link in ["lo:", "in0:", "out0:", "sync0:"] {
        assert!(text(&links).contains(link), "{link} in {}", text(&links));
    }
    let routes = text(&standing.exec("client", &["cat", "/proc/net/route"]));
    assert!(routes.contains("eth0\t00000000\t01000A0A"), "default by 10.10.0.1 in {routes}");
    let addresses = text(&standing.exec("server", &["cat", "/proc/net/if_inet6"]));
    assert!(addresses.contains("fd200000000000000000000000020001"), "fd20::2:1 in {addresses}");
    let forwards = standing.exec("n1", &["cat", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(text(&forwards).trim(), "1");

    drop(standing);
    assert_eq!(traces(&name), Vec::<PathBuf>::new());
}

/// What the data links of both nodes have received.
fn links_of(standing: &Standing) -> [u64; 4] {
    let links = [("n1", "in0"), ("n1", "out0"), ("n2", "in0"), ("n2", "out0")];
    links.map(|(node, link)| standing.received(node, link))
}

/// The nodes of a bare lab are plain routers, so what is seen here is what the two routers do.
fn routers_spread_flows_over_the_nodes_and_back_by_others() {
    let standing = Standing::of("steered", &["--mode", "steered", "--witness"]);
    standing.connect("10.21.2.1", 30);
    standing.connect("fd21::2:1", 30);
    let received = links_of(&standing);
    assert!(received.iter().all(|packets| *packets > 30), "{received:?}");
    let links = text(&standing.exec("n3", &["cat", "/proc/net/dev"]));
    assert!(links.contains("sync0:") && !links.contains("in0:"), "a witness: {links}");

    // One flow: with two nodes, what goes by the one comes back by the other.
    let before = links_of(&standing);
    standing.connect("10.21.2.1", 1);
    let after = links_of(&standing);
    let [n1_in, n1_out, n2_in, n2_out] = std::array::from_fn(|link| after[link] - before[link]);
    let by_n1 = n1_in >= 3 && n2_out >= 1 && n2_in < 3;
    let by_n2 = n2_in >= 3 && n1_out >= 1 && n1_in < 3;
    assert!(by_n1 || by_n2, "in {n1_in} {n2_in}, back {n1_out} {n2_out}");
}

fn a_tap_shows_every_packet_to_every_node_and_needs_none() {
    let standing = Standing::of("tap", &["--mode", "tap"]);
    standing.connect("10.20.2.1", 20);
    standing.connect("fd20::2:1", 20);
    // Each connection is at least three packets there and two back.
    for node in ["n1", "n2"] {
        let received = standing.received(node, "in0");
        assert!(received >= 40 * 5, "{node}: {received}");
    }
    let links = text(&standing.exec("n1", &["cat", "/proc/net/dev"]));
    assert!(links.contains("tap0:") && links.contains("ids0:"), "{links}");
    assert!(!links.contains("out0:"), "{links}");
}

fn a_command_runs_in_its_host_and_its_exit_status_is_passed() {
    let standing = Standing::up("exec");
    assert_eq!(standing.exec("client", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    let nobody = standing.exec("n3", &["true"]);
    assert_eq!(nobody.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(complaint.contains("has no host n3"), "{complaint}");
}

fn a_name_is_taken_once() {
    let standing = Standing::up("taken");
    let again = lab(&["up", "--bare", "--nodes", "2", "--name", &standing.name]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let links = standing.exec("n1", &["cat", "/proc/net/dev"]);
    assert!(text(&links).contains("sync0:"), "the first lab still stands");
}

fn a_dead_labs_leftovers_are_removed_and_a_standing_lab_is_left_alone() {
    let standing = Standing::up("neighbour");
    let dead = name("dead");
    // This lab's owner is killed while it starts its nodes or runs; it can clean up nothing.
    let mut owner = Command::new(TESTUDO)
        .args(["lab", "--nodes", "2", "--connections", "10", "--name", &dead])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start testudo");
    let begun = Instant::now();
    let last = Path::new("/run/netns").join(format!("{dead}-n2"));
    while !last.exists() && begun.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(last.exists(), "the lab was built");
    owner.kill().expect("kill the owner");
    owner.wait().expect("reap the owner");

    // Any lab command that takes or gives up a name does it (one of another test may have been
    // faster); this one fails for want of the name.
    let none = lab(&["down", "--name", &name("none")]);
    assert_eq!(none.status.code(), Some(2));
    assert_eq!(traces(&dead), Vec::<PathBuf>::new());
    let links = standing.exec("n1", &["cat", "/proc/net/dev"]);
    assert!(text(&links).contains("sync0:"), "the standing lab still stands");
}

fn a_command_that_a_lab_can_not_do_fails_before_anything_is_touched() {
    let name = name("../up");
    let bad = lab(&["up", "--bare", "--name", &name]);
    assert_eq!(bad.status.code(), Some(2));
    let alone = lab(&["--nodes", "1"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&alone.stderr).contains("needs --nodes 2 or more"));
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "hosts_are_built_and_nothing_is_left_after_down",
                hosts_are_built_and_nothing_is_left_after_down,
            ),
            (
                "routers_spread_flows_over_the_nodes_and_back_by_others",
                routers_spread_flows_over_the_nodes_and_back_by_others,
            ),
            (
                "a_tap_shows_every_packet_to_every_node_and_needs_none",
                a_tap_shows_every_packet_to_every_node_and_needs_none,
            ),
            (
                "a_command_runs_in_its_host_and_its_exit_status_is_passed",
                a_command_runs_in_its_host_and_its_exit_status_is_passed,
            ),
            ("a_name_is_taken_once", a_name_is_taken_once),
            (
                "a_dead_labs_leftovers_are_removed_and_a_standing_lab_is_left_alone",
                a_dead_labs_leftovers_are_removed_and_a_standing_lab_is_left_alone,
            ),
            (
                "a_command_that_a_lab_can_not_do_fails_before_anything_is_touched",
                a_command_that_a_lab_can_not_do_fails_before_anything_is_touched,
            ),
        ],
        &[],
    )
}
