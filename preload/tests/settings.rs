//! Settings of the preloaded library: each source, which one goes before which, what is wrong in
//! them, and `arenite config`.

mod common;

use common::{Outcome, compile_with, finish, library, scratch};
use serde_json::Value;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may be in the environment of these tests themselves.
const VARIABLES: [&str; 8] = [
    "MALLOC_ARENA_MAX",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_PERTURB_",
    "GLIBC_TUNABLES",
    "ARENITE_CONF",
];

fn in_environment(mut command: Command, environment: &[(&str, &str)]) -> Outcome {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied());
    finish(command)
}

/// The program, with a library whose constructor allocates before Arenite's runs: the emergency
/// pool of C++'s exceptions.
fn program() -> PathBuf {
    compile_with("settings.c", &["-Wl,--no-as-needed", "-lstdc++"])
}

/// Runs a mode of settings.c under the library. (On the system's malloc there is nothing to test.)
fn run(args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(program());
    command.args(args).env("LD_PRELOAD", library());
    in_environment(command, environment)
}

/// Value and source of every setting.
type Settings = HashMap<String, (String, String)>;

fn parse(outcome: &Outcome) -> Settings {
    assert!(outcome.status.success(), "{outcome}");
    let lines = outcome.stdout.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let settings: Settings = lines
        .filter(|fields| fields.len() == 5)
        .map(|fields| (fields[0].to_owned(), (fields[2].to_owned(), fields[3].to_owned())))
        .collect();
    assert_eq!(settings.len(), 13, "{outcome}");
    settings
}

#[track_caller]
fn expect(settings: &Settings, name: &str, value: &str, source: &str) {
    let (found, from) = &settings[name];
    assert_eq!((found.as_str(), from.as_str()), (value, source), "{name}");
}

/// The settings in such an environment, about which there is nothing to say.
#[track_caller]
fn settings(environment: &[(&str, &str)]) -> Settings {
    let outcome = run(&["print"], environment);
    assert!(outcome.stderr.is_empty(), "{outcome}");
    parse(&outcome)
}

#[test]
fn without_an_environment_all_are_the_defaults() {
    for (name, (_, source)) in settings(&[]) {
        assert_eq!(source, "default", "{name}");
    }
}

#[test]
fn glibcs_variables_set() {
    let found = settings(&[
        ("MALLOC_ARENA_MAX", "3"),
        ("MALLOC_TRIM_THRESHOLD_", "-1"),
        ("MALLOC_MMAP_THRESHOLD_", "1048576"),
        ("MALLOC_MMAP_MAX_", "0x10"),
        ("MALLOC_TOP_PAD_", "65536"),
        ("MALLOC_PERTURB_", "165"),
        // Empty: as if it was not there. Others are anybody's.
        ("MALLOC_CHECK_", ""),
        ("MALLOC_CONF", "what:ever"),
    ]);
    expect(&found, "arenas", "3", "MALLOC_ARENA_MAX");
    expect(&found, "trim_threshold", "never", "MALLOC_TRIM_THRESHOLD_");
    expect(&found, "mmap_threshold", "1m", "MALLOC_MMAP_THRESHOLD_");
    expect(&found, "mmap_max", "16", "MALLOC_MMAP_MAX_");
    expect(&found, "top_pad", "64k", "MALLOC_TOP_PAD_");
    expect(&found, "perturb", "165", "MALLOC_PERTURB_");
    expect(&found, "decay_ms", "1000", "default");
}

#[test]
fn tunables_set() {
    let tunables = "glibc.malloc.arena_max=5:glibc.malloc.top_pad=4096:glibc.malloc.mmap_max=7:\
                    glibc.malloc.mmap_threshold=200000:glibc.malloc.trim_threshold=300000:\
                    glibc.malloc.perturb=1";
    let found = settings(&[("GLIBC_TUNABLES", tunables)]);
    expect(&found, "arenas", "5", "GLIBC_TUNABLES");
    expect(&found, "top_pad", "4k", "GLIBC_TUNABLES");
    expect(&found, "mmap_max", "7", "GLIBC_TUNABLES");
    expect(&found, "mmap_threshold", "200000", "GLIBC_TUNABLES");
    expect(&found, "trim_threshold", "300000", "GLIBC_TUNABLES");
    expect(&found, "perturb", "1", "GLIBC_TUNABLES");
}

#[test]
fn tunables_without_a_meaning_here_are_accepted() {
    let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.tcache_max=64:\
                    glibc.malloc.tcache_unsorted_limit=1:glibc.malloc.mxfast=0:\
                    glibc.malloc.hugetlb=1:glibc.malloc.check=0:glibc.malloc.arena_test=2:\
                    glibc.pthread.rseq=1";
    for (name, (_, source)) in settings(&[("GLIBC_TUNABLES", tunables)]) {
        assert_eq!(source, "default", "{name}");
    }
}

