//! The programs of the suite and the commands that run them.

use crate::Places;
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// What a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that people run, on a fixed input.
    Program,
    /// A stress binary of this repository, which writes and checks every byte.
    Checked,
    /// An allocator workload that touches the ends of its blocks only.
    Workload,
    /// A workload again, for the table of threads: the same work in all, over so many threads.
    Scaling(u32),
}

/// A program.
pub struct Program {
    /// Also the name of the file of its results.
    pub name: String,
    pub kind: Kind,
    pub command: Vec<String>,
}

/// Threads of the table of threads.
pub const THREADS: [u32; 5] = [1, 2, 4, 8, 16];

/// Workloads of `workload`, and blocks that each of two threads allocates in about a second.
const WORKLOADS: [(&str, u64); 12] = [
    ("larson", 12_000_000),
    ("burst", 3_000_000),
    ("hand-off", 5_000_000),
    ("mixed", 4_000_000),
    ("small", 12_000_000),
    ("pareto", 5_000_000),
    ("cache-scratch", 5_000_000),
    ("large", 300_000),
    ("batches", 30_000),
    ("calloc", 3_000_000),
    ("realloc", 2_500_000),
    ("threads", 3_000_000),
];

/// Workloads of the table of threads.
const SCALING: [&str; 5] = ["larson", "hand-off", "mixed", "small", "threads"];

/// Stress binaries, operations of each of two threads in about a second, and further options:
/// without limits most of the time is the kernel's, and peers refuse the largest alignments.
const CHECKED: [(&str, u64, &[&str]); 5] = [
    ("larson", 3_000_000, &[]),
    ("producer_consumer", 2_000_000, &[]),
    ("thread_churn", 10_000, &[]),
    ("realloc_mix", 20_000, &["--max-size", "1048576", "--budget", "4194304"]),
    ("alignment_mix", 200_000, &["--max-align", "65536", "--max-size", "262144"]),
];

/// How much smaller a quick run is …
const QUICK: u64 = 20;
/// … and one under valgrind.
const COUNTED: u64 = 8;

/// All programs.
pub fn all(places: &Places) -> Result<Vec<Program>> {
    let mut all = real(places, if places.quick { QUICK } else { 1 })?;
    all.extend(checked(places));
    all.extend(workloads(places));
    all.extend(scaling(places));
    Ok(all)
}

fn program(name: impl Into<String>, kind: Kind, command: &[&str]) -> Program {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    Program { name: name.into(), kind, command }
}

/// The real programs with less to do, for valgrind.
pub fn small(places: &Places) -> Result<Vec<Program>> {
    real(places, COUNTED)
}

