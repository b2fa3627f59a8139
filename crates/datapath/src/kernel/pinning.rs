//! Packet handling that outlives its daemon.
//!
//! Maps and links get names in a directory of a BPF file system; what has a name there stays when the
//! process ends. Its successor takes the maps, loads its own build of the programs over them, and puts
//! these into the links one by one: at no moment is an interface without a program, and no packet
//! meets other memory than before.
//!
//! Invariant: a successor works on memory only if it means the same to both: the layout that both builds
//! have, and every setting that flows and buckets were placed by ([`Identity`]). The lease is part of
//! that memory. So a daemon that does not come back stops handling packets when its lease ends, as if
//! nothing had been pinned.
//!
//! Why not pin the programs: a link keeps its program, and a successor may be another build. One that has its own
//! verified before it takes over leaves them for the moment (`kernel::programs`).
//!
//! The map of stages is pinned, but not as memory that a successor takes: it holds the programs that the
//! main program of the same build jumps to. A successor that filled the old map would have the old main
//! program jump into the new build, or the new one into the old, on each interface that is not swapped yet.
//! So each build has a map of its own, under a name of its own. It has a name at all because the kernel
//! empties such a map when no process holds it and no name does: the main programs run on in the links, but
//! all that other stages decide would be dropped from the death of the process to the swap. The old name
//! goes when the last interface has been swapped.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use aya::maps::{Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use testudo_packet::event::{EVENT_WORDS, HANDLED_WORDS};
use testudo_packet::likeness::LIKENESS_WORDS;
use testudo_packet::rule::{MAX_RULES, RULE_WORDS, Rule};
use testudo_packet::siphash::{HashKey, hash18};
use testudo_packet::table::{SLOT_WORDS, WINDOW};
use testudo_packet::verdict::{COUNTERS, counter_name};

use super::attachment::{Attachment, Stack, packets_of, stack_of};
use super::loader::{self, MAPS};
use super::programs::{self, READY};
use super::{KernelDatapath, bpf_call, refusal, shared};
use crate::Error;
use crate::memory::Words;
use crate::settings::Settings;

/// Counts the changes of what maps hold that nothing else in the layout tells.
const LAYOUT: u64 = 3;

/// `BPF_FS_MAGIC` of the kernel's interface.
const BPF_FILE_SYSTEM: FsType = FsType(0xcafe_4a11);

/// What the links of an interface are called, before its number. A name there has no dots, as an
/// interface's may have.
pub(super) const PACKETS_LINK: &str = "packets_";
pub(super) const STACK_LINK: &str = "stack_";

/// What a map of stages is called, before the number that the kernel knows the map by.
const STAGES: &str = "stages_";

/// What pinned memory means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u64; Self::NAMES.len()]);

impl Identity {
    const NAMES: [&'static str; 6] = [
        "the layout of its maps",
        "its node's number",
        "its number of buckets",
        "its number of table slots",
        "what its packets are placed by",
        "the hash of its secret",
    ];

    pub(super) fn write(self, shared: &Words) {
        let words = &shared.as_slice()[shared::IDENTITY..shared::OWN_COUNTS];
        for (word, value) in words.iter().zip(self.0) {
            word.store(value, Ordering::Release);
        }
    }

    fn read(shared: &Words) -> Self {
        let mut words = [0; Self::NAMES.len()];
        for (word, seen) in words.iter_mut().zip(&shared.as_slice()[shared::IDENTITY..]) {
            *word = seen.load(Ordering::Acquire);
        }
        Self(words)
    }
}

impl Settings {
    /// What memory means that is set up with these settings by this build.
    pub(super) fn identity(&self) -> Identity {
        let secret = HashKey::from_bytes(self.secret);
        Identity([
            layout(),
            self.node.0.into(),
            self.buckets.into(),
            self.table_slots.into(),
            hash18(HashKey::default(), self.grounds.0, self.likenesses.digest(), 0),
            hash18(secret, 0, 0, 0),
        ])
    }
}

