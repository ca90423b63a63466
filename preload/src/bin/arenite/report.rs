//! The figures that the library writes at the end of a process, read back: for the screen, and
//! as JSON for other programs.

use crate::supervise::Ended;
use anyhow::Context;
use comfy_table::{CellAlignment, Table};
use indicatif::{HumanBytes, HumanCount};
use serde::Deserialize;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// Columns of the screen.
const WIDTH: usize = 80;
/// Size classes on the screen.
const CLASSES: usize = 10;

/// One process's figures, as `Stats::write_json` of the core writes them.
#[derive(Debug, Deserialize)]
struct Figures {
    peak_rss_bytes: u64,
    rss_bytes: u64,
    brk_bytes: u64,
    mmap_bytes: u64,
    peak_brk_bytes: u64,
    peak_mmap_bytes: u64,
    huge_blocks: u64,
    huge_bytes: u64,
    arenas: u64,
    heaps: u64,
    thread_caches: u64,
    in_use_blocks: u64,
    in_use_bytes: u64,
    cached_blocks: u64,
    cached_bytes: u64,
    /// Not of older libraries.
    #[serde(default)]
    slab_free_bytes: u64,
    free_chunk_bytes: u64,
    top_bytes: u64,
    remote_frees: u64,
    remote_pending_bytes: u64,
    purged_bytes: u64,
    lock_waits: u64,
    memory_pressure_percent: u64,
    anon_huge_page_bytes: u64,
    huge_page_policy: String,
    kernel_calls: KernelCalls,
    size_classes: Vec<Class>,
}

#[derive(Debug, Deserialize)]
struct KernelCalls {
    brk: u64,
    mmap: u64,
    munmap: u64,
    mremap: u64,
    mprotect: u64,
    madvise: u64,
    futex_wait: u64,
    futex_wake: u64,
}

#[derive(Debug, Deserialize)]
struct Class {
    size: u64,
    slabs: u64,
    closed_slabs: u64,
    in_use: u64,
    cached: u64,
    refilled: u64,
}

impl Figures {
    /// Whether the process never had a block of Arenite.
    fn is_unused(&self) -> bool {
        self.in_use_blocks == 0
            && self.peak_brk_bytes == 0
            && self.peak_mmap_bytes == 0
            && self.size_classes.iter().all(|class| class.refilled == 0)
    }
}

/// What `ARENITE_REPORT` is for a report of each process in the directory.
pub fn pattern(directory: &Path) -> OsString {
    let mut pattern = Vec::new();
    for &byte in directory.as_os_str().as_bytes() {
        pattern.push(byte);
        if byte == b'%' {
            pattern.push(byte);
        }
    }
    pattern.extend(b"/%p");
    OsString::from_vec(pattern)
}

/// What the processes of one run wrote.
#[derive(Debug)]
pub struct Reports {
    /// That of the program itself.
    own: Option<Value>,
    /// Those of the processes that it started.
    others: Vec<Value>,
}

impl Reports {
    /// Reads all reports in the directory, of which that of `pid` is the program's.
    pub fn read(directory: &Path, pid: libc::pid_t) -> Self {
        let mut reports = Self { own: None, others: Vec::new() };
        let Ok(entries) = std::fs::read_dir(directory) else { return reports };
        for entry in entries.flatten() {
            // A process that outlives the program may be about to write its own.
            let Ok(text) = std::fs::read(entry.path()) else { continue };
            let Ok(value) = serde_json::from_slice::<Value>(&text) else { continue };
            if entry.file_name().to_str() == Some(&pid.to_string()) {
                reports.own = Some(value);
            } else {
                reports.others.push(value);
            }
        }
        reports.others.sort_by_key(|value| value.get("pid").and_then(Value::as_u64));
        reports
    }

    /// Whether one of the processes had a block of Arenite's.
    pub fn any_block(&self) -> bool {
        let mut all = self.own.iter().chain(&self.others);
        all.any(|report| Figures::deserialize(report).is_ok_and(|figures| !figures.is_unused()))
    }
}

/// A program that has ended, and all that is known about it.
#[derive(Debug)]
pub struct Finished<'a> {
    pub command: &'a [OsString],
    pub ended: &'a Ended,
    pub reports: &'a Reports,
}

impl Finished<'_> {
    /// One JSON object.
    pub fn json(&self) -> Value {
        let command: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        let status = self.ended.status;
        json!({
            "command": command,
            "exit_status": { "code": status.code(), "signal": status.signal() },
            "wall_seconds": self.ended.wall.as_secs_f64(),
            "user_seconds": self.ended.user.as_secs_f64(),
            "system_seconds": self.ended.system.as_secs_f64(),
            "report": self.reports.own,
            "other_reports": self.reports.others,
        })
    }

    /// At most 24 lines of at most 80 columns.
    pub fn screen(&self) -> String {
        let mut rows = Rows::default();
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        rows.row("Program", words.join(" ").replace('\n', " "));
        let Ended { status, wall, user, system, .. } = self.ended;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
            (None, None) => "unknown".to_owned(),
        };
        let (wall, user, system) = (wall.as_secs_f64(), user.as_secs_f64(), system.as_secs_f64());
        rows.row(
            "Ended",
            format!("{how} after {wall:.3} s; CPU {user:.2} s user, {system:.2} s system"),
        );
        match &self.reports.own {
            None => self.no_report(&mut rows),
            Some(report) => {
                match Figures::deserialize(report).context("the report is of another version") {
                    Err(error) => rows.line(&format!("{error:#}")),
                    Ok(figures) => figures.put(&mut rows),
                }
            }
        }
        match self.reports.others.len() {
            0 => {}
            1 => rows.line("One process that it started wrote a report, too."),
            others => rows.line(&format!("{others} processes that it started wrote reports, too.")),
        }
        rows.0
    }

    fn no_report(&self, rows: &mut Rows) {
        rows.row("Peak RSS", format!("{}, by wait4(2)", HumanBytes(self.ended.max_rss_bytes)));
        if self.ended.status.signal().is_some() {
            rows.line("There is no report: a process that is killed writes none.");
        } else {
            rows.line(
                "There is no report. The program ended by _exit, as some shells do, or never",
            );
            rows.line("loaded the library: static and set-user-ID programs do not.");
        }
    }
}

