//! `arenite compare`: a program of the user's on Arenite, on the system's malloc, and on every
//! other allocator library of the machine.

mod allocators;
mod json;
mod launch;
mod measure;
mod plot;
mod statistics;
mod summary;
mod table;

use crate::library::Target;
use crate::run::{Failure, complain, create, empty};
use crate::supervise;
use allocators::{Named, Setting};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use summary::Summary;

/// The exit status if Arenite or the system's malloc failed.
const FAILED_RUNS: u8 = 1;

/// Runs a program on Arenite, on the system's malloc and on other allocators, and compares.
///
/// The others are the libraries of jemalloc, mimalloc, tcmalloc, snmalloc, rpmalloc, scudo and
/// hardened_malloc that the dynamic linker's cache or the usual directories hold, and those that
/// --with and --peers name. mimalloc runs twice, the second time without transparent huge pages.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is measured: wall time; and by wait4(2), of the program and the descendants it waited for,
user and system time, the largest peak RSS, and page faults. A small process in between starts
the program, so that the size of this command does not count as the program's; the few page
faults between its fork and the exec do count. Standard input is /dev/null; output is discarded;
an LD_PRELOAD of the environment is not passed on. A program that is static, or brings its own
allocator, does not notice what is preloaded.

Method: the runs are interleaved in rounds, each of which has every allocator once, in an order in
which another one starts each time and each follows each other equally often. Ratios are taken
within each round, this allocator / Arenite, and their geometric mean is given with a 95 %
confidence interval: Student's t for the mean of the logarithms. \"No difference seen\" says that
the interval contains 1. With fewer than 3 runs there is no interval. Of twenty intervals about
one misses by chance; --control shows how far Arenite differs from itself. On a machine whose speed
changes, --settle goes on until the two least CPU times of each allocator are alike.

An allocator fails if a run of it ends by a signal or with a status that is not 0 and no
--ok-status. It is not run again, and has no ratio.

Exit status:
  0    all runs succeeded, or only those of allocators other than Arenite and the system's failed
  1    a run on Arenite or on the system's malloc failed
  125  the command itself failed, for example because of its arguments, or the library is missing
  126  the program can not be run
  127  the program was not found

Examples:
  arenite compare -- python3 script.py
  arenite compare --runs 20 --control --plot plot.svg -- make -B
  arenite compare --with new=./libnew.so --env new:NEW_THREADS=2 --only new -- ./server --test")]
pub struct Options {
    /// Another allocator library; repeatable. Its NAME goes before one that is found
    #[arg(long, value_name = "NAME=PATH")]
    with: Vec<Named>,
    /// A directory in which every lib<NAME>.so is another allocator
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Set a variable for one allocator; repeatable
    #[arg(long, value_name = "NAME:VARIABLE=VALUE")]
    env: Vec<Setting>,
    /// Only this allocator besides Arenite; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run Arenite once more in each round, as arenite-again
    #[arg(long)]
    control: bool,
    /// Measured runs of each allocator
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Go on, up to four times as many runs, while the two least CPU times of an allocator differ by more than so much
    #[arg(long, value_name = "PERCENT")]
    settle: Option<f64>,
    /// Runs of each allocator before those that are measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100_000))]
    warmup: u32,
    /// A shell command to run before each run, which is not measured
    #[arg(long, value_name = "COMMAND")]
    prepare: Option<String>,
    /// An exit status that counts as success, besides 0; repeatable
    #[arg(long, value_name = "N")]
    ok_status: Vec<u8>,
    /// Go on with the other allocators when Arenite or the system's malloc failed
    #[arg(long)]
    keep_going: bool,
    /// Let the output of the first run through
    #[arg(long)]
    show_output: bool,
    /// Write all figures to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of wall time and peak RSS relative to Arenite to FILE, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Measures, prints and writes.
pub fn run(options: &Options) -> ExitCode {
    match compare(options) {
        Ok(code) => code,
        Err(Failure { status, error }) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(status)
        }
    }
}

fn compare(options: &Options) -> Result<ExitCode, Failure> {
    // Before the runs, which may take hours.
    let json = options.json.as_deref().map(create).transpose()?;
    let plot = options.plot.as_deref().map(create).transpose()?;
    supervise::keep_statuses().context("SIGCHLD")?;
    let allocators = allocators::choose(options)?;
    if std::env::var_os("LD_PRELOAD").is_some_and(|set| !set.is_empty()) {
        complain("LD_PRELOAD is not passed on to the program");
    }
    let outcome = measure::measure(options, allocators)?;
    let summaries = Summary::of_all(&outcome.all);
    let screen = table::Screen { outcome: &outcome, summaries: &summaries };
    write!(std::io::stdout(), "{screen}").context("standard output")?;
    if let Some(file) = json {
        let value = json::json(options, outcome.runs, &summaries).context("the figures")?;
        write_text(file, &format!("{value:#}\n"))?;
    }
    if let Some(file) = plot {
        let words = options.target.words();
        write_text(file, &plot::svg(&words.join(" "), &summaries)?)?;
    }
    let failed = outcome.all.iter().any(|one| one.failure.is_some() && !one.allocator.is_peer());
    Ok(if failed { ExitCode::from(FAILED_RUNS) } else { ExitCode::SUCCESS })
}

fn write_text((path, mut file): (&Path, File), text: &str) -> Result<()> {
    empty(&file)
        .and_then(|()| file.write_all(text.as_bytes()))
        .with_context(|| format!("{}", path.display()))
}
