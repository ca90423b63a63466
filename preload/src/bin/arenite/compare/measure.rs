//! All runs of all allocators, interleaved.

use super::Options;
use super::allocators::{ARENITE, Allocator};
use super::launch::{Launcher, Output, Run, Sample, how, last_lines};
use super::summary::Figure;
use crate::report::{Reports, pattern};
use crate::run::Failure;
use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::{Command, ExitStatus, Stdio};

/// An allocator and its runs.
#[derive(Debug)]
pub struct Measured {
    pub allocator: Allocator,
    /// One of each round, until one failed.
    pub samples: Vec<Sample>,
    /// Why it is out of the comparison.
    pub failure: Option<String>,
    /// The last lines that the failed run wrote to standard error.
    pub stderr: String,
}

impl Measured {
    fn fail(&mut self, failure: String, stderr: String) {
        (self.failure, self.stderr) = (Some(failure), stderr);
    }
}

/// How many times the runs that were asked for may be done until those of each allocator agree.
const MOST_TIMES: u32 = 4;

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the allocators.
    pub all: Vec<Measured>,
    /// Measured runs of each allocator, were it not for failures.
    pub runs: u32,
    /// The rounds were not all run, because one that the others need failed.
    pub stopped: bool,
    /// No process said that it had a block of Arenite's. Known after a warm-up only.
    pub unused: bool,
}

impl Outcome {
    /// By which part the two least CPU times of an allocator differ, of the one where they differ most: that one may not
    /// have had a run yet that nothing disturbed.
    fn noise(&self) -> f64 {
        let all = self.all.iter().filter(|one| one.failure.is_none());
        let gaps = all.map(|one| {
            let mut times: Vec<_> = one.samples.iter().map(|run| Figure::Cpu.of(run)).collect();
            times.sort_by(f64::total_cmp);
            match times[..] {
                [least, next, ..] => next / least - 1.0,
                _ => f64::INFINITY,
            }
        });
        gaps.max_by(f64::total_cmp).unwrap_or(0.0)
    }
}

/// Runs everything.
struct Measurement<'a> {
    options: &'a Options,
    launcher: Launcher,
    progress: ProgressBar,
    outcome: Outcome,
    /// Whether the output of the next run is to be shown.
    show: bool,
}

/// Runs the program on every allocator. It is a failure if it can not run at all.
pub fn measure(options: &Options, allocators: Vec<Allocator>) -> Result<Outcome, Failure> {
    let launcher = Launcher::new(&options.target.command)?;
    let all = allocators
        .into_iter()
        .map(|allocator| Measured {
            failure: launcher.check(&allocator).err().map(|error| format!("{error:#}")),
            samples: Vec::new(),
            stderr: String::new(),
            allocator,
        })
        .collect();
    let mut measurement = Measurement {
        options,
        launcher,
        progress: ProgressBar::hidden(),
        outcome: Outcome { all, runs: options.runs, stopped: false, unused: false },
        show: options.show_output,
    };
    measurement.run()?;
    measurement.progress.finish_and_clear();
    Ok(measurement.outcome)
}

