//! How long a change takes until the second gateway has it, where nothing is saturated.
//!
//! The first node's own count: from when a change was taken up until the second had said that it has it. Only
//! nodes that count it are measured. Changes are taken up each millisecond, so what a packet has caused may
//! have waited so much longer.

use anyhow::Result;
use serde::Serialize;

use crate::Extent;
use crate::rig::{self, Kind, Run};
use crate::site::Site;

/// At which shares of the highest rate that was kept up with, in percent.
pub const SHARES: [u32; 2] = [25, 50];

/// One run.
#[derive(Debug, Serialize)]
pub struct Lag {
    /// The share.
    pub percent: u32,
    /// The run.
    pub run: Run,
}

/// Goes to each share of what each kind has kept up with, as often as there are rounds.
pub fn measure(
    site: &Site,
    kinds: &[Kind],
    extent: &Extent,
    rising: &[Run],
    lags: &mut Vec<Lag>,
) -> Result<()> {
    for &kind in kinds.iter().filter(|kind| matches!(kind, Kind::Testudo | Kind::InClear)) {
        let best = rig::best(rising, kind.name());
        let mut rates: Vec<f64> = best
            .iter()
            .filter_map(|run| Some(run.figures.as_ref()?.replicated_per_second))
            .collect();
        rates.sort_by(f64::total_cmp);
        let Some(&sustained) = rates.get(rates.len() / 2) else { continue };
        for _ in 0..extent.rounds {
            for percent in SHARES {
                let rate = (sustained * f64::from(percent) / 100.0) as u32;
                let count = rate.saturating_mul(extent.seconds).min(extent.most);
                let run = crate::told(rig::run(site, kind, rate.max(1), count)?);
                lags.push(Lag { percent, run });
            }
        }
    }
    Ok(())
}
