//! `testudo status`, `health`, `map`, `bucket show` and `flow show`: what a running node says of itself.
//!
//! They ask over the control socket and print, for people in aligned columns, for scripts as the
//! node's JSON. Invariant: they change nothing; what does is in [`operate`](crate::operate). Exit codes: 0 fine, 1 no answer, 2 asked wrongly.

mod bucket;
pub mod columns;
mod flow;
mod health;
mod map;
mod place;
pub mod status;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::EXIT_REFUSED;
use crate::config::error::ConfigError;
use crate::control::client::{Client, ClientError, TIME_LIMIT};
use crate::explain::NoQuestion;
use crate::node::health::WatchError;

pub use bucket::Args as BucketArgs;
pub use flow::Args as FlowArgs;
pub use health::Args as HealthArgs;
pub use map::Args as MapArgs;
pub use status::Args as StatusArgs;

/// How to reach a node and how to print what it says.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// The node's control socket [default: $TESTUDO_SOCKET, else the only one in /run/testudo]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the node's JSON
    #[arg(short, long)]
    json: bool,
}

impl Connection {
    /// Begins a conversation with the node.
    pub fn open(&self) -> Result<Client, InspectError> {
        let path = place::find(self.socket.as_deref())?;
        Ok(Client::connect(&path, TIME_LIMIT)?)
    }

    /// Prints a reply: as JSON on one line, or as `people` like it.
    pub fn print<R: Serialize>(
        &self,
        reply: &R,
        people: impl FnOnce(&R) -> String,
    ) -> Result<(), InspectError> {
        let text = if self.json {
            serde_json::to_string(reply).map_err(io::Error::from)? + "\n"
        } else {
            people(reply)
        };
        match io::stdout().lock().write_all(text.as_bytes()) {
            // `| head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Place(#[from] place::PlaceError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "the cluster has no bucket {bucket}; expected one below its count, see `testudo status`"
    )]
    NoBucket { bucket: u16 },
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Question(#[from] NoQuestion),
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("can't print: {0}")]
    Output(#[from] io::Error),
}

impl InspectError {
    /// 2 if another command line would do, else 1.
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Place(place::PlaceError::Several { .. }) | Self::NoBucket { .. } => 2,
            Self::Question(_) => 2,
            Self::Config(_) => EXIT_REFUSED,
            Self::Place(_)
            | Self::Client(_)
            | Self::Datapath(_)
            | Self::Watch(_)
            | Self::Output(_) => 1,
        }
    }
}

/// Tells what went wrong, and makes it an exit code.
pub fn finish(result: Result<(), InspectError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testudo: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// `testudo status`
pub fn status(args: &StatusArgs) -> ExitCode {
    finish(status::run(args))
}

/// `testudo bucket …`
pub fn bucket(args: &BucketArgs) -> ExitCode {
    finish(bucket::run(args))
}

/// `testudo flow …`
pub fn flow(args: &FlowArgs) -> ExitCode {
    finish(flow::run(args))
}

/// `testudo health`
pub fn health(args: &HealthArgs) -> ExitCode {
    finish(health::run(args))
}

/// `testudo map …`
pub fn map(args: &MapArgs) -> ExitCode {
    finish(map::run(args))
}
