//! The `arenite` command: programs that run under it, and its demonstration.

mod common;

use common::command::{arenite, compile, shell};
use common::{finish, library, scratch};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The ways in which a program runs: replacing the command, and under it.
const MODES: [&[&str]; 2] = [&["run"], &["run", "--report"]];

/// The command where these signals are ignored.
fn arenite_ignoring(signals: &str, args: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(signals.split(' ').map(|signal| format!("--ignore-signal={signal}")));
    command.arg(env!("CARGO_BIN_EXE_arenite")).args(args);
    command.env("ARENITE_LIBRARY", library());
    command
}

#[test]
fn input_and_output_are_the_programs() {
    for mode in MODES {
        let mut child = arenite(mode)
            .args(["--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the command");
        let text = b"one\ntwo\0three\xff";
        child.stdin.take().expect("stdin is piped").write_all(text).expect("write the input");
        let output = child.wait_with_output().expect("wait for the command");
        assert!(output.status.success());
        assert_eq!(output.stdout, text);
        assert_eq!(output.stderr.is_empty(), mode == MODES[0]);
    }
    let outcome = shell(&["run"], "echo out; echo err >&2");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn the_exit_status_is_the_programs() {
    for mode in MODES {
        for status in [0, 1, 3, 125, 127, 255] {
            let outcome = shell(mode, &format!("exit {status}"));
            assert_eq!(outcome.status.code(), Some(status), "{mode:?}: {outcome}");
        }
    }
}

#[test]
fn death_by_a_signal_is_passed_on() {
    for mode in MODES {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, libc::SIGUSR1] {
            let outcome = shell(mode, &format!("kill -{signal} $$"));
            assert_eq!(outcome.status.signal(), Some(signal), "{mode:?}: {outcome}");
        }
    }
}

/// Starts a shell script under the command and waits until it says that it is ready.
fn ready(mode: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    // What runs the tests in the background may have them ignore these, and a shell can not trap what was
    // ignored when it began.
    let listen = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: no handler is set.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    let mut command = arenite(mode);
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe { command.pre_exec(listen) };
    let mut child = command
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("start the command");
    let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("read from the program");
    assert_eq!(line, "ready\n");
    (child, output)
}

fn send(child: &Child, signal: i32) {
    // SAFETY: kill only sends a signal, to a child that is not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

#[test]
fn signals_are_forwarded() {
    for mode in MODES {
        for (name, signal) in [
            ("HUP", 1),
            ("INT", 2),
            ("QUIT", 3),
            ("USR1", 10),
            ("USR2", 12),
            ("TERM", 15),
            ("WINCH", 28),
            ("IO", 29),
        ] {
            let script = format!(
                "trap 'echo got {name}; exit 9' {name}; echo ready
                 i=0; while [ $i -lt 6000 ]; do sleep 0.05; i=$((i + 1)); done"
            );
            let (mut child, mut output) = ready(mode, &script);
            send(&child, signal);
            let mut line = String::new();
            output.read_line(&mut line).expect("read from the program");
            assert_eq!(line, format!("got {name}\n"), "{mode:?}");
            assert_eq!(child.wait().expect("wait").code(), Some(9), "{mode:?}");
        }
        let (mut child, _output) = ready(mode, "echo ready; exec sleep 60");
        send(&child, libc::SIGTERM);
        assert_eq!(child.wait().expect("wait").signal(), Some(libc::SIGTERM), "{mode:?}");
    }
}

#[test]
fn an_alarm_that_was_set_before_is_the_programs() {
    for mode in MODES {
        let mut command = arenite(mode);
        // SAFETY: alarm(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::alarm(1);
                Ok(())
            });
        }
        command.args(["--", "sleep", "60"]);
        let outcome = finish(command);
        assert_eq!(outcome.status.signal(), Some(libc::SIGALRM), "{mode:?}: {outcome}");
    }
}

#[test]
fn a_pipe_signal_that_is_ignored_is_inherited() {
    for mode in MODES {
        let mut command = arenite_ignoring("PIPE", mode);
        command.args(["--", "grep", "SigIgn", "/proc/self/status"]);
        let outcome = finish(command);
        let ignored = outcome.stdout.trim_end().rsplit('\t').next();
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!(ignored.map(|mask| mask & pipe), Some(pipe), "{mode:?}: {outcome}");
    }
}

