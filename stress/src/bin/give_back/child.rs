//! One child: a part of a scenario on an allocator.

use crate::allocators::Allocator;
use crate::report::Measured;
use crate::scenario::Scenario;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Debug)]
pub enum End {
    /// It ran to its end and found every block intact.
    Measured(Measured),
    /// It did not; why.
    Broken(String),
}

/// What a child says that lost bytes.
pub const VIOLATION: &str = "VIOLATION";

/// Time between two looks at a child.
const TICK: Duration = Duration::from_millis(20);

/// Runs a part of a scenario with these further arguments; kills it after `patience`. It is an
/// error if no child could be started at all.
pub fn run(
    scenario: &Scenario,
    part: &str,
    allocator: &Allocator,
    arguments: &[String],
    patience: Duration,
) -> Result<End> {
    // Files: nobody has to read while the child writes.
    let mut output = tempfile::tempfile().context("no file for the output")?;
    let mut errors = tempfile::tempfile().context("no file for the standard error")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", scenario.name, "--part", part]).args(arguments);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(errors.try_clone()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| directs_an_allocator(name)) {
        command.env_remove(name);
    }
    match &allocator.library {
        Some(library) => command.env("LD_PRELOAD", library),
        None => command.env_remove("LD_PRELOAD"),
    };
    command.envs(&allocator.environment);
    if let Some(bytes) = scenario.address_space {
        // SAFETY: between fork and exec it only makes a system call.
        unsafe { command.pre_exec(move || limit_address_space(bytes)) };
    }
    let child = command.spawn().context("no child could be started")?;
    let ended = wait(child, patience)?;
    let (output, errors) = (text(&mut output)?, text(&mut errors)?);
    let violation = errors.lines().find(|line| line.contains(VIOLATION));
    let last_words = violation.or_else(|| errors.lines().last()).unwrap_or_default();
    Ok(match ended {
        None => End::Broken(format!("hangs: killed after {:.0} s", patience.as_secs_f64())),
        Some(status) if !status.success() => End::Broken(format!("{}: {last_words}", how(status))),
        Some(_) => match serde_json::from_str::<Measured>(output.trim()) {
            Err(error) => End::Broken(format!("its output can not be read: {error}")),
            Ok(measured) => match foreign(&measured.malloc, allocator.library.as_deref()) {
                Some(why) => End::Broken(why),
                None => End::Measured(measured),
            },
        },
    })
}

/// Whether a variable is one by which allocators are told what to do: each has its defaults, but for what the user sets.
fn directs_an_allocator(name: &OsStr) -> bool {
    const BEGINNINGS: [&str; 8] = [
        "ARENITE_",
        "MALLOC_",
        "GLIBC_TUNABLES",
        "MIMALLOC_",
        "TCMALLOC_",
        "SNMALLOC_",
        "RPMALLOC_",
        "SCUDO_",
    ];
    let name = name.to_string_lossy();
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Waits for a child; kills it when the patience is over.
fn wait(mut child: Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

/// What a child wrote.
fn text(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("died of signal {signal}"),
        None => format!("ended with {}", status.code().unwrap_or(-1)),
    }
}

/// Why the child did not run on this library. The dynamic linker only warns about a library that
/// it can not load, and libc's malloc would be measured.
fn foreign(object: &str, library: Option<&Path>) -> Option<String> {
    let object = Path::new(object);
    let right = match library {
        Some(library) => object.canonicalize().is_ok_and(|object| object == library),
        None => {
            object.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libc."))
        }
    };
    (!right).then(|| format!("malloc was that of {}", object.display()))
}

fn limit_address_space(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit is a valid rlimit.
    match unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
