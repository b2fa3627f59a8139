//! What a known flow's packets do when the way changes: the next hop that its entry keeps is asked for anew because the node
//! hears of the change, and not only when the hop is old.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::net::UdpSocket;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use standing::Standing;

const SERVER: &str = "10.20.2.1:7400";
/// How often the host moves. A hop that nobody hears of lasts two seconds at most, so it may be short of its end once.
const MOVES: u8 = 4;
/// The longest silence after a move that was heard of: it takes milliseconds, and a busy machine takes its time.
const HEARD: Duration = Duration::from_millis(700);
/// Between two questions, and how long an answer may take.
const PACE: Duration = Duration::from_millis(10);
/// The longest silence, before the test gives up.
const SILENCE: Duration = Duration::from_secs(5);

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut room = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((bytes, from)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(&room[..bytes], from);
        }
    }
}

/// Ends the echo, whatever way its test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks until there is an answer; says how long that took.
fn answered(socket: &UdpSocket) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < SILENCE {
        socket.send(b"there?").expect("it leaves");
        if socket.recv(&mut [0; 64]).is_ok() {
            return begun.elapsed();
        }
    }
    panic!("no answer for {SILENCE:?}")
}

/// A host takes another address of the link and tells its neighbours. The flow's packets went to the old one.
fn a_flow_follows_a_host_that_moves() {
    let standing = Standing::whole("routes", 2, &[]);
    let server = standing.inside("server", || UdpSocket::bind(SERVER)).expect("a server");
    let client = standing.inside("client", || UdpSocket::bind("10.10.2.1:0")).expect("a client");
    client.connect(SERVER).expect("a peer");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PACE)).expect("a timeout");
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| echo(&server, &stop));
        let _stop = Stop(&stop);
        for _ in 0..50 {
            answered(&client);
        }
        for number in 1..=MOVES {
            let moved = standing.inside("server", || {
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1").expect("a notice");
                let address = format!("02:00:00:00:77:{number:02}");
                Command::new("ip").args(["link", "set", "eth0", "address", &address]).status()
            });
            assert!(moved.expect("start ip").success());
            // What is on its way may still be answered.
            thread::sleep(Duration::from_millis(50));
            while client.recv(&mut [0; 64]).is_ok() {}
            let silent = answered(&client);
            println!("silent for {silent:?}");
            assert!(silent < HEARD, "silent for {silent:?} after move {number}");
            for _ in 0..50 {
                answered(&client);
            }
        }
    });
    let forwarded: u64 =
        (1..=2).map(|node| standing.counter(&format!("n{node}"), "forwarded")).sum();
    assert!(forwarded > 200, "the programs send, and not the stack: {forwarded}");
}

fn main() -> ExitCode {
    privileged::run(&[("a_flow_follows_a_host_that_moves", a_flow_follows_a_host_that_moves)], &[])
}
