//! What `arenite compare --json` writes, as far as the report needs it.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
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

    /// By which part the least CPU time of Arenite and of its control differ; none if one of them failed.
    pub fn noise(&self) -> Option<f64> {
        let arenite = self.figure(ARENITE, Measure::LeastCpu)?;
        let control = self.figure(CONTROL, Measure::LeastCpu)?;
        Some(arenite.max(control) / arenite.min(control) - 1.0)
    }
}

/// Adds the runs of one file to those of another one, of the same program on the same allocators. Who failed in one of
/// them failed. The summary, which was of the former alone, is left out.
pub fn add_runs(to: &Path, from: &Path) -> Result<()> {
    let read = |path: &Path| -> Result<Value> {
        let text = fs::read_to_string(path)?;
        Comparison::parse(&text)?;
        Ok(serde_json::from_str(&text)?)
    };
    let mut all = read(to).with_context(|| to.display().to_string())?;
    read(from).and_then(|more| join(&mut all, more)).with_context(|| from.display().to_string())?;
    let whole = to.with_extension("json.new");
    fs::write(&whole, all.to_string())?;
    fs::rename(whole, to)?;
    Ok(())
}

fn join(all: &mut Value, mut more: Value) -> Result<()> {
    let runs = [&*all, &more].map(|one| one["runs"].as_u64().unwrap_or(0));
    all["runs"] = Value::from(runs.iter().sum::<u64>());
    let allocators = all["allocators"].as_array_mut().context("no allocators")?;
    let others = more["allocators"].as_array_mut().context("no allocators")?;
    ensure!(
        allocators.iter().map(|one| &one["name"]).eq(others.iter().map(|one| &one["name"])),
        "other allocators"
    );
    for (one, other) in allocators.iter_mut().zip(others) {
        if one["failure"].is_null() {
            one["failure"] = other["failure"].take();
        }
        if let (Some(samples), Some(more)) =
            (one["samples"].as_array_mut(), other["samples"].as_array_mut())
        {
            samples.append(more);
        }
        one["summary"] = Value::Null;
    }
    Ok(())
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

    /// The runs of Arenite, its control and a peer: CPU times in s.
    fn measured(runs: u64, times: [&[f64]; 3], failure: Option<&str>) -> Value {
        let names = [ARENITE, CONTROL, "peer"];
        let allocators = names.iter().zip(times).map(|(&name, times)| {
            let sample = |&time: &f64| {
                serde_json::json!({"wall_s": time, "user_s": time, "system_s": 0.0, "peak_rss_bytes": 1,
                    "minor_faults": 1})
            };
            let failure = failure.filter(|_| name == "peer");
            serde_json::json!({"name": name, "failure": failure, "summary": {"wall_s": {"ratio": null}},
                "samples": times.iter().map(sample).collect::<Vec<_>>()})
        });
        serde_json::json!({"version": 1, "runs": runs, "allocators": allocators.collect::<Vec<_>>()})
    }

    #[test]
    fn runs_are_added() {
        let mut all = measured(2, [&[2.0, 3.0], &[4.0, 5.0], &[1.0, 2.0]], None);
        join(&mut all, measured(1, [&[4.0], &[1.0], &[]], Some("it broke")))
            .expect("the same allocators");
        let all = Comparison::parse(&all.to_string()).expect("the same schema");
        assert_eq!(all.runs, 3);
        assert_eq!(all.figure(ARENITE, Measure::Wall), Some(3.0));
        assert_eq!(all.figure(CONTROL, Measure::LeastCpu), Some(1.0));
        assert_eq!(all.figure("peer", Measure::Wall), None);
        assert_eq!(all.noise(), Some(1.0));
        assert!(all.allocators.iter().all(|one| one.summary.is_none()));
    }

    #[test]
    fn runs_of_other_allocators_are_not_added() {
        let mut all = measured(1, [&[1.0]; 3], None);
        let mut more = all.clone();
        more["allocators"].as_array_mut().expect("three").pop();
        assert!(join(&mut all, more).is_err());
    }

    #[test]
    fn another_version_is_refused() {
        let text = r#"{"version":2,"runs":1,"allocators":[]}"#;
        assert!(Comparison::parse(text).is_err());
    }
}