/// A number for everything that both builds must agree on to read each other's maps.
fn layout() -> u64 {
    let sizes = [SLOT_WORDS, EVENT_WORDS, HANDLED_WORDS, RULE_WORDS, LIKENESS_WORDS, shared::WORDS];
    let sizes = sizes.into_iter().map(|size| size as u64);
    let more = [LAYOUT, WINDOW.into(), MAX_RULES.into(), COUNTERS.into()];
    let counters = (0..COUNTERS).filter_map(counter_name);
    let names = counters.chain(MAPS).flat_map(str::bytes).map(u64::from);
    let numbers = sizes.chain(more).chain(names);
    numbers.fold(0, |sum, number| hash18(HashKey::default(), sum, number, 0))
}

pub(super) fn failed(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Pin { path: path.display().to_string(), said: refusal::chain(error) }
}

/// Mounts a BPF file system on a directory, unless one is there.
pub fn mount_file_system(at: &Path) -> Result<(), Error> {
    if is_bpf_file_system(at) {
        return Ok(());
    }
    let none = None::<&str>;
    let mounted = mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), none);
    mounted.map_err(|error| failed(at, &error))
}

fn is_bpf_file_system(at: &Path) -> bool {
    statfs(at).is_ok_and(|found| found.filesystem_type() == BPF_FILE_SYSTEM)
}

pub(super) fn pin(datapath: &mut KernelDatapath, directory: &Path) -> Result<(), Error> {
    if datapath.pinned.as_deref() == Some(directory) {
        return Ok(());
    }
    if !is_lent(datapath, directory) {
        lend(datapath, directory)?;
    }
    let done = pin_all(datapath, directory);
    match done {
        Ok(()) => datapath.pinned = Some(directory.to_owned()),
        // What was begun is undone; the first error is the one to tell.
        Err(_) => drop(unpin(directory)),
    }
    done
}

/// Pins the maps, and nothing else.
pub(super) fn lend(datapath: &KernelDatapath, directory: &Path) -> Result<(), Error> {
    fs::create_dir(directory).map_err(|error| failed(directory, &error))?;
    let done = datapath.maps.iter().try_for_each(|(name, map)| {
        let path = directory.join(name);
        bpf_call::pin(map.fd(), &path).map_err(|error| failed(&path, &error))
    });
    if done.is_err() {
        // What was begun is undone; the first error is the one to tell.
        drop(unpin(directory));
    }
    done
}

/// Whether the maps that are pinned in a directory are this process's.
fn is_lent(datapath: &KernelDatapath, directory: &Path) -> bool {
    const ONE: &str = "SHARED";
    let own = datapath.maps.iter().find(|(name, _)| *name == ONE).map(|(_, map)| map.info());
    let Ok(there) = MapData::from_pin(directory.join(ONE)).and_then(|map| map.info()) else {
        return false;
    };
    own.is_some_and(|own| own.is_ok_and(|own| own.id() == there.id()))
}

fn pin_all(datapath: &KernelDatapath, directory: &Path) -> Result<(), Error> {
    pin_stages(datapath, directory)?;
    for attachment in &datapath.attached {
        pin_attachment(directory, attachment)?;
    }
    datapath.shared.as_slice()[shared::PINNED].store(1, Ordering::Release);
    Ok(())
}

/// Pins the map of stages of this process's programs.
fn pin_stages(datapath: &KernelDatapath, directory: &Path) -> Result<(), Error> {
    let map = datapath.programs.stages()?;
    let info = map.info().map_err(|error| failed(directory, &error))?;
    let path = directory.join(format!("{STAGES}{}", info.id()));
    bpf_call::pin(map.fd(), &path).map_err(|error| failed(&path, &error))
}

