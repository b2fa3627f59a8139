//! The programs of a process: verified by it, or before it began.
//!
//! The verifier takes seconds for them. A daemon that takes the place of another has less: the others wait for it, and
//! nobody hands flows over meanwhile. So its program is run once beside the daemon that it is to replace, which *lends* it
//! the maps ([`super::pinning`]): it has the programs verified over them and leaves these there ([`prepare`]). When it
//! runs again, in the place of the other, it takes what it finds.
//!
//! Invariant: what is taken is what would be loaded. The names have a digest in them of the object and of all that is
//! written into it before it is verified; programs under another digest are left alone, and verified anew.

use std::fs;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use testudo_packet::siphash::{HashKey, hash18};
use testudo_packet::stage::Stage;

use super::loader::{self, OBJECT, PACKETS, STACK, STAGE_PROGRAMS};
use super::pinning::{self, failed};
use super::{bpf_call, refusal};
use crate::Error;
use crate::settings::Settings;

/// What the names of programs that were verified ahead begin with.
pub(super) const READY: &str = "ready_";

/// The programs of this process.
pub struct Programs {
    object: Ebpf,
    ready: Option<Ready>,
}

/// Programs that were verified before this process began.
struct Ready {
    packets: Xdp,
    stack: SchedClassifier,
    /// Holds the programs of the stages.
    stages: MapData,
}

impl Programs {
    /// Takes those that are ready in a directory, or has the object's verified.
    pub(super) fn load(
        mut object: Ebpf,
        settings: &Settings,
        directory: Option<&Path>,
    ) -> Result<Self, Error> {
        let ready = match directory {
            Some(directory) => take(directory, settings)?,
            None => None,
        };
        if ready.is_none() {
            loader::verify(&mut object)?;
        }
        Ok(Self { object, ready })
    }

    /// The object, whose maps are to be taken.
    pub(super) fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// The main XDP program.
    pub(super) fn packets(&mut self) -> Result<&mut Xdp, Error> {
        match &mut self.ready {
            Some(ready) => Ok(&mut ready.packets),
            None => loader::packet_program(&mut self.object, PACKETS),
        }
    }

    /// The classifier.
    pub(super) fn stack(&mut self) -> Result<&mut SchedClassifier, Error> {
        match &mut self.ready {
            Some(ready) => Ok(&mut ready.stack),
            None => loader::stack_program(&mut self.object),
        }
    }

    /// The program of a stage, which only a process has that had it verified itself.
    pub(super) fn stage(&mut self, stage: Stage) -> Result<&mut Xdp, Error> {
        let program = stage.program();
        match self.ready {
            Some(_) => Err(Error::Refused { program, said: "verified by another process".into() }),
            None => loader::packet_program(&mut self.object, program),
        }
    }

    /// The map of stages, to be pinned.
    pub(super) fn stages(&self) -> Result<&MapData, Error> {
        match &self.ready {
            Some(ready) => Ok(&ready.stages),
            None => stages(&self.object),
        }
    }
}

/// Has the programs verified over the maps that are lent in a directory, and leaves them there.
pub(super) fn prepare(directory: &Path, settings: &Settings) -> Result<(), Error> {
    pinning::same_memory(directory, settings)?;
    let mut object = loader::load_object(settings, Some(directory))?;
    loader::verify(&mut object)?;
    let [packets, stack, stages_name] = names(settings)?.map(|name| directory.join(name));
    let failed_at = |path: &Path, error: std::io::Error| failed(path, &error);
    let unloaded = |program| move |error: ProgramError| refusal::program(program, error);
    let fd = loader::packet_program(&mut object, PACKETS)?.fd().map_err(unloaded(PACKETS))?;
    bpf_call::pin(fd, &packets).map_err(|error| failed_at(&packets, error))?;
    let fd = loader::stack_program(&mut object)?.fd().map_err(unloaded(STACK))?;
    bpf_call::pin(fd, &stack).map_err(|error| failed_at(&stack, error))?;
    let fd = stages(&object)?.fd();
    bpf_call::pin(fd, &stages_name).map_err(|error| failed_at(&stages_name, error))
}

/// The programs that are ready in a directory for these settings and this build, if all are.
fn take(directory: &Path, settings: &Settings) -> Result<Option<Ready>, Error> {
    let [packets, stack, stages] = names(settings)?.map(|name| directory.join(name));
    if [&packets, &stack, &stages].iter().any(|path| !path.exists()) {
        return Ok(None);
    }
    let opened = Xdp::from_pin(&packets, XdpAttachType::Interface);
    Ok(Some(Ready {
        packets: opened.map_err(|error| failed(&packets, &error))?,
        stack: SchedClassifier::from_pin(&stack).map_err(|error| failed(&stack, &error))?,
        stages: MapData::from_pin(&stages).map_err(|error| failed(&stages, &error))?,
    }))
}

/// Takes the names away of what was ready.
pub(super) fn forget(directory: &Path, names: &[String]) -> Result<(), Error> {
    for name in names.iter().filter(|name| name.starts_with(READY)) {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

/// The names under which the programs of this build are ready for these settings.
fn names(settings: &Settings) -> Result<[String; 3], Error> {
    let digest = digest(settings)?;
    Ok([PACKETS, STACK, STAGE_PROGRAMS].map(|what| format!("{READY}{digest:016x}_{what}")))
}

/// A number for everything that the programs are made of.
fn digest(settings: &Settings) -> Result<u64, Error> {
    let mix = |sum, number| hash18(HashKey::default(), sum, number, 0);
    let (words, rest) = OBJECT.as_chunks::<8>();
    let object = words.iter().map(|word| u64::from_ne_bytes(*word));
    let object = object.chain(rest.iter().map(|&byte| byte.into()));
    let constants = loader::constants(settings).map(|(_, value)| value);
    let sizes = loader::sizes(settings)?.map(|(_, size)| size.into());
    Ok(object.chain(constants).chain(sizes).fold(0, mix))
}

fn stages(object: &Ebpf) -> Result<&MapData, Error> {
    match object.map(STAGE_PROGRAMS) {
        Some(Map::ProgramArray(data)) => Ok(data),
        _ => Err(loader::no_stages()),
    }
}
