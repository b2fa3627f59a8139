//! What a process begins with: nothing, or what the process before has left.
//!
//! Invariant: whatever stands against going on where another has stopped, the node begins a new life
//! then. What was left is taken off the interfaces before; the others take its buckets when the pause
//! that they have granted is over, or when they have admitted the new life.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use testudo_cluster::config::Cluster;
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::membership::{Frozen, FrozenError, Membership, ResumeError};
use testudo_cluster::replica::Replica;
use testudo_datapath::kernel::nameless::NamelessFileSystem;
use testudo_datapath::kernel::{KernelDatapath, LeaseHandle, pinning};
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Datapath, Sets};
use testudo_packet::bucket::{BucketId, BucketState, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;

use super::clock;
use super::engine::AnyDatapath;
use super::handover::Handover;
use super::interfaces::{self, Links};
use super::startup::StartError;
use super::stations::StationBook;
use crate::config::{self, Config, translation};
use crate::rules::numbers;
use crate::rules::ruling::Ruling;

/// Where BPF file systems are mounted by custom.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The slots of a witness's node table, which stays empty.
const WITNESS_SLOTS: u32 = 1024;

/// The parts of a node that outlive a process.
pub struct Beginning {
    /// The packet handling, attached.
    pub datapath: AnyDatapath,
    /// Its lease; a witness has none.
    pub lease: Option<LeaseHandle>,
    /// The node's part in the cluster.
    pub membership: Membership,
    /// Its common table; empty.
    pub replica: Replica,
    /// Who is on its links.
    pub stations: StationBook,
    /// Which flows may begin.
    pub ruling: Arc<Ruling>,
    /// Whether it goes on where another process has stopped.
    pub resumed: bool,
}

/// Why a process can't go on where another has stopped.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error(transparent)]
    Frozen(#[from] FrozenError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("bucket {0} is handled as another than the process before has said")]
    Bucket(BucketId),
    #[error("the process before was a witness, or this one is; expected none of them, or both")]
    Witness,
}

/// Has the programs verified that [`Beginning::find`] will need, over the memory that is lent under this number.
pub fn prepare(config: &Config, links: &Links, number: i32) -> Result<(), StartError> {
    let directory = NamelessFileSystem::directory(number);
    Ok(KernelDatapath::prepare(&directory, &settings(config, links)?)?)
}

impl Beginning {
    /// Takes up what was left under this number, or begins with nothing.
    pub fn find(
        config: &Config,
        cluster: &Arc<Cluster>,
        links: &Links,
        resume: Option<i32>,
    ) -> Result<Self, StartError> {
        let loud = |error: &dyn std::error::Error| {
            tracing::error!(
                %error,
                "this process can't go on where the one before has stopped: the node begins a new life, \
                 and others take its buckets"
            );
        };
        let handover = match resume.map(Handover::take) {
            None => None,
            Some(Ok(handover)) => Some(handover),
            Some(Err(error)) => {
                loud(&error);
                None
            }
        };
        if let Some(handover) = handover {
            match Self::resume(config, cluster, links, &handover) {
                Ok(beginning) => {
                    handover.finish();
                    return Ok(beginning);
                }
                Err(error) => {
                    loud(&error);
                    handover.discard();
                }
            }
        }
        Self::anew(config, cluster, links)
    }

    fn anew(config: &Config, cluster: &Arc<Cluster>, links: &Links) -> Result<Self, StartError> {
        let stations = stations(config, links, &[]);
        let (datapath, lease, ruling) = match config.own_member().witness {
            true => (witness(config, links)?, None, Ruling::default()),
            false => {
                let mut datapath = KernelDatapath::load(settings(config, links)?)?;
                let ruling =
                    ruling(config, links, &Ruling::default(), (&BTreeSet::new(), datapath.sets()))?;
                datapath.set_rules(&ruling.compiled.rules)?;
                set_up(&mut datapath, config, (links, &stations))?;
                let lease = datapath.lease_handle();
                (Box::new(datapath) as AnyDatapath, Some(lease), ruling)
            }
        };
        let incarnation = Incarnation(random()?);
        Ok(Self {
            datapath,
            lease,
            membership: Membership::new(cluster.clone(), incarnation, clock::now()),
            replica: keeping_back(&ruling, Replica::new(cluster.clone(), incarnation)),
            stations,
            ruling: Arc::new(ruling),
            resumed: false,
        })
    }

    fn resume(
        config: &Config,
        cluster: &Arc<Cluster>,
        links: &Links,
        handover: &Handover,
    ) -> Result<Self, Obstacle> {
        let begun = clock::now();
        let frozen = Frozen::decode(cluster, &handover.membership)?;
        let stations = stations(config, links, &handover.stations);
        let (datapath, lease, ruling) = match (config.own_member().witness, handover.packets) {
            (true, None) => (witness(config, links)?, None, Ruling::default()),
            (false, Some(number)) => {
                let directory = NamelessFileSystem::directory(number);
                let settings = settings(config, links)?;
                let mut datapath =
                    KernelDatapath::adopt(&directory, settings).map_err(StartError::from)?;
                check(&datapath, cluster, &frozen)?;
                let ruling = go_on_ruling(&mut datapath, config, links)?;
                set_up(&mut datapath, config, (links, &stations))?;
                datapath.leave_nothing().map_err(StartError::from)?;
                let millis = clock::between(begun, clock::now()).as_millis();
                tracing::info!(millis, "the packet handling was taken over");
                let lease = datapath.lease_handle();
                (Box::new(datapath) as AnyDatapath, Some(lease), ruling)
            }
            _ => return Err(Obstacle::Witness),
        };
        Ok(Self {
            datapath,
            lease,
            membership: Membership::resume(cluster.clone(), &frozen, clock::now())?,
            replica: keeping_back(
                &ruling,
                Replica::resume(cluster.clone(), frozen.incarnation(), frozen.slots()),
            ),
            stations,
            ruling: Arc::new(ruling),
            resumed: true,
        })
    }
}

/// A replica that keeps back what the rules say.
fn keeping_back(ruling: &Ruling, mut replica: Replica) -> Replica {
    replica.set_policies(ruling.replicates());
    replica
}

/// The rules of the configuration, after those of a process before.
fn ruling(
    config: &Config,
    links: &Links,
    before: &Ruling,
    (flows, sets): (&BTreeSet<u16>, &Sets),
) -> Result<Ruling, StartError> {
    let (file, lines) = (config.node.rules.clone(), config.lines.clone());
    Ok(before.next(file, lines, flows, sets, |name| links.number(name))?)
}

/// Puts the rules of the configuration in the place of those that were left. Of the flows that are there nothing
/// is known but their numbers.
fn go_on_ruling(
    datapath: &mut KernelDatapath,
    config: &Config,
    links: &Links,
) -> Result<Ruling, StartError> {
    let before = Ruling::left(numbers::marks(datapath.rules()));
    let flows = numbers::of_flows(datapath.table());
    let ruling = ruling(config, links, &before, (&flows, datapath.sets()))?;
    datapath.set_rules(&ruling.compiled.rules)?;
    Ok(ruling)
}

/// Whether packets meet the slots that the membership takes for granted.
fn check(datapath: &KernelDatapath, cluster: &Cluster, frozen: &Frozen) -> Result<(), Obstacle> {
    for (told, bucket) in frozen.slots().iter().zip((0..=u16::MAX).map(BucketId)) {
        let slot = datapath.bucket(bucket);
        let mine = told.owner == cluster.node();
        let same = (slot.owner, slot.epoch) == (told.owner, told.epoch);
        if !same || mine && slot.state != BucketState::Active {
            return Err(Obstacle::Bucket(bucket));
        }
    }
    Ok(())
}

fn stations(config: &Config, links: &Links, known: &[(NodeId, Vec<Mac>)]) -> StationBook {
    let passing = config.cluster.mode == config::cluster::Mode::Steered;
    let mut book = StationBook::new(passing, config.own_id(), &links.all(&config.interfaces));
    for (node, macs) in known {
        book.note(*node, macs.clone());
    }
    book
}

fn settings(config: &Config, links: &Links) -> Result<testudo_datapath::Settings, StartError> {
    Ok(testudo_datapath::Settings {
        node: config.own_id(),
        secret: *config.cluster.secret.bytes(),
        buckets: config.cluster.buckets,
        grounds: Grounds::default(),
        cluster_mac: config.cluster.mac,
        table_slots: config.node.table_entries,
        answers: links.answers(&config.interfaces)?,
        mode: mode(config)?,
        pools: translation::pools(&config.lines),
        likenesses: config.likenesses().into(),
    })
}

fn mode(config: &Config) -> Result<Mode, StartError> {
    Ok(match (config.cluster.mode, &config.node.tap) {
        (config::cluster::Mode::Shared, _) => Mode::Shared,
        (config::cluster::Mode::Steered, _) => Mode::Steered,
        (config::cluster::Mode::Tap, Some(tap)) => {
            Mode::Tap { interface: interfaces::number(tap)? }
        }
        (config::cluster::Mode::Tap, None) => Mode::Shared,
    })
}

/// The packet handling of a witness, which meets no packets.
fn witness(config: &Config, links: &Links) -> Result<AnyDatapath, StartError> {
    let settings = settings(config, links)?;
    let settings = testudo_datapath::Settings { table_slots: WITNESS_SLOTS, ..settings };
    Ok(Box::new(UserDatapath::new(settings)?))
}

/// Gives the packet handling its addresses, its checks and its interfaces; it has its rules.
fn set_up(
    datapath: &mut KernelDatapath,
    config: &Config,
    (links, stations): (&Links, &StationBook),
) -> Result<(), StartError> {
    datapath.set_strict_windows(config.node.strict_windows);
    datapath.set_limits(config.limits);
    datapath.set_reverse_paths(&links.reverse_paths(&config.interfaces)?)?;
    datapath.set_mss_clamps(&links.mss_clamps(&config.interfaces)?)?;
    if mode(config)? == Mode::Steered {
        datapath.set_local_addresses(&interfaces::addresses()?)?;
        datapath.set_peers(&stations.all())?;
    }
    if let Some(pins) = &config.node.pins {
        // What a distribution mounts at boot, unless this is a container.
        if pins.starts_with(BPF_FILE_SYSTEM) {
            pinning::mount_file_system(Path::new(BPF_FILE_SYSTEM))?;
        }
        datapath.guard(pins)?;
    }
    for interface in &config.interfaces {
        datapath.attach(&interface.name)?;
    }
    Ok(())
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
