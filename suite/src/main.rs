//! Measures Arenite against the peer allocators on every program of the suite, and reports.

mod analysis;
mod comparison;
mod instructions;
mod machine;
mod measure;
mod plots;
mod programs;
mod report;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Measures Arenite against the peer allocators, and reports")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every program by `arenite compare`, then report
    Run {
        #[command(flatten)]
        places: Places,
        /// Measured runs of each allocator
        #[arg(long, default_value_t = 5)]
        runs: u32,
        /// Only programs whose name starts so; repeatable
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Keep the results that are there
        #[arg(long)]
        resume: bool,
        /// As `arenite compare` has it: up to four times as many runs
        #[arg(long, value_name = "PERCENT")]
        settle: Option<f64>,
    },
    /// Count the instructions of whole programs under valgrind, and write INSTRUCTIONS.md
    Instructions {
        #[command(flatten)]
        places: Places,
    },
    /// Report on the results that are there
    Report {
        #[command(flatten)]
        places: Places,
    },
    /// List the programs and their commands
    List {
        #[command(flatten)]
        places: Places,
    },
}

/// Where things are.
#[derive(Args)]
struct Places {
    /// Fewer programs and smaller ones; the report stays in target/suite/quick
    #[arg(long)]
    quick: bool,
    /// The root of the repository
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Cargo's target folder
    #[arg(long, env = "CARGO_TARGET_DIR", default_value = "target")]
    target: PathBuf,
}

impl Places {
    /// Results, one file per program.
    fn results(&self) -> PathBuf {
        self.target.join("suite").join(if self.quick { "quick/results" } else { "results" })
    }

    /// The folder that gets RESULTS.md and plots/.
    fn report(&self) -> PathBuf {
        if self.quick { self.target.join("suite/quick") } else { self.root.join("suite") }
    }

    fn peers(&self) -> PathBuf {
        self.target.join("peers")
    }

    fn absolute(mut self) -> Result<Self> {
        self.root = self.root.canonicalize().context("the root of the repository")?;
        self.target = self.target.canonicalize().context("the target folder")?;
        Ok(self)
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run { places, runs, only, resume, settle } => {
            let places = places.absolute()?;
            let programs = programs::all(&places)?;
            measure::run(&places, &programs, &measure::Extent { runs, only, resume, settle })?;
            report::write(&places, &programs)
        }
        Command::Instructions { places } => instructions::write(&places.absolute()?),
        Command::Report { places } => {
            let places = places.absolute()?;
            report::write(&places, &programs::all(&places)?)
        }
        Command::List { places } => {
            for program in programs::all(&places.absolute()?)? {
                println!("{:24} {}", program.name, program.command.join(" "));
            }
            Ok(())
        }
    }
}