impl Figures {
    fn put(&self, rows: &mut Rows) {
        let bytes = HumanBytes;
        let count = HumanCount;
        rows.row(
            "Peak RSS",
            format!("{}; {} at the end", bytes(self.peak_rss_bytes), bytes(self.rss_bytes)),
        );
        if self.is_unused() {
            rows.line(
                "The library was loaded, but gave out no block: the program has an allocator of",
            );
            rows.line("its own, or allocates nothing.");
            return;
        }
        rows.row(
            "From the kernel",
            format!(
                "brk {} (peak {}), mmap {} (peak {})",
                bytes(self.brk_bytes),
                bytes(self.peak_brk_bytes),
                bytes(self.mmap_bytes),
                bytes(self.peak_mmap_bytes)
            ),
        );
        rows.row(
            "Arenas",
            format!("{}, heaps {}, thread caches {}", self.arenas, self.heaps, self.thread_caches),
        );
        let huge = match self.huge_blocks {
            0 => String::new(),
            blocks => format!(", of them huge {} ({})", count(blocks), bytes(self.huge_bytes)),
        };
        rows.row(
            "Blocks in use",
            format!("{} ({}){huge}", count(self.in_use_blocks), bytes(self.in_use_bytes)),
        );
        rows.row(
            "Blocks cached",
            format!("{} ({})", count(self.cached_blocks), bytes(self.cached_bytes)),
        );
        rows.row(
            "Free in heaps",
            format!(
                "chunks {}, tops {}, slabs {}",
                bytes(self.free_chunk_bytes),
                bytes(self.top_bytes),
                bytes(self.slab_free_bytes)
            ),
        );
        rows.row(
            "Remote frees",
            format!(
                "{} ({} on their way); lock waits {}",
                count(self.remote_frees),
                bytes(self.remote_pending_bytes),
                count(self.lock_waits)
            ),
        );
        rows.row(
            "Huge pages",
            format!(
                "policy {}, {} at the end; memory pressure {} %",
                self.huge_page_policy,
                bytes(self.anon_huge_page_bytes),
                self.memory_pressure_percent
            ),
        );
        let calls = &self.kernel_calls;
        rows.row(
            "Kernel calls",
            format!(
                "brk {}, mmap {}, munmap {}, mremap {}, mprotect {},",
                count(calls.brk),
                count(calls.mmap),
                count(calls.munmap),
                count(calls.mremap),
                count(calls.mprotect)
            ),
        );
        rows.row(
            "",
            format!(
                "madvise {} (purged {} in all), futex wait {}, futex wake {}",
                count(calls.madvise),
                bytes(self.purged_bytes),
                count(calls.futex_wait),
                count(calls.futex_wake)
            ),
        );
        rows.line(&self.class_table());
    }

    /// The size classes of which threads took most blocks.
    fn class_table(&self) -> String {
        let mut used: Vec<_> =
            self.size_classes.iter().filter(|class| class.refilled > 0).collect();
        used.sort_by_key(|class| (std::cmp::Reverse(class.refilled), class.size));
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["Size class", "Slabs", "Closed", "In use", "Cached", "Refilled"]);
        for class in used.iter().take(CLASSES) {
            let Class { size, slabs, closed_slabs, in_use, cached, refilled } = class;
            let row = [size, slabs, closed_slabs, in_use, cached, refilled];
            table.add_row(row.map(|&n| HumanCount(n).to_string()));
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }
}

/// The name of a signal, or its number.
pub fn signal_name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.to_string(),
        Err(_) => format!("signal {number}"),
    }
}

/// Lines of text, none wider than the screen.
#[derive(Debug, Default)]
struct Rows(String);

impl Rows {
    fn row(&mut self, name: &str, value: impl AsRef<str>) {
        self.line(&format!("{name:<17}{}", value.as_ref()));
    }

    fn line(&mut self, text: &str) {
        for line in text.lines() {
            // An argument may hold anything; what would move the cursor does not reach it.
            let plain = line.replace(char::is_control, " ");
            let _ = match plain.char_indices().nth(WIDTH) {
                None => writeln!(self.0, "{plain}"),
                Some(_) => {
                    writeln!(self.0, "{}…", plain.chars().take(WIDTH - 1).collect::<String>())
                }
            };
        }
    }
}
