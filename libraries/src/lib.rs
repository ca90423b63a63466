//! Allocator libraries that are preloaded: where `libarenite.so` is, whether a file can be one, and
//! how a user names others and sets variables for them. For the commands that compare allocators.

use anyhow::{Context, Result, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Arenite itself.
pub const ARENITE: &str = "arenite";
/// Arenite once more, in a comparison.
pub const AGAIN: &str = "arenite-again";
/// The system's malloc, for which nothing is preloaded.
pub const SYSTEM: &str = "system";

/// The file name of Arenite's library.
const LIBRARY: &str = "libarenite.so";

/// Arenite's library, as an argument.
#[derive(Debug, Clone, clap::Args)]
pub struct Library {
    /// The library to preload [default: libarenite.so beside the command or in ../lib]
    #[arg(long, value_name = "PATH", env = "ARENITE_LIBRARY")]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    library: Option<PathBuf>,
}

impl Library {
    /// The absolute path of Arenite's library, or of the one that is given.
    ///
    /// # Errors
    /// The file is not there, or can not be preloaded.
    pub fn path(&self) -> Result<PathBuf> {
        // A variable that is set to nothing is as good as none.
        match self.library.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => preloadable(path),
            None => preloadable(&beside_the_command()?),
        }
    }
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

/// The library's absolute path: the program may change its directory before it starts others.
///
/// # Errors
/// The file can not be read, is no shared library, or has a path that LD_PRELOAD can not hold.
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
    if path.as_os_str().as_bytes().iter().any(|byte| b" :$".contains(byte)) {
        bail!(
            "{}: LD_PRELOAD can not hold a path with a space, a colon or a dollar",
            path.display()
        );
    }
    Ok(path)
}

/// What stands in `lib<stem>.so`, the name of a library in a directory of peers; `None` for any
/// other file, and where no peer can have that name.
pub fn stem(file: &str) -> Option<&str> {
    let stem = file.strip_prefix("lib")?.strip_suffix(".so")?;
    (!stem.is_empty() && !is_reserved(stem)).then_some(stem)
}

/// Whether a name is that of no peer.
fn is_reserved(name: &str) -> bool {
    [ARENITE, AGAIN, SYSTEM].contains(&name)
}

/// What is said of an option that names an allocator which is not among these.
pub fn unknown<'a>(option: &str, name: &str, all: impl Iterator<Item = &'a str>) -> String {
    format!("{option}: there is no '{name}', only {}", all.collect::<Vec<_>>().join(", "))
}

/// A library that the user names: `NAME=PATH`.
#[derive(Debug, Clone)]
pub struct Named {
    /// The allocator's name.
    pub name: String,
    /// The library's path, as it was given.
    pub path: PathBuf,
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("it is NAME=PATH")?;
        if name.is_empty() || name.contains(':') || is_reserved(name) {
            bail!("'{name}' can not be the name of another allocator");
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

/// A variable that is set for one allocator: `NAME:VARIABLE=VALUE`.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The allocator's name.
    pub name: String,
    /// The environment variable.
    pub variable: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, setting) = text.split_once(':').context("it is NAME:VARIABLE=VALUE")?;
        let (variable, value) = setting.split_once('=').context("it is NAME:VARIABLE=VALUE")?;
        if variable.is_empty() || variable == "LD_PRELOAD" {
            bail!("'{variable}' can not be set; --with names a library");
        }
        let [name, variable, value] = [name, variable, value].map(str::to_owned);
        Ok(Self { name, variable, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_directory_are_known_by_their_names() {
        assert_eq!(stem("libjemalloc.so"), Some("jemalloc"));
        assert_eq!(stem("libtcmalloc_minimal.so"), Some("tcmalloc_minimal"));
        for other in [
            "lib.so",
            "libjemalloc.so.2",
            "versions.tsv",
            "jemalloc.so",
            "libarenite.so",
            "libsystem.so",
        ] {
            assert_eq!(stem(other), None, "{other}");
        }
    }

    #[test]
    fn a_library_has_a_name_and_a_path() {
        let named: Named = "a=b=c".parse().expect("a library");
        assert_eq!((named.name.as_str(), named.path.as_path()), ("a", Path::new("b=c")));
        for text in ["", "a", "=b", "jemalloc", "=path", "a:b=path"] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
        for own in ["arenite=b", "arenite-again=b", "system=b", "arenite=path", "system=path"] {
            assert!(own.parse::<Named>().is_err(), "{own}");
        }
    }

    #[test]
    fn a_setting_is_split_at_the_first_signs() {
        let setting: Setting = "a:B=c:d,e=f".parse().expect("a setting");
        assert_eq!((setting.name.as_str(), setting.variable.as_str()), ("a", "B"));
        assert_eq!(setting.value, "c:d,e=f");
        let setting: Setting = "jemalloc:MALLOC_CONF=a:b,c=d".parse().expect("a setting");
        assert_eq!(setting.name, "jemalloc");
        assert_eq!(setting.variable, "MALLOC_CONF");
        assert_eq!(setting.value, "a:b,c=d");
        for text in ["", "a", "a:B", "a:=c", "a:LD_PRELOAD=c"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
        for text in ["jemalloc", "jemalloc:A", "jemalloc:=1", "jemalloc:LD_PRELOAD=x"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
