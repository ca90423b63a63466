//! What `arenite compare --json` writes, as far as the report needs it.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Arenite itself.
pub const ARENITE: &str = "arenite";
/// Arenite once more: how far it differs from itself is noise.
pub const CONTROL: &str = "arenite-again";
/// Arenite that gives no free memory back with time: what purging costs.
pub const NO_PURGE: &str = "arenite-no-purge";

/// The runs of one program on all allocators.
#[derive(Debug, Deserialize)]
pub struct Comparison {
    version: u32,
    /// Measured runs of each allocator.
    pub runs: u32,
    pub allocators: Vec<Allocator>,
}

/// The runs on one allocator.
#[derive(Debug, Deserialize)]
pub struct Allocator {
    pub name: String,
    /// What was set for this allocator only.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Why it was not run further.
    pub failure: Option<String>,
    #[serde(default)]
    pub samples: Vec<Sample>,
    pub summary: Option<Summary>,
}

/// One run.
#[derive(Debug, Deserialize)]
pub struct Sample {
    pub wall_s: f64,
    pub user_s: f64,
    pub system_s: f64,
    pub peak_rss_bytes: u64,
    pub minor_faults: u64,
}

#[derive(Debug, Deserialize)]
pub struct Summary {
    pub wall_s: Spread,
}

#[derive(Debug, Deserialize)]
pub struct Spread {
    /// Of this allocator to Arenite.
    pub ratio: Option<Ratio>,
}

/// A ratio and its 95 % confidence interval, if there were runs enough for one.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ratio {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Wall,
    Cpu,
    /// The least CPU time of the runs: what other load on the machine adds is in it least.
    LeastCpu,
    PeakRss,
    MinorFaults,
}

impl Measure {
    pub const ALL: [Self; 5] =
        [Self::Wall, Self::Cpu, Self::LeastCpu, Self::PeakRss, Self::MinorFaults];

    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall time",
            Self::Cpu => "CPU time",
            Self::LeastCpu => "least CPU time",
            Self::PeakRss => "peak RSS",
            Self::MinorFaults => "minor faults",
        }
    }

    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Wall => sample.wall_s,
            Self::Cpu | Self::LeastCpu => sample.user_s + sample.system_s,
            Self::PeakRss => sample.peak_rss_bytes as f64,
            Self::MinorFaults => sample.minor_faults as f64,
        }
    }
}

impl Comparison {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    pub fn parse(text: &str) -> Result<Self> {
        let comparison: Self = serde_json::from_str(text)?;
        ensure!(comparison.version == 1, "version {} is not known", comparison.version);
        Ok(comparison)
    }

    /// An allocator's figure: the median over its runs, or the least; none if it failed.
    pub fn figure(&self, allocator: &str, measure: Measure) -> Option<f64> {
        let allocator = self.allocators.iter().find(|one| one.name == allocator)?;
        if allocator.failure.is_some() {
            return None;
        }
        let values = allocator.samples.iter().map(|sample| measure.of(sample));
        match measure {
            Measure::LeastCpu => values.min_by(f64::total_cmp),
            _ => median(values.collect()),
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn another_version_is_refused() {
        let text = r#"{"version":2,"runs":1,"allocators":[]}"#;
        assert!(Comparison::parse(text).is_err());
    }
}
