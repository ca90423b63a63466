//! The figures of each allocator, and how they compare with Arenite's.

use super::allocators::{ARENITE, Allocator};
use super::launch::Sample;
use super::measure::Measured;
use super::statistics::{Ratio, Spread};

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    Wall,
    User,
    System,
    /// User and system time together.
    Cpu,
    PeakRss,
    MinorFaults,
}

impl Figure {
    pub const ALL: [Self; 6] =
        [Self::Wall, Self::User, Self::System, Self::Cpu, Self::PeakRss, Self::MinorFaults];

    /// The key in the JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Wall => "wall_s",
            Self::User => "user_s",
            Self::System => "system_s",
            Self::Cpu => "cpu_s",
            Self::PeakRss => "peak_rss_bytes",
            Self::MinorFaults => "minor_faults",
        }
    }

    pub fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Wall => sample.wall_s,
            Self::User => sample.user_s,
            Self::System => sample.system_s,
            Self::Cpu => sample.user_s + sample.system_s,
            Self::PeakRss => sample.peak_rss_bytes as f64,
            Self::MinorFaults => sample.minor_faults as f64,
        }
    }
}

/// An allocator's runs, summed up.
#[derive(Debug)]
pub struct Summary<'a> {
    pub measured: &'a Measured,
    /// Those of Arenite, unless it failed.
    base: Option<&'a [Sample]>,
}

impl<'a> Summary<'a> {
    /// One for each.
    pub fn of_all(all: &'a [Measured]) -> Vec<Self> {
        let base = all
            .iter()
            .find(|measured| measured.allocator.name == ARENITE && measured.failure.is_none())
            .map(|measured| measured.samples.as_slice());
        all.iter().map(|measured| Self { measured, base }).collect()
    }

    pub fn allocator(&self) -> &Allocator {
        &self.measured.allocator
    }

    pub fn failure(&self) -> Option<&str> {
        self.measured.failure.as_deref()
    }

    /// None if there was no run.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.measured.samples.iter().map(|sample| figure.of(sample)))
    }

    /// This allocator / Arenite; none for Arenite itself, and if either failed.
    pub fn ratio(&self, figure: Figure) -> Option<Ratio> {
        if self.failure().is_some() || self.allocator().name == ARENITE {
            return None;
        }
        let pairs = self.measured.samples.iter().zip(self.base?);
        Ratio::of_pairs(pairs.map(|(this, base)| (figure.of(this), figure.of(base))))
    }

    /// The medians of voluntary and involuntary context switches.
    pub fn switches(&self) -> Option<(f64, f64)> {
        let median = |count: fn(&Sample) -> u64| {
            let counts = self.measured.samples.iter().map(|sample| count(sample) as f64);
            Spread::of(counts).map(|spread| spread.median)
        };
        median(|one| one.voluntary_switches).zip(median(|one| one.involuntary_switches))
    }
}