#[test]
fn where_nobody_listens_the_status_is_the_programs_all_the_same() {
    for (program, status) in [("true", 0), ("no-such-program", 127)] {
        let mut command = arenite(&["run", "--report"]);
        let full =
            std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        command.args(["--", program]).stderr(full);
        let code = command.status().expect("start the command").code();
        assert_eq!(code, Some(status), "{program}");
    }
}

#[test]
fn the_settings_are_told_where_children_are_ignored() {
    finish(arenite_ignoring("CHLD", &["config"])).expect_success();
}

#[test]
fn ignored_signals_and_the_signal_mask_are_inherited() {
    for mode in MODES {
        let mut command = arenite_ignoring("HUP CHLD", mode);
        command.args(["--", "sh", "-c", "kill -HUP $$; grep SigBlk /proc/self/status; exit 5"]);
        let outcome = finish(command);
        assert_eq!(outcome.status.code(), Some(5), "{mode:?}: {outcome}");
        assert_eq!(outcome.stdout, "SigBlk:\t0000000000000000\n", "{mode:?}");
        // A shell would look after its children.
        let mut command = arenite_ignoring("HUP CHLD", mode);
        command.args(["--", "sed", "-n", "s/^SigIgn:\t//p", "/proc/self/status"]);
        let outcome = finish(command);
        let ignored = u64::from_str_radix(outcome.stdout.trim(), 16).expect("a number");
        let both = 1 << (libc::SIGHUP - 1) | 1 << (libc::SIGCHLD - 1);
        assert_eq!(ignored & both, both, "{mode:?}: {outcome}");
    }
}

#[test]
fn the_library_comes_before_what_is_preloaded_already() {
    let other = compile("other.so", "int other_library;", &["-shared", "-fPIC"]);
    for mode in MODES {
        let mut command = arenite(mode);
        command.args(["--", "sh", "-c", "echo $LD_PRELOAD"]).env("LD_PRELOAD", &other);
        let expected = format!("{}:{}\n", library().display(), other.display());
        assert_eq!(finish(command).stdout, expected, "{mode:?}");
    }
}

#[test]
fn what_can_not_run_is_said() {
    for mode in MODES {
        let fails = |program: &str, status: i32, message: &str| {
            let mut command = arenite(mode);
            command.args(["--", program]);
            let outcome = finish(command);
            assert_eq!(outcome.status.code(), Some(status), "{outcome}");
            assert_eq!(outcome.stderr, format!("arenite: {message}\n"));
        };
        fails("no-such-program", 127, "no-such-program: not found");
        fails("/no/such/program", 127, "/no/such/program: not found");
        let directory = env!("CARGO_MANIFEST_DIR");
        fails(directory, 126, &format!("{directory}: Permission denied (os error 13)"));
    }
    let outcome = finish(arenite(&["run", "--report-json", "/no/such/file", "--", "true"]));
    assert_eq!(outcome.status.code(), Some(125), "{outcome}");
    assert!(outcome.stderr.starts_with("arenite: /no/such/file: "), "{outcome}");
    // Wrong arguments are no status of a program.
    for wrong in [&["run"][..], &["config", "--no-such-option"], &["no-such-command"]] {
        let outcome = finish(arenite(wrong));
        assert_eq!(outcome.status.code(), Some(125), "{outcome}");
        assert!(outcome.stdout.is_empty() && outcome.stderr.contains("error: "), "{outcome}");
    }
}

#[test]
fn a_file_is_left_as_it_is_where_nothing_ran() {
    let path = scratch().join("kept.json");
    for (arguments, text) in [(["/no/such/program"], "old"), (["true"], "{")] {
        std::fs::write(&path, "old, and longer than what comes: ".repeat(1000))
            .expect("write a file");
        let mut command = arenite(&["run", "--report-json"]);
        command.arg(&path).arg("--").args(arguments);
        finish(command);
        let found = std::fs::read_to_string(&path).expect("read the file");
        assert!(found.starts_with(text), "{found:.100}");
        assert_eq!(serde_json::from_str::<Value>(&found).is_ok(), text == "{", "{found:.100}");
    }
}

