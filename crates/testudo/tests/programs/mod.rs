//! Runs tests that need root and another program, and reports each as ignored, with the reason, without one of them.

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};

/// Runs the tests one after the other, if this process is root's and the program, which is in this Debian package,
/// is there.
#[allow(dead_code, reason = "some tests need several")]
pub fn run(tests: &[(&'static str, fn())], program: &str, package: &str) -> ExitCode {
    run_with(tests, &[(program, "--version", package)])
}

/// The same with several programs: each with an argument by which it ends at once, and its package.
pub fn run_with(tests: &[(&'static str, fn())], programs: &[(&str, &str, &str)]) -> ExitCode {
    let missing = match nix::unistd::geteuid().is_root() {
        false => Some("needs root for BPF and network namespaces".to_owned()),
        true => programs.iter().find_map(|(program, argument, package)| {
            let error = Command::new(program).arg(argument).output().err()?;
            Some(format!("needs the program {program} (Debian: {package}): {error}"))
        }),
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
