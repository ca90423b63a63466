//! `give_back` runs its scenarios, tiny, and says when one is broken. Nothing here depends on
//! how long something takes or how much an allocator keeps.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Sizes at which every scenario still does all of its steps.
const TINY: [&str; 5] = ["--quick", "--megabytes=8", "--live=4", "--fragments=16", "--seconds=0.5"];

const SCENARIOS: [&str; 11] = [
    "burst",
    "survivors",
    "turnover",
    "producer_consumer",
    "phases",
    "async",
    "idle_threads",
    "ring",
    "small_freed",
    "limited",
    "trim",
];

fn give_back(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_give_back"));
    // What the machine has is not what is tested.
    command.env_remove("LD_PRELOAD").env_remove("ARENITE_LIBRARY");
    command.args(arguments).output().expect("give_back starts")
}

/// `give_back all`, tiny, with JSON.
fn all(arguments: &[&str]) -> (Output, Value) {
    let output = give_back(&[&["all", "--json"], &TINY[..], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", lossy(&output.stderr)));
    (output, json)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn outcomes(report: &Value) -> &Vec<Value> {
    report["outcomes"].as_array().expect("outcomes")
}

/// The figure of an outcome.
fn figure<'a>(outcome: &'a Value, name: &str) -> &'a Value {
    let figures = outcome["figures"].as_array().expect("figures");
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("{outcome:#}"))
}

/// The `libarenite.so` that `cargo build --release` makes; `ARENITE_SO` names one that is built.
fn arenite() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("ARENITE_SO") {
            return PathBuf::from(given);
        }
        let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let target = scratch.parent().expect("the target directory");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--lib", "-p", "arenite-preload"])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("run cargo");
        assert!(status.success(), "libarenite.so does not build");
        target.join("release/libarenite.so")
    })
}

/// Every scenario on an allocator: all steps done, all blocks intact, figures with their limits.
fn every_scenario_runs(arguments: &[&str], allocator: &str) {
    let (output, report) = all(arguments);
    assert!(output.status.success(), "{}\n{report:#}", lossy(&output.stderr));
    assert_eq!(outcomes(&report).len(), SCENARIOS.len());
    for (outcome, name) in outcomes(&report).iter().zip(SCENARIOS) {
        assert_eq!(outcome["scenario"], name);
        assert_eq!(outcome["allocator"], allocator);
        assert_eq!(outcome["broken"], Value::Null, "{outcome:#}");
        let figures = outcome["figures"].as_array().expect("figures");
        assert!(figures.iter().all(|figure| figure["value"].is_f64()), "{outcome:#}");
        let limited: Vec<_> = figures.iter().filter(|figure| !figure["limit"].is_null()).collect();
        assert!(!limited.is_empty(), "{outcome:#}");
        assert!(limited.iter().all(|figure| figure["kept"].is_boolean()), "{outcome:#}");
    }
    steps_were_done(&report);
}

