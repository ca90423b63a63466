//! `arenite compare`: what it runs and in which order, what it makes of failures, its figures.

mod common;

use common::{Outcome, compile, compile_with, finish, library, scratch};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `arenite compare` with the release library, and only the system's malloc beside it.
fn compare(args: &[&str]) -> Command {
    let mut command = bare(args);
    command.args(["--only", "system"]);
    command
}

/// The same with all allocators.
fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
    command.arg("compare").args(args).env("ARENITE_LIBRARY", library()).env_remove("LD_PRELOAD");
    command
}

/// Runs the command on a shell script.
#[track_caller]
fn script(mut command: Command, script: &str) -> Outcome {
    command.args(["--", "sh", "-c", script]);
    finish(command)
}

/// A file of this test's own that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let path = scratch().join(name);
    let _ = std::fs::remove_file(&path);
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("read the log");
    text.lines().map(str::to_owned).collect()
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).expect("read the JSON");
    serde_json::from_slice(&text).expect("parse the JSON")
}

#[track_caller]
fn allocator<'a>(json: &'a Value, name: &str) -> &'a Value {
    let all = json["allocators"].as_array().expect("allocators");
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {json}"))
}

fn names(json: &Value) -> Vec<&str> {
    let all = json["allocators"].as_array().expect("allocators");
    all.iter().map(|one| one["name"].as_str().expect("a name")).collect()
}

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> =
        value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn rounds_are_interleaved_and_start_with_another_each_time() {
    let log = fresh("order");
    let other = format!("other={}", text(library()));
    let mut command = compare(&["--runs", "5", "--warmup", "1", "--with", &other]);
    command.args(["--only", "other"]);
    for name in ["arenite", "system", "other"] {
        command.args(["--env", &format!("{name}:WHO={name}")]);
    }
    script(command, &format!("echo $WHO >> {}", text(&log))).expect_success();
    let order = lines(&log);
    assert_eq!(order.len(), 6 * 3, "{order:?}");
    let rounds: Vec<_> = order.chunks(3).collect();
    for round in &rounds {
        assert_eq!(round.iter().collect::<HashSet<_>>().len(), 3, "{order:?}");
    }
    for rounds in rounds.chunks(3) {
        let first: HashSet<_> = rounds.iter().map(|round| &round[0]).collect();
        assert_eq!(first.len(), 3, "{order:?}");
    }
    let mut before: HashMap<_, HashSet<_>> = HashMap::new();
    for pair in order.windows(2) {
        before.entry(&pair[1]).or_default().insert(&pair[0]);
    }
    assert!(before.values().all(|before| before.len() >= 2), "{order:?}");
}

#[test]
fn the_json_has_the_schema_and_a_sample_of_each_run() {
    let path = fresh("schema.json");
    let mut command = compare(&["--runs", "4", "--control", "--json", text(&path)]);
    command.args(["--env", "system:COLOUR=blue", "--", "sh", "-c", "ls / | sort", "argument"]);
    finish(command).expect_success();
    let found = json(&path);
    assert_eq!(keys(&found), ["allocators", "command", "runs", "version"]);
    assert_eq!(found["version"], 1);
    assert_eq!(found["runs"], 4);
    assert_eq!(found["command"], serde_json::json!(["sh", "-c", "ls / | sort", "argument"]));
    assert_eq!(names(&found), ["arenite", "arenite-again", "system"]);
    for one in found["allocators"].as_array().expect("allocators") {
        check_allocator(one, 4);
    }
    let library = library().canonicalize().expect("the library");
    assert_eq!(allocator(&found, "arenite")["library"].as_str(), library.to_str());
    assert!(allocator(&found, "system")["library"].is_null());
    assert_eq!(allocator(&found, "system")["environment"]["COLOUR"], "blue");
    assert_eq!(allocator(&found, "arenite")["environment"], Value::Object(Map::new()));
}