impl Measurement<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let Options { warmup, runs, settle, .. } = *self.options;
        let count = self.outcome.all.len();
        if !self.show {
            self.progress = bar(u64::from(warmup + runs) * count as u64);
        }
        for round in 0..warmup + runs * MOST_TIMES {
            if round >= warmup + runs {
                if !settle.is_some_and(|percent| 100.0 * self.outcome.noise() > percent) {
                    break;
                }
                self.outcome.runs += 1;
                self.progress.inc_length(count as u64);
            }
            for index in order(count, round as usize) {
                self.outcome.stopped = !self.options.keep_going
                    && self
                        .outcome
                        .all
                        .iter()
                        .any(|one| one.failure.is_some() && !one.allocator.is_peer());
                if self.outcome.stopped {
                    return Ok(());
                }
                self.one(round, index)?;
                self.progress.inc(1);
            }
        }
        Ok(())
    }

    /// One run, if the allocator has not failed.
    fn one(&mut self, round: u32, index: usize) -> Result<(), Failure> {
        let Some(measured) = self.outcome.all.get_mut(index) else { return Ok(()) };
        if measured.failure.is_some() {
            return Ok(());
        }
        let options = self.options;
        let warmup = round < options.warmup;
        let name = &measured.allocator.name;
        self.progress.set_message(match warmup {
            true => format!("Warm-up: {name}"),
            false => {
                format!("Round {} of {}: {name}", round + 1 - options.warmup, self.outcome.runs)
            }
        });
        if let Some(command) = &options.prepare {
            prepare(command)?;
        }
        let output = if self.show { Output::Shown } else { Output::Discarded };
        self.show = false;
        let Run { sample, status, stderr } = if round == 0 && warmup && name == ARENITE {
            let (run, unused) = run_and_report(&self.launcher, &measured.allocator, output)?;
            self.outcome.unused = unused;
            run
        } else {
            self.launcher.run(&measured.allocator, &[], output)?
        };
        if !is_success(status, &options.ok_status) {
            measured.fail(how(status), stderr);
        } else if !warmup {
            measured.samples.push(sample);
        }
        Ok(())
    }
}

/// A run on Arenite that also tells whether nobody had a block of it.
fn run_and_report(
    launcher: &Launcher,
    allocator: &Allocator,
    output: Output,
) -> Result<(Run, bool), Failure> {
    let directory = tempfile::Builder::new()
        .prefix("arenite-compare-")
        .tempdir()
        .context("no directory for the reports")?;
    let reports = pattern(directory.path());
    let run = launcher.run(allocator, &[("ARENITE_REPORT", reports)], output)?;
    Ok((run, !Reports::read(directory.path(), 0).any_block()))
}

fn is_success(status: ExitStatus, also: &[u8]) -> bool {
    status.success()
        || status.code().is_some_and(|code| also.iter().any(|&ok| code == i32::from(ok)))
}

/// Runs the shell command that goes before each run.
fn prepare(command: &str) -> Result<(), Failure> {
    // A file: what the command leaves in the background would keep a pipe open.
    let mut errors = tempfile::tempfile().context("no file for the standard error")?;
    let status = Command::new("sh")
        .args(["-c", command])
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone().context("--prepare: standard error")?)
        .status()
        .context("--prepare: sh")?;
    if status.success() {
        return Ok(());
    }
    let said = last_lines(&mut errors).context("--prepare: standard error")?;
    Err(anyhow!("--prepare: {}: {}", how(status), said.trim()).into())
}

/// Hidden if standard error is no terminal.
fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{msg:36} {bar:30} {percent:>3} %  {eta}") {
        bar.set_style(style);
    }
    bar
}

/// The order in which a round runs the allocators, by their indices.
///
/// Williams' design: the first round goes 0, 1, n-1, 2, n-2, …, and each round shifts it by one,
/// so that another one starts. In n rounds (2n if n is odd, the second n backwards) each comes
/// equally often after each other one of its round.
fn order(count: usize, round: usize) -> Vec<usize> {
    let zigzag = (0..count).map(|place| match place % 2 {
        0 => (count - place / 2) % count,
        _ => place / 2 + 1,
    });
    let mut order: Vec<_> = zigzag.map(|index| (index + round) % count).collect();
    if count % 2 == 1 && round / count % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::order;
    use std::collections::HashMap;

    #[test]
    fn a_round_has_each_once_and_starts_with_another() {
        for count in 1..12 {
            for round in 0..count {
                let order = order(count, round);
                assert_eq!(order[0], round);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn each_follows_each_other_equally_often() {
        for count in 2..12 {
            let rounds = if count % 2 == 0 { count } else { 2 * count };
            let mut after = HashMap::<_, usize>::new();
            for round in 0..rounds {
                for pair in order(count, round).windows(2) {
                    *after.entry((pair[0], pair[1])).or_default() += 1;
                }
            }
            assert_eq!(after.len(), count * (count - 1), "{count}");
            assert!(after.values().all(|&times| times == rounds / count), "{count}: {after:?}");
        }
    }
}
