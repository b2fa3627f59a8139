//! Which seeds a test runs.

use crate::rng::Rng;

/// The seeds of a test: `count` that follow from `base`, or `TESTUDO_SEEDS` of them, or the one that
/// `TESTUDO_SEED` asks for.
///
/// # Panics
///
/// If one of these is no number.
#[must_use]
pub fn seeds(base: u64, count: usize) -> Vec<u64> {
    if let Ok(seed) = std::env::var("TESTUDO_SEED") {
        return vec![seed.parse().expect("TESTUDO_SEED is a number")];
    }
    let count = std::env::var("TESTUDO_SEEDS")
        .map_or(count, |count| count.parse().expect("TESTUDO_SEEDS is a number"));
    let mut rng = Rng::new(base);
    (0..count).map(|_| rng.draw()).collect()
}

/// Runs a test for each seed, on as many threads as there are processors.
///
/// # Panics
///
/// Where the test does.
pub fn for_each_seed(seeds: &[u64], test: impl Fn(u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let name = std::thread::current().name().unwrap_or("main").to_owned();
    std::thread::scope(|scope| {
        for share in seeds.chunks(seeds.len().div_ceil(threads)) {
            let test = &test;
            std::thread::Builder::new()
                .name(name.clone())
                .spawn_scoped(scope, move || share.iter().for_each(|&seed| test(seed)))
                .expect("a thread");
        }
    });
}
