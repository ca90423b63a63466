//! What the tests of the preloaded library share: build `libarenite.so` once,
//! compile the small C and C++ programs, run them under the library with a
//! timeout and collect how they ended.
//!
//! With `ARENITE_TEST_SYSTEM=1` in the environment the programs run on the
//! system's malloc instead. That checks the programs themselves: a test that
//! fails there tests something no allocator does.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

pub mod command;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// A child that runs longer than this hangs; a healthy one takes seconds even
/// on a loaded machine.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// True if the programs are to run on the system's malloc.
pub fn on_system() -> bool {
    std::env::var_os("ARENITE_TEST_SYSTEM").is_some_and(|v| v == "1")
}

/// The directory for what this test file builds.
pub fn scratch() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        std::fs::create_dir_all(&dir).expect("create the scratch directory");
        dir
    })
}

/// The library to preload, built on first use.
///
/// `cargo test` builds the library target too, but with the panic strategy of
/// tests; what the programs must run on is what `cargo build --release` makes.
/// `ARENITE_SO` in the environment names one that is built already. A copy is used, so that a build that goes on elsewhere can not replace it
/// under a running child.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("ARENITE_SO") {
            return PathBuf::from(given);
        }
        let target = build(&["--lib", "-p", env!("CARGO_PKG_NAME")]);
        let copy = scratch().join("libarenite.so");
        let fresh = scratch().join(format!("libarenite.so.{}", std::process::id()));
        std::fs::copy(target.join("release/libarenite.so"), &fresh).expect("copy libarenite.so");
        std::fs::rename(&fresh, &copy).expect("place libarenite.so");
        copy
    })
}

/// Builds what `cargo build --release` with these arguments makes; the target directory.
pub fn build(arguments: &[&str]) -> &'static Path {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release"])
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("run cargo");
    assert!(status.success(), "cargo build {arguments:?} fails");
    target
}

/// Compiles `tests/c/<source>` and returns the program; once per test process.
pub fn compile(source: &str) -> PathBuf {
    compile_with(source, &[])
}

/// As [`compile`], with more arguments for the compiler.
pub fn compile_with(source: &str, flags: &[&str]) -> PathBuf {
    static DONE: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut done =
        DONE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let name = source.split('.').next().expect("a name");
    let name = [&[name], flags].concat().join("").replace('/', "_");
    if let Some(program) = done.get(&name) {
        return program.clone();
    }
    let c_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    let compiler = if source.ends_with(".cpp") { "c++" } else { "cc" };
    let program = scratch().join(&name);
    let fresh = scratch().join(format!("{name}.{}", std::process::id()));
    let output = Command::new(compiler)
        // No built-ins: the compiler may otherwise remove a malloc whose
        // block is only freed, or assume what malloc does to errno.
        .args(["-O1", "-g", "-fno-builtin", "-pthread", "-Wall", "-Wextra"])
        // The misuse is the point.
        .args(["-Wno-use-after-free", "-Wno-free-nonheap-object"])
        .args(["-Wno-alloc-size-larger-than", "-Wno-deprecated-declarations", "-o"])
        .arg(&fresh)
        .arg(c_dir.join(source))
        .args(flags)
        .arg("-ldl")
        .output()
        .unwrap_or_else(|e| panic!("{compiler} does not start: {e}"));
    assert!(
        output.status.success(),
        "{source} does not compile:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(&fresh, &program).expect("place the program");
    done.insert(name, program.clone());
    program
}

/// How a child ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

impl Outcome {
    /// Panics with all the child said unless it ended with status 0 and the
    /// allocator had nothing to say.
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        assert!(
            self.status.success() && self.complaints().is_empty(),
            "the program failed: {self}"
        );
        self
    }

    /// As [`Outcome::expect_success`], of a program that says `done` when it has done everything.
    #[track_caller]
    pub fn expect_done(&self) -> &Self {
        self.expect_success();
        assert_eq!(self.number("done"), 1, "{self}");
        self
    }

    /// Fails unless the program was stopped with one line, about a double free.
    #[track_caller]
    pub fn expect_double_free(&self) {
        assert!(!self.status.success(), "{self}");
        let complaints = self.complaints();
        assert_eq!(complaints.len(), 1, "{self}");
        assert!(complaints[0].contains("double free of 0x"), "{self}");
    }

    /// The lines in which the allocator reports a misuse.
    pub fn complaints(&self) -> Vec<&str> {
        let ours = |line: &&str| line.starts_with("arenite: ");
        self.stderr.lines().filter(ours).collect()
    }

    /// The number behind `name` in a line `name number` of the output.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        self.stdout
            .lines()
            .find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == name).then(|| value.trim().parse().ok())?
            })
            .unwrap_or_else(|| panic!("no number `{name}` in the output: {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stdout, stderr, status } = self;
        write!(f, "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// The preload setting for a child; none on the system's malloc.
fn preload(command: &mut Command) {
    if !on_system() {
        command.env("LD_PRELOAD", library());
    }
}

/// Runs `program args…` under the library.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Outcome {
    run_in(program, args, &[])
}

/// As [`run`], with variables in the environment.
#[track_caller]
pub fn run_in<S: AsRef<OsStr>>(program: &Path, args: &[S], variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(program);
    command.args(args).envs(variables.iter().copied());
    preload(&mut command);
    finish(command)
}

/// Runs `mode` of a C program and expects it to succeed without a complaint.
#[track_caller]
pub fn passes(source: &str, args: &[&str]) -> Outcome {
    let outcome = run(&compile(source), args);
    outcome.expect_success();
    outcome
}

/// Runs `program args…` under the library with a resource limit set in the
/// child before it starts. The hard limit stays, and bounds it.
#[track_caller]
pub fn run_limited(
    program: &Path,
    args: &[&str],
    resource: libc::__rlimit_resource_t,
    bytes: u64,
) -> Outcome {
    let mut command = Command::new(program);
    command.args(args);
    preload(&mut command);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    limit.rlim_cur = bytes.min(limit.rlim_max);
    // SAFETY: between fork and exec the closure makes one system call and
    // builds an error from errno; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(resource, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    finish(command)
}

/// Runs a command to its end, or kills it and all it started and panics.
#[track_caller]
pub fn finish(mut command: Command) -> Outcome {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group, so that a timeout also ends what the child forked.
        .process_group(0);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, TIMEOUT);
    if status.is_none() {
        let group = i32::try_from(child.id()).expect("a process id");
        // SAFETY: kill only sends a signal; the group is the one made above
        // and its leader is not reaped yet, so the number is still its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = child.wait();
    }
    let outcome = Outcome {
        stdout: stdout.join().expect("the reader of stdout"),
        stderr: stderr.join().expect("the reader of stderr"),
        status: status.unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL)),
    };
    assert!(status.is_some(), "{command:?} hangs: {outcome}");
    // The dynamic linker goes on without it (ld.so(8)).
    let is_loaded = !outcome.stderr.contains("libarenite.so' from LD_PRELOAD cannot be preloaded");
    assert!(is_loaded, "{command:?} runs without the library: {outcome}");
    outcome
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().expect("wait for the child") {
            return Some(status);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    None
}
