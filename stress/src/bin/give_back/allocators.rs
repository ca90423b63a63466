//! The allocators beside which Arenite is put: the system's, those of a directory and those that
//! the user names.

use anyhow::{Context, Result, bail};
pub use libraries::ARENITE;
use libraries::{Library, Named, SYSTEM, Setting, preloadable, stem, unknown};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

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
    #[command(flatten)]
    library: Library,
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

impl Choice {
    /// All that are to run; Arenite is the first, if it is among them.
    pub fn allocators(&self) -> Result<Vec<Allocator>> {
        let mut all = Vec::new();
        if self.wants(ARENITE) {
            let library = self.library.path();
            let library =
                library.context("`cargo build --release` builds it, or --library names it")?;
            all.push(Allocator::new(ARENITE, Some(library)));
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
            let Some(allocator) = allocator else { bail!(unknown("--env", name, names(&all))) };
            allocator.environment.insert(variable.clone(), value.clone());
        }
        if let Some(name) =
            self.allocator.iter().find(|&name| all.iter().all(|one| one.name != *name))
        {
            bail!(unknown("--allocator", name, names(&all)));
        }
        all.retain(|one| self.wants(&one.name));
        Ok(all)
    }

    fn wants(&self, name: &str) -> bool {
        self.allocator.is_empty() || self.allocator.iter().any(|wanted| wanted == name)
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
            let name = path.file_name().and_then(OsStr::to_str).and_then(stem);
            found.extend(name.map(|name| (name.to_owned(), path.clone())));
        }
        found.sort();
        Ok(found)
    }
}

fn names(all: &[Allocator]) -> impl Iterator<Item = &str> {
    all.iter().map(|one| one.name.as_str())
}