#[test]
fn arenite_conf_sets_everything() {
    let conf = "arenas:4, decay_ms : never,purge_thread:off,top_pad:1m,trim_threshold:2m,\
                mmap_threshold:3M,mmap_max:5,perturb:0,soft_limit:1g,hard_limit:0x800k,\
                huge_pages:always,page_size:64k,cgroup:/some/where/,";
    let found = settings(&[("ARENITE_CONF", conf)]);
    for (name, value) in [
        ("arenas", "4"),
        ("decay_ms", "never"),
        ("purge_thread", "false"),
        ("top_pad", "1m"),
        ("trim_threshold", "2m"),
        ("mmap_threshold", "3m"),
        ("mmap_max", "5"),
        ("perturb", "0"),
        ("soft_limit", "1g"),
        ("hard_limit", "2m"),
        ("huge_pages", "always"),
        ("page_size", "64k"),
        ("cgroup", "/some/where"),
    ] {
        expect(&found, name, value, "ARENITE_CONF");
    }
}

#[test]
fn no_directory_is_the_own_control_group() {
    let (own, _) = settings(&[])["cgroup"].clone();
    expect(&settings(&[("ARENITE_CONF", "cgroup:")]), "cgroup", &own, "ARENITE_CONF");
}

#[test]
fn a_source_overrides_those_before_it() {
    let variable = ("MALLOC_ARENA_MAX", "1");
    let tunables = ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2");
    let conf = ("ARENITE_CONF", "arenas:3,arenas:4");
    expect(&settings(&[variable, tunables]), "arenas", "2", "GLIBC_TUNABLES");
    expect(&settings(&[variable, tunables, conf]), "arenas", "4", "ARENITE_CONF");
    expect(&settings(&[variable, conf]), "arenas", "4", "ARENITE_CONF");
    // M_ARENA_MAX
    let outcome = run(&["options", "-8", "5"], &[variable, tunables, conf]);
    expect(&parse(&outcome), "arenas", "5", "mallopt");
    // The environment's order says nothing.
    expect(&settings(&[conf, tunables, variable]), "arenas", "4", "ARENITE_CONF");
}

#[test]
fn a_bad_value_leaves_what_an_earlier_source_said() {
    let outcome = run(&["print"], &[("MALLOC_ARENA_MAX", "6"), ("ARENITE_CONF", "arenas:many")]);
    expect(&parse(&outcome), "arenas", "6", "MALLOC_ARENA_MAX");
    assert_eq!(
        outcome.complaints(),
        ["arenite: ARENITE_CONF: arenas: 'many' is not a number; ignored"]
    );
}

#[test]
fn what_is_wrong_is_named_and_ignored() {
    let cases = [
        ("MALLOC_PERTURB_", "256", "MALLOC_PERTURB_: '256' is more than 255"),
        ("MALLOC_TOP_PAD_", "x\x1b[31m", "MALLOC_TOP_PAD_: 'x?[31m' is not a number of bytes"),
        (
            "GLIBC_TUNABLES",
            "glibc.malloc.arena_max=x",
            "GLIBC_TUNABLES: glibc.malloc.arena_max: 'x' is not a number",
        ),
        (
            "GLIBC_TUNABLES",
            "glibc.malloc.zap=1",
            "GLIBC_TUNABLES: 'glibc.malloc.zap' is no setting",
        ),
        (
            "ARENITE_CONF",
            "decay_ms:abc",
            "ARENITE_CONF: decay_ms: 'abc' is not a number of milliseconds",
        ),
        ("ARENITE_CONF", "no_such:1", "ARENITE_CONF: 'no_such' is no setting"),
        ("ARENITE_CONF", "arenas", "ARENITE_CONF: 'arenas' has no value"),
        ("ARENITE_CONF", "arenas=4", "ARENITE_CONF: 'arenas=4' is no setting"),
        ("ARENITE_CONF", "perturb:300", "ARENITE_CONF: perturb: '300' is more than 255"),
        (
            "ARENITE_CONF",
            "purge_thread:yes",
            "ARENITE_CONF: purge_thread: 'yes' is neither on nor off",
        ),
        (
            "ARENITE_CONF",
            "trim_threshold:-2",
            "ARENITE_CONF: trim_threshold: '-2' is neither a number of bytes nor never",
        ),
        (
            "ARENITE_CONF",
            "huge_pages:some",
            "ARENITE_CONF: huge_pages: 'some' is not never, dense or always",
        ),
        (
            "ARENITE_CONF",
            "page_size:4097",
            "ARENITE_CONF: page_size: '4097' is not 0, 16k or 64k, or less than the kernel's page",
        ),
        (
            "ARENITE_CONF",
            "cgroup:here",
            "ARENITE_CONF: cgroup: 'here' is no absolute path, or too long",
        ),
    ];
    for (variable, value, said) in cases {
        let outcome = run(&["print"], &[(variable, value)]);
        assert_eq!(outcome.stderr, format!("arenite: {said}; ignored\n"), "{variable}={value}");
        for (name, (_, source)) in parse(&outcome) {
            assert_eq!(source, "default", "{name}");
        }
    }
}

