//! What `arenite run --report`, and a report as JSON, say of a program.

mod common;

use common::command::{arenite, compile, json, number, shell};
use common::{finish, library, scratch};
use std::path::Path;
use std::process::{Command, Stdio};

/// Keeps 1000 blocks of 100 bytes. Their class is that of 112, but the first few of a program may
/// be blocks of a larger class.
const KEEP: &str = "
    #include <stdlib.h>
    #include <string.h>
    static char *kept[1000];
    int main(void) {
        for (int i = 0; i < 1000; i++)
            memset(kept[i] = malloc(100), 1, 100);
        return kept[999][99] - 1;
    }";

#[test]
fn the_report_fits_on_a_screen_and_has_all_figures() {
    let program = compile("keep_screen", KEEP, &[]);
    let mut command = arenite(&["run", "--report", "--"]);
    command.arg(&program).args(["with", "two\nlines", &"long ".repeat(100)]);
    let outcome = finish(command);
    assert!(outcome.status.success() && outcome.stdout.is_empty(), "{outcome}");
    assert!(outcome.stderr.lines().count() <= 24, "{outcome}");
    assert!(outcome.stderr.lines().all(|line| line.chars().count() <= 80), "{outcome}");
    for part in [
        "keep_screen",
        "exit status 0 after",
        "Peak RSS",
        "brk",
        "mmap",
        "peak",
        "Arenas",
        "heaps",
        "Blocks in use",
        "Blocks cached",
        "Remote frees",
        "lock waits",
        "Kernel calls",
        "munmap",
        "madvise",
        "futex wait",
        "Huge pages",
        "policy never",
        "memory pressure",
        "Size class",
        "Slabs",
        "Closed",
        "In use",
        "Cached",
        "Refilled",
    ] {
        assert!(outcome.stderr.contains(part), "no {part:?} in {outcome}");
    }
    let class: Vec<_> = outcome
        .stderr
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&"112"))
        .unwrap_or_else(|| panic!("no class of 112 bytes in {outcome}"));
    let in_use: u64 = class[3].replace(',', "").parse().expect("a number");
    assert!((900..=1000).contains(&in_use), "{outcome}");
}

#[test]
fn the_json_has_the_figures_of_a_known_program() {
    let program = compile("keep_json", KEEP, &[]);
    let path = scratch().join("keep.json");
    let mut command = arenite(&["run", "--report-json"]);
    command.arg(&path).arg("--").arg(&program).arg("argument");
    let outcome = finish(command);
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome}");
    let found = json(&path);
    assert_eq!(found["command"][0].as_str(), program.to_str());
    assert_eq!(found["command"][1], "argument");
    assert_eq!(number(&found, "/exit_status/code"), 0);
    assert!(found["exit_status"]["signal"].is_null());
    let wall = found["wall_seconds"].as_f64().expect("a number");
    assert!(wall > 0.0 && wall < 100.0);
    assert_eq!(found["other_reports"].as_array().map(Vec::len), Some(0));

    let report = &found["report"];
    assert!(number(report, "/pid") > 1);
    assert!((1000..1500).contains(&number(report, "/in_use_blocks")));
    assert!(number(report, "/in_use_bytes") >= 112_000);
    assert!(number(report, "/brk_bytes") + number(report, "/mmap_bytes") >= 112_000);
    assert!(number(report, "/peak_brk_bytes") >= number(report, "/brk_bytes"));
    assert_eq!(number(report, "/arenas"), 1);
    assert_eq!(report["huge_page_policy"], "never");
    assert!(number(report, "/anon_huge_page_bytes") <= number(report, "/rss_bytes"));
    assert!(number(report, "/memory_pressure_percent") <= 100);
    assert!(number(report, "/kernel_calls/brk") + number(report, "/kernel_calls/mmap") > 0);
    let parts =
        ["in_use_bytes", "slab_free_bytes", "free_chunk_bytes", "top_bytes", "cached_bytes"];
    let parts: u64 = parts.map(|part| number(report, &format!("/{part}"))).iter().sum();
    let huge = number(report, "/huge_bytes") + number(report, "/kept_huge_bytes");
    assert_eq!(number(report, "/heap_bytes"), parts - huge, "{report}");
    assert!(number(report, "/peak_heap_bytes") >= number(report, "/heap_bytes"));
    let classes = report["size_classes"].as_array().expect("size classes");
    let of_size = |size: u64| classes.iter().find(|class| number(class, "/size") == size);
    let class = of_size(112).expect("the class of 112 bytes");
    assert!((900..=1000).contains(&number(class, "/in_use")), "{class}");
    let larger = of_size(128).expect("the class of 128 bytes");
    let both = number(class, "/in_use") + number(larger, "/in_use");
    assert!((1000..1100).contains(&both), "{class} {larger}");
    assert!(number(class, "/refilled") >= number(class, "/in_use"));
    assert!(number(class, "/slabs") * 16 * 1024 >= 100_000);
}

