//! What TLS costs: bytes on the wire and CPU time of both ends, beside the same without it.
//!
//! A measurement, so ignored: `cargo test --release -p testudo -- --ignored --nocapture streams::tests::cost`.

use std::io::Read;
use std::net::TcpStream;
use std::thread;

use nix::time::{ClockId, clock_gettime};

use super::*;
use crate::node::streams::channel::Channel;

/// What a change of a flow takes on the wire at most, in bytes.
const RECORD: usize = 48;
const TOTAL: usize = 256 << 20;

/// CPU time of this thread, user and system.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Both ends of TLS, agreed on in memory.
fn agreed(place: &Place) -> [Channel; 2] {
    let credentials = |member: &str, own| {
        let files = place.files("own", member);
        Keeper::open(files, identity(own)).unwrap().handle().current()
    };
    let mut ends = [
        Channel::dialled(&credentials("n2", 1), NodeId(0)).unwrap(),
        Channel::accepted(&credentials("n1", 0), "127.0.0.1:1".parse().unwrap()).unwrap(),
    ];
    while !ends.iter().all(Channel::is_ready) {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut wire = Vec::new();
            while ends[from].wants_write() {
                ends[from].write_to(&mut wire).unwrap();
            }
            wire.chunks(4096).for_each(|bytes| ends[to].shake(bytes).unwrap());
        }
    }
    ends
}

/// A socket that is written to, and how many bytes went.
struct Counted(TcpStream, u64);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1 += count as u64;
        Ok(count)
    }

    fn write_vectored(&mut self, bytes: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        let count = self.0.write_vectored(bytes)?;
        self.1 += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends `total` bytes in batches; gives the bytes on the wire and the CPU time of both ends.
fn pump([mut from, mut to]: [Channel; 2], batch: usize, total: usize) -> (u64, [Duration; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wire = Counted(TcpStream::connect(listener.local_addr().unwrap()).unwrap(), 0);
    let (mut socket, _) = listener.accept().unwrap();
    let receiver = thread::spawn(move || {
        let (mut buffer, mut taken) = (vec![0; stream::READ_BYTES], 0);
        let begun = cpu();
        while taken < total {
            let count = socket.read(&mut buffer).unwrap();
            assert_ne!(count, 0);
            let mut take = |bytes: &[u8]| {
                taken += bytes.len();
                Ok(())
            };
            to.take_in(&buffer[..count], &mut take).unwrap();
        }
        assert_eq!(taken, total);
        cpu() - begun
    });
    let begun = cpu();
    for _ in 0..total / batch {
        let mut bytes = vec![0x5a; batch];
        from.seal(&mut bytes).unwrap();
        while from.wants_write() {
            from.write_to(&mut wire).unwrap();
        }
    }
    let sent = cpu() - begun;
    (wire.1, [sent, receiver.join().unwrap()])
}

#[test]
#[ignore = "a measurement"]
fn what_tls_costs() {
    let place = Place::new("cost");
    place.authority("own", &["n1", "n2"]);
    for (batch, total) in [(256 * 1024, TOTAL), (100 * RECORD, TOTAL / 4), (RECORD, TOTAL / 64)] {
        let total = total / batch * batch;
        for round in 0..3 {
            for (name, ends) in
                [("plain", [Channel::plain(), Channel::plain()]), ("tls", agreed(&place))]
            {
                let (bytes, [sender, receiver]) = pump(ends, batch, total);
                let records = (total / RECORD) as f64;
                println!(
                    "{name:5} round {round} batch {batch:6}: {:7.3} bytes, sender {:6.1} ns, receiver \
                     {:6.1} ns a record of {RECORD} bytes",
                    bytes as f64 / records,
                    sender.as_nanos() as f64 / records,
                    receiver.as_nanos() as f64 / records,
                );
            }
        }
    }
    let begun = cpu();
    (0..100).for_each(|_| drop(agreed(&place)));
    println!("handshake, both ends and reading the files: {:?}", (cpu() - begun) / 100);
}
