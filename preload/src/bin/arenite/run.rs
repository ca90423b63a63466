//! `arenite run`: any program on Arenite, by LD_PRELOAD (ld.so(8)).

use crate::library::{Target, preload};
use crate::report::{Finished, Reports, pattern};
use crate::supervise::{self, Ended};
use anyhow::{Context, Result, anyhow};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Exit statuses as env(1) and nohup(1) have them: the command itself failed, the program can
/// not be run, the program is not there.
pub const FAILED: u8 = 125;
pub const CANNOT_RUN: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// Runs a program with Arenite as its malloc.
///
/// Sets LD_PRELOAD, which all processes inherit that the program starts. Standard input and
/// output, signals and the exit status are the program's own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status:
  that of the program; killed by a signal, the command ends by the same signal
  125  the command itself failed, for example because of its arguments, or the library is missing
  126  the program can not be run
  127  the program was not found

A report is written at the normal end of a process. One that is killed or calls _exit writes
none, nor does a program that ignores LD_PRELOAD: static and set-user-ID ones. While the command
waits for it, a signal that is sent to the whole process group reaches the program twice.

Examples:
  arenite run -- python3 script.py
  arenite run --report -- make -j4
  arenite run --report-json figures.json -- ./server --port 8080")]
pub struct Options {
    /// Print what the allocator did on standard error when the program has ended
    #[arg(long)]
    report: bool,
    /// Write that to FILE as JSON, with the figures of all the processes that wrote a report
    #[arg(long, value_name = "FILE")]
    report_json: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Why the program did not run, and the status to say it with.
#[derive(Debug)]
pub struct Failure {
    pub status: u8,
    pub error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { status: FAILED, error }
    }
}

impl Failure {
    pub fn of_start(program: &OsStr, error: std::io::Error) -> Self {
        let program = program.to_string_lossy();
        match error.kind() {
            ErrorKind::NotFound => {
                Self { status: NOT_FOUND, error: anyhow!("{program}: not found") }
            }
            _ => Self { status: CANNOT_RUN, error: anyhow!("{program}: {error}") },
        }
    }
}

/// Runs the program. Returns only if it did not start.
pub fn run(options: &Options) -> ExitCode {
    let started = if options.report || options.report_json.is_some() {
        run_and_report(options)
    } else {
        replace_by_program(options)
    };
    match started {
        Ok(ended) => supervise::end_like(ended.status),
        Err(Failure { status, error }) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(status)
        }
    }
}

/// Says something on standard error, where nobody may listen: the program's status counts all the same.
pub fn say(what: impl Display) {
    _ = write!(std::io::stderr(), "{what}");
}

/// Says what is wrong.
pub fn complain(what: impl Display) {
    say(format_args!("arenite: {what}\n"));
}

/// Becomes the program, so that nothing stands between it and the caller.
fn replace_by_program(options: &Options) -> Result<Ended, Failure> {
    let (mut command, program) = prepare(options)?;
    let error = command.exec();
    Err(Failure::of_start(&program, error))
}

fn run_and_report(options: &Options) -> Result<Ended, Failure> {
    let (mut command, program) = prepare(options)?;
    // Before the program runs: it may take hours.
    let json = options.report_json.as_deref().map(create).transpose()?;
    let directory = tempfile::Builder::new()
        .prefix("arenite-report-")
        .tempdir()
        .context("no directory for the reports")?;
    command.env("ARENITE_REPORT", pattern(directory.path()));
    let ended = supervise::run(&mut command).map_err(|error| Failure::of_start(&program, error))?;
    let reports = Reports::read(directory.path(), ended.pid);
    let finished = Finished { command: &options.target.command, ended: &ended, reports: &reports };
    if options.report {
        say(format_args!("{}", finished.screen()));
    }
    // The program's own status goes first: what fails from here on is only said.
    if let Some((path, file)) = json
        && let Err(error) = write_json(file, &finished)
    {
        complain(format_args!("{}: {error:#}", path.display()));
    }
    Ok(ended)
}

/// Opens a file to write to, and leaves in it what it has: nothing may come of it.
pub fn create(path: &Path) -> Result<(&Path, File)> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    Ok((path, file.with_context(|| format!("{}", path.display()))?))
}

/// Empties a file that [`create`] opened, unless the program wrote to it as well.
pub fn empty(file: &File) -> io::Result<()> {
    let opened = file.metadata()?;
    let is_output = ["/proc/self/fd/1", "/proc/self/fd/2"].iter().any(|output| {
        std::fs::metadata(output)
            .is_ok_and(|output| (output.dev(), output.ino()) == (opened.dev(), opened.ino()))
    });
    // A pipe or a terminal has no length.
    if opened.is_file() && !is_output { file.set_len(0) } else { Ok(()) }
}

fn write_json(file: File, finished: &Finished<'_>) -> Result<()> {
    empty(&file)?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, &finished.json())?;
    writeln!(file)?;
    file.flush()?;
    Ok(())
}

/// The command to start, and the name of the program.
fn prepare(options: &Options) -> Result<(Command, OsString)> {
    let (program, arguments) =
        options.target.command.split_first().context("no program is named")?;
    let library = options.target.library()?;
    let mut command = Command::new(program);
    command.args(arguments).env("LD_PRELOAD", preload(library));
    supervise::inherit_ignored(&mut command);
    Ok((command, program.clone()))
}
