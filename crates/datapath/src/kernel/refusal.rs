//! Why a kernel refused a program or a map: names the feature that it lacks.
//!
//! The kernel says that a helper or an instruction is unknown, at best. What an operator needs is the
//! name of what is missing and the kernel that has it.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use crate::Error;

/// How much of the verifier's log an error quotes; what matters stands at its end.
const QUOTED: usize = 400;

/// What a verifier's log says when a feature is missing, the feature, and the first kernel with it.
const FEATURES: &[(&str, &str, &str)] = &[
    ("BPF program is too large", "a verifier that follows a million instructions", "5.2"),
    ("bpf_xdp_load_bytes", "the helper bpf_xdp_load_bytes", "5.18"),
    ("bpf_loop", "the helper bpf_loop", "5.17"),
    ("tail_calls are not allowed", "tail calls beside calls, compiled (bpf_jit_enable)", "5.10"),
    ("bpf_ktime_get_coarse_ns", "the helper bpf_ktime_get_coarse_ns", "5.11"),
    ("bpf_ringbuf_reserve", "the BPF ring buffer", "5.8"),
    ("bpf_fib_lookup", "the helper bpf_fib_lookup", "4.18"),
    ("unknown func", "a BPF helper", "5.18"),
    ("invalid func", "a BPF helper", "5.18"),
    ("BPF_STX uses reserved fields", "atomic compare-and-swap in BPF", "5.12"),
    ("invalid atomic operand", "atomic compare-and-swap in BPF", "5.12"),
    ("unknown opcode", "BPF instruction set v3", "5.1"),
];

/// Maps that not every kernel can make.
const MAPS: &[(&str, &str, &str)] = &[
    ("EVENTS", "the BPF ring buffer", "5.8"),
    ("UPCALLS", "the BPF ring buffer", "5.8"),
    ("NODE_TABLE", "memory-mapped BPF arrays (BPF_F_MMAPABLE)", "5.5"),
    ("BUCKETS", "memory-mapped BPF arrays (BPF_F_MMAPABLE)", "5.5"),
    ("SHARED", "memory-mapped BPF arrays (BPF_F_MMAPABLE)", "5.5"),
];

fn is_permission(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
        && error.raw_os_error() == Some(libc::EPERM)
}

/// Why the object could not be loaded.
pub fn object(error: EbpfError) -> Error {
    match error {
        EbpfError::MapError(error) => map(&error),
        other => Error::Refused { program: "testudo", said: chain(&other) },
    }
}

fn map(error: &MapError) -> Error {
    let MapError::CreateError { name, io_error, .. } = error else {
        return Error::Map { map: "?", said: chain(error) };
    };
    if is_permission(io_error) {
        return Error::NotPermitted { said: io_error.to_string() };
    }
    let known = MAPS.iter().find(|(map, ..)| map == name);
    match known {
        Some(&(_, feature, since)) if io_error.raw_os_error() == Some(libc::EINVAL) => {
            Error::MissingFeature { feature, since, said: chain(error) }
        }
        Some(&(map, ..)) => Error::Map { map, said: chain(error) },
        None => Error::Map { map: "?", said: chain(error) },
    }
}

/// Why a program could not be loaded.
pub fn program(program: &'static str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            verdict(program, &io_error, &verifier_log.to_string())
        }
        other => Error::Refused { program, said: chain(&other) },
    }
}

fn verdict(program: &'static str, io_error: &std::io::Error, log: &str) -> Error {
    if log.trim().is_empty() && is_permission(io_error) {
        return Error::NotPermitted { said: io_error.to_string() };
    }
    let from = log.char_indices().rev().nth(QUOTED).map_or(0, |(at, _)| at);
    let said = format!("{io_error}: {}", log[from..].trim());
    match FEATURES.iter().find(|(words, ..)| log.contains(words)) {
        Some(&(_, feature, since)) => Error::MissingFeature { feature, since, said },
        None => Error::Refused { program, said },
    }
}

/// An error with all that it wraps.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !said.contains(&words) {
            said = format!("{said}: {words}");
        }
        cause = inner.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_missing_helper_is_named_with_its_kernel() {
        let log = "212: (85) call unknown#181\nunknown func bpf_loop#181\nprocessed 9 insns";
        let error = verdict("testudo", &io::Error::from_raw_os_error(libc::EINVAL), log);
        let text = error.to_string();
        assert!(text.contains("the helper bpf_loop is missing"), "{text}");
        assert!(text.contains("Linux 5.17"), "{text}");
    }

    #[test]
    fn a_missing_privilege_is_not_a_missing_feature() {
        let error = verdict("testudo", &io::Error::from_raw_os_error(libc::EPERM), "");
        assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
    }

    #[test]
    fn an_unknown_refusal_quotes_the_end_of_the_log() {
        let log = format!("{}R4 min value is negative", "x\n".repeat(5000));
        let error = verdict("testudo", &io::Error::from_raw_os_error(libc::EACCES), &log);
        let text = error.to_string();
        assert!(text.contains("R4 min value is negative") && text.len() < 700, "{text}");
    }

    #[test]
    fn a_map_type_that_the_kernel_lacks_is_named() {
        let error = MapError::CreateError {
            name: "EVENTS".into(),
            io_error: io::Error::from_raw_os_error(libc::EINVAL),
        };
        let text = map(&error).to_string();
        assert!(text.contains("the BPF ring buffer is missing") && text.contains("5.8"), "{text}");
    }
}