/// An allocator that did not fail.
#[track_caller]
fn check_allocator(one: &Value, runs: usize) {
    let expected = ["environment", "failure", "library", "name", "samples", "summary"];
    assert_eq!(keys(one), expected);
    assert!(one["failure"].is_null(), "{one}");
    let samples = one["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), runs);
    for sample in samples {
        let expected =
            ["major_faults", "minor_faults", "peak_rss_bytes", "system_s", "user_s", "wall_s"];
        assert_eq!(keys(sample), expected);
        assert!(sample["wall_s"].as_f64().expect("a number") > 0.0);
        assert!(sample["peak_rss_bytes"].as_u64().expect("a whole number") > 100_000);
        assert!(sample["minor_faults"].as_u64().expect("a whole number") > 10);
    }
    let summary = &one["summary"];
    let expected = ["cpu_s", "minor_faults", "peak_rss_bytes", "system_s", "user_s", "wall_s"];
    assert_eq!(keys(summary), expected);
    for key in expected {
        let figure = &summary[key];
        assert_eq!(keys(figure), ["max", "median", "min", "ratio"]);
        let number = |name: &str| figure[name].as_f64().expect("a number");
        assert!(number("min") <= number("median") && number("median") <= number("max"));
    }
    for key in ["wall_s", "peak_rss_bytes", "minor_faults"] {
        let ratio = &summary[key]["ratio"];
        if one["name"] == "arenite" {
            assert!(ratio.is_null());
            continue;
        }
        assert_eq!(keys(ratio), ["high", "low", "value"]);
        let number = |name: &str| ratio[name].as_f64().expect("a number");
        assert!(number("low") <= number("value") && number("value") <= number("high"), "{ratio}");
    }
}

#[test]
fn the_ratio_is_this_allocator_to_arenite() {
    let path = fresh("ratio.json");
    let command = compare(&["--runs", "3", "--env", "system:SLOW=1", "--json", text(&path)]);
    // About 40 MB in a shell variable, far more than anything else there.
    let outcome =
        script(command, "[ -z \"$SLOW\" ] || x=$(head -c 40000000 /dev/zero | tr '\\0' x)");
    outcome.expect_success();
    let found = json(&path);
    let summary = &allocator(&found, "system")["summary"]["peak_rss_bytes"];
    assert!(summary["ratio"]["low"].as_f64().expect("an interval") > 3.0, "{summary}");
    assert!(summary["median"].as_f64().expect("a number") > 40e6, "{summary}");
    for part in ["Ratio to Arenite", "95 % confidence interval", "Wall time", "Peak RSS", "MiB"] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
    }
}

/// Of a program of which the first run alone is short no two runs agree, and all do that may differ by any amount.
#[test]
fn it_goes_on_until_the_shortest_runs_agree() {
    for (percent, runs) in [("10", 8), ("1e9", 2)] {
        let path = fresh("settle.json");
        let mut command =
            compare(&["--runs", "2", "--warmup", "0", "--control", "--settle", percent]);
        let mark = fresh("settle.mark");
        command.args(["--env", &format!("system:MARK={}", text(&mark)), "--json", text(&path)]);
        let slow = "[ -z \"$MARK\" ] || { [ -e \"$MARK\" ] && head -c 40000000 /dev/zero | tr '\\0' x >/dev/null; \
                    touch \"$MARK\"; }";
        script(command, slow).expect_success();
        let found = json(&path);
        assert_eq!(found["runs"], runs);
        let expected = ["arenite", "arenite-again", "system"].map(|name| (name, runs));
        check_samples(&found, &expected);
    }
}

#[test]
fn fewer_than_three_runs_have_no_interval() {
    let path = fresh("few.json");
    let outcome = script(compare(&["--runs", "2", "--json", text(&path)]), "ls / | sort");
    outcome.expect_success();
    assert!(outcome.stdout.contains("needs 3 runs"), "{outcome}");
    assert!(!outcome.stdout.contains("no difference seen"), "{outcome}");
    let found = json(&path);
    let ratio = &allocator(&found, "system")["summary"]["wall_s"]["ratio"];
    assert!(ratio["value"].as_f64().expect("a ratio") > 0.0);
    assert!(ratio["low"].is_null() && ratio["high"].is_null());
}

/// The kernel keeps a peak over exec, and the command is larger than this program.
#[test]
fn peak_rss_is_as_a_small_parent_sees_it() {
    let path = fresh("rss.json");
    let mut command = compare(&["--runs", "5", "--json", text(&path)]);
    command.args(["--", "/bin/true"]);
    finish(command).expect_success();
    let found = json(&path);
    let under = allocator(&found, "system")["summary"]["peak_rss_bytes"]["median"].as_f64();
    let under = under.expect("a number") as u64;
    let mut alone: Vec<_> = (0..5)
        .map(|_| {
            let mut parent = Command::new(compile("parent.c"));
            parent.arg("/bin/true");
            finish(parent).expect_success().number("peak_rss_bytes")
        })
        .collect();
    alone.sort_unstable();
    assert!(under.abs_diff(alone[2]) < 200 * 1024, "{under} under the command, {alone:?} alone");
}

