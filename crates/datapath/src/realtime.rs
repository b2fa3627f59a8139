//! Runs a thread before all ordinary ones.
//!
//! It is here because asking for it takes `unsafe`, and here alone is room for that.

use std::io;

/// Puts the calling thread into the real-time class `SCHED_FIFO`, at its lowest priority (sched(7)).
/// Such a thread has to sleep by itself: nothing ordinary runs on its CPU before it does.
///
/// Refused without `CAP_SYS_NICE`; the thread then runs as before.
pub fn run_before_ordinary_threads() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the thread is the calling one, which lives, and the parameter is a valid local.
    let error =
        unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_FIFO, &lowest) };
    // Not sched_setscheduler(2): musl has that only as a stub that fails.
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_granted_or_refused_for_want_of_a_permission() {
        let outcome = std::thread::spawn(run_before_ordinary_threads).join().unwrap();
        if let Err(error) = outcome {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
