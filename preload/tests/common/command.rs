//! What the tests of the `arenite` command share.

use super::{Outcome, finish, library, scratch};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compiles a C program. Each test has its own name for it.
#[track_caller]
pub fn compile(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let program = scratch().join(name);
    let mut compiler = Command::new("cc")
        .args(["-O1", "-fno-builtin", "-x", "c", "-", "-o"])
        .arg(&program)
        .args(flags)
        .stdin(Stdio::piped())
        .spawn()
        .expect("cc does not start");
    let mut input = compiler.stdin.take().expect("stdin is piped");
    input.write_all(source.as_bytes()).expect("write the source");
    drop(input);
    assert!(compiler.wait().expect("wait for cc").success(), "{name} does not compile");
    program
}

/// The command with the release library.
pub fn arenite(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
    command.args(args).env("ARENITE_LIBRARY", library());
    command
}

/// Runs `arenite <mode> -- sh -c <script>`.
pub fn shell(mode: &[&str], script: &str) -> Outcome {
    let mut command = arenite(mode);
    command.args(["--", "sh", "-c", script]);
    finish(command)
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read(path).expect("read the JSON");
    serde_json::from_slice(&text).expect("parse the JSON")
}

#[track_caller]
pub fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}