#[test]
fn a_failing_program_is_reported_with_its_status_and_last_words() {
    let log = fresh("failing");
    let failing = format!("echo run >> {}; echo the reason >&2; exit 3", text(&log));
    let outcome = script(compare(&["--runs", "2"]), &failing);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(outcome.stdout.contains("arenite failed: exit status 3\n    the reason"), "{outcome}");
    assert!(outcome.stdout.contains("Stopped"), "{outcome}");
    assert_eq!(lines(&log).len(), 1);

    let outcome = script(compare(&["--runs", "2", "--keep-going"]), &failing);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(outcome.stdout.contains("system failed: exit status 3"), "{outcome}");
    assert!(!outcome.stdout.contains("Stopped"), "{outcome}");

    script(compare(&["--runs", "1", "--ok-status", "4", "--ok-status", "3"]), &failing)
        .expect_success();

    let outcome = script(compare(&["--runs", "1"]), "kill -SEGV $$");
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(outcome.stdout.contains("arenite failed: killed by SIGSEGV"), "{outcome}");
}

#[test]
fn without_arenite_there_is_no_ratio() {
    let path = fresh("no-base.json");
    let args = ["--runs", "3", "--keep-going", "--env", "arenite:BREAK=1", "--json", text(&path)];
    let outcome = script(compare(&args), "[ -z \"$BREAK\" ]");
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(!outcome.stdout.contains("Ratio"), "{outcome}");
    let found = json(&path);
    assert_eq!(allocator(&found, "arenite")["failure"], "exit status 1");
    assert!(allocator(&found, "arenite")["summary"].is_null());
    let system = allocator(&found, "system");
    assert_eq!(system["samples"].as_array().map(Vec::len), Some(3));
    assert!(system["summary"]["wall_s"]["ratio"].is_null());
}

/// A library of the test's own.
fn peer(name: &str, source: &str) -> PathBuf {
    let path = scratch().join(format!("{name}.c"));
    std::fs::write(&path, source).expect("write the source");
    let library = path.with_extension("so");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-fno-builtin", "-o"])
        .args([&library, &path])
        .output()
        .expect("cc does not start");
    assert!(output.status.success(), "{name} does not compile: {output:?}");
    library
}

