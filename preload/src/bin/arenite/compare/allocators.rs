//! The allocators that are compared: Arenite, the system's, and the libraries of others.

use super::Options;
use anyhow::{Context, Result, bail};
pub use libraries::{AGAIN, ARENITE, Named, SYSTEM, Setting};
use libraries::{preloadable, stem, unknown};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The end of the name of a mimalloc without huge pages.
const NO_HUGE_PAGES_NAME: &str = "-nothp";

/// What turns huge pages off in mimalloc: the option of versions 1.9.6, 2.2.6, 3.1.6 and later,
/// the one of those before, and its older name. The versions before 2.1.4 have none for what the
/// kernel does by itself, so the launcher also asks the kernel.
const NO_HUGE_PAGES: [(&str, &str); 3] = [
    ("MIMALLOC_ALLOW_THP", "0"),
    ("MIMALLOC_ALLOW_LARGE_OS_PAGES", "0"),
    ("MIMALLOC_LARGE_OS_PAGES", "0"),
];

/// One allocator, with settings.
#[derive(Debug, Clone)]
pub struct Allocator {
    pub name: String,
    /// What is preloaded; an absolute path without links.
    pub library: Option<PathBuf>,
    /// Set for the program, besides LD_PRELOAD.
    pub environment: BTreeMap<String, String>,
    /// Whether the program may have transparent huge pages.
    pub huge_pages: bool,
}

impl Allocator {
    fn new(name: &str, library: Option<PathBuf>) -> Self {
        Self { name: name.to_owned(), library, environment: BTreeMap::new(), huge_pages: true }
    }

    /// Whether this is somebody else's: its failure is not the command's.
    pub fn is_peer(&self) -> bool {
        ![ARENITE, AGAIN, SYSTEM].contains(&self.name.as_str())
    }

    /// The same library without huge pages, if it is mimalloc, which otherwise asks for them.
    fn without_huge_pages(&self) -> Option<Self> {
        let is_other =
            self.name.starts_with("mimalloc") && !self.name.ends_with(NO_HUGE_PAGES_NAME);
        is_other.then(|| Self {
            name: format!("{}{NO_HUGE_PAGES_NAME}", self.name),
            library: self.library.clone(),
            environment: NO_HUGE_PAGES.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            huge_pages: false,
        })
    }
}

/// All that are to be compared; Arenite is the first.
pub fn choose(options: &Options) -> Result<Vec<Allocator>> {
    let library = options.target.library()?;
    let mut all = vec![Allocator::new(ARENITE, Some(library.clone()))];
    if options.control {
        all.push(Allocator::new(AGAIN, Some(library)));
    }
    all.push(Allocator::new(SYSTEM, None));
    all.extend(peers(options)?);
    for Setting { name, variable, value } in &options.env {
        let allocator = all.iter_mut().find(|allocator| allocator.name == *name);
        let Some(allocator) = allocator else { bail!(unknown("--env", name, names(&all))) };
        allocator.environment.insert(variable.clone(), value.clone());
    }
    if let Some(name) = options.only.iter().find(|&name| all.iter().all(|one| one.name != *name)) {
        bail!(unknown("--only", name, names(&all)));
    }
    if !options.only.is_empty() {
        all.retain(|one| {
            [ARENITE, AGAIN].contains(&one.name.as_str()) || options.only.contains(&one.name)
        });
    }
    Ok(all)
}

/// The libraries that the user names, those of the directory, and those of the machine; of those
/// with the same name the first.
fn peers(options: &Options) -> Result<Vec<Allocator>> {
    let mut found: Vec<Allocator> = Vec::new();
    for Named { name, path } in &options.with {
        if found.iter().any(|allocator| allocator.name == *name) {
            bail!("--with: '{name}' is named twice");
        }
        let path = preloadable(path).with_context(|| format!("--with {name}"))?;
        found.push(Allocator::new(name, Some(path)));
    }
    let mut others = Vec::new();
    if let Some(directory) = &options.peers {
        let names = list(directory).with_context(|| format!("--peers {}", directory.display()))?;
        for path in names {
            let name = path.file_name().and_then(OsStr::to_str).and_then(stem);
            if let Some(name) = name {
                others.push((name.to_owned(), preloadable(&path)?));
            }
        }
    }
    others.extend(on_the_machine());
    for (name, path) in others {
        if found.iter().all(|allocator| allocator.name != name) {
            found.push(Allocator::new(&name, Some(path)));
        }
    }
    let mut all = Vec::new();
    for allocator in &found {
        all.push(allocator.clone());
        let twin = allocator.without_huge_pages();
        all.extend(twin.filter(|twin| found.iter().all(|other| other.name != twin.name)));
    }
    Ok(all)
}

