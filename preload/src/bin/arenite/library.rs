//! The libraries that are preloaded: where `libarenite.so` is, and whether a file can be one.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file name of the library.
const LIBRARY: &str = "libarenite.so";

/// The absolute path of Arenite's library, or of the one that is given.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => preloadable(path),
        None => preloadable(&beside_the_command()?),
    }
}

/// The library's absolute path: the program may change its directory before it starts others.
pub fn preloadable(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().with_context(|| format!("{}", path.display()))?;
    // The dynamic linker only warns about what it can not load, and goes on without it.
    let mut magic = [0u8; 4];
    File::open(&path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .with_context(|| format!("{}", path.display()))?;
    if magic != *b"\x7fELF" {
        bail!("{}: not a shared library", path.display());
    }
    if path.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        bail!("{}: LD_PRELOAD can not hold a path with a space or a colon", path.display());
    }
    Ok(path)
}

fn beside_the_command() -> Result<PathBuf> {
    let command = std::env::current_exe().context("the path of the command is unknown")?;
    let directory = command.parent().context("the command is in no directory")?;
    let places = [directory.join(LIBRARY), directory.join("../lib").join(LIBRARY)];
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => bail!(
            "{LIBRARY} is neither in {} nor in ../lib from there; build it with `cargo build \
             --release`, or name it with --library or ARENITE_LIBRARY",
            directory.display()
        ),
    }
}