/// The command is larger than a small program; its memory must not count as the program's.
#[test]
fn peak_rss_is_the_programs_alone() {
    let program = compile("keep_rss", KEEP, &[]);
    let (with, without) = (scratch().join("with.json"), scratch().join("without.json"));
    let mut command = arenite(&["run", "--report-json"]);
    command.arg(&with).arg("--").arg(&program);
    finish(command).expect_success();
    let mut command = Command::new(&program);
    command.env("LD_PRELOAD", library()).env("ARENITE_REPORT", &without);
    finish(command).expect_success();
    let with = number(&json(&with), "/report/peak_rss_bytes");
    let without = number(&json(&without), "/peak_rss_bytes");
    assert!(with.abs_diff(without) < 512 * 1024, "{with} under the command, {without} alone");
}

#[test]
fn reports_are_found_in_a_directory_of_any_name() {
    let place = scratch().join("100%p and %% of it");
    std::fs::create_dir_all(&place).expect("create a directory");
    let mut command = arenite(&["run", "--report", "--", "ls"]);
    command.env("TMPDIR", &place);
    let outcome = finish(command);
    assert!(outcome.stderr.contains("Blocks in use"), "{outcome}");
}

#[test]
fn a_process_that_ends_waits_for_nobody_to_read_its_report() {
    let pipe = scratch().join("report.pipe");
    let opened = scratch().join("report.pipe.open");
    for file in [&pipe, &opened] {
        let _ = std::fs::remove_file(file);
    }
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("run mkfifo").success());
    let report = |program: &[&str]| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).env("LD_PRELOAD", library()).env("ARENITE_REPORT", &pipe);
        finish(command)
    };
    report(&["ls"]).expect_success();
    // One that is there gets all of it, however slowly it reads.
    let reader = Command::new("sh")
        .args(["-c", "exec 3<>\"$1\"; : >\"$1.open\"; sleep 1; timeout 60 head -c 4000 <&3", "sh"])
        .arg(&pipe)
        .stdout(Stdio::piped())
        .spawn()
        .expect("run sh");
    while !opened.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    report(&["ls"]).expect_success();
    let output = reader.wait_with_output().expect("wait for the reader");
    assert!(output.stdout.starts_with(b"{\"version\":1"), "{output:?}");
    assert_eq!(output.stdout.len(), 4000);
}

#[test]
fn the_processes_of_the_tree_are_counted() {
    let program = compile("keep_tree", KEEP, &[]);
    let path = scratch().join("tree.json");
    let mut command = arenite(&["run", "--report", "--report-json"]);
    command.arg(&path).args(["--", "sh", "-c", "\"$0\"; \"$0\" & wait; exec \"$0\""]).arg(&program);
    let outcome = finish(command);
    assert!(outcome.stderr.contains("2 processes that it started wrote reports"), "{outcome}");
    let found = json(&path);
    // The shell became the program, under the same process id.
    for report in [&found["report"], &found["other_reports"][0], &found["other_reports"][1]] {
        assert!(number(report, "/in_use_blocks") >= 1000, "{found}");
    }
    assert_eq!(found["other_reports"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_report_says_why_there_are_no_figures() {
    let report = |program: &Path| {
        let mut command = arenite(&["run", "--report", "--"]);
        command.arg(program);
        finish(command)
    };
    let outcome = shell(&["run", "--report"], "kill -KILL $$");
    assert!(outcome.stderr.contains("killed by SIGKILL"), "{outcome}");
    assert!(outcome.stderr.contains("a process that is killed writes none"), "{outcome}");

    let source = "#include <unistd.h>\nint main(void) { _exit(4); }";
    let outcome = report(&compile("underscore_exit", source, &[]));
    assert_eq!(outcome.status.code(), Some(4));
    assert!(outcome.stderr.contains("exit status 4"), "{outcome}");
    assert!(outcome.stderr.contains("There is no report."), "{outcome}");

    let outcome = report(&compile("keep_static", KEEP, &["-static"]));
    assert!(outcome.status.success());
    assert!(outcome.stderr.contains("There is no report."), "{outcome}");

    let outcome = report(&compile("empty", "int main(void) { return 0; }", &[]));
    assert!(outcome.stderr.contains("gave out no block"), "{outcome}");
}

#[test]
fn blocks_that_are_runs_of_pages_are_blocks() {
    let source = "
        #include <stdlib.h>
        int main(void) { free(malloc(40000)); return 0; }";
    let program = compile("runs_of_pages", source, &[]);
    let mut command = arenite(&["run", "--report", "--"]);
    command.arg(&program);
    let outcome = finish(command);
    assert!(outcome.stderr.contains("Blocks in use"), "{outcome}");
}

#[test]
fn figures_are_found_behind_many_groups() {
    let mut command = Command::new("setpriv");
    let groups: Vec<_> = (1_000_000_000..1_000_000_400).map(|group| group.to_string()).collect();
    command.args(["--groups", &groups.join(","), env!("CARGO_BIN_EXE_arenite")]);
    command.args(["run", "--report", "--", "ls"]).env("ARENITE_LIBRARY", library());
    // Who may not have them has none.
    let may = Command::new("setpriv").args(["--groups", &groups[0], "true"]).output();
    if may.is_ok_and(|output| output.status.success()) {
        let outcome = finish(command);
        let mut lines = outcome.stderr.lines();
        let peak = lines.find_map(|line| line.strip_prefix("Peak RSS")).expect("a peak");
        assert!(!peak.contains(" 0 B"), "{outcome}");
    }
}
