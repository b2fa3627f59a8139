//! What a run tells while it runs: a time and a line.
//!
//! Invariant: with `--json`, standard output carries the report and nothing else.

use std::time::Instant;

/// Tells people what happens.
#[derive(Debug, Clone)]
pub struct Narrator {
    start: Instant,
    aside: bool,
}

impl Narrator {
    /// Tell on standard output, or `aside`, on standard error.
    pub fn new(aside: bool) -> Narrator {
        Narrator { start: Instant::now(), aside }
    }

    /// Say one thing.
    pub fn say(&self, text: &str) {
        let line = format!("{:8.3} s  {text}", self.start.elapsed().as_secs_f64());
        if self.aside {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}
