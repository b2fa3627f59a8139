//! Runs tests that need root and another program, and reports each as ignored, with the reason, without one of them.

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};

/// Runs the tests one after the other, if this process is root's and the program, which is in this Debian package,
/// is there.
pub fn run(tests: &[(&'static str, fn())], program: &str, package: &str) -> ExitCode {
    let root = nix::unistd::geteuid().is_root();
    let found = Command::new(program).arg("--version").output();
    let missing = match found {
        _ if !root => Some("needs root for BPF and network namespaces".to_owned()),
        Err(error) => Some(format!("needs the program {program} (Debian: {package}): {error}")),
        Ok(_) => None,
    };
    let trials = tests.iter().map(|&(name, test)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => {
                test();
                Ok(Completion::Completed)
            }
        })
    });
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
