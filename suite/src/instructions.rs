//! Counts the instructions of whole programs on every allocator, under valgrind. They differ from run to
//! run by less than a percent, so that they show what no time on a shared machine does; they do not
//! show what waits for memory, for the kernel, or for other threads.

use crate::analysis::geometric_mean;
use crate::machine::{self, cpus, peers};
use crate::measure::PEER_VARIABLE;
use crate::programs::{self, Program};
use crate::{Places, comparison, report};
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Programs of one process and one thread, without code made at run time.
const PROGRAMS: [&str; 10] =
    ["python", "python-malloc", "ruby", "lua", "perl", "gcc", "g++", "z3", "ghostscript", "sqlite"];

/// An allocator and its library; none for the C library's own.
type Allocator = (String, Option<PathBuf>);

/// Millions of instructions, or none if the program failed: by program, then by allocator.
type Counts = Vec<Vec<Option<f64>>>;

/// Counts, and writes INSTRUCTIONS.md.
pub fn write(places: &Places) -> Result<()> {
    let mut programs = programs::small(places)?;
    programs.retain(|program| PROGRAMS.contains(&program.name.as_str()));
    let arenite = places.target.join("release/libarenite.so");
    let mut allocators: Vec<Allocator> =
        vec![(comparison::ARENITE.to_owned(), Some(arenite)), ("system".to_owned(), None)];
    for peer in peers(places)? {
        let library = places.peers().join(format!("lib{}.so", peer.name));
        allocators.push((peer.name, Some(library)));
    }
    let counts = count_all(&programs, &allocators)?;
    let file = places.report().join("INSTRUCTIONS.md");
    fs::write(&file, text(places, &programs, &allocators, &counts)?)?;
    println!("{}", file.display());
    Ok(())
}

/// Runs as many programs at once as there are CPUs, which does not change a count.
fn count_all(programs: &[Program], allocators: &[Allocator]) -> Result<Counts> {
    let all = programs.len() * allocators.len();
    let style = ProgressStyle::with_template("{pos}/{len} {elapsed}")?;
    let progress = ProgressBar::new(all as u64).with_style(style);
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(vec![vec![None; allocators.len()]; programs.len()]);
    thread::scope(|scope| -> Result<()> {
        let worker = || -> Result<()> {
            loop {
                // Relaxed: each number is had once, which is all that matters.
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= all {
                    return Ok(());
                }
                let (program, allocator) = (job / allocators.len(), job % allocators.len());
                let count = count(&programs[program], &allocators[allocator])?;
                counts.lock().unwrap_or_else(PoisonError::into_inner)[program][allocator] = count;
                progress.inc(1);
            }
        };
        let workers: Vec<_> = (0..cpus()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    })?;
    progress.finish_and_clear();
    Ok(counts.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Millions of instructions of one program, in user mode; none if it fails, which some do under valgrind.
fn count(program: &Program, (name, library): &Allocator) -> Result<Option<f64>> {
    let mut command = Command::new("valgrind");
    // Not the driver's, such as env(1)'s, which runs the program in its place.
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--trace-children=yes"]);
    command.args(&program.command);
    command.env("PYTHONHASHSEED", "0").env("PERL_HASH_SEED", "0");
    let (peer, variable, value) = PEER_VARIABLE;
    if name == peer {
        command.env(variable, value);
    }
    if let Some(library) = library {
        ensure!(library.exists(), "{} is missing", library.display());
        command.env("LD_PRELOAD", library);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().context("valgrind")?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected =
        log.lines().filter_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok());
    let instructions: u64 = collected.sum();
    Ok((output.status.success() && instructions > 0).then_some(instructions as f64 / 1e6))
}

fn text(
    places: &Places,
    programs: &[Program],
    allocators: &[Allocator],
    counts: &Counts,
) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "# Instructions of whole programs\n")?;
    writeln!(
        text,
        "Written by `target/release/suite instructions`: instructions in user mode that callgrind counts, on\n\
         smaller inputs than those of [RESULTS.md](RESULTS.md), relative to the best peer, whose own figure is\n\
         in the second column. –: does not run under valgrind.\n"
    )?;
    writeln!(text, "{}", report::facts(machine::commit(places)))?;
    let mut head = vec!["program", "best peer"];
    head.extend(allocators.iter().map(|(name, _)| name.as_str()));
    let mut rows = Vec::new();
    let mut ratios = vec![Vec::new(); allocators.len()];
    for (program, counts) in programs.iter().zip(counts) {
        let peers =
            allocators.iter().zip(counts).filter(|((name, _), _)| name != comparison::ARENITE);
        let best = peers.filter_map(|(_, count)| *count).min_by(f64::total_cmp);
        let best = best.with_context(|| format!("{} ran on no peer", program.name))?;
        let mut row = vec![program.name.clone(), format!("{best:.0} M")];
        for (count, ratios) in counts.iter().zip(&mut ratios) {
            let ratio = count.map(|count| count / best);
            ratios.extend(ratio);
            row.push(ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}")));
        }
        rows.push(row);
    }
    let mut means = vec!["**geometric mean**".to_owned(), String::new()];
    for ratios in ratios {
        // Of those that ran everything: else it would be one over other programs.
        let mean = geometric_mean(ratios).filter(|mean| mean.programs == programs.len());
        means.push(mean.map_or_else(|| "–".to_owned(), |mean| format!("{:.3}", mean.value)));
    }
    rows.push(means);
    writeln!(text, "{}", report::text_table(&head, rows))?;
    Ok(format!("{}\n", text.trim_end()))
}
