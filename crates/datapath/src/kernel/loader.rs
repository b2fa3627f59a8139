//! Loads the committed object, makes its maps, and puts its programs on interfaces.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use testudo_packet::bucket::{BucketSlot, MAX_BUCKETS};
use testudo_packet::meter::METERS;
use testudo_packet::rule::MAX_RULES;
use testudo_packet::stage::STAGES;
use testudo_packet::table::SLOT_WORDS;

use super::programs::Programs;
use super::send::Sender;
use super::stations::StationMaps;
use super::trie::Trie;
use super::{KernelDatapath, likenesses, refusal, shared, stations};
use crate::Error;
use crate::clamps::Clamps;
use crate::committing::Committing;
use crate::early::Early;
use crate::fragments::{ALL_UNIT_WORDS, Fragments, HEAD_WORDS};
use crate::held::Held;
use crate::memory::Words;
use crate::meters::Meters;
use crate::pools::Pools;
use crate::sets::Sets;
use crate::settings::Settings;
use crate::shared_table::SharedTable;
use crate::stations::Stations;

/// Every map of the object, as it names them, but for the map of stages.
pub const MAPS: [&str; 21] = [
    "NODE_TABLE",
    "BUCKETS",
    "SHARED",
    "RULES",
    "RULE_HITS",
    "SETS",
    "COUNTS",
    "ANSWERS",
    "EVENTS",
    "UPCALLS",
    "LOADS",
    "METERS",
    "LOCAL",
    "STATIONS",
    "STATION_MACS",
    "REVERSE_PATHS",
    "MOST_BYTES",
    "FRAGMENTS",
    "FRAGMENT_UNITS",
    "LIKE_ENDPOINTS",
    "LIKE_PREFIXES",
];

/// How many endpoints each CPU keeps the classes of; `crates/xdp/src/maps.rs` has the other half.
const CLASSES_KEPT: u32 = 1024;

/// The programs, as `cargo xtask bpf` builds them.
pub static OBJECT: &[u8] = include_bytes_aligned!("../../../xdp/objects/testudo.bpf.o");

pub const PACKETS: &str = "testudo";
/// The programs of the stages behind the main one. Not memory that programs share but a part of the main
/// program, which jumps through it: each build of the programs has its own, with its own programs in it.
pub const STAGE_PROGRAMS: &str = "STAGES";
pub const STACK: &str = "testudo_stack";

/// Makes new maps.
pub fn load(settings: Settings) -> Result<KernelDatapath, Error> {
    let datapath = build(settings, None)?;
    for word in datapath.buckets.as_slice() {
        word.store(BucketSlot::VACANT.to_word(), Ordering::Relaxed);
    }
    datapath.settings.identity().write(&datapath.shared);
    Ok(datapath)
}

/// Takes the maps that are pinned in a directory, or makes new ones if there is none.
pub fn build(settings: Settings, directory: Option<&Path>) -> Result<KernelDatapath, Error> {
    let mut programs = Programs::load(load_object(&settings, directory)?, &settings, directory)?;
    let object = programs.object();
    let maps = MAPS.iter().map(|&map| Ok((map, handle(object, map)?)));
    let maps = maps.collect::<Result<Vec<_>, Error>>()?;
    let slots = words(object, "NODE_TABLE", settings.table_slots as usize * SLOT_WORDS)?;
    let shared = Arc::new(words(object, "SHARED", shared::WORDS)?);
    let buckets = words(object, "BUCKETS", MAX_BUCKETS as usize)?;
    let loads = words(object, "LOADS", (settings.buckets * cpus()?) as usize * 2)?;
    let fragments = Fragments {
        heads: words(object, "FRAGMENTS", HEAD_WORDS)?,
        units: words(object, "FRAGMENT_UNITS", ALL_UNIT_WORDS)?,
    };
    let meters = Meters::new(words(object, "METERS", METERS as usize)?);
    write_answers(object, &settings)?;
    likenesses::write(object, &settings.likenesses)?;
    let flows = shared::FLOWS;
    let sets = Sets::in_kernel(Trie::new(handle(object, "SETS")?), shared.clone());
    let table = SharedTable::new(Arc::new(slots), shared.clone(), flows, settings.placing())
        .map_err(Error::Memory)?;
    Ok(KernelDatapath {
        table,
        buckets,
        fragments,
        shared,
        rules: Vec::new(),
        sets,
        pools: Pools::new(&settings.pools, &settings.placing()),
        rule_map: typed(object, "RULES", Array::try_from)?,
        hit_map: typed(object, "RULE_HITS", PerCpuArray::try_from)?,
        own_hits: Words::zeroed(MAX_RULES as usize).map_err(Error::Memory)?,
        refused: VecDeque::new(),
        counts: typed(object, "COUNTS", PerCpuArray::try_from)?,
        events: typed(object, "EVENTS", RingBuf::try_from)?,
        upcalls: typed(object, "UPCALLS", RingBuf::try_from)?,
        loads,
        meters,
        stations: Stations::default(),
        clamps: Clamps::default(),
        station_maps: StationMaps {
            local: typed(object, "LOCAL", HashMap::try_from)?,
            stations: typed(object, "STATIONS", HashMap::try_from)?,
            macs: typed(object, "STATION_MACS", HashMap::try_from)?,
            reverse_paths: typed(object, "REVERSE_PATHS", HashMap::try_from)?,
            most_bytes: typed(object, "MOST_BYTES", HashMap::try_from)?,
        },
        attached: Vec::new(),
        maps,
        pinned: directory.map(Path::to_owned),
        guarded: None,
        held: Held::default(),
        committing: Committing::default(),
        early: Early::default(),
        own_occurrences: Vec::new(),
        lost_seen: 0,
        lost_handled_seen: 0,
        told: 0,
        sender: Sender::new().map_err(Error::Socket)?,
        settings,
        programs,
    })
}