/// Pins the links of an interface.
pub(super) fn pin_attachment(directory: &Path, attachment: &Attachment) -> Result<(), Error> {
    let Stack::Link(stack) = &attachment.stack else {
        return Err(Error::MissingFeature {
            feature: "a classifier that outlives its process (TCX links)",
            since: "6.6",
            said: "the classifier is held by the interface's queueing discipline".into(),
        });
    };
    let number = attachment.interface;
    let stack_path = directory.join(format!("{STACK_LINK}{number}"));
    pin_link(stack, &stack_path)?;
    let packets = pin_link(&attachment.packets, &directory.join(format!("{PACKETS_LINK}{number}")));
    if packets.is_err() {
        // A link alone is nothing to adopt; the first error is the one to tell.
        let _ = fs::remove_file(&stack_path);
    }
    packets
}

fn pin_link(link: &FdLink, path: &Path) -> Result<(), Error> {
    let info = link.info().map_err(|error| failed(path, &error))?;
    let pinned = bpf_call::link(info.id()).and_then(|fd| bpf_call::pin(fd, path));
    pinned.map_err(|error| failed(path, &error))
}

pub(super) fn unpin(directory: &Path) -> Result<(), Error> {
    // The links first, in the order in which the programs may go.
    let mut names = names(directory)?;
    let rank = |name: &String| match name.as_str() {
        name if name.starts_with(PACKETS_LINK) => 0,
        name if name.starts_with(STACK_LINK) => 1,
        _ => 2,
    };
    names.sort_by_key(rank);
    let is_ours = |name: &&String| {
        let is_of_programs = name.starts_with(STAGES) || name.starts_with(READY);
        rank(name) < 2 || is_of_programs || MAPS.contains(&name.as_str())
    };
    for name in names.iter().filter(is_ours) {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
    }
    fs::remove_dir(directory).map_err(|error| failed(directory, &error))
}

/// Takes the names away, and keeps what they name for this process alone.
pub(super) fn keep(datapath: &mut KernelDatapath) -> Result<(), Error> {
    let Some(directory) = datapath.pinned.take() else { return Ok(()) };
    datapath.shared.as_slice()[shared::PINNED].store(0, Ordering::Release);
    unpin(&directory)
}

/// What is pinned in a directory.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let names = fs::read_dir(directory).and_then(|entries| entries.map(name).collect());
    names.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::NothingPinned { directory: directory.display().to_string() }
        }
        _ => failed(directory, &error),
    })
}

pub(super) fn adopt(directory: &Path, settings: Settings) -> Result<KernelDatapath, Error> {
    let names = names(directory)?;
    shared_words(directory, &settings)?;
    let mut datapath = loader::build(settings, Some(directory))?;
    let shared = datapath.shared.clone();
    let count = |word: usize| shared.as_slice()[word].load(Ordering::Relaxed);
    datapath.lost_seen = count(shared::LOST_EVENTS);
    datapath.lost_handled_seen = count(shared::LOST_HANDLED);
    datapath.stations = datapath.station_maps.read()?;
    datapath.rules = rules(&datapath)?;
    let locks = datapath.table.break_locks();
    if locks > 0 {
        tracing::info!(locks, "the last process died while it wrote to the node table");
    }
    // Before the first program that jumps through it.
    pin_stages(&datapath, directory)?;
    let interfaces = names.iter().filter_map(|name| name.strip_prefix(PACKETS_LINK)?.parse().ok());
    for interface in interfaces {
        if let Some(attachment) = take_over(&mut datapath, directory, interface)? {
            datapath.attached.push(attachment);
        }
    }
    programs::forget(directory, &names)?;
    for old in names.iter().filter(|name| name.starts_with(STAGES)) {
        let path = directory.join(old);
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
    }
    Ok(datapath)
}

fn differs(directory: &Path, what: &'static str, seen: u64, expected: u64) -> Error {
    Error::OtherPinned { directory: directory.display().to_string(), what, seen, expected }
}

