//! Runs a thread before all ordinary ones, or a process behind them.
//!
//! It is here because asking for it takes `unsafe`, and here alone is room for that.

use std::io;

/// Puts the calling thread into the real-time class `SCHED_FIFO`, at its lowest priority (sched(7)).
/// Such a thread has to sleep by itself: nothing ordinary runs on its CPU before it does.
///
/// Refused without `CAP_SYS_NICE`; the thread then runs as before.
pub fn run_before_ordinary_threads() -> io::Result<()> {
    schedule(libc::SCHED_FIFO, 1)
}

/// The same for a while, through an execve(2), too; threads that the thread starts are ordinary ones.
pub fn hurry() -> io::Result<()> {
    schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
}

/// Makes the calling thread an ordinary one again.
pub fn hurry_no_more() -> io::Result<()> {
    schedule(libc::SCHED_OTHER, 0)
}

/// Has this process wait for all that others want of the processors, or nearly so (`nice(2)`).
pub fn give_way() -> io::Result<()> {
    const LEAST: libc::c_int = 19;
    // SAFETY: only numbers are passed; 0 is the calling process.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LEAST) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn schedule(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: the thread is the calling one, which lives, and the parameter is a valid local.
    let error = unsafe { libc::pthread_setschedparam(libc::pthread_self(), policy, &parameter) };
    // Not sched_setscheduler(2): musl has that only as a stub that fails.
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hurry_ends_and_is_not_inherited() {
        std::thread::spawn(|| {
            let stat = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 41 of proc_pid_stat(5); the name before it may hold spaces.
            let field = |stat: String| stat.rsplit(')').next()?.split(' ').nth(39)?.parse().ok();
            let policy = move || -> i32 { field(stat()).unwrap() };
            let ordinary = policy();
            if hurry().is_ok() {
                assert_ne!(policy(), ordinary);
                assert_eq!(std::thread::spawn(policy).join().unwrap(), ordinary);
                hurry_no_more().unwrap();
                assert_eq!(policy(), ordinary);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn it_is_granted_or_refused_for_want_of_a_permission() {
        let outcome = std::thread::spawn(run_before_ordinary_threads).join().unwrap();
        if let Err(error) = outcome {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
