//! Random conversations through Testudo and through Linux's connection tracker: what one lets through and the
//! other does not is either in the list of [`classes`] or a fault.
//!
//! Both have their own memory of a connection, so after the first packet on which they disagree nothing can be
//! said about the next: a trace ends there. Needs root and `nft`; ignored, with the reason, without them.

mod classes;
mod firewall;
mod frames;
mod heard;
#[path = "../link/mod.rs"]
#[expect(dead_code, reason = "other tests ask more of it")]
mod link;
mod ours;
mod sctp;
#[path = "../sctp_wire/mod.rs"]
mod sctp_wire;
mod trace;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use classes::{CLASSES, Moment, Past, class};
use firewall::Firewall;
use frames::Ends;
use libtest_mimic::{Arguments, Completion, Trial};
use ours::Testudo;
use trace::{Dice, trace};

/// The two gateways.
struct Both {
    linux: Firewall,
    ours: Testudo,
    port: u16,
}

/// What was compared.
#[derive(Default, Debug)]
struct Tally {
    packets: usize,
    forwarded: usize,
    classes: BTreeMap<&'static str, usize>,
    /// Traces with an unlisted disagreement, told.
    faults: Vec<String>,
}

fn ends(v6: bool, port: u16) -> Ends {
    let texts = if v6 { ["fd10::7", "fd20::1"] } else { ["10.10.2.7", "10.20.0.1"] };
    let addresses = texts.map(|text| text.parse().expect("an address"));
    Ends { addresses, ports: [port, 443] }
}

impl Both {
    fn new() -> Self {
        let (v4, v6) = (ends(false, 0), ends(true, 0));
        let linux = Firewall::new([&v4, &v6], ends(false, 9));
        Self { linux, ours: Testudo::new(), port: 10_000 }
    }

    /// Plays one trace until both disagree.
    fn play(&mut self, seed: u64, tally: &mut Tally) {
        // A seed's neighbour has nothing in common with it.
        let dice = &mut Dice(seed.wrapping_mul(0xda94_2042_e4dd_58b5));
        let packets = trace(dice);
        self.port += 1;
        let ends = ends(dice.below(2) == 1, self.port);
        let mut past = Vec::new();
        for (number, packet) in (0..).zip(&packets) {
            let frame = packet.frame(&ends, number);
            let flow = self.ours.phase(&ends);
            let linux = self.linux.forwards(packet.from, &frame);
            let ours = self.ours.judges(&frame);
            tally.packets += 1;
            tally.forwarded += usize::from(linux);
            if ours.is_ok() == linux {
                past.push(Past { packet: *packet, forwarded: linux, flow });
                continue;
            }
            let moment = Moment { past: &past, packet, flow, ours, linux };
            match class(&moment) {
                Some(name) => *tally.classes.entry(name).or_default() += 1,
                None => tally.faults.push(told(&moment, seed)),
            }
            return;
        }
    }

    fn play_all(&mut self, first: u64, count: u64) -> Tally {
        let mut tally = Tally::default();
        for number in 0..count {
            self.play(first.wrapping_add(number), &mut tally);
        }
        tally
    }
}

/// A disagreement and how to see it again.
fn told(moment: &Moment<'_>, seed: u64) -> String {
    let verdict = |forwarded| if forwarded { "forwarded" } else { "dropped" };
    let line = |past: &Past| format!("  {:<9} {:?}\n", verdict(past.forwarded), past.packet);
    let past: String = moment.past.iter().map(line).collect();
    let Moment { packet, flow, ours, linux, .. } = moment;
    format!(
        "{past}  here      {packet:?}\n  {} by Linux; Testudo: {ours:?}, its flow was {flow:?}\n  \
         TESTUDO_SEED={seed} cargo test -p testudo-datapath --test conntrack\n",
        verdict(*linux)
    )
}

/// Fails if there was anything that is not listed.
fn check(tally: &Tally) {
    println!("{} packets, {} of them forwarded by Linux", tally.packets, tally.forwarded);
    for (name, times) in &tally.classes {
        println!("{times:>5} traces ended with: {name}");
    }
    let faults = &tally.faults;
    let some = faults.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} unlisted disagreements:\n{some}", faults.len());
}

fn random_conversations_get_the_verdicts_of_linux() {
    let seed = match std::env::var("TESTUDO_SEED") {
        Ok(seed) => seed.parse().expect("TESTUDO_SEED is a number"),
        Err(_) => u64::from(std::process::id()) << 20,
    };
    println!("seed {seed}: TESTUDO_SEED={seed} cargo test -p testudo-datapath --test conntrack");
    link::in_namespaces(move |_| check(&Both::new().play_all(seed, 200)));
}

fn the_same_conversations_as_ever_show_which_listed_disagreements_occur() {
    link::in_namespaces(|_| {
        let tally = Both::new().play_all(0, 2000);
        check(&tally);
        // The ends mean well most of the time, so most of what they send arrives.
        assert!(tally.forwarded * 2 > tally.packets, "{tally:?}");
        for class in CLASSES.iter().filter(|class| !tally.classes.contains_key(class.name)) {
            println!("listed, but this kernel agrees: {}", class.name);
        }
    });
}

fn random_associations_get_the_verdicts_of_linux() {
    let seed = match std::env::var("TESTUDO_SEED") {
        Ok(seed) => seed.parse().expect("TESTUDO_SEED is a number"),
        Err(_) => u64::from(std::process::id()) << 20,
    };
    println!("seed {seed}: TESTUDO_SEED={seed} cargo test -p testudo-datapath --test conntrack");
    link::in_namespaces(move |_| {
        let Both { mut linux, mut ours, .. } = Both::new();
        let mut tally = sctp::Tally::default();
        for number in 0..1000 {
            let ends = ends(number % 2 == 1, 10_000 + number);
            let seed = seed.wrapping_add(number.into());
            sctp::play((&mut linux, &mut ours), &ends, seed, &mut tally);
        }
        println!("{} packets, {} of them forwarded by Linux", tally.packets, tally.forwarded);
        for (name, times) in &tally.classes {
            println!("{times:>5} traces ended with: {name}");
        }
        let some = tally.faults.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
        assert!(tally.faults.is_empty(), "{} unlisted disagreements:\n{some}", tally.faults.len());
        assert!(tally.forwarded * 2 > tally.packets, "{tally:?}");
    });
}

/// Why the tests can't run here, if they can't.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root for BPF and network namespaces");
    }
    let nft = Command::new("nft").arg("--version").stdout(Stdio::null()).status();
    nft.is_err().then_some("needs nft (package nftables)")
}

fn main() -> ExitCode {
    let trial = |name: &str, test: fn()| {
        Trial::ignorable_test(name, move || {
            if let Some(why) = missing() {
                return Ok(Completion::ignored_with(why));
            }
            test();
            Ok(Completion::Completed)
        })
    };
    let mut arguments = Arguments::from_args();
    // Each loads programs that keep the verifier busy.
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial(
            "random_associations_get_the_verdicts_of_linux",
            random_associations_get_the_verdicts_of_linux,
        ),
        trial(
            "random_conversations_get_the_verdicts_of_linux",
            random_conversations_get_the_verdicts_of_linux,
        ),
        trial(
            "the_same_conversations_as_ever_show_which_listed_disagreements_occur",
            the_same_conversations_as_ever_show_which_listed_disagreements_occur,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
