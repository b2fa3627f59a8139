//! Asking a node.
//!
//! Invariant: a question takes at most its time limit for each step (connect, write, read a piece),
//! and a reply takes at most [`MAX_REPLY`] bytes, whatever is at the other end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::connect::connect;
use super::protocol::{
    Admitted, Buckets, Explanation, Flows, Health, History, Loaded, MAX_REPLY, Map, Plan, Refusal,
    Request, Restarting, Rules, Status, Syncs, Table, Verification, Verifying,
};

/// How long a step takes at most, unless the caller knows better.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no answer. The node's state is what it was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: no such socket, or one that a dead node has left behind.
    #[error("no node answers on {}: {source}; expected a running `testudo node`", path.display())]
    NoNode {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error("{} may not be asked: {source}; expected its owner or root", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody listens but does not answer in time: the node is stopped or far too busy.
    #[error(
        "the node on {} does not answer within {limit:?}; it is stopped or overloaded",
        path.display()
    )]
    Late {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The conversation broke off: the node ended meanwhile.
    #[error("the node on {} broke off: {source}; expected a reply", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The node understood and refused.
    #[error("the node on {} refused: {reason}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// In the node's words.
        reason: String,
    },
    /// What came is no reply to the question: the other end is another version, or no node.
    #[error(
        "{} gave no reply to the question: {source}; expected a node of this version",
        path.display()
    )]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What about it could not be read.
        source: serde_json::Error,
    },
}

/// A conversation with a node.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    limit: Duration,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Begins a conversation with the node that answers on `path`.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, ClientError> {
        match connect(path, limit) {
            Ok(stream) => Ok(Self { path: path.to_owned(), limit, stream: BufReader::new(stream) }),
            Err(source) => {
                let path = path.to_owned();
                Err(match source.kind() {
                    io::ErrorKind::PermissionDenied => ClientError::Forbidden { path, source },
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        ClientError::Late { path, limit }
                    }
                    _ => ClientError::NoNode { path, source },
                })
            }
        }
    }

    /// How the node is.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(&Request::Status {})
    }

    /// Whose the buckets are: all, or one.
    pub fn buckets(&mut self, bucket: Option<u16>) -> Result<Buckets, ClientError> {
        self.ask(&Request::Buckets { bucket })
    }

    /// Which flows there are: all, or those of one bucket, up to a limit.
    pub fn flows(
        &mut self,
        table: Table,
        bucket: Option<u16>,
        limit: u32,
    ) -> Result<Flows, ClientError> {
        self.ask(&Request::Flows { table, bucket, limit })
    }

    /// Has a flow let in.
    pub fn admit(
        &mut self,
        protocol: String,
        initiator: SocketAddr,
        responder: SocketAddr,
    ) -> Result<Admitted, ClientError> {
        self.ask(&Request::Admit { protocol, initiator, responder })
    }

    /// Takes all buckets away from a node, or lets it have some again, or moves one to it.
    pub fn plan(&mut self, order: &Request) -> Result<Plan, ClientError> {
        self.ask(order)
    }

    /// What is agreed.
    pub fn map(&mut self) -> Result<Map, ClientError> {
        self.ask(&Request::Map {})
    }

    /// How that came to be: the latest changes, up to a limit.
    pub fn history(&mut self, limit: u32) -> Result<History, ClientError> {
        self.ask(&Request::History { limit })
    }

    /// What the node lives by.
    pub fn health(&mut self) -> Result<Health, ClientError> {
        self.ask(&Request::Health {})
    }

    /// Hands the node over to a new process.
    pub fn restart(&mut self) -> Result<Restarting, ClientError> {
        self.ask(&Request::Restart {})
    }

    /// Which rules are in force.
    pub fn rules(&mut self) -> Result<Rules, ClientError> {
        self.ask(&Request::Rules {})
    }

    /// Puts the rules of a file in their place.
    pub fn load(&mut self, file: PathBuf, flush: bool) -> Result<Loaded, ClientError> {
        self.ask(&Request::Load { file, flush })
    }

    /// What a packet would meet.
    pub fn explain(&mut self, question: &Request) -> Result<Explanation, ClientError> {
        self.ask(question)
    }

    /// How far entries have got to the peers.
    pub fn sync(&mut self) -> Result<Syncs, ClientError> {
        self.ask(&Request::Sync {})
    }

    /// Has the tables of all nodes compared.
    pub fn verify(&mut self) -> Result<Verifying, ClientError> {
        self.ask(&Request::Verify {})
    }

    /// What that has come to.
    pub fn verified(&mut self, number: u64) -> Result<Verification, ClientError> {
        self.ask(&Request::Verified { number })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let line = self.exchange(request).map_err(|source| self.failed(source))?;
        serde_json::from_slice(&line).map_err(|source| {
            let path = self.path.clone();
            match serde_json::from_slice(&line) {
                Ok(Refusal { error: reason }) => ClientError::Refused { path, reason },
                Err(_) => ClientError::Nonsense { path, source },
            }
        })
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // A node that is full says so and closes at once, so its words count more than the failure.
        let written = self.stream.get_mut().write_all(&line);
        let mut reply = Vec::new();
        let read = (&mut self.stream).take(MAX_REPLY as u64).read_until(b'\n', &mut reply);
        if reply.ends_with(b"\n") {
            return Ok(reply);
        }
        written?;
        read?;
        let seen = format!("the reply ended after {} bytes", reply.len());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, seen))
    }

    fn failed(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Late { path, limit: self.limit }
            }
            _ => ClientError::Broken { path, source },
        }
    }
}
