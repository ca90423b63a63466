//! The counts as a Markdown table and as JSON.

use crate::count::{Count, Row};
use crate::worker::WORKLOADS;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use std::fs::File;
use std::io;
use std::path::Path;

/// A table of instructions per pair, and below it what could not be counted.
pub fn markdown(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["path", "allocator"].into_iter().chain(WORKLOADS));
    for row in rows {
        let cells = row.counts.iter().map(cell);
        table.add_row([row.path.to_owned(), row.allocator.clone()].into_iter().chain(cells));
    }
    let mut text = format!("{table}\n");
    for row in rows {
        for failure in failures(row) {
            text += &format!("\n- {} {} {failure}", row.path, row.allocator);
        }
    }
    text + "\n"
}

/// Why an allocator has no counts: each reason once, with the workloads that it holds for.
fn failures(row: &Row) -> Vec<String> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for count in &row.counts {
        let Some(failure) = count.failure.as_deref() else { continue };
        match found.iter_mut().find(|(reason, _)| *reason == failure) {
            Some((_, workloads)) => workloads.push(count.workload),
            None => found.push((failure, vec![count.workload])),
        }
    }
    found
        .iter()
        .map(|(reason, workloads)| format!("({}): {reason}", workloads.join(", ")))
        .collect()
}

/// Writes the table as a document of its own.
pub fn write_markdown(path: &Path, pairs: u64, rows: &[Row]) -> io::Result<()> {
    let text = format!(
        "# Instructions of a pair of malloc and free\n\n\
         Counted by callgrind over {pairs} pairs, without the loop's own; what the workloads are is in the\n\
         [README](README.md#instructions), with the command that writes this file. A lower count is not yet\n\
         less time. –: the allocator has no such function, or does not run under valgrind; Google's tcmalloc\n\
         runs without its caches of CPUs there, since valgrind has no rseq(2).\n\n{}",
        markdown(rows)
    );
    std::fs::write(path, text.trim_end().to_owned() + "\n")
}

fn cell(count: &Count) -> String {
    count.instructions.map_or_else(|| "–".to_owned(), |count| format!("{count:.1}"))
}

/// Writes the counts, with N in pairs.
pub fn write_json(path: &Path, pairs: u64, rows: &[Row]) -> io::Result<()> {
    let document = serde_json::json!({ "pairs": pairs, "rows": rows });
    serde_json::to_writer_pretty(File::create(path)?, &document).map_err(io::Error::from)
}
