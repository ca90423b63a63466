//! `arenite demo`: an HTTP key-value service under load, on Arenite and on the system allocator.
//!
//! The service is a child process ([`server`]), so that its memory is told apart from that of
//! the clients ([`load`]), which are tasks of this process.

mod load;
pub mod server;
mod service;
mod table;
mod workload;

use crate::allocator::Choice;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use load::Clients;
use service::Service;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use table::Totals;
use workload::Workload;

/// The order is a palindrome, so that what grows or wanes over the minutes falls on both alike.
const ROUNDS: [Choice; 4] = [Choice::Arenite, Choice::System, Choice::System, Choice::Arenite];

/// How long after the load the memory is read again.
const REST: Duration = Duration::from_secs(1);

/// Runs an HTTP key-value service under load, on Arenite and on the system allocator.
///
/// A multi-threaded service with values of 16 bytes to 64 KiB that expire, in a process of its
/// own; clients on keep-alive connections over loopback that check every byte they get; four
/// rounds in the order Arenite, system, system, Arenite. Prints both allocators side by side.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Seconds of load for each allocator, in two rounds
    #[arg(long, default_value_t = Self::default().seconds)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Connections, all kept alive and always busy
    #[arg(long, default_value_t = Self::default().connections)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Keys, some of which are asked for far more often than others
    #[arg(long, default_value_t = Self::default().keys)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: u32,
    /// Seed of the clients' choices of keys, sizes and operations
    #[arg(long, default_value_t = Self::default().seed)]
    seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 10, connections: 32, keys: 20_000, seed: 1 }
    }
}

/// Runs all rounds and prints the table. The exit status is 1 if any request went wrong.
pub fn run(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(server::threads())
        .enable_all()
        .build()?;
    // An error, not a panic, when whoever reads this has gone.
    let mut output = std::io::stdout();
    writeln!(
        output,
        "A key-value service over HTTP with {} threads, {} connections, {} keys; rounds of {} s.",
        server::threads(),
        options.connections,
        options.keys,
        round(options).as_secs_f32(),
    )?;
    let progress = Progress::new(options);
    let mut totals = Totals::new()?;
    for (index, allocator) in ROUNDS.into_iter().enumerate() {
        progress.begin(index, allocator);
        totals.add(allocator, runtime.block_on(one_round(options, allocator, &progress))?)?;
    }
    progress.bar.finish_and_clear();
    write!(output, "{totals}")?;
    Ok(match totals.first_error() {
        None => ExitCode::SUCCESS,
        Some(error) => {
            eprintln!("arenite: requests went wrong, the first: {error}");
            ExitCode::FAILURE
        }
    })
}

/// The load of one round.
fn round(options: &Options) -> Duration {
    Duration::from_secs(options.seconds.into()) / 2
}

/// What one round measured.
#[derive(Debug)]
struct Round {
    load: load::Outcome,
    peak_rss_bytes: u64,
    rest_rss_bytes: u64,
}

async fn one_round(options: &Options, allocator: Choice, progress: &Progress) -> Result<Round> {
    let mut service = Service::start(allocator)?;
    let workload = Workload::new(options.keys, options.seed);
    let mut clients = Clients::connect(service.address(), options.connections, workload).await?;
    clients.fill().await?;
    let load = progress.during(round(options), clients.load(round(options))).await?;
    progress
        .during(REST, async {
            tokio::time::sleep(REST).await;
            Ok(())
        })
        .await?;
    service.expect_alive()?;
    let rest_rss_bytes = service.rss_bytes()?;
    let peak_rss_bytes = service.peak_rss_bytes()?;
    service.stop()?;
    Ok(Round { load, peak_rss_bytes, rest_rss_bytes })
}

/// The bar on a terminal; a line for each round elsewhere.
struct Progress {
    bar: ProgressBar,
    /// Length of one round, with the rest after it.
    round: Duration,
}

impl Progress {
    fn new(options: &Options) -> Self {
        let round = round(options) + REST;
        let whole = round * u32::try_from(ROUNDS.len()).unwrap_or(u32::MAX);
        let bar = ProgressBar::new(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:40} {percent:>3} %  {eta}") {
            bar.set_style(style);
        }
        Self { bar, round }
    }

    fn begin(&self, index: usize, allocator: Choice) {
        let message = format!("Round {} of {}: {}", index + 1, ROUNDS.len(), allocator.title());
        let done = self.round * u32::try_from(index).unwrap_or(u32::MAX);
        self.bar.set_position(u64::try_from(done.as_millis()).unwrap_or(u64::MAX));
        if self.bar.is_hidden() {
            eprintln!("{message}");
        }
        self.bar.set_message(message);
    }

    /// Moves the bar by `length` while `work` runs.
    async fn during<T>(
        &self,
        length: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (start, before) = (Instant::now(), self.bar.position());
        let mut work = std::pin::pin!(work);
        loop {
            let tick = tokio::time::timeout(Duration::from_millis(50), work.as_mut()).await;
            let done = start.elapsed().min(length).as_millis();
            self.bar.set_position(before + u64::try_from(done).unwrap_or(0));
            if let Ok(outcome) = tick {
                return outcome;
            }
        }
    }
}
