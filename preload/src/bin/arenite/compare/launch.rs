//! One run of the program on one allocator, by `arenite-launch` in between.

use super::allocators::Allocator;
use crate::run::Failure;
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The file name of the launcher, which lies beside the command.
const LAUNCHER: &str = "arenite-launch";

/// How much of the end of a program's standard error is read, and how many lines are kept.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 5;

/// What the kernel counted for one run: the program and the descendants that it waited for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    pub wall_s: f64,
    pub user_s: f64,
    pub system_s: f64,
    /// The largest of their peak resident sets.
    pub peak_rss_bytes: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    #[serde(skip)]
    pub voluntary_switches: u64,
    #[serde(skip)]
    pub involuntary_switches: u64,
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Run {
    pub sample: Sample,
    pub status: ExitStatus,
    /// The last lines that it wrote to standard error, if they were not shown.
    pub stderr: String,
}

/// Where the program's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Discarded,
    Shown,
}

/// Starts programs.
#[derive(Debug)]
pub struct Launcher {
    path: PathBuf,
    command: Vec<OsString>,
}

impl Launcher {
    /// A launcher of the program with its arguments.
    pub fn new(command: &[OsString]) -> Result<Self> {
        let this = std::env::current_exe().context("the path of the command is unknown")?;
        let path = this.with_file_name(LAUNCHER);
        if !path.is_file() {
            bail!("{} is missing; `cargo build --release` builds it", path.display());
        }
        Ok(Self { path, command: command.to_vec() })
    }

    /// Fails if the allocator's library would not be a process's malloc: the dynamic linker only
    /// warns about a library that it can not load, and the system's malloc would be measured.
    pub fn check(&self, allocator: &Allocator) -> Result<()> {
        let Some(library) = &allocator.library else { return Ok(()) };
        let output = Command::new(&self.path)
            .arg("--whose-malloc")
            .env("LD_PRELOAD", library)
            .envs(&allocator.environment)
            .stdin(Stdio::null())
            .output()
            .context("arenite-launch")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{} with it: {}", how(output.status), stderr.trim());
        }
        let owner = String::from_utf8_lossy(&output.stdout);
        let owner = owner.lines().last().unwrap_or_default();
        if Path::new(owner).canonicalize().ok().as_ref() == Some(library) {
            return Ok(());
        }
        match stderr.lines().find(|line| line.contains("LD_PRELOAD")) {
            Some(line) => bail!("it can not be preloaded: {line}"),
            None => bail!("it does not define malloc; {owner} still does"),
        }
    }

    /// Runs the program once. It is a failure if it can not be started at all.
    pub fn run(
        &self,
        allocator: &Allocator,
        environment: &[(&str, OsString)],
        output: Output,
    ) -> Result<Run, Failure> {
        let program = self.command.first().context("no program is named")?;
        // A file: reading a pipe would take time from the program, and a process that stays
        // behind would keep it open.
        let mut errors = tempfile::tempfile().context("no file for the standard error")?;
        let (mut reader, writer) = std::io::pipe().context("no pipe")?;
        let mut launcher = Command::new(&self.path);
        launcher
            .arg(allocator.library.as_deref().unwrap_or(Path::new("")))
            .arg(if allocator.huge_pages { "thp" } else { "no-thp" })
            .args(&self.command)
            .env_remove("LD_PRELOAD")
            .envs(&allocator.environment)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(writer);
        if output == Output::Discarded {
            launcher
                .stdout(Stdio::null())
                .stderr(errors.try_clone().context("the standard error")?);
        }
        let mut child = launcher.spawn().context(LAUNCHER)?;
        // Closes the writing end here.
        drop(launcher);
        let mut report = Vec::new();
        reader.read_to_end(&mut report).context("the launcher's report")?;
        let ended = child.wait().context(LAUNCHER)?;
        match parse(&report) {
            Some(Report::Ran(sample, status)) => {
                Ok(Run { sample, status, stderr: last_lines(&mut errors).unwrap_or_default() })
            }
            Some(Report::Failed(error)) => Err(Failure::of_start(program, error)),
            None => Err(anyhow!("{LAUNCHER}: {}, without a report", how(ended)).into()),
        }
    }
}

/// How a process ended, in words.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by {}", crate::report::signal_name(signal)),
        (None, None) => "unknown".to_owned(),
    }
}

/// What the launcher wrote.
enum Report {
    Ran(Sample, ExitStatus),
    Failed(Error),
}

/// Reads the launcher's ten numbers.
fn parse(bytes: &[u8]) -> Option<Report> {
    let (chunks, []) = bytes.as_chunks() else { return None };
    let [errno, status, counts @ ..] = chunks else { return None };
    if *errno != [0; 8] {
        let errno = i32::try_from(i64::from_ne_bytes(*errno)).ok()?;
        return Some(Report::Failed(Error::from_raw_os_error(errno)));
    }
    let counts: &[_; 8] = counts.try_into().ok()?;
    let [wall, user, system, rss, minor, major, voluntary, involuntary] =
        counts.map(u64::from_ne_bytes);
    let sample = Sample {
        wall_s: wall as f64 / 1e9,
        user_s: user as f64 / 1e6,
        system_s: system as f64 / 1e6,
        peak_rss_bytes: rss * 1024,
        minor_faults: minor,
        major_faults: major,
        voluntary_switches: voluntary,
        involuntary_switches: involuntary,
    };
    let status = i32::try_from(i64::from_ne_bytes(*status)).ok()?;
    Some(Report::Ran(sample, ExitStatus::from_raw(status)))
}

pub fn last_lines(file: &mut File) -> Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
