//! Counts the instructions of allocating and freeing one block, with valgrind's callgrind: by
//! `GlobalAlloc` in this process's allocators, and by `malloc` and `free` in preloaded libraries.
//!
//! A workload runs with N and with 2 N pairs; the difference of the two totals over N is what one
//! pair costs, and no start of a process is in it. What the loop itself costs is measured the
//! same way without an allocator, and subtracted.

mod count;
mod output;
mod worker;

use clap::Parser;
use std::path::PathBuf;

/// Counts the instructions of allocating and freeing one block.
#[derive(Parser)]
struct Options {
    /// Writes the counts as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as a document
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// A folder whose lib*.so are preloaded one after the other
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Arenite's library to preload
    #[arg(long, value_name = "FILE", default_value = "target/release/libarenite.so")]
    arenite: PathBuf,
    /// N, in pairs of malloc and free
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pairs: u64,
    /// Only allocators whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs one workload: PATH ALLOCATOR WORKLOAD PAIRS
    #[arg(long, hide = true, num_args = 4)]
    worker: Option<Vec<String>>,
}

fn main() {
    let options = Options::parse();
    if let Some(job) = &options.worker {
        worker::run(job);
        return;
    }
    let rows = count::all(&options);
    print!("{}", output::markdown(&rows));
    let written = [
        (&options.json, output::write_json as fn(&_, _, &_) -> _),
        (&options.markdown, output::write_markdown),
    ];
    for (path, write) in written {
        if let Some(path) = path
            && let Err(error) = write(path, options.pairs, &rows)
        {
            eprintln!("{}: {error}", path.display());
            std::process::exit(1);
        }
    }
}
