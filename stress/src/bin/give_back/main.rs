//! How memory is given back: what a process keeps resident after it has freed, on Arenite, on
//! the system's malloc and on other allocators.
//!
//! `give_back all` starts itself once for each scenario and allocator, with the allocator's
//! library preloaded. `give_back run SCENARIO` is such a child, and can be started by hand on
//! whatever is preloaded. The blocks come from C's `malloc`; what a scenario keeps its books in
//! does not ([`books`]), and resident memory is read without an allocation ([`rss`]).

mod allocators;
mod books;
mod child;
mod driver;
mod malloc;
mod readme;
mod report;
mod rss;
mod scale;
mod scenario;
mod scenarios;
mod source;
mod table;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "What a process keeps resident after it has freed, per allocator")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every scenario on every allocator and print the figures
    All(driver::Options),
    /// Run one scenario on the malloc of this process, and print what it measured as JSON
    Run(scenario::RunArgs),
    /// Name the scenarios
    List,
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::All(options) => driver::all(&options),
        Command::Run(args) => {
            scenario::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            for scenario in &scenarios::ALL {
                println!("{:18} {}", scenario.name, scenario.about);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
