//! `testudo node`: the daemon that makes a machine a node of a cluster.
//!
//! Four threads of control, one task each: XDP programs in the kernel handle packets; the
//! [`heartbeat`] thread keeps the lease; the [`engine`], on the main thread, moves buckets and
//! entries; the control socket's thread puts [`answers`] together. They share the node table and the
//! lease's word as memory and tell each other the rest through [`mailbox`]es.
//!
//! Invariant: a node either works whole or not at all. Whatever fails at the start undoes what was
//! done before and is told in one message; a thread that panics later ends the process, and with it
//! goes the hold on the interfaces, because nothing is pinned anywhere.
//!
//! A fifth thread looks after the certificates, where there are some ([`credentials`]).
//!
//! Exit codes: 0 stopped by SIGTERM or SIGINT, 1 something on the machine is missing or failed, 2
//! the configuration is refused.

mod agreement;
mod answers;
mod beginning;
pub(crate) mod clock;
pub(crate) mod coordination;
pub(crate) mod credentials;
mod engine;
mod handover;
pub(crate) mod health;
mod heartbeat;
mod interfaces;
pub(crate) mod mailbox;
mod question;
mod requirements;
mod restart;
mod routes;
mod startup;
mod stations;
mod streams;
mod throttle;
mod watchdog;
mod ways;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use testudo_datapath::realtime;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::EXIT_REFUSED;
use crate::operate;
use startup::{Plan, StartError};

/// Which messages are written: `error`, `warn`, `info`, `debug`, or more finely by module.
const LOG_VARIABLE: &str = "TESTUDO_LOG";

/// Run a node of a cluster, or have a running one do something.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The node's configuration
    // Optional only beside a subcommand.
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Check the configuration and do nothing else
    #[arg(long)]
    check: bool,
    /// Go on where the process before has stopped, which has left all there is in this descriptor
    #[arg(
        long,
        hide = true,
        value_name = "DESCRIPTOR",
        require_equals = true,
        conflicts_with = "check"
    )]
    resume: Option<i32>,
    /// Have the programs for the kernel verified over the memory that a process has lent in the file system of this
    /// descriptor, leave them there and end
    #[arg(
        long,
        hide = true,
        value_name = "DESCRIPTOR",
        require_equals = true,
        conflicts_with_all = ["check", "resume"]
    )]
    prepare: Option<i32>,
    #[command(subcommand)]
    command: Option<operate::NodeCommand>,
}

/// `testudo node`
pub fn run(args: &Args) -> ExitCode {
    match (&args.command, &args.config) {
        (Some(command), _) => operate::node(command),
        (None, Some(file)) => be(file, args),
        (None, None) => unreachable!("clap requires --config without a subcommand"),
    }
}

/// Be a node, or see whether one could be.
fn be(file: &Path, args: &Args) -> ExitCode {
    let plan = match startup::plan(file) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_REFUSED);
        }
    };
    if args.check {
        if let Err(error) = plan.credentials() {
            eprintln!("{}: {error}", file.display());
            return ExitCode::from(EXIT_REFUSED);
        }
        println!("{}: ok", file.display());
        return ExitCode::SUCCESS;
    }
    if let Some(number) = args.prepare {
        return match startup::prepare(&plan, number) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                ExitCode::FAILURE
            }
        };
    }
    write_log();
    end_with_any_thread();
    match work(plan, args.resume) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testudo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(plan: Plan, resume: Option<i32>) -> Result<(), StartError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|source| StartError::Os { what: "a signal can't be handled", source })?;
    }
    let started = startup::start(plan, resume);
    // Whoever was replaced has been in a hurry since.
    if let Err(error) = resume.map_or(Ok(()), |_| realtime::hurry_no_more()) {
        tracing::warn!(%error, "the engine goes on before ordinary threads");
    }
    let node = started?;
    tracing::info!(control = %node.server.path().display(), "the node is up");
    let mailbox = node.engine.run(&stop).map_err(StartError::Engine)?;
    // Nothing handles packets any more; the socket goes next, and the rest with the process.
    drop(node.server);
    drop(node.health);
    tracing::info!("the node has stopped");
    drop(mailbox);
    Ok(())
}

fn write_log() {
    let filter = EnvFilter::builder()
        .with_env_var(LOG_VARIABLE)
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Makes a panic of any thread the end of the process, after it was told. Half a node would keep its
/// lease and not do its work; a dead one has successors.
fn end_with_any_thread() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}