/// The real programs, with so much less to do.
fn real(places: &Places, part: u64) -> Result<Vec<Program>> {
    let script = |name: &str| places.root.join("suite/programs").join(name).display().to_string();
    let inputs = places.target.join("suite/inputs");
    let input = |name: &str| {
        let name = if part > 1 { format!("quick-{name}") } else { name.to_owned() };
        inputs.join(name).display().to_string()
    };
    let redis = places.target.join("redis").display().to_string();
    let object = places.target.join("suite/object.o").display().to_string();
    let amount = |full: u64| (full / part).max(1).to_string();
    let cc1 = compiler("gcc", "cc1")?;
    let cc1plus = compiler("g++", "cc1plus")?;
    let read = format!(".read {}", input("script.sql"));
    let python = ["/usr/bin/python3", &script("churn.py"), &amount(30)];
    let own_malloc = [&["env", "PYTHONMALLOC=malloc"], &python[..]].concat();
    let pages = input("pages.ps");
    // Without g++'s driver, which would be preloaded as well, its first search path is missing.
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let entry = |name: &str, command: &[&str]| program(name, Kind::Program, command);
    Ok(vec![
        entry("python", &python),
        entry("python-malloc", &own_malloc),
        entry("numpy", &["/usr/bin/python3", &script("arrays.py"), &amount(16)]),
        entry("ruby", &["/usr/bin/ruby", &script("churn.rb"), &amount(45)]),
        entry("lua", &["lua5.4", &script("churn.lua"), &amount(50)]),
        entry("perl", &["/usr/bin/perl", &script("churn.pl"), &amount(25)]),
        entry("node", &["node", &script("churn.js"), &amount(60)]),
        entry("gcc", &[&cc1, "-quiet", "-O2", &input("source.c"), "-o", "/dev/null"]),
        entry(
            "g++",
            &[
                &cc1plus,
                "-quiet",
                "-imultiarch",
                &multiarch,
                "-D_GNU_SOURCE",
                "-std=c++17",
                "-O1",
                &input("source.cpp"),
                "-o",
                "/dev/null",
            ],
        ),
        // Debian's, on libc's malloc; rustup's brings jemalloc.
        entry(
            "rustc",
            &[
                "/usr/bin/rustc",
                "--edition=2021",
                "--crate-type=lib",
                "-O",
                "--emit=obj",
                &input("source.rs"),
                "-o",
                &object,
            ],
        ),
        entry("z3", &["z3", &input("problem.smt2")]),
        entry(
            "ghostscript",
            &[
                "gs",
                "-q",
                "-dNOPAUSE",
                "-dBATCH",
                "-dSAFER",
                "-sDEVICE=ppmraw",
                "-r75",
                "-sOutputFile=/dev/null",
                &pages,
            ],
        ),
        entry("sqlite", &["sqlite3", ":memory:", &read]),
        entry("redis", &["bash", &script("redis.sh"), &redis, &amount(60_000)]),
    ])
}

/// The compiler itself, behind the driver.
fn compiler(driver: &str, program: &str) -> Result<String> {
    let output = Command::new(driver)
        .arg(format!("-print-prog-name={program}"))
        .output()
        .with_context(|| driver.to_owned())?;
    let path = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(path.starts_with('/'), "{driver} does not know where its {program} is");
    Ok(path)
}

fn release(places: &Places, binary: &str) -> String {
    places.target.join("release").join(binary).display().to_string()
}

fn checked(places: &Places) -> impl Iterator<Item = Program> {
    let threads: &[u64] = if places.quick { &[2] } else { &[2, 8] };
    let all = CHECKED.iter().flat_map(|one| threads.iter().map(move |threads| (one, threads)));
    all.map(|(&(name, ops, options), &threads)| {
        let ops = 2 * ops / threads / if places.quick { QUICK } else { 1 };
        let binary = places.target.join("suite/stress/release").join(name).display().to_string();
        let [ops, threads] = [ops, threads].map(|number| number.to_string());
        let fixed = ["--system", "--seed", "1", "--ops", &ops, "--threads", &threads];
        let command = [&[binary.as_str()], &fixed[..], options].concat();
        program(format!("checked-{name}-{threads}"), Kind::Checked, &command)
    })
}

/// A workload with `ops` blocks for each of two threads, over another number of threads.
fn workload(places: &Places, name: &str, kind: Kind, threads: u32) -> Program {
    let find = WORKLOADS.iter().find(|(workload, _)| *workload == name);
    let (_, ops) = find.expect("one of the workloads");
    let ops = 2 * ops / u64::from(threads) / if places.quick { QUICK } else { 1 };
    let binary = release(places, "workload");
    let [ops, threads] = [ops, threads.into()].map(|number| number.to_string());
    let file = match kind {
        Kind::Scaling(_) => format!("scaling-{name}-{threads}"),
        _ => format!("workload-{name}"),
    };
    program(file, kind, &[&binary, name, "--threads", &threads, "--ops", &ops])
}

fn workloads(places: &Places) -> impl Iterator<Item = Program> {
    WORKLOADS.iter().map(|(name, _)| workload(places, name, Kind::Workload, 2))
}

fn scaling(places: &Places) -> impl Iterator<Item = Program> {
    let names = if places.quick { &SCALING[..1] } else { &SCALING[..] };
    names.iter().flat_map(|name| {
        THREADS.iter().map(|&threads| workload(places, name, Kind::Scaling(threads), threads))
    })
}