/// What each scenario cannot have measured without doing what it says.
fn steps_were_done(report: &Value) {
    let outcome = |name| {
        let found = outcomes(report).iter().find(|outcome| outcome["scenario"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    let value = |scenario, name| figure(outcome(scenario), name)["value"].as_f64().expect(name);
    assert!(value("burst", "at the peak") > 7.0);
    // 8 MiB of blocks of 520 bytes in the mean are 16,000: about 16 of them stay.
    let pages = value("survivors", "pages of the survivors") * 256.0;
    assert!((3.0..80.0).contains(&pages), "{pages} pages");
    // A tenth of the 8 MiB.
    let live = value("turnover", "live");
    assert!((0.6..1.0).contains(&live), "{live} MiB");
    for scenario in ["producer_consumer", "async", "ring"] {
        let live = value(scenario, "live");
        assert!((3.0..5.0).contains(&live), "{scenario}: {live} MiB");
    }
    assert!(value("phases", "peak of all phases") > 3.5);
    assert!(value("async", "freed elsewhere") > 0.0);
    assert!(value("small_freed", "at the peak") > 10.0);
    let reached = value("limited", "blocks at the limit");
    assert!((50.0..256.0).contains(&reached), "{reached} MiB");
    assert_eq!(value("trim", "free in fragments"), 16.0);
    for times in ["trim", "control"] {
        let times = &outcome("trim")["measured"][0]["waits"][times];
        let counts = times["histogram"].as_array().expect("a histogram");
        let sum: u64 = counts.iter().filter_map(Value::as_u64).sum();
        assert!(sum > 0);
        assert_eq!(times["calls"], sum);
    }
}

#[test]
fn every_scenario_runs_on_the_systems_malloc() {
    every_scenario_runs(&["--allocator=system"], "system");
}

#[test]
fn every_scenario_runs_on_arenite() {
    let library = format!("--library={}", arenite().display());
    every_scenario_runs(&["--allocator=arenite", &library], "arenite");
}

#[test]
fn a_child_by_hand_runs_on_what_is_preloaded() {
    let output = Command::new(env!("CARGO_BIN_EXE_give_back"))
        .args(["run", "small_freed"])
        .env("LD_PRELOAD", arenite())
        .output()
        .expect("give_back starts");
    let measured: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(measured["malloc"], arenite().to_str().expect("a path"), "{measured:#}");
}

/// Blocks that share their bytes are found by every scenario, and fail the command: also on an
/// allocator that is not Arenite.
#[test]
fn lost_bytes_are_a_broken_run() {
    let (output, report) = all(&["--allocator=system", "--sabotage=overlap"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(outcomes(&report).len(), SCENARIOS.len());
    for outcome in outcomes(&report) {
        let why = outcome["broken"].as_str().unwrap_or_else(|| panic!("{outcome:#}"));
        assert!(why.contains("VIOLATION") && why.contains("its owner wrote"), "{why}");
        assert_eq!(outcome["fails"], true);
        assert_eq!(outcome["figures"].as_array().map(Vec::len), Some(0));
    }
}

/// Memory that is never freed: no bytes are lost, but the limits are missed.
#[test]
fn assert_fails_if_arenite_keeps_too_much() {
    let library = format!("--library={}", arenite().display());
    let arguments =
        ["--allocator=arenite", &library, "--only=small_freed", "--sabotage=leak", "--assert"];
    let (output, report) = all(&arguments);
    assert_eq!(figure(&outcomes(&report)[0], "kept after 1.5 s")["kept"], false);
    assert_eq!(output.status.code(), Some(1));
    // The same without --assert, and on somebody else with it, is a figure and no failure.
    let (output, _) = all(&arguments[..4]);
    assert!(output.status.success());
    let (output, _) =
        all(&["--allocator=system", "--only=small_freed", "--sabotage=leak", "--assert"]);
    assert!(output.status.success());
}

/// The dynamic linker only warns about what it can not preload.
#[test]
fn a_library_that_is_no_malloc_is_a_broken_run() {
    // A library that every Rust program has loaded.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let other = maps.split_whitespace().find(|word| word.contains("/libgcc_s")).expect("libgcc_s");
    let with = format!("--with=other={other}");
    let (output, report) = all(&[&with, "--allocator=other", "--only=small_freed"]);
    assert_eq!(output.status.code(), Some(1));
    let why = outcomes(&report)[0]["broken"].as_str().unwrap_or_default();
    assert!(why.contains("malloc was that of"), "{why}");
}

/// With this variable the dynamic linker tells what it knows of it and runs no program: a child
/// that gets it has nothing measured.
#[test]
fn a_setting_reaches_its_allocator_only() {
    let library = format!("--library={}", arenite().display());
    let arguments = [&library, "--env=system:LD_DEBUG=help", "--only=small_freed"];
    let only = ["--allocator=arenite", "--allocator=system"];
    let (output, report) = all(&[&arguments[..], &only].concat());
    let [of_arenite, of_system] = &outcomes(&report)[..] else { panic!("{report:#}") };
    assert_eq!(of_arenite["broken"], Value::Null, "{of_arenite:#}");
    assert!(of_system["broken"].is_string(), "{of_system:#}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn people_get_tables() {
    let arguments = [&["all", "--allocator=system", "--only=small_freed"], &TINY[..]].concat();
    let output = give_back(&arguments);
    let text = lossy(&output.stdout);
    assert!(output.status.success());
    for part in ["small_freed: 200,000 blocks", "<= 1 MiB", "kept after 1.5 s", "│ system"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let names = lossy(&give_back(&["list"]).stdout);
    assert!(SCENARIOS.iter().all(|name| names.contains(name)), "{names}");
}

#[test]
fn what_does_not_exist_is_refused() {
    for (arguments, part) in [
        (&["all", "--only=nothing"][..], "there is no scenario 'nothing'"),
        (&["all", "--allocator=system", "--allocator=x"], "there is no 'x'"),
        (&["all", "--allocator=system", "--env=x:A=B"], "there is no 'x'"),
        (&["all", "--with=arenite=/x"], "can not be the name"),
        (&["run", "phases", "--part=none"], "has the parts"),
        (&["all", "--library=/dev/null"], "--library names it"),
    ] {
        let output = give_back(arguments);
        assert!(!output.status.success());
        let errors = lossy(&output.stderr);
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
}
