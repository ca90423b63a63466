//! Runs the workers under valgrind and takes the differences.

use crate::Options;
use crate::worker::WORKLOADS;
use benches::for_each_allocator;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One allocator on one path.
#[derive(Debug, Serialize)]
pub struct Row {
    pub path: &'static str,
    pub allocator: String,
    pub counts: Vec<Count>,
}

/// What one pair costs in one workload.
#[derive(Debug, Serialize)]
pub struct Count {
    pub workload: &'static str,
    /// Instructions of a pair, without the loop's.
    pub instructions: Option<f64>,
    /// Instructions of the loop, which are subtracted.
    pub loop_instructions: Option<f64>,
    /// Why there is no count.
    pub failure: Option<String>,
}

/// Counts all that the options name.
pub fn all(options: &Options) -> Vec<Row> {
    let loops: Vec<_> = WORKLOADS
        .iter()
        .map(|workload| {
            per_pair(options, &Job { path: "loop", name: "-", workload, preload: None })
        })
        .collect();
    let mut rows = Vec::new();
    for_each_allocator!(rust_row, options, &loops, &mut rows);
    for (name, preload) in libraries(options) {
        row("c", &name, preload.as_deref(), options, &loops, &mut rows);
    }
    rows
}

fn rust_row<A>(name: &str, _: &A, options: &Options, loops: &[Counted], rows: &mut Vec<Row>) {
    row("rust", name, None, options, loops, rows);
}

/// The C libraries: none for libc's, Arenite's, and the peers'.
fn libraries(options: &Options) -> Vec<(String, Option<PathBuf>)> {
    let mut found = vec![("glibc".to_owned(), None)];
    match options.arenite.canonicalize() {
        Ok(path) => found.push(("arenite".to_owned(), Some(path))),
        Err(error) => eprintln!("{}: {error}", options.arenite.display()),
    }
    if let Some(folder) = &options.peers {
        match peers(folder) {
            Ok(peers) => found.extend(peers),
            Err(error) => eprintln!("{}: {error}", folder.display()),
        }
    }
    found
}

/// The `lib*.so` of a folder, by name.
fn peers(folder: &Path) -> std::io::Result<Vec<(String, Option<PathBuf>)>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path().canonicalize()?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("lib") && (name.ends_with(".so") || name.contains(".so.")) {
            found.push((name.to_owned(), Some(path)));
        }
    }
    found.sort();
    Ok(found)
}

type Counted = Result<f64, String>;

fn row(
    path: &'static str,
    name: &str,
    preload: Option<&Path>,
    options: &Options,
    loops: &[Counted],
    rows: &mut Vec<Row>,
) {
    if !name.contains(&options.only) {
        return;
    }
    let counts = WORKLOADS.iter().zip(loops).map(|(workload, of_loop)| {
        let counted = per_pair(options, &Job { path, name, workload, preload });
        let net = counted.and_then(|all| Ok(all - of_loop.clone()?));
        Count {
            workload,
            instructions: net.as_ref().ok().copied(),
            loop_instructions: of_loop.as_ref().ok().copied(),
            failure: net.err(),
        }
    });
    rows.push(Row { path, allocator: name.to_owned(), counts: counts.collect() });
}

struct Job<'a> {
    path: &'a str,
    name: &'a str,
    workload: &'a str,
    preload: Option<&'a Path>,
}

/// Instructions of one pair, the loop's among them.
fn per_pair(options: &Options, job: &Job) -> Counted {
    // Whole bursts and whole rounds of sizes, so that N and 2 N do exactly N pairs more.
    let pairs = options.pairs.next_multiple_of(1000);
    let once = total(job, pairs)?;
    let twice = total(job, 2 * pairs)?;
    Ok((twice as f64 - once as f64) / pairs as f64)
}

/// Instructions of one whole run of the worker.
fn total(job: &Job, pairs: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(this);
    command.args(["--worker", job.path, job.name, job.workload, &pairs.to_string()]);
    if let Some(library) = job.preload {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().map_err(|error| format!("valgrind: {error}"))?;
    match output.status.code() {
        Some(0) => {}
        Some(3) => return Err("not offered".to_owned()),
        _ => return Err(format!("worker: {}", output.status)),
    }
    // callgrind's last lines on stderr: "==123== Collected : 4567".
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok())
        .ok_or_else(|| "valgrind told no count".to_owned())
}
