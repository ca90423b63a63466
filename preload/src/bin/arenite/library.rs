//! The program that a library is preloaded into.

use anyhow::Result;
pub use libraries::Library;
use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;

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
