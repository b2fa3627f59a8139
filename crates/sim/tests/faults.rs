//! What nobody thought of: a fixed set of the runs that `cargo xtask sim` makes by the thousand.

use testudo_sim::run::run;
use testudo_sim::seeds::for_each_seed;

const SEEDS: u64 = 60;

#[test]
fn whatever_fails_the_promises_hold_and_all_comes_right() {
    let seeds: Vec<_> = (1..=SEEDS).collect();
    for (translate, flag) in [(false, ""), (true, "--translate ")] {
        for_each_seed(&seeds, |seed| {
            if let Some(error) = run(seed, translate, false).error {
                panic!("seed {seed}: {error}\nagain: cargo xtask sim {flag}--replay {seed}");
            }
        });
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for (seed, translate) in [(3, false), (11, false), (24, true)] {
        assert_eq!(
            run(seed, translate, false).tally,
            run(seed, translate, false).tally,
            "seed {seed}"
        );
    }
}