/// The shared words of what can be worked on; refuses all else.
pub(super) fn shared_words(directory: &Path, settings: &Settings) -> Result<Words, Error> {
    let words = same_memory(directory, settings)?;
    match words.as_slice()[shared::PINNED].load(Ordering::Acquire) {
        0 => Err(differs(directory, "whether it is complete", 0, 1)),
        _ => Ok(words),
    }
}

/// The shared words of maps that mean the same to this build and these settings; refuses others.
pub(super) fn same_memory(directory: &Path, settings: &Settings) -> Result<Words, Error> {
    let names = names(directory)?;
    let differs = |what, seen, expected| differs(directory, what, seen, expected);
    let present = MAPS.iter().filter(|map| names.iter().any(|name| name == *map)).count();
    if present < MAPS.len() {
        return Err(differs("its number of maps", present as u64, MAPS.len() as u64));
    }
    let path = directory.join("SHARED");
    let map = MapData::from_pin(&path).map_err(|error| failed(&path, &error))?;
    let words = Map::from_map_data(map).map_err(|error| failed(&path, &error))?;
    let Map::Array(map) = words else {
        return Err(differs("its map of shared words", 0, 1));
    };
    let entries = map.info().map_err(|error| failed(&path, &error))?.max_entries();
    if entries as usize != shared::WORDS {
        return Err(differs("its number of shared words", entries.into(), shared::WORDS as u64));
    }
    let words = Words::map(map.fd(), shared::WORDS).map_err(|error| failed(&path, &error))?;
    let (seen, expected) = (Identity::read(&words), settings.identity());
    for (what, (seen, expected)) in Identity::NAMES.iter().zip(seen.0.into_iter().zip(expected.0)) {
        if seen != expected {
            return Err(differs(what, seen, expected));
        }
    }
    Ok(words)
}

/// The rules in force.
fn rules(datapath: &KernelDatapath) -> Result<Vec<Rule>, Error> {
    let in_force = datapath.shared.as_slice()[shared::RULES].load(Ordering::Acquire);
    let count = (in_force & !shared::RULES_ASK_FOR_EGRESS) >> 32;
    let (first, count) = (in_force as u32, (count as u32).min(MAX_RULES));
    let rule = |index| {
        let words = datapath.rule_map.get(&(first + index), 0);
        words.map(|words| Rule::from_words(&words))
    };
    let rules = (0..count).map(rule).collect::<Result<_, _>>();
    rules.map_err(|error| Error::Map { map: "RULES", said: refusal::chain(&error) })
}

/// Puts the programs of this process in the place of those that run on an interface; `None` if the
/// interface is gone.
pub(super) fn take_over(
    datapath: &mut KernelDatapath,
    directory: &Path,
    interface: u32,
) -> Result<Option<Attachment>, Error> {
    let stack_path = directory.join(format!("{STACK_LINK}{interface}"));
    let packets_path = directory.join(format!("{PACKETS_LINK}{interface}"));
    if nix::net::if_::if_indextoname(interface).is_err() {
        for path in [&packets_path, &stack_path] {
            fs::remove_file(path).map_err(|error| failed(path, &error))?;
        }
        return Ok(None);
    }
    let program = datapath.programs.stack()?;
    let link = open(&stack_path)?.try_into().map_err(|error| failed(&stack_path, &error))?;
    let stack = program.attach_to_link(link).and_then(|id| program.take_link(id));
    let stack = stack.and_then(stack_of).map_err(|error| failed(&stack_path, &error))?;
    let program = datapath.programs.packets()?;
    let link = open(&packets_path)?.try_into().map_err(|error| failed(&packets_path, &error))?;
    let packets = program.attach_to_link(link).and_then(|id| program.take_link(id));
    let packets = packets.and_then(packets_of).map_err(|error| failed(&packets_path, &error))?;
    Ok(Some(Attachment { interface, packets, stack }))
}

fn open(path: &Path) -> Result<FdLink, Error> {
    PinnedLink::from_pin(path).map(FdLink::from).map_err(|error| failed(path, &error))
}