#[test]
fn a_failing_peer_is_shown_and_is_not_the_commands_failure() {
    // Ends every program but the launcher.
    let breaks = peer(
        "breaks",
        "#define _GNU_SOURCE
        #include <errno.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        void *__libc_malloc(size_t);
        void *malloc(size_t size) { return __libc_malloc(size); }
        __attribute__((constructor)) static void start(void) {
            if (strncmp(program_invocation_short_name, \"arenite\", 7) != 0) {
                fprintf(stderr, \"first\\nthe heap is broken\\n\");
                abort();
            }
        }",
    );
    let nothing = peer("nothing", "int nothing_at_all;");
    let truncated = fresh("truncated.so");
    std::fs::write(&truncated, b"\x7fELF and no more").expect("write a file");
    let path = fresh("peers.json");
    let mut command = compare(&["--runs", "2", "--json", text(&path)]);
    for (name, path) in [("breaks", &breaks), ("nothing", &nothing), ("truncated", &truncated)] {
        command.args(["--with", &format!("{name}={}", text(path)), "--only", name]);
    }
    let outcome = script(command, "ls / | sort");
    assert_eq!(outcome.status.code(), Some(0), "{outcome}");
    for part in [
        "breaks failed: killed by SIGABRT\n    first\n    the heap is broken",
        "nothing failed: it does not define malloc",
        "truncated failed: it can not be preloaded: ",
    ] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
    }
    let found = json(&path);
    assert_eq!(names(&found), ["arenite", "system", "breaks", "nothing", "truncated"]);
    assert_eq!(allocator(&found, "breaks")["failure"], "killed by SIGABRT");
    check_samples(&found, &[("arenite", 2), ("system", 2), ("breaks", 0), ("nothing", 0)]);
}

#[track_caller]
fn check_samples(found: &Value, expected: &[(&str, usize)]) {
    for &(name, count) in expected {
        let samples = allocator(found, name)["samples"].as_array().expect("samples");
        assert_eq!(samples.len(), count, "{name}");
    }
}

#[test]
fn what_can_not_be_done_is_said() {
    let fails = |args: &[&str], status: i32, message: &str| {
        let outcome = finish(bare(args));
        assert_eq!(outcome.status.code(), Some(status), "{outcome}");
        assert!(outcome.stderr.contains(message), "no {message:?} in {outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    };
    let text_file = fresh("text.so");
    std::fs::write(&text_file, "not a library").expect("write a file");
    let with_text = format!("x={}", text(&text_file));
    fails(
        &["--with", "x=/no/such/lib.so", "--", "true"],
        125,
        "--with x: /no/such/lib.so: No such",
    );
    fails(&["--with", &with_text, "--", "true"], 125, "text.so: not a shared library");
    fails(&["--peers", "/no/such/place", "--", "true"], 125, "--peers /no/such/place: No such");
    fails(&["--only", "nobody", "--", "true"], 125, "'nobody', only arenite, system");
    fails(&["--env", "nobody:A=1", "--", "true"], 125, "'nobody', only arenite, system");
    fails(&["--json", "/no/such/file", "--", "true"], 125, "/no/such/file: No such");
    fails(&["--plot", "/no/such/file", "--", "true"], 125, "/no/such/file: No such");
    fails(&["--prepare", "exit 7", "--", "true"], 125, "--prepare: exit status 7");
    fails(&["--", "no-such-program"], 127, "arenite: no-such-program: not found");
    fails(&["--", env!("CARGO_MANIFEST_DIR")], 126, "Permission denied");
}

#[test]
fn the_launcher_is_missed() {
    let place = scratch().join("alone");
    std::fs::create_dir_all(&place).expect("create a directory");
    // By another process: a file that is open for writing can not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_arenite")).arg(&place).status();
    assert!(copied.expect("run cp").success());
    let mut command = Command::new(place.join("arenite"));
    command.args(["compare", "--", "true"]).env("ARENITE_LIBRARY", library());
    let outcome = finish(command);
    assert_eq!(outcome.status.code(), Some(125), "{outcome}");
    assert!(outcome.stderr.contains("alone/arenite-launch is missing"), "{outcome}");
}

#[test]
fn the_program_gets_its_own_preload_no_input_and_is_not_heard() {
    let mut command = compare(&["--runs", "2"]);
    command
        .args(["--env", &format!("arenite:EXPECTED={}", text(&library().canonicalize().unwrap()))])
        .env("LD_PRELOAD", peer("preloaded", "int preloaded;"));
    let quiet = "echo heard; echo heard >&2; [ \"$LD_PRELOAD\" = \"$EXPECTED\" ] &&
        [ $(readlink /proc/self/fd/0) = /dev/null ]";
    let outcome = script(command, quiet);
    assert_eq!(outcome.status.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stderr, "arenite: LD_PRELOAD is not passed on to the program\n");
    assert!(!outcome.stdout.contains("heard"), "{outcome}");

    let outcome = script(compare(&["--runs", "2", "--show-output"]), "echo heard; echo seen >&2");
    assert_eq!(outcome.stdout.matches("heard").count(), 1, "{outcome}");
    assert_eq!(outcome.stderr, "seen\n");
}

#[test]
fn the_preparation_goes_before_each_run() {
    let log = fresh("prepared");
    let prepare = format!("echo prepare >> {}", text(&log));
    let command = compare(&["--runs", "2", "--warmup", "0", "--prepare", &prepare]);
    script(command, &format!("echo run >> {}", text(&log))).expect_success();
    assert_eq!(lines(&log), ["prepare", "run"].repeat(4));
    // It may leave something in the background, which is not waited for.
    let prepare = format!("(sleep 60; echo late >> {}) & echo said", text(&log));
    let command = compare(&["--runs", "1", "--warmup", "0", "--prepare", &prepare]);
    script(command, "true").expect_success();
    assert_eq!(lines(&log).len(), 8);
}

#[test]
fn arenites_own_library_is_no_peer_in_a_directory() {
    let place = scratch().join("own_library");
    std::fs::create_dir_all(&place).expect("create a directory");
    std::fs::copy(library(), place.join("libarenite.so")).expect("copy the library");
    let path = fresh("own_library.json");
    let mut command = compare(&["--runs", "1", "--warmup", "0", "--json", text(&path)]);
    command.args(["--peers", text(&place), "--only", "system"]);
    script(command, "true").expect_success();
    assert_eq!(names(&json(&path)), ["arenite", "system"]);
}

#[test]
fn mimalloc_runs_twice_the_second_time_without_huge_pages() {
    let log = fresh("huge-pages");
    let path = fresh("huge-pages.json");
    let with = format!("mimalloc={}", text(library()));
    let mut command = compare(&["--runs", "1", "--warmup", "0", "--with", &with]);
    command.args(["--only", "mimalloc", "--only", "mimalloc-nothp", "--json", text(&path)]);
    let show = format!(
        "echo \"${{MIMALLOC_ALLOW_THP:-none}} $(grep THP_enabled /proc/self/status)\" >> {}",
        text(&log)
    );
    script(command, &show).expect_success();
    let mut seen = lines(&log);
    seen.sort();
    let (with, without) = ("none THP_enabled:\t1", "0 THP_enabled:\t0");
    assert_eq!(seen, [without, with, with, with]);
    let found = json(&path);
    assert_eq!(names(&found), ["arenite", "system", "mimalloc", "mimalloc-nothp"]);
    assert_eq!(allocator(&found, "mimalloc-nothp")["environment"]["MIMALLOC_ALLOW_THP"], "0");
}

#[test]
fn a_directory_of_peers_is_taken() {
    let place = scratch().join("peers");
    std::fs::create_dir_all(&place).expect("create a directory");
    for name in ["libone.so", "libtwo.so", "three.so", "libfour.so.1", "read.me"] {
        std::fs::copy(library(), place.join(name)).expect("copy the library");
    }
    let path = fresh("directory.json");
    let mut command = bare(&["--runs", "1", "--peers", text(&place), "--json", text(&path)]);
    command.args(["--only", "one", "--only", "two", "--", "true"]);
    finish(command).expect_success();
    assert_eq!(names(&json(&path)).iter().collect::<HashSet<_>>().len(), 3);
    for name in ["three", "four", "four.1"] {
        let mut command = bare(&["--peers", text(&place), "--only", name]);
        command.args(["--", "true"]);
        assert_eq!(finish(command).status.code(), Some(125), "{name}");
    }
}

#[test]
fn a_program_that_arenite_does_not_serve_is_noticed() {
    let notice = "No process of the program reported a block";
    let run = |program: PathBuf| {
        let mut command = compare(&["--runs", "1"]);
        command.args(["--".as_ref(), program.as_os_str(), "true".as_ref()]);
        finish(command)
    };
    let outcome = run(compile_with("parent.c", &["-static"]));
    assert!(outcome.status.success() && outcome.stdout.contains(notice), "{outcome}");
    let outcome = run("ls".into());
    assert!(!outcome.stdout.contains(notice), "{outcome}");
}

#[test]
fn the_plot_is_an_svg_with_bars_and_whiskers() {
    let path = fresh("plot.svg");
    let nothing = peer("plotted", "int nothing_at_all;");
    let mut command = compare(&["--runs", "3", "--control", "--plot", text(&path)]);
    command.args(["--with", &format!("plotted={}", text(&nothing)), "--only", "plotted"]);
    // What must be escaped in a document, or may not be in one.
    script(command, "ls / | sort # <&>\" \u{1} ]]>").expect_success();
    let text = std::fs::read_to_string(&path).expect("read the plot");
    let document = roxmltree::Document::parse(&text).expect("an XML document");
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    assert_eq!(root.tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
    let texts: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name((root.tag_name().namespace().unwrap(), "text")))
        .map(|node| node.text().unwrap_or_default().trim().to_owned())
        .collect();
    for label in
        ["arenite", "arenite-again", "system", "plotted", "failed", "wall time", "peak RSS"]
    {
        assert!(texts.iter().any(|text| text == label), "no {label} in {texts:?}");
    }
    assert!(texts.iter().any(|text| text.contains("# <&>")), "{texts:?}");
    let filled = |colour: &str| {
        document.descendants().filter(|node| node.attribute("fill") == Some(colour)).count()
    };
    // One in the legend, and one of each that did not fail.
    assert_eq!((filled("#0072B2"), filled("#E69F00")), (4, 4), "{text}");
    let whiskers =
        document.descendants().filter(|node| node.attribute("stroke-width") == Some("2")).count();
    assert_eq!(whiskers, 2 * 2 * 3, "{text}");
}