/// The files of a directory by name, the last name first: of versions of a library the newest.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        paths.push(entry?.path());
    }
    paths.sort_by(|a, b| b.cmp(a));
    Ok(paths)
}

/// Allocators in the dynamic linker's cache and in the usual places, in the order of their names.
fn on_the_machine() -> BTreeMap<String, PathBuf> {
    let mut paths = in_the_cache();
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    for base in ["/usr/local/lib", "/usr/local/lib64", "/lib", "/usr/lib", "/usr/lib64"] {
        for place in [Path::new(base).to_owned(), Path::new(base).join(&triplet)] {
            paths.extend(list(&place).unwrap_or_default());
        }
    }
    let own = kind_of(Path::new("/proc/self/exe"));
    let mut found = BTreeMap::new();
    for path in paths {
        let Some(name) = path.file_name().and_then(OsStr::to_str).and_then(known_name) else {
            continue;
        };
        // Some machines have libraries of two kinds, and scripts that are called like libraries.
        if kind_of(&path) == own && !found.contains_key(&name) {
            let Ok(path) = preloadable(&path) else { continue };
            found.insert(name, path);
        }
    }
    found
}

/// The paths that `ldconfig -p` tells, in its order.
fn in_the_cache() -> Vec<PathBuf> {
    // Not in the PATH of every user.
    let ldconfig = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].map(Path::new);
    let Some(ldconfig) = ldconfig.into_iter().find(|path| path.is_file()) else {
        return Vec::new();
    };
    let Ok(output) = Command::new(ldconfig).arg("-p").output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| Some(line.split_once(" => ")?.1.into())).collect()
}

/// The class and the machine of an ELF file.
fn kind_of(path: &Path) -> Option<(u8, [u8; 2])> {
    let mut header = [0; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    header.starts_with(b"\x7fELF").then_some((header[4], [header[18], header[19]]))
}

/// The allocator's name, if the file is called like one of the known libraries. Builds that
/// check or profile are not what anybody runs.
fn known_name(file: &str) -> Option<String> {
    let (stem, version) = file.strip_prefix("lib")?.split_once(".so")?;
    if !(version.is_empty() || version.starts_with('.'))
        || ["debug", "checks", "profiler"].iter().any(|word| stem.contains(word))
    {
        return None;
    }
    let named = |prefix: &str| stem.strip_prefix(prefix);
    if ["jemalloc", "mimalloc"].contains(&stem) {
        return Some(stem.to_owned());
    }
    if let Some(rest) = named("snmallocshim") {
        return Some(format!("snmalloc{rest}"));
    }
    if let Some(rest) = named("rpmalloc") {
        return Some(format!("rpmalloc{}", rest.strip_prefix("wrap").unwrap_or(rest)));
    }
    if named("tcmalloc").is_some() {
        return Some(stem.replace('_', "-"));
    }
    ["scudo", "hardened_malloc"].iter().any(|p| named(p).is_some()).then(|| stem.to_owned())
}

fn names(all: &[Allocator]) -> impl Iterator<Item = &str> {
    all.iter().map(|one| one.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_file_names() {
        for (file, name) in [
            ("libjemalloc.so.2", Some("jemalloc")),
            ("libmimalloc.so.2.0", Some("mimalloc")),
            ("libtcmalloc.so", Some("tcmalloc")),
            ("libtcmalloc_minimal.so.4", Some("tcmalloc-minimal")),
            ("libtcmalloc_minimal_debug.so.4", None),
            ("libtcmalloc_and_profiler.so.4", None),
            ("libsnmallocshim.so", Some("snmalloc")),
            ("libsnmallocshim-rust.so", Some("snmalloc-rust")),
            ("libsnmallocshim-checks.so", None),
            ("librpmalloc.so", Some("rpmalloc")),
            ("librpmallocwrap.so", Some("rpmalloc")),
            ("libscudo.so", Some("scudo")),
            ("libhardened_malloc.so", Some("hardened_malloc")),
            ("libhardened_malloc-light.so", Some("hardened_malloc-light")),
            ("libjemalloc.a", None),
            ("libjemalloc.software", None),
            ("jemalloc.so", None),
            ("libc.so.6", None),
        ] {
            assert_eq!(known_name(file).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn mimalloc_has_a_twin_without_huge_pages() {
        let twin = Allocator::new("mimalloc", None).without_huge_pages().expect("a twin");
        assert_eq!(twin.name, "mimalloc-nothp");
        assert_eq!(twin.environment["MIMALLOC_ALLOW_THP"], "0");
        assert!(!twin.huge_pages);
        assert!(twin.without_huge_pages().is_none());
        assert!(Allocator::new("jemalloc", None).without_huge_pages().is_none());
    }
}
