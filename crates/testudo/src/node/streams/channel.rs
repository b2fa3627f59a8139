//! What a stream is wrapped in: TLS, or nothing.
//!
//! No I/O happens but where a socket is handed in to be written to. Bytes that came are put in by
//! [`Channel::take_in`], which hands over what they mean; bytes that are to go are put in by
//! [`Channel::seal`].
//!
//! Invariant: what is on its way out is at most what was sealed at once, because nothing is sealed
//! before the last was written; what came in is handed over before more is taken.

use std::io::{self, BufRead, ErrorKind, Write};
use std::net::SocketAddr;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, Connection, ServerConnection};
use testudo_packet::bucket::NodeId;

use super::stream::Ended;
use crate::node::credentials::Credentials;

/// A wrapping.
pub enum Channel {
    /// None: tls = "off".
    Plain {
        /// What is on its way out.
        output: Vec<u8>,
        /// How much of it has gone.
        written: usize,
    },
    /// TLS 1.3, with certificates of both sides.
    Tls(Box<Connection>),
}

impl Channel {
    /// Nothing around it.
    pub const fn plain() -> Self {
        Self::Plain { output: Vec::new(), written: 0 }
    }

    /// For a stream to a peer: who dials is the server of TLS.
    pub fn dialled(credentials: &Credentials, peer: NodeId) -> Result<Self, rustls::Error> {
        let config = credentials.dialler(peer);
        let config = config.ok_or(rustls::Error::General("no such member".to_owned()))?;
        Ok(Self::tls(ServerConnection::new(config)?.into()))
    }

    /// For a stream from somebody.
    pub fn accepted(credentials: &Credentials, from: SocketAddr) -> Result<Self, rustls::Error> {
        // It is asked for, and neither sent nor looked at: see `credentials::verify`.
        let name = ServerName::from(from.ip());
        Ok(Self::tls(ClientConnection::new(credentials.acceptor(), name)?.into()))
    }

    fn tls(mut connection: Connection) -> Self {
        // Bounded by what is sealed at once.
        connection.set_buffer_limit(None);
        Self::Tls(Box::new(connection))
    }

    /// Whether both sides have proved who they are, as far as that is done here.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Plain { .. } => true,
            Self::Tls(tls) => !tls.is_handshaking(),
        }
    }

    /// The certificate that the peer has proved to be its own.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain { .. } => None,
            Self::Tls(tls) => tls.peer_certificates()?.first(),
        }
    }

    /// Takes bytes of a handshake in. What may have come behind it waits for [`Channel::take_in`], so
    /// give it no more than a few thousand at once.
    pub fn shake(&mut self, mut raw: &[u8]) -> Result<(), Ended> {
        let Self::Tls(tls) = self else { return Ok(()) };
        while !raw.is_empty() {
            feed(tls, &mut raw)?;
        }
        Ok(())
    }

    /// Takes bytes in, and hands over what they mean.
    pub fn take_in(
        &mut self,
        mut raw: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let tls = match self {
            Self::Plain { .. } if raw.is_empty() => return Ok(()),
            Self::Plain { .. } => return take(raw),
            Self::Tls(tls) => tls,
        };
        loop {
            let mut reader = tls.reader();
            loop {
                let taken = match reader.fill_buf() {
                    Ok([]) => return Err(Ended::Closed),
                    Ok(chunk) => {
                        take(chunk)?;
                        chunk.len()
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                reader.consume(taken);
            }
            if raw.is_empty() {
                return Ok(());
            }
            feed(tls, &mut raw)?;
        }
    }

    /// Puts bytes on their way out, all of them; there must be none on it.
    pub fn seal(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        debug_assert!(!self.wants_write(), "what was sealed before has gone");
        match self {
            Self::Plain { output, written } => {
                *written = 0;
                output.clear();
                std::mem::swap(output, bytes);
            }
            Self::Tls(tls) => {
                tls.writer().write_all(bytes)?;
                bytes.clear();
            }
        }
        Ok(())
    }

    /// Whether something is on its way out.
    pub fn wants_write(&self) -> bool {
        match self {
            Self::Plain { output, written } => *written < output.len(),
            Self::Tls(tls) => tls.wants_write(),
        }
    }

    /// Writes some of it.
    pub fn write_to(&mut self, socket: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Plain { output, written } => {
                *written += socket.write(output.get(*written..).unwrap_or_default())?;
            }
            Self::Tls(tls) => {
                tls.write_tls(socket)?;
            }
        }
        Ok(())
    }
}

/// Gives some bytes to TLS.
fn feed(tls: &mut Connection, raw: &mut &[u8]) -> Result<(), Ended> {
    let before = raw.len();
    if let Err(error) = tls.read_tls(raw) {
        return Err(error.into());
    }
    tls.process_new_packets()?;
    match raw.len() < before {
        true => Ok(()),
        // It takes no more: the peer has said that it was done, and went on.
        false => Err(Ended::Closed),
    }
}
