//! Runs `arenite compare` on the programs.

use crate::Places;
use crate::comparison::NO_PURGE;
use crate::machine::{commit, peers};
use crate::programs::{Kind, Program};
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A peer, and a variable that is set for it: TCMalloc has its per-CPU caches only if glibc leaves
/// restartable sequences to it.
pub const PEER_VARIABLE: (&str, &str, &str) =
    ("tcmalloc", "GLIBC_TUNABLES", "glibc.pthread.rseq=0");

/// How much is run.
pub struct Extent {
    pub runs: u32,
    /// Beginnings of programs' names; all programs if there are none.
    pub only: Vec<String>,
    pub resume: bool,
    /// As `arenite compare` has it.
    pub settle: Option<f64>,
}

/// Writes the results of each program into a file of its name.
pub fn run(places: &Places, programs: &[Program], extent: &Extent) -> Result<()> {
    let results = places.results();
    fs::create_dir_all(&results)?;
    let chosen: Vec<_> = programs
        .iter()
        .filter(|program| {
            extent.only.is_empty()
                || extent.only.iter().any(|start| program.name.starts_with(start))
        })
        .collect();
    ensure!(!chosen.is_empty(), "no program has such a name");
    for program in &chosen {
        let file = program.command.first().map(Path::new).filter(|file| file.is_absolute());
        let is_there = file.is_none_or(Path::exists);
        ensure!(is_there, "{}: {:?} is missing; suite/run.sh builds it", program.name, file);
    }
    let style = ProgressStyle::with_template("{pos}/{len} {msg} {elapsed}")?;
    let progress = ProgressBar::new(chosen.len() as u64).with_style(style);
    for program in chosen {
        let file = results.join(format!("{}.json", program.name));
        progress.set_message(program.name.clone());
        if !(extent.resume && file.exists() && file.with_extension("commit").exists()) {
            compare(places, program, extent, &file).with_context(|| program.name.clone())?;
        }
        progress.println(format!("{} done", program.name));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

fn compare(places: &Places, program: &Program, extent: &Extent, file: &Path) -> Result<()> {
    // Only the whole of a comparison gets the name.
    let unfinished = file.with_extension("json.new");
    let is_scaling = matches!(program.kind, Kind::Scaling(_));
    let runs = if is_scaling { extent.runs.min(3) } else { extent.runs };
    let mut command = Command::new(places.target.join("release/arenite"));
    command.arg("compare").arg("--peers").arg(places.peers());
    // Those built from the pinned sources, and not what the machine happens to have.
    for name in peers(places)?.iter().map(|peer| peer.name.as_str()).chain(["system"]) {
        command.args(["--only", name]);
        if name == "mimalloc" {
            command.args(["--only", "mimalloc-nothp"]);
        }
    }
    let (peer, variable, value) = PEER_VARIABLE;
    command.arg("--env").arg(format!("{peer}:{variable}={value}"));
    let library = places.target.join("release/libarenite.so");
    command.arg("--with").arg(format!("{NO_PURGE}={}", library.display()));
    command.arg("--only").arg(NO_PURGE);
    command.arg("--env").arg(format!("{NO_PURGE}:ARENITE_CONF=decay_ms:never"));
    if let Some(percent) = extent.settle {
        command.args(["--settle", &percent.to_string()]);
    }
    command.args(["--control", "--keep-going", "--runs", &runs.to_string(), "--json"]);
    command.arg(&unfinished).arg("--").args(&program.command);
    // These would have other hash tables in each run.
    command.env("PYTHONHASHSEED", "0").env("PERL_HASH_SEED", "0");
    let commit = commit(places);
    let log = file.with_extension("log");
    let output = fs::File::create(&log)?;
    command.stdout(output.try_clone()?).stderr(output).stdin(Stdio::null());
    let status = command.status().context("arenite compare")?;
    // 1 says that Arenite or the system's malloc failed, which is a result.
    let measured = status.success() || status.code() == Some(1);
    ensure!(measured, "arenite compare: {status}; see {}", log.display());
    fs::write(file.with_extension("commit"), commit)?;
    fs::rename(&unfinished, file)?;
    Ok(())
}