/// What is written into the object before it is verified.
pub fn constants(settings: &Settings) -> [(&'static str, u64); 9] {
    let placer = settings.placer();
    [
        ("NODE", settings.node.0.into()),
        ("HASH_KEY_LOW", placer.key.k0),
        ("HASH_KEY_HIGH", placer.key.k1),
        ("BUCKET_MASK", placer.bucket_mask.into()),
        ("GROUNDS", placer.grounds.0),
        ("LIKENESSES", settings.likenesses.kinds()),
        ("SLOT_MASK", (settings.table_slots - 1).into()),
        ("CLUSTER_MAC", settings.cluster_mac.0),
        ("MODE", settings.mode.to_word()),
    ]
}

/// How many entries those maps have whose sizes are not the object's.
pub fn sizes(settings: &Settings) -> Result<[(&'static str, u32); 3], Error> {
    let cpus = cpus()?;
    Ok([
        ("NODE_TABLE", settings.table_slots),
        ("LOADS", settings.buckets * cpus),
        ("CLASSES", CLASSES_KEPT * cpus),
    ])
}

/// Takes the maps that are pinned in a directory, and makes the others.
pub fn load_object(settings: &Settings, directory: Option<&Path>) -> Result<Ebpf, Error> {
    let constants = constants(settings);
    let mut loader = EbpfLoader::new();
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    for (map, entries) in sizes(settings)? {
        loader.map_max_entries(map, entries);
    }
    for map in MAPS.iter().filter(|_| directory.is_some()) {
        loader.map_pin_path(map, directory.unwrap_or(Path::new("/")).join(map));
    }
    loader.load(OBJECT).map_err(refusal::object)
}

/// How many CPUs the machine can ever have: each has a row of its own in the loads and in the classes.
fn cpus() -> Result<u32, Error> {
    let failed = |(file, error)| Error::Map { map: "LOADS", said: format!("{file}: {error}") };
    aya::util::nr_cpus().map(|cpus| cpus as u32).map_err(failed)
}

/// Has the programs verified.
pub fn verify(programs: &mut Ebpf) -> Result<(), Error> {
    for stage in STAGES {
        load_stage(programs, stage as u32, stage.program())?;
    }
    packet_program(programs, PACKETS)?.load().map_err(|error| refusal::program(PACKETS, error))?;
    stack_program(programs)?.load().map_err(|error| refusal::program(STACK, error))
}

/// Loads the program of a stage and puts it into its place in the map of stages.
fn load_stage(programs: &mut Ebpf, place: u32, name: &'static str) -> Result<(), Error> {
    let program = packet_program(programs, name)?;
    program.load().map_err(|error| refusal::program(name, error))?;
    let fd = program.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
    let fd = fd.map_err(|error| refusal::program(name, error))?;
    let map = programs.map_mut(STAGE_PROGRAMS).ok_or_else(no_stages)?;
    let set = ProgramArray::try_from(map).and_then(|mut stages| stages.set(place, &fd, 0));
    set.map_err(|error: MapError| Error::Map { map: STAGE_PROGRAMS, said: refusal::chain(&error) })
}

/// The error of an object without a map of stages.
pub fn no_stages() -> Error {
    Error::Map { map: STAGE_PROGRAMS, said: "not in the object".into() }
}

/// An XDP program of the object.
pub fn packet_program<'a>(
    programs: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, Error> {
    let found = programs.program_mut(name).and_then(|program| program.try_into().ok());
    found.ok_or(Error::Refused { program: name, said: "not in the object".into() })
}

pub fn stack_program(programs: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    let found = programs.program_mut(STACK).and_then(|program| program.try_into().ok());
    found.ok_or(Error::Refused { program: STACK, said: "not in the object".into() })
}

/// Another handle of a map that the object has.
fn handle(programs: &Ebpf, map: &'static str) -> Result<MapData, Error> {
    let failed = |said: String| Error::Map { map, said };
    let data = match programs.map(map) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data)) => data,
        Some(Map::PerCpuArray(data) | Map::RingBuf(data)) => data,
        _ => return Err(failed("not in the object".into())),
    };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|error| failed(error.to_string()))?;
    MapData::from_fd(fd).map_err(|error| failed(refusal::chain(&error)))
}

fn take(programs: &mut Ebpf, map: &'static str) -> Result<Map, Error> {
    programs.take_map(map).ok_or(Error::Map { map, said: "not in the object".into() })
}

pub fn typed<T, E: std::error::Error>(
    programs: &mut Ebpf,
    map: &'static str,
    convert: impl FnOnce(Map) -> Result<T, E>,
) -> Result<T, Error> {
    convert(take(programs, map)?).map_err(|error| Error::Map { map, said: refusal::chain(&error) })
}

/// Maps the values of an array into this process.
fn words(programs: &mut Ebpf, map: &'static str, count: usize) -> Result<Words, Error> {
    let Map::Array(data) = take(programs, map)? else {
        return Err(Error::Map { map, said: "not an array".into() });
    };
    Words::map(data.fd(), count).map_err(|error| Error::Map { map, said: error.to_string() })
}

fn write_answers(programs: &mut Ebpf, settings: &Settings) -> Result<(), Error> {
    const MAP: &str = "ANSWERS";
    let mut answers: HashMap<MapData, [u64; 3], u64> = typed(programs, MAP, HashMap::try_from)?;
    let wanted = settings.answers.iter().map(|answer| {
        let key = [answer.address.high, answer.address.low, answer.interface.into()];
        (key, answer.own.0)
    });
    stations::replace(MAP, &mut answers, &wanted.collect())
}
