//! The allocators beside which Arenite is put: the system's, those of a directory and those that
//! the user names.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names that are not a peer's.
pub const ARENITE: &str = "arenite";
pub const SYSTEM: &str = "system";

/// One allocator.
#[derive(Debug, Clone, Serialize)]
pub struct Allocator {
    pub name: String,
    /// What is preloaded; an absolute path without links. None for the system's.
    pub library: Option<PathBuf>,
    /// Set for the child, besides LD_PRELOAD.
    pub environment: BTreeMap<String, String>,
}

impl Allocator {
    fn new(name: &str, library: Option<PathBuf>) -> Self {
        Self { name: name.to_owned(), library, environment: BTreeMap::new() }
    }
}

/// Which allocators there are.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// Arenite's library [default: libarenite.so beside this program]
    #[arg(long, value_name = "PATH", env = "ARENITE_LIBRARY")]
    library: Option<PathBuf>,
    /// Another allocator's library
    #[arg(long, value_name = "NAME=PATH")]
    with: Vec<Named>,
    /// Every lib*.so in this directory [default: where suite/peers.sh builds them, if it has]
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Set a variable for one allocator, which has its defaults otherwise
    #[arg(long, value_name = "NAME:VARIABLE=VALUE")]
    env: Vec<Setting>,
    /// These allocators only
    #[arg(long, value_name = "NAME")]
    allocator: Vec<String>,
}

/// A library that the user names.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    path: PathBuf,
}

impl std::str::FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("it is NAME=PATH")?;
        if name.is_empty() || [ARENITE, SYSTEM].contains(&name) {
            bail!("'{name}' can not be the name of another allocator");
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

/// A setting of one allocator.
#[derive(Debug, Clone)]
struct Setting {
    name: String,
    variable: String,
    value: String,
}

impl std::str::FromStr for Setting {
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

impl Choice {
    /// All that are to run; Arenite is the first, if it is among them.
    pub fn allocators(&self) -> Result<Vec<Allocator>> {
        let mut all = Vec::new();
        if self.wants(ARENITE) {
            all.push(Allocator::new(ARENITE, Some(self.arenite()?)));
        }
        all.push(Allocator::new(SYSTEM, None));
        for Named { name, path } in &self.with {
            let library = preloadable(path).with_context(|| format!("--with {name}"))?;
            all.push(Allocator::new(name, Some(library)));
        }
        for (name, path) in self.in_directory()? {
            // What is named goes before what is found.
            if all.iter().all(|other| other.name != name) {
                all.push(Allocator::new(&name, Some(preloadable(&path)?)));
            }
        }
        for Setting { name, variable, value } in &self.env {
            let allocator = all.iter_mut().find(|one| one.name == *name);
            let Some(allocator) = allocator else { bail!(unknown("--env", name, &all)) };
            allocator.environment.insert(variable.clone(), value.clone());
        }
        if let Some(name) =
            self.allocator.iter().find(|&name| all.iter().all(|one| one.name != *name))
        {
            bail!(unknown("--allocator", name, &all));
        }
        all.retain(|one| self.wants(&one.name));
        Ok(all)
    }

    fn wants(&self, name: &str) -> bool {
        self.allocator.is_empty() || self.allocator.iter().any(|wanted| wanted == name)
    }

    fn arenite(&self) -> Result<PathBuf> {
        let path = match &self.library {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("libarenite.so"),
        };
        preloadable(&path).context("`cargo build --release` builds it, or --library names it")
    }

    /// Names and paths of the libraries of the directory, in the order of their names.
    fn in_directory(&self) -> Result<Vec<(String, PathBuf)>> {
        let directory = match &self.peers {
            Some(directory) => directory.clone(),
            None => {
                let own = std::env::current_exe()?;
                let usual = own.ancestors().nth(2).map(|target| target.join("peers"));
                let Some(usual) = usual.filter(|usual| usual.is_dir()) else {
                    return Ok(Vec::new());
                };
                usual
            }
        };
        let mut found = Vec::new();
        let entries = directory.read_dir();
        for entry in entries.with_context(|| format!("--peers {}", directory.display()))? {
            let path = entry?.path();
            let stem = path.file_name().and_then(OsStr::to_str).and_then(stem);
            found.extend(stem.map(|stem| (stem.to_owned(), path.clone())));
        }
        found.sort();
        Ok(found)
    }
}

fn unknown(option: &str, name: &str, all: &[Allocator]) -> String {
    let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
    format!("{option}: there is no '{name}', only {}", names.join(", "))
}

/// `lib<stem>.so` and nothing else.
fn stem(file: &str) -> Option<&str> {
    file.strip_prefix("lib")?.strip_suffix(".so").filter(|stem| !stem.is_empty())
}

/// The absolute path of a file that can be preloaded.
fn preloadable(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().with_context(|| format!("{}", path.display()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_directory_are_known_by_their_names() {
        assert_eq!(stem("libjemalloc.so"), Some("jemalloc"));
        assert_eq!(stem("libtcmalloc_minimal.so"), Some("tcmalloc_minimal"));
        for other in ["lib.so", "libjemalloc.so.2", "versions.tsv", "jemalloc.so"] {
            assert_eq!(stem(other), None, "{other}");
        }
    }

    #[test]
    fn a_library_has_a_name_and_a_path() {
        let named: Named = "a=b=c".parse().expect("a library");
        assert_eq!((named.name.as_str(), named.path.as_path()), ("a", Path::new("b=c")));
        for text in ["", "a", "=b", "arenite=b", "system=b"] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
    }
    #[test]
    fn a_setting_is_split_at_the_first_signs() {
        let setting: Setting = "a:B=c:d,e=f".parse().expect("a setting");
        assert_eq!((setting.name.as_str(), setting.variable.as_str()), ("a", "B"));
        assert_eq!(setting.value, "c:d,e=f");
        for text in ["", "a", "a:B", "a:=c", "a:LD_PRELOAD=c"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
