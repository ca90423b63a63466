//! The `arenite` command: runs programs on Arenite, reports what the allocator did for them,
//! compares it with other allocators, tells its settings, and demonstrates it with a service of its own.

mod allocator;
mod compare;
mod config;
mod demo;
mod library;
mod report;
mod run;
mod supervise;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static GLOBAL: allocator::Chosen = allocator::Chosen::new();

/// Runs programs on Arenite, a memory allocator for multi-threaded Linux programs.
///
/// Without a subcommand the demonstration runs, as by `arenite demo`.
#[derive(Debug, Parser)]
#[command(name = "arenite", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    Run(run::Options),
    Compare(compare::Options),
    Config(config::Options),
    Demo(demo::Options),
    /// The service of the demonstration, in a process of its own.
    #[command(hide = true)]
    DemoServer,
    /// The settings of the preloaded library, as it writes them.
    #[command(hide = true)]
    PreloadedSettings,
}

fn main() -> ExitCode {
    let task = match Cli::try_parse() {
        Ok(cli) => cli.task.unwrap_or_else(|| Task::Demo(demo::Options::default())),
        Err(error) => {
            // Help, or what is wrong with the arguments.
            let status = if error.use_stderr() { run::FAILED } else { 0 };
            _ = error.print();
            return ExitCode::from(status);
        }
    };
    let done = match task {
        Task::Run(options) => return run::run(&options),
        Task::Compare(options) => return compare::run(&options),
        Task::Config(options) => config::run(&options).map(|()| ExitCode::SUCCESS),
        Task::PreloadedSettings => config::write_preloaded().map(|()| ExitCode::SUCCESS),
        Task::Demo(options) => demo::run(&options),
        Task::DemoServer => demo::server::run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        run::complain(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}
