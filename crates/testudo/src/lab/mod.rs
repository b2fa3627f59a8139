//! `testudo lab`: a whole cluster on one machine, under load, with something going wrong.
//!
//! Client, server, routers and nodes are network namespaces ([`plan`] says who is where), the nodes are
//! real daemons, the traffic goes through the real kernel stacks. `testudo lab` alone builds a lab,
//! plays a [`scenario`], reports, and removes the lab; `lab up` leaves one standing for experiments by
//! hand.
//!
//! Invariants: nothing is changed outside the lab's own namespaces, its directory under
//! `/run/testudo/lab` and its names under `/run/netns`; whatever way a lab ends, those are removed, by
//! itself or by the next lab command. No other program is needed.

use std::process::ExitCode;

use anyhow::Result;

mod analyser;
mod args;
mod connects;
mod etcd;
mod fault;
mod impair;
mod interrupt;
mod links;
mod narrator;
mod netns;
mod nodes;
mod offload;
mod operator;
mod plan;
mod prefill;
mod process;
mod random;
mod report;
mod router;
mod running;
mod samples;
mod scenario;
mod sniffer;
mod standing;
mod state;
mod topology;
mod traffic;
mod translated;

pub use args::Args;
use args::{RunArgs, Verb};
use fault::Fault;
use interrupt::{Interrupt, Interrupted};
use narrator::Narrator;
use nodes::Settings;
use running::Lab;

/// The run was judged, and something was lost.
const FAILED: u8 = 1;
/// Nothing could be judged.
const UNABLE: u8 = 2;
/// As shells say it: ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// This machine can't run a lab, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unable(String);

/// Do what the command line says.
pub fn run(args: Args) -> ExitCode {
    let done = need_root().and_then(|()| match args.verb {
        Some(verb) => act(verb),
        None => play(&args.run),
    });
    done.unwrap_or_else(|error| {
        if error.is::<Interrupted>() {
            return ExitCode::from(INTERRUPTED);
        }
        eprintln!("testudo lab: {error:#}");
        ExitCode::from(UNABLE)
    })
}

fn act(verb: Verb) -> Result<ExitCode> {
    let inflict =
        |node: &args::NodeArgs, fault| standing::inflict(&node.name.name, &node.node, fault);
    match verb {
        Verb::Up { cluster, bare, name } => {
            let settings = Settings {
                seed: cluster.seed(),
                timing: cluster.timing,
                replicas: cluster.replicas,
                translated: cluster.translated,
                ..Settings::default()
            };
            standing::up(&name.name, cluster.plan(), cluster.buckets, &settings, bare)
        }
        Verb::Exec { name, host, command } => standing::exec(&name.name, &host, &command),
        Verb::Start(node) => standing::start(&node.name.name, &node.node),
        Verb::Kill(node) => inflict(&node, Fault::Kill),
        Verb::Pause(node) => inflict(&node, Fault::Pause),
        Verb::Resume(node) => inflict(&node, Fault::Resume),
        Verb::Cut(link) => inflict(&link.node, if link.data { Fault::CutData } else { Fault::Cut }),
        Verb::Heal(link) => {
            inflict(&link.node, if link.data { Fault::HealData } else { Fault::Heal })
        }
        Verb::Status { json, name } => standing::status(&name.name, json),
        Verb::Down(name) => standing::down(&name.name),
    }
}

fn play(args: &RunArgs) -> Result<ExitCode> {
    args.check()?;
    let seed = args.cluster.seed();
    let name = args.name.clone().unwrap_or_else(|| format!("lab-{}", std::process::id()));
    let plan = args.plan();
    let load = traffic::Load {
        server: args.cluster.translated.server(plan),
        connections: args.connections,
        flows: args.flows,
        ipv6: !args.ipv4_only,
        zipf: args.zipf,
        seen_as: args.cluster.translated.seen_as(),
        seed,
    };
    // The server's ends go a little later than the client's.
    let more = if args.connects > 0 { 3 * connects::KEPT } else { 0 };
    traffic::raise_file_limit(load, more)?;
    let interrupt = Interrupt::listen()?;
    let narrator = Narrator::new(args.json);
    narrator.say(&format!(
        "{} nodes{}, {}, {} buckets, {} connections, scenario {}, seed {seed}",
        args.cluster.nodes,
        if plan.witness { " and a witness" } else { "" },
        plan.mode.name(),
        args.cluster.buckets,
        args.connections,
        args.scenario
    ));
    let mut lab = Lab::build(&name, plan, args.cluster.buckets)?;
    lab.keep_logs(args.logs.clone());
    lab.start_nodes(&args.settings(seed), args.scenario.late(), &interrupt)?;
    narrator.say("all nodes are members, every bucket has an owner");
    let report = scenario::play(&mut lab, args, load, &interrupt, &narrator)?;
    lab.remove()?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(ExitCode::from(if report.passed { 0 } else { FAILED }))
}

fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Unable(format!(
            "needs root: network namespaces and XDP are the kernel's to give (this is user {})",
            nix::unistd::geteuid()
        ))
        .into());
    }
    Ok(())
}