#[test]
fn one_bad_value_does_not_keep_the_others_out() {
    let outcome = run(&["print"], &[("ARENITE_CONF", "arenas:2,x:1,,decay_ms:,top_pad:1k")]);
    assert_eq!(outcome.complaints().len(), 2, "{outcome}");
    let found = parse(&outcome);
    expect(&found, "arenas", "2", "ARENITE_CONF");
    expect(&found, "top_pad", "1k", "ARENITE_CONF");
}

#[test]
fn any_bytes_in_the_environment_are_survived() {
    let long = "arenas:".to_owned() + &"9".repeat(100_000);
    for conf in [&b"\xff\xfe:\x80,:,::,,,:1,arenas:\xff"[..], long.as_bytes()] {
        let mut command = Command::new(program());
        command.arg("print").env("LD_PRELOAD", library());
        command.env("ARENITE_CONF", OsStr::from_bytes(conf));
        let outcome = finish(command);
        assert!(outcome.status.success(), "{outcome}");
        assert!(!outcome.complaints().is_empty(), "{outcome}");
        assert!(outcome.stderr.lines().all(|line| line.len() < 400), "{outcome}");
    }
}

#[test]
fn mallopt_sets_through_the_table() {
    // M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_THRESHOLD -3, M_MMAP_MAX -4, M_ARENA_MAX -8.
    let outcome = run(
        &["options", "-1", "-1", "-2", "8192", "-3", "2097152", "-4", "9", "-8", "3"],
        &[("MALLOC_MMAP_MAX_", "1")],
    );
    assert_eq!(outcome.stdout.matches("returned 1\n").count(), 5, "{outcome}");
    let found = parse(&outcome);
    expect(&found, "trim_threshold", "never", "mallopt");
    expect(&found, "top_pad", "8k", "mallopt");
    expect(&found, "mmap_threshold", "2m", "mallopt");
    expect(&found, "mmap_max", "9", "mallopt");
    expect(&found, "arenas", "3", "mallopt");
}

#[test]
fn mallopt_refuses_what_is_no_option() {
    // M_MXFAST (1) above its most.
    let outcome = run(&["options", "1", "161", "1000", "1"], &[]);
    assert_eq!(outcome.stdout.matches("returned 0\n").count(), 2, "{outcome}");
    assert!(outcome.stderr.is_empty(), "{outcome}");
}

#[test]
fn as_few_mappings_as_there_can_be() {
    let (variable, tunables) = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES");
    let much = "1073741824";
    let outcome = run(&["options", "-3", much], &[]);
    assert!(outcome.stdout.contains("returned 1\n"), "{outcome}");
    expect(&parse(&outcome), "mmap_threshold", "32m", "mallopt");
    let outcome = run(&["options"], &[(variable, much)]);
    assert!(outcome.stderr.is_empty(), "{outcome}");
    expect(&parse(&outcome), "mmap_threshold", "32m", variable);
    let tunable = format!("glibc.malloc.mmap_threshold={much}");
    let outcome = run(&["options"], &[(tunables, &tunable)]);
    expect(&parse(&outcome), "mmap_threshold", "32m", tunables);
    // Who knows this allocator's own name for it is told.
    let outcome = run(&["options"], &[("ARENITE_CONF", "mmap_threshold:1g")]);
    assert!(!outcome.complaints().is_empty(), "{outcome}");
    expect(&parse(&outcome), "mmap_threshold", "128k", "default");
}

#[test]
fn perturb_holds_from_the_first_block_on() {
    for environment in [
        ("MALLOC_PERTURB_", "90"),
        ("GLIBC_TUNABLES", "glibc.malloc.perturb=90"),
        ("ARENITE_CONF", "perturb:0x5a"),
    ] {
        run(&["perturbed", "90"], &[environment]).expect_success();
    }
}

#[test]
fn mmap_max_sends_requests_to_the_heaps() {
    let mapped = |size: &str, environment: &[(&str, &str)]| {
        let outcome = run(&["mapped", size], environment);
        outcome.expect_success();
        assert_eq!(outcome.number("mapped_at_the_end"), 0, "{outcome}");
        (outcome.number("mapped"), outcome.number("mapped_after_growth"))
    };
    assert_eq!(mapped("1", &[]), (20, 20));
    assert_eq!(mapped("1", &[("MALLOC_MMAP_MAX_", "0")]), (0, 0));
    assert_eq!(mapped("1", &[("ARENITE_CONF", "mmap_max:5")]), (5, 5));
    // More than a heap holds is mapped still.
    assert_eq!(mapped("40", &[("MALLOC_MMAP_MAX_", "0")]), (20, 20));
}

