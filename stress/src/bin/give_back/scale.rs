//! How large and how long the scenarios are.

use std::time::Duration;
use stress::run::mib;

/// The sizes as they are given; what is not given follows from `--quick`.
#[derive(Debug, Clone, clap::Args)]
pub struct Scale {
    /// Small sizes and short times
    #[arg(long)]
    pub quick: bool,
    /// Mixed blocks that burst, survivors and turnover allocate, in MiB [default: 1024, quick 128]
    #[arg(long, value_name = "MIB")]
    pub megabytes: Option<usize>,
    /// Live set of producer_consumer, phases, async and ring, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub live: usize,
    /// What trim makes free in fragments, in MiB; as much stays in use [default: 10240 or a third
    /// of the memory that is available, whichever is less; quick 512]
    #[arg(long, value_name = "MIB")]
    pub fragments: Option<usize>,
    /// Duration of producer_consumer and async [default: 60 and 300, quick 5 and 10]
    #[arg(long, value_name = "S")]
    pub seconds: Option<f64>,
    /// Threads of burst, survivors, turnover, producer_consumer and ring
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=256))]
    pub threads: u16,
    /// Where the random numbers begin
    #[arg(long, value_name = "X", default_value_t = 1)]
    pub seed: u64,
}

impl Scale {
    /// Bytes of a burst.
    pub fn burst(&self) -> usize {
        self.megabytes.unwrap_or(if self.quick { 128 } else { 1024 }) << 20
    }

    /// Bytes of a live set.
    pub fn live(&self) -> usize {
        self.live << 20
    }

    /// MiB that trim makes free.
    pub fn fragments_mib(&self) -> usize {
        self.fragments.unwrap_or_else(|| match self.quick {
            true => 512,
            false => 10240.min(mib(available()) as usize / 3),
        })
    }

    /// Threads at work.
    pub fn threads(&self) -> usize {
        self.threads.into()
    }

    /// How long a scenario runs that takes so many seconds in full and in quick runs.
    pub fn duration(&self, full: f64, quick: f64) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { quick } else { full });
        Duration::from_secs_f64(seconds.clamp(0.1, 1e6))
    }

    /// How often a scenario repeats its step.
    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// The arguments that say the same, with nothing left to a default that could change from
    /// one child to the next.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec![
            format!("--megabytes={}", self.burst() >> 20),
            format!("--live={}", self.live),
            format!("--fragments={}", self.fragments_mib()),
            format!("--threads={}", self.threads),
            format!("--seed={}", self.seed),
        ];
        words.extend(self.quick.then(|| "--quick".to_owned()));
        words.extend(self.seconds.map(|seconds| format!("--seconds={seconds}")));
        words
    }
}

/// Memory that programs can still have, in bytes.
fn available() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.map_or(3 << 30, |kib| kib * 1024)
}