#[test]
fn a_library_that_can_not_be_preloaded_is_said() {
    let text = scratch().join("text");
    std::fs::write(&text, "not a library").expect("write a file");
    let spaced = scratch().join("a space.so");
    std::fs::copy(library(), &spaced).expect("copy the library");
    for (path, message) in [
        (Path::new("/no/such/libarenite.so"), "No such file"),
        (&text, "not a shared library"),
        (&spaced, "space"),
    ] {
        let mut command = arenite(&["run", "--library"]);
        command.arg(path).args(["--", "true"]);
        let outcome = finish(command);
        assert_eq!(outcome.status.code(), Some(125), "{outcome}");
        assert!(outcome.stderr.contains(message), "{outcome}");
    }
    // Of a variable that is set to nothing it is as if it were not set.
    let mut command = arenite(&["run", "--help"]);
    command.env("ARENITE_LIBRARY", "");
    finish(command).expect_success();
    let mut command = arenite(&["run", "--library"]);
    command.arg(library()).args(["--", "true"]).env("ARENITE_LIBRARY", "");
    finish(command).expect_success();
}

#[test]
fn the_library_is_found_beside_the_command_and_in_lib() {
    let place = scratch().join("installed");
    let _ = std::fs::remove_dir_all(&place);
    let (bin, lib) = (place.join("bin"), place.join("lib"));
    for directory in [&bin, &lib] {
        std::fs::create_dir_all(directory).expect("create a directory");
    }
    let installed = bin.join("arenite");
    // By another process: one that a parallel test forks while this one writes the file would
    // hold it open, and what is open for writing can not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_arenite")).arg(&installed).status();
    assert!(copied.expect("run cp").success());
    let run = || {
        let mut command = Command::new(&installed);
        command.args(["run", "--", "sh", "-c", "echo $LD_PRELOAD"]).env_remove("ARENITE_LIBRARY");
        finish(command)
    };
    let outcome = run();
    assert_eq!(outcome.status.code(), Some(125), "{outcome}");
    assert!(outcome.stderr.contains("libarenite.so is neither in"), "{outcome}");
    for place in [lib.join("libarenite.so"), bin.join("libarenite.so")] {
        std::fs::copy(library(), &place).expect("copy the library");
        assert_eq!(Path::new(run().stdout.trim_end()), place);
    }
}

#[test]
fn the_demonstration_shows_both_allocators_and_no_error() {
    let args = ["demo", "--seconds", "1", "--connections", "8", "--keys", "1000"];
    let outcome = finish(arenite(&args));
    assert!(outcome.status.success(), "{outcome}");
    for part in [
        "Arenite",
        "system",
        "Requests per second",
        "Latency p50",
        "Latency p99 ",
        "Latency p99.9",
        "Peak RSS",
        "RSS 1 s after the load",
        "not a benchmark",
    ] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
    }
    // Not a terminal: a line for each round instead of a bar.
    assert_eq!(outcome.stderr.lines().filter(|line| line.starts_with("Round ")).count(), 4);
    let row = |name: &str| -> Vec<String> {
        let line = outcome.stdout.lines().find(|line| line.contains(name));
        let cells = line.unwrap_or_default().split(['│', '┆']).map(|cell| cell.trim().to_owned());
        cells.filter(|cell| !cell.is_empty()).collect()
    };
    assert_eq!(row("Errors"), ["Errors", "0", "0"], "{outcome}");
    assert_eq!(row("Requests per second").len(), 4, "{outcome}");
}

#[test]
fn the_service_runs_on_the_allocator_it_is_told_to_and_ends_with_its_input() {
    for allocator in ["arenite", "system"] {
        let mut child = arenite(&["demo-server"])
            .env("ARENITE_DEMO_ALLOCATOR", allocator)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the service");
        let mut line = String::new();
        let output = child.stdout.take().expect("stdout is piped");
        BufReader::new(output).read_line(&mut line).expect("read from the service");
        assert!(line.starts_with(&format!("{allocator} 127.0.0.1:")), "{line:?}");
        drop(child.stdin.take());
        assert!(child.wait().expect("wait for the service").success());
    }
}

#[test]
fn help_and_version_are_there() {
    let help = finish(arenite(&["--help"]));
    assert!(help.status.success());
    for part in ["run", "demo", "--version"] {
        assert!(help.stdout.contains(part), "{help}");
    }
    assert!(!help.stdout.contains("demo-server"), "{help}");
    let help = finish(arenite(&["run", "--help"]));
    for part in ["LD_PRELOAD", "--report-json", "ARENITE_LIBRARY", "127"] {
        assert!(help.stdout.contains(part), "{help}");
    }
    let version = finish(arenite(&["--version"]));
    assert_eq!(version.stdout, format!("arenite {}\n", env!("CARGO_PKG_VERSION")));
}