/// `arenite config` with the release library.
fn config(args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
    command.arg("config").args(args).env("ARENITE_LIBRARY", library()).env_remove("LD_PRELOAD");
    in_environment(command, environment)
}

#[test]
fn the_command_tells_what_a_program_would_get() {
    let environment = [("MALLOC_ARENA_MAX", "2"), ("ARENITE_CONF", "decay_ms:250,soft_limit:64m")];
    let outcome = config(&["--json"], &environment);
    outcome.expect_success();
    let told: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(told["version"], 1);
    let told = told["settings"].as_array().expect("a list").clone();
    let of = |name: &str| told.iter().find(|s| s["name"] == name).expect("a setting").clone();
    assert_eq!(of("arenas")["value"], 2);
    assert_eq!(of("arenas")["source"], "MALLOC_ARENA_MAX");
    assert_eq!(of("soft_limit")["value"], 64 << 20);
    assert_eq!(of("soft_limit")["default"], 0);
    assert_eq!(of("purge_thread")["value"], true);
    assert_eq!(of("purge_thread")["source"], "default");
    // It is what a program gets.
    let got = settings(&environment);
    assert_eq!(told.len(), got.len());
    for setting in &told {
        let name = setting["name"].as_str().expect("a name");
        assert_eq!(setting["source"], got[name].1, "{name}");
    }
}

#[test]
fn the_command_prints_a_table_and_names_what_is_wrong_once() {
    let outcome = config(&[], &[("ARENITE_CONF", "decay_ms:soon,arenas:7")]);
    assert!(outcome.status.success(), "{outcome}");
    assert_eq!(
        outcome.stderr,
        "arenite: ARENITE_CONF: decay_ms: 'soon' is not a number of milliseconds; ignored\n"
    );
    let row = outcome.stdout.lines().find(|line| line.contains("arenas ")).expect("a row");
    assert!(row.contains("7") && row.contains("ARENITE_CONF"), "{outcome}");
}

#[test]
fn the_command_says_if_the_library_tells_nothing() {
    let other = scratch().join("libother.so");
    let status = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(&other)
        .status()
        .expect("cc does not start");
    assert!(status.success());
    let outcome = config(&["--library", other.to_str().expect("UTF-8")], &[]);
    assert!(!outcome.status.success(), "{outcome}");
    assert!(outcome.stderr.contains("tells no settings"), "{outcome}");
}

#[test]
fn the_command_has_help() {
    let help = config(&["--help"], &[]);
    help.expect_success();
    for part in ["--json", "ARENITE_CONF", "GLIBC_TUNABLES", "mallopt"] {
        assert!(help.stdout.contains(part), "{help}");
    }
    let help = finish({
        let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
        command.arg("--help");
        command
    });
    assert!(help.stdout.contains("config"), "{help}");
    assert!(!help.stdout.contains("preloaded-settings"), "{help}");
}

/// A directory that everybody can look into, removed at the end.
struct OpenDirectory(PathBuf);

impl OpenDirectory {
    fn make(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("arenite-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("make a directory");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("open it");
        Self(path)
    }

    fn place(&self, file: &Path, mode: u32) -> PathBuf {
        let placed = self.0.join(file.file_name().expect("a name"));
        fs::copy(file, &placed).expect("copy a file");
        fs::set_permissions(&placed, Permissions::from_mode(mode)).expect("set its mode");
        placed
    }
}

impl Drop for OpenDirectory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Needs root to make such a program; without that there is nothing to see.
#[test]
fn nobody_directs_a_set_user_id_program() {
    const NOBODY: u32 = 65534;
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let directory = OpenDirectory::make("secure");
    directory.place(library(), 0o755);
    let place = directory.0.display();
    let flags = format!("-Wl,--no-as-needed,-L{place},-l:libarenite.so,-rpath,{place}");
    let program = directory.place(&compile_with("secure.c", &[&flags]), 0o4755);
    let file = directory.0.join("precious");
    fs::write(&file, "precious").expect("write a file");

    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).env("ARENITE_REPORT", &file);
    let outcome = in_environment(command, &[("ARENITE_CONF", "no such setting")]);
    outcome.expect_success();
    // Not so where the file system ignores the mode.
    if outcome.number("has_more_rights") == 1 {
        assert_eq!(fs::read_to_string(&file).expect("read it"), "precious");
    }
}
