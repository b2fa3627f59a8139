//! What a process leaves to the one that takes its place, and how the two find each other.
//!
//! ```text
//! 0 magic "TSTO"    4 layout u16    6 descriptor of the file system with the packet handling i32 (-1: none)
//! 10 number of peers u16, then for each: node u8, addresses u8, each: MAC address u64
//!    the membership, to the end
//! ```
//!
//! All numbers are little-endian. The bytes are in a file without a name, whose descriptor the new
//! program inherits and is told of.
//!
//! Invariant: a handover is taken at most once. It has no name, so only the program that this process
//! executes can take it, and it ends with that: no later life can speak with an old one's voice.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::kernel::nameless::NamelessFileSystem;
use testudo_datapath::signals;
use testudo_packet::bucket::NodeId;
use testudo_packet::env::Mac;

const MAGIC: [u8; 4] = *b"TSTO";
const LAYOUT: u16 = 1;
const NO_FILE_SYSTEM: i32 = -1;

/// The largest handover: a map of the largest cluster and all its slots are a tenth of it.
const MAX_BYTES: u64 = 64 << 20;

/// The flag by which the new program is told of the handover.
const FLAG: &str = "--resume=";
/// The flag by which it is told of what it may prepare before.
const PREPARE_FLAG: &str = "--prepare=";

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The descriptor of the file system that the packet handling is in; a witness has none.
    pub packets: Option<i32>,
    /// By which addresses the peers are reached.
    pub stations: Vec<(NodeId, Vec<Mac>)>,
    /// The membership at rest.
    pub membership: Vec<u8>,
}

/// Why there is nothing to go on with. The node begins a new life instead.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is no such descriptor, or it can't be read.
    #[error("descriptor {number}: {source}; expected one that the process before has left")]
    Unreadable {
        /// Its number.
        number: i32,
        /// What the operating system said.
        source: io::Error,
    },
    /// The process before was of a release that says it in other words.
    #[error("{length} bytes are no handover as this release writes it")]
    Strange {
        /// How many bytes.
        length: usize,
    },
}

impl Handover {
    /// Puts it where the next program finds it; gives the number that this has to be told.
    pub fn leave(&self) -> io::Result<i32> {
        let mut file = File::from(memfd_create(c"testudo-handover", MFdFlags::empty())?);
        file.write_all(&self.encode())?;
        Ok(file.into_raw_fd())
    }

    /// Takes what the process before has left under this number.
    pub fn take(number: i32) -> Result<Self, HandoverError> {
        let unreadable = |source| HandoverError::Unreadable { number, source };
        let file = File::open(format!("/proc/self/fd/{number}")).map_err(unreadable)?;
        // Opened anew it is read from the front; the inherited descriptor is not needed any more.
        nix::unistd::close(number).map_err(|errno| unreadable(errno.into()))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        decode(&bytes).ok_or(HandoverError::Strange { length: bytes.len() })
    }

    /// Takes the packet handling off the interfaces, for it can't be gone on with.
    pub fn discard(&self) {
        let Some(number) = self.packets else { return };
        if NamelessFileSystem::is_there(number)
            && let Err(error) = KernelDatapath::unpin(&NamelessFileSystem::directory(number))
        {
            tracing::error!(%error, "the packet handling that was left could not be taken away");
        }
        self.finish();
    }

    /// Everything was taken: closes the file system.
    pub fn finish(&self) {
        if let Some(number) = self.packets {
            // It is closed after this, whatever is said.
            let _ = nix::unistd::close(number);
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(LAYOUT.to_le_bytes());
        out.extend(self.packets.unwrap_or(NO_FILE_SYSTEM).to_le_bytes());
        out.extend((self.stations.len() as u16).to_le_bytes());
        for (node, macs) in &self.stations {
            out.extend([node.0, macs.len() as u8]);
            out.extend(macs.iter().flat_map(|mac| mac.0.to_le_bytes()));
        }
        out.extend(&self.membership);
        out
    }
}

fn decode(bytes: &[u8]) -> Option<Handover> {
    let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&LAYOUT.to_le_bytes())?;
    let (number, rest) = rest.split_first_chunk()?;
    let packets = Some(i32::from_le_bytes(*number)).filter(|&number| number != NO_FILE_SYSTEM);
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut stations = Vec::new();
    for _ in 0..u16::from_le_bytes(*count) {
        let (&[node, count], after) = rest.split_first_chunk()?;
        let (macs, after) = after.split_at_checked(usize::from(count) * 8)?;
        let (macs, _) = macs.as_chunks();
        let macs = macs.iter().map(|mac| Mac(u64::from_le_bytes(*mac))).collect();
        stations.push((NodeId(node), macs));
        rest = after;
    }
    Some(Handover { packets, stations, membership: rest.to_vec() })
}

/// The program that takes this process's place: what this one was started from, as it is installed now.
#[derive(Clone, Debug)]
pub struct Successor {
    executable: PathBuf,
    arguments: Vec<OsString>,
}

impl Successor {
    /// To be found out at the start, before anyone installs another program there.
    pub fn find() -> io::Result<Self> {
        let told = |argument: &OsString| argument.as_encoded_bytes().starts_with(FLAG.as_bytes());
        let arguments = std::env::args_os().skip(1).filter(|argument| !told(argument)).collect();
        Ok(Self { executable: std::env::current_exe()?, arguments })
    }

    /// Its path.
    pub fn executable(&self) -> &std::path::Path {
        &self.executable
    }

    /// Has it look at the configuration, and do nothing else.
    pub fn check(&self) -> Command {
        self.beside("--check")
    }

    /// Has it prepare what takes it time, over the memory that is lent under this number.
    pub fn prepare(&self, number: i32) -> Command {
        self.beside(&format!("{PREPARE_FLAG}{number}"))
    }

    /// It runs beside this process, and ends.
    fn beside(&self, flag: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).arg(flag);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Puts it in the place of this process; says why not, if that fails.
    pub fn replace(&self, handover: i32) -> io::Error {
        let mut command = Command::new(&self.executable);
        let error = command.args(&self.arguments).arg(format!("{FLAG}{handover}")).exec();
        // As the program was to find it. A peer that hangs up would end this process now.
        if let Err(error) = signals::ignore_closed_streams() {
            tracing::error!(%error, "a peer that closes its stream may end this process");
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_successor_can_not_begin_goes_on_as_before() {
        let executable = PathBuf::from("/nowhere/testudo");
        let successor = Successor { executable, arguments: Vec::new() };
        assert_eq!(successor.replace(-1).kind(), io::ErrorKind::NotFound);
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(writer.write(b"!").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_handover_is_taken_once_and_nothing_else_is_one() {
        let handover = Handover {
            packets: Some(70_000),
            stations: vec![(NodeId(2), vec![Mac(5), Mac(1 << 47)]), (NodeId(3), vec![])],
            membership: vec![1, 2, 3],
        };
        let number = handover.leave().unwrap();
        assert_eq!(Handover::take(number).unwrap(), handover);
        let again = Handover::take(number).unwrap_err().to_string();
        assert!(again.contains(&format!("descriptor {number}: ")), "{again}");
        let bytes = handover.encode();
        for cut in 0..bytes.len() - handover.membership.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        let none = Handover { packets: None, ..handover };
        assert_eq!(decode(&none.encode()), Some(none));
    }

    #[test]
    fn a_successor_that_is_not_there_replaces_nobody() {
        let successor = Successor { executable: "/nothing/here".into(), arguments: Vec::new() };
        assert_eq!(successor.replace(3).kind(), io::ErrorKind::NotFound);
        assert_eq!(successor.check().spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
