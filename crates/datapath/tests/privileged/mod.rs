//! Runs tests that need root, and reports each as ignored, with the reason, where there is none.
//!
//! The standard harness can't say at run time that a test did not run; a test that returns early
//! would be counted as passed.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

/// A test by its name.
pub type Test = (&'static str, fn());

/// Runs the tests: all of `anyone`, and `root` if this process is root's.
pub fn run(root: &[Test], anyone: &[Test]) -> ExitCode {
    let is_root = nix::unistd::geteuid().is_root();
    let plain = |&(name, test): &Test| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let guarded = |&(name, test): &Test| {
        Trial::ignorable_test(name, move || {
            if !is_root {
                return Ok(Completion::ignored_with("needs root for BPF and network namespaces"));
            }
            test();
            Ok(Completion::Completed)
        })
    };
    let trials = root.iter().map(guarded).chain(anyone.iter().map(plain)).collect();
    // Each of them loads programs that keep the verifier busy for seconds, and times what nodes do.
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
