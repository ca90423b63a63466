//! What was measured, on what: versions, machine, commit, date.

use crate::Places;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;

/// A peer allocator of target/peers/versions.tsv.
pub struct Peer {
    pub name: String,
    pub version: String,
    pub compiler: String,
    pub from: String,
}

/// The peers that peers.sh built.
pub fn peers(places: &Places) -> Result<Vec<Peer>> {
    let path = places.peers().join("versions.tsv");
    let text = fs::read_to_string(&path).context("run suite/peers.sh first")?;
    text.lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
            ensure!(fields.len() == 5, "{}: '{line}'", path.display());
            let [name, version, _, compiler, from] = fields.try_into().expect("five fields");
            Ok(Peer { name, version, compiler, from })
        })
        .collect()
}

/// Lines of "what: value".
pub fn facts(commit: String) -> Vec<(&'static str, String)> {
    vec![
        ("Date", output("date", &["-u", "+%F %H:%M UTC"])),
        ("Commit", commit),
        ("CPU", line_of("/proc/cpuinfo", "model name")),
        ("CPUs", cpus().to_string()),
        ("Memory", line_of("/proc/meminfo", "MemTotal")),
        ("Kernel", output("uname", &["-sr"])),
        ("C library", output("getconf", &["GNU_LIBC_VERSION"])),
        (
            "Transparent huge pages",
            fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        ),
    ]
}

/// The number of CPUs that this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The commit of the sources, and whether they have changes.
pub fn commit(places: &Places) -> String {
    let root = places.root.display().to_string();
    let commit = output("git", &["-C", &root, "rev-parse", "--short=12", "HEAD"]);
    // The report itself does not count as a change.
    let changes = ["status", "--porcelain", "--", ".", ":!README.md", ":!suite/RESULTS.md"];
    let changes = output("git", &[&["-C", &root], &changes[..], &[":!suite/plots"]].concat());
    if changes.is_empty() { commit } else { format!("{commit}, with changes") }
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// The value of the first line of a file of /proc that starts with `key`.
fn line_of(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}
