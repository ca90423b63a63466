//! The libraries that are preloaded: where `libarenite.so` is, and whether a file can be one; and
//! the program that they are preloaded into.

use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file name of the library.
const LIBRARY: &str = "libarenite.so";

/// The library to preload.
#[derive(Debug, clap::Args)]
pub struct Library {
    /// The library to preload [default: libarenite.so beside the command or in ../lib]
    #[arg(long, value_name = "PATH", env = "ARENITE_LIBRARY")]
    library: Option<PathBuf>,
}

/// A program, and the library to preload into it.
#[derive(Debug, clap::Args)]
pub struct Target {
    #[command(flatten)]
    library: Library,
    /// The program, looked up in PATH, and its arguments
    #[arg(
        required = true,
        value_name = "PROGRAM",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

impl Library {
    /// The absolute path of Arenite's library, or of the one that is given.
    pub fn path(&self) -> Result<PathBuf> {
        match &self.library {
            Some(path) => preloadable(path),
            None => preloadable(&beside_the_command()?),
        }
    }
}

/// The library before what is to be preloaded already: the value of LD_PRELOAD.
pub fn preload(library: PathBuf) -> OsString {
    before(library.into(), std::env::var_os("LD_PRELOAD"))
}

fn before(mut library: OsString, others: Option<OsString>) -> OsString {
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        library.push(":");
        library.push(others);
    }
    library
}

impl Target {
    /// The absolute path of Arenite's library, or of the one that is given.
    pub fn library(&self) -> Result<PathBuf> {
        self.library.path()
    }

    /// The program and its arguments, for people and for JSON.
    pub fn words(&self) -> Vec<Cow<'_, str>> {
        self.command.iter().map(|word| word.to_string_lossy()).collect()
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
