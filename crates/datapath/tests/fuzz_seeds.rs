//! Where the seeds of the fuzzer come from: runs of valid packets, in the form that its target
//! `pipeline` reads. They are committed, so that fuzzing begins beyond the checks of each header.

#[allow(dead_code, reason = "some of it is for other tests")]
mod traffic;

use std::fs;
use std::path::Path;

/// What happens before a packet; see the fuzz target.
type Step = (u8, u8, Vec<u8>);

fn seed(steps: &[Step]) -> Vec<u8> {
    let mut file = Vec::new();
    for (kind, argument, frame) in steps {
        file.extend([*kind, *argument]);
        file.extend((frame.len() as u16).to_be_bytes());
        file.extend(frame);
    }
    file
}

fn plain(frames: Vec<Vec<u8>>) -> Vec<Step> {
    frames.into_iter().map(|frame| (0, 0, frame)).collect()
}

/// UDP packets of this many flows.
fn flows(count: u16) -> Vec<Vec<u8>> {
    let flow = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let mut frame = [&traffic::CLUSTER_MAC[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 10, 2, 1, 10, 20, 2, 1]);
        frame.extend([high, low, 0, 53, 0, 8, 0, 0]);
        frame
    };
    (1..=count).map(flow).collect()
}

/// An ICMP error that quotes so many bytes of the packet in each frame.
fn errors(frames: Vec<Vec<u8>>, bytes: usize) -> Vec<Vec<u8>> {
    let error = |frame: Vec<u8>| {
        let quote = &frame[14..frame.len().min(14 + bytes)];
        let [high, low] = (28 + quote.len() as u16).to_be_bytes();
        let mut error = [&traffic::CLUSTER_MAC[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
        error.extend([0x45, 0, high, low, 0, 0, 0, 0, 64, 1, 0, 0, 10, 20, 9, 9]);
        error.extend(&quote[12..16]);
        error.extend([3, 4, 0, 0, 0, 0, 5, 0]);
        error.extend(quote);
        error
    };
    frames.into_iter().map(error).collect()
}

#[test]
#[ignore = "writes fuzz/seeds/pipeline anew"]
fn write_the_seeds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pipeline");
    fs::create_dir_all(&directory).expect("fuzz/seeds/pipeline");
    let mut seeds = vec![
        ("full", plain(flows(110))),
        // Loading, misses, the answer to them, all buckets lost.
        ("loading", (0..16).map(|bucket| (3, bucket, flows(1).remove(0))).collect()),
        ("answers", plain(vec![traffic::arp_request(1), traffic::solicitation(1)])),
    ];
    seeds[1].1.extend(plain(flows(8)));
    seeds[1].1.push((7, 0, flows(9).remove(8)));
    seeds[1].1.extend((0..16).map(|bucket| (5, bucket, flows(2).remove(1))));
    // Packets wait for user space while their buckets go to another node.
    let mut gone: Vec<Step> = (0..16).map(|bucket| (3, bucket, flows(1).remove(0))).collect();
    gone.extend((0..16).map(|bucket| (5, bucket, flows(2).remove(1))));
    gone.push((7, 0, Vec::new()));
    seeds.push(("gone", gone));
    // Buckets come and go with packets waiting for them; the frames go to and come from nodes.
    let mut moving: Vec<Step> = (0..16).map(|bucket| (8, bucket, flows(1).remove(0))).collect();
    moving.extend(flows(12).into_iter().map(|frame| (0x40, 0, frame)));
    moving.push((7, 0, Vec::new()));
    moving.extend((0..8).map(|bucket| (10, bucket | 0x20, flows(2).remove(1))));
    moving.extend((8..16).map(|bucket| (10, bucket | 0x40, flows(2).remove(1))));
    moving.extend((0..8).map(|bucket| (9, bucket, flows(3).remove(2))));
    moving.extend(flows(12).into_iter().map(|frame| (0x60, 0, frame)));
    moving.push((11, 3, Vec::new()));
    seeds.push(("moving", moving));
    // Errors about flows that are known, that are not, that are loading, and that move.
    let mut about = plain(flows(6));
    about.extend(plain(errors(flows(8), 548)));
    about.extend((0..16).map(|bucket| (3, bucket, errors(flows(9), 28).remove(8))));
    about.extend(plain(errors(flows(8), 28)));
    about.push((7, 0, Vec::new()));
    about.extend((0..16).map(|bucket| (8, bucket, errors(flows(1), 28).remove(0))));
    about.extend(errors(flows(8), 548).into_iter().map(|frame| (0x40, 0, frame)));
    about.push((7, 0, Vec::new()));
    about.extend((0..16).map(|bucket| (9, bucket, errors(flows(2), 27).remove(1))));
    seeds.push(("errors", about));
    let cut = |mut frame: Vec<u8>, by: usize| {
        frame.truncate(frame.len() - by);
        (0x80, 0, frame)
    };
    seeds.push(("cut", vec![cut(traffic::solicitation(1), 1), cut(traffic::arp_request(1), 1)]));
    let mixed: Vec<_> = (0..6).map(|n| (format!("mixed-{n}"), traffic::packets(n, 24))).collect();
    let aging = traffic::packets(9, 24).into_iter().enumerate();
    let aging = aging.map(|(n, frame)| (1 + (n % 2) as u8, 40, frame)).collect::<Vec<_>>();
    seeds.push(("aging", aging));
    for (name, steps) in &seeds {
        fs::write(directory.join(name), seed(steps)).expect("a seed");
    }
    for (name, frames) in mixed {
        fs::write(directory.join(name), seed(&plain(frames))).expect("a seed");
    }
}
