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
        for count in &row.counts {
            if let Some(failure) = &count.failure {
                text +=
                    &format!("\n- {} {} {}: {failure}", row.path, row.allocator, count.workload);
            }
        }
    }
    text + "\n"
}

fn cell(count: &Count) -> String {
    count.instructions.map_or_else(|| "–".to_owned(), |count| format!("{count:.1}"))
}

/// Writes the counts, with N in pairs.
pub fn write_json(path: &Path, pairs: u64, rows: &[Row]) -> io::Result<()> {
    let document = serde_json::json!({ "pairs": pairs, "rows": rows });
    serde_json::to_writer_pretty(File::create(path)?, &document).map_err(io::Error::from)
}
