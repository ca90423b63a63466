//! The table of all settings: what each means, where it may come from, and what it sets.

use super::machine::{self, FilePath};
use super::parse;
use super::{MMAP_THRESHOLD_MAX, NEVER};
use crate::os::{self, PAGE};
use crate::size_class::MAX_SMALL;
use core::ffi::CStr;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};

/// A setting, as its place in [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Arenas,
    DecayMs,
    PurgeThread,
    TopPad,
    TrimThreshold,
    MmapThreshold,
    MmapMax,
    Perturb,
    SoftLimit,
    HardLimit,
    HugePages,
    PageSize,
    Cgroup,
}

/// Number of settings.
const COUNT: usize = Key::Cgroup as usize + 1;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number of things.
    Count,
    /// A number of bytes, with k, m or g.
    Bytes,
    /// A number of milliseconds, or never.
    Milliseconds,
    /// On or off.
    Switch,
    /// never, dense or always.
    HugePages,
    /// A directory.
    Directory,
}

/// The static that a setting sets.
#[derive(Debug)]
pub enum Place {
    Word(&'static AtomicUsize),
    Byte(&'static AtomicU8),
    Flag(&'static AtomicBool),
    /// The control group's directory, a text.
    Group,
}

/// Who set a value last, as a number in [`SOURCES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    Default,
    Variable,
    Tunables,
    Conf,
    Mallopt,
    Program,
}

impl Origin {
    /// Whether glibc's malloc would be set so, too.
    fn is_glibcs(self) -> bool {
        matches!(self, Origin::Variable | Origin::Tunables | Origin::Mallopt)
    }
}

/// Why a value is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is not what the text says.
    Is(&'static str),
    /// It is more than this.
    MoreThan(usize),
}

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    pub key: Key,
    /// In `ARENITE_CONF`.
    pub name: &'static str,
    /// One line for people; names the unit.
    pub meaning: &'static str,
    pub kind: Kind,
    pub default: usize,
    /// Smaller values count as this.
    pub least: usize,
    /// Larger values are refused.
    pub most: usize,
    /// glibc's environment variable, or empty.
    pub variable: &'static str,
    /// glibc's tunable behind "glibc.malloc.", or empty.
    pub tunable: &'static str,
    pub place: Place,
}

/// Where each value came from: an [`Origin`]. Figures for people, ordering nothing.
static SOURCES: [AtomicU8; COUNT] = [const { AtomicU8::new(Origin::Default as u8) }; COUNT];

const PLAIN: Spec = Spec {
    key: Key::Arenas,
    name: "",
    meaning: "",
    kind: Kind::Count,
    default: 0,
    least: 0,
    most: u32::MAX as usize,
    variable: "",
    tunable: "",
    place: Place::Word(&super::ARENA_MAX),
};

/// Bytes of any amount that a process can have.
const BYTES: Spec = Spec { kind: Kind::Bytes, most: isize::MAX as usize, ..PLAIN };

/// All settings, in the order of [`Key`].
pub static TABLE: [Spec; COUNT] = [
    Spec {
        key: Key::Arenas,
        name: "arenas",
        meaning: "arenas at most; 0: 8 for each usable CPU",
        variable: "MALLOC_ARENA_MAX",
        tunable: "arena_max",
        ..PLAIN
    },
    Spec {
        key: Key::DecayMs,
        name: "decay_ms",
        meaning: "milliseconds until unneeded free memory is given back; 0: soon, never: not",
        kind: Kind::Milliseconds,
        default: 1000,
        most: NEVER,
        place: Place::Word(&super::DECAY_MS),
        ..PLAIN
    },
    Spec {
        key: Key::PurgeThread,
        name: "purge_thread",
        meaning: "whether a helper thread may give memory back",
        kind: Kind::Switch,
        default: 1,
        most: 1,
        place: Place::Flag(&super::PURGE_THREAD),
        ..PLAIN
    },
    Spec {
        key: Key::TopPad,
        name: "top_pad",
        meaning: "bytes taken beyond what is needed when the break grows, and kept at a trim",
        default: 128 << 10,
        most: 1 << 30,
        variable: "MALLOC_TOP_PAD_",
        tunable: "top_pad",
        place: Place::Word(&super::TOP_PAD),
        ..BYTES
    },
    Spec {
        key: Key::TrimThreshold,
        name: "trim_threshold",
        meaning: "touched free bytes at the top of a heap, beyond top_pad, from which they go back; never: not",
        default: 128 << 10,
        most: NEVER,
        variable: "MALLOC_TRIM_THRESHOLD_",
        tunable: "trim_threshold",
        place: Place::Word(&super::TRIM_THRESHOLD),
        ..BYTES
    },
    Spec {
        key: Key::MmapThreshold,
        name: "mmap_threshold",
        meaning: "bytes from which a block gets a mapping of its own",
        default: 128 << 10,
        least: MAX_SMALL + PAGE,
        most: MMAP_THRESHOLD_MAX,
        variable: "MALLOC_MMAP_THRESHOLD_",
        tunable: "mmap_threshold",
        place: Place::Word(&super::MMAP_THRESHOLD),
        ..BYTES
    },
    Spec {
        key: Key::MmapMax,
        name: "mmap_max",
        meaning: "blocks with a mapping of their own at most; beyond, heaps serve up to 32m",
        default: 65536,
        variable: "MALLOC_MMAP_MAX_",
        tunable: "mmap_max",
        place: Place::Word(&super::MMAP_MAX),
        ..PLAIN
    },
    Spec {
        key: Key::Perturb,
        name: "perturb",
        meaning: "byte that fills freed blocks, and whose complement fills new ones; 0: none",
        most: u8::MAX as usize,
        variable: "MALLOC_PERTURB_",
        tunable: "perturb",
        place: Place::Byte(&super::PERTURB),
        ..PLAIN
    },
    Spec {
        key: Key::SoftLimit,
        name: "soft_limit",
        meaning: "bytes held from which free memory is given back at once; 0: no limit",
        place: Place::Word(&super::SOFT_LIMIT),
        ..BYTES
    },
    Spec {
        key: Key::HardLimit,
        name: "hard_limit",
        meaning: "bytes held beyond which requests fail; 0: no limit",
        place: Place::Word(&super::HARD_LIMIT),
        ..BYTES
    },
    Spec {
        key: Key::HugePages,
        name: "huge_pages",
        meaning: "arenas that ask for the kernel's huge pages: never, dense ones, always",
        kind: Kind::HugePages,
        default: super::HUGE_NEVER as usize,
        most: super::HUGE_ALWAYS as usize,
        place: Place::Byte(&super::HUGE_PAGES),
        ..PLAIN
    },
    Spec {
        key: Key::PageSize,
        name: "page_size",
        meaning: "bytes of a page, as if the kernel had pages of 16k or 64k; 0: the kernel's",
        place: Place::Word(&os::SIMULATED_PAGE),
        most: 64 << 10,
        ..BYTES
    },
    Spec {
        key: Key::Cgroup,
        name: "cgroup",
        meaning: "directory of the control group; empty: the process's own",
        kind: Kind::Directory,
        place: Place::Group,
        ..PLAIN
    },
];

/// The row of a setting.
pub fn spec(key: Key) -> Option<&'static Spec> {
    TABLE.get(key as usize)
}

impl Spec {
    /// Who set the value last.
    pub fn origin(&self) -> Origin {
        const ALL: [Origin; 6] = [
            Origin::Default,
            Origin::Variable,
            Origin::Tunables,
            Origin::Conf,
            Origin::Mallopt,
            Origin::Program,
        ];
        let number = SOURCES.get(self.key as usize).map_or(0, |source| source.load(Relaxed));
        ALL.get(usize::from(number)).copied().unwrap_or(Origin::Default)
    }

    /// The value in force. 0 for the directory.
    pub fn value(&self) -> usize {
        match self.place {
            Place::Word(word) => word.load(Relaxed),
            Place::Byte(byte) => usize::from(byte.load(Relaxed)),
            Place::Flag(flag) => usize::from(flag.load(Relaxed)),
            Place::Group => 0,
        }
    }

    /// Sets the value, unless it is out of range.
    pub fn set(&self, value: usize, origin: Origin) -> Result<(), Problem> {
        // glibc has no such bounds: who says more to it wants as few mappings, or as large a pad, as there can be.
        let is_bounded = matches!(self.key, Key::MmapThreshold | Key::TopPad) && origin.is_glibcs();
        let value = if is_bounded { value.min(self.most) } else { value };
        if value > self.most {
            return Err(Problem::MoreThan(self.most));
        }
        if self.key == Key::PageSize && !is_page_size(value) {
            return Err(Problem::Is(" is not 0, 16k or 64k, or less than the kernel's page"));
        }
        let value = value.max(self.least);
        match self.place {
            Place::Word(word) => word.store(value, Relaxed),
            Place::Byte(byte) => byte.store(value as u8, Relaxed),
            Place::Flag(flag) => flag.store(value != 0, Relaxed),
            Place::Group => return Ok(()),
        }
        if matches!(self.key, Key::TrimThreshold | Key::TopPad | Key::MmapThreshold | Key::MmapMax)
        {
            // As in glibc: who sets one of these wants to know what happens.
            super::DYNAMIC_THRESHOLDS.store(false, Relaxed);
        }
        self.set_origin(origin);
        Ok(())
    }

    /// Sets what the text says.
    pub fn set_text(&self, text: &[u8], origin: Origin) -> Result<(), Problem> {
        let (value, problem) = match self.kind {
            Kind::Count => (parse::count(text), " is not a number"),
            Kind::Bytes if self.most == NEVER => {
                (parse::or_never(text, parse::bytes), " is neither a number of bytes nor never")
            }
            Kind::Bytes => (parse::bytes(text), " is not a number of bytes"),
            Kind::Milliseconds => {
                (parse::or_never(text, parse::count), " is not a number of milliseconds")
            }
            Kind::Switch => (parse::switch(text), " is neither on nor off"),
            Kind::HugePages => (parse::huge_pages(text), " is not never, dense or always"),
            Kind::Directory => return self.set_directory(text, origin),
        };
        self.set(value.ok_or(Problem::Is(problem))?, origin)
    }

    fn set_directory(&self, text: &[u8], origin: Origin) -> Result<(), Problem> {
        let mut path = FilePath::EMPTY;
        path.put(text.strip_suffix(b"/").unwrap_or(text));
        let is_in_time = if text.is_empty() {
            // The process's own, which is looked for when it is needed.
            !machine::knows_cgroup_path()
        } else if !text.starts_with(b"/") || path.as_c_str().is_empty() {
            return Err(Problem::Is(" is no absolute path, or too long"));
        } else {
            machine::set_cgroup_path(&path)
        };
        if !is_in_time {
            return Err(Problem::Is(" comes too late"));
        }
        self.set_origin(origin);
        Ok(())
    }

    fn set_origin(&self, origin: Origin) {
        if let Some(source) = SOURCES.get(self.key as usize) {
            source.store(origin as u8, Relaxed);
        }
    }

    /// The directory in force, of the setting that is one.
    pub fn directory(&self) -> &'static CStr {
        machine::cgroup_path()
    }
}

/// Whether the kernel's pages can be taken to have this size; 0: its own.
fn is_page_size(bytes: usize) -> bool {
    bytes == 0 || matches!(bytes, 0x4000 | 0x10000) && bytes >= os::kernel_page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_keys() {
        for (index, spec) in TABLE.iter().enumerate() {
            assert_eq!(spec.key as usize, index, "{}", spec.name);
            assert!(!spec.name.is_empty() && !spec.meaning.is_empty());
            assert_eq!(spec.variable.is_empty(), spec.tunable.is_empty(), "{}", spec.name);
        }
    }

    #[test]
    fn values_begin_as_the_table_says() {
        // No test of this process changes them.
        for spec in &TABLE {
            assert_eq!(spec.value(), spec.default, "{}", spec.name);
            assert_eq!(spec.origin(), Origin::Default, "{}", spec.name);
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let refused = |key, text: &[u8]| spec(key).expect("a row").set_text(text, Origin::Conf);
        assert_eq!(refused(Key::Perturb, b"256"), Err(Problem::MoreThan(255)));
        assert_eq!(refused(Key::TopPad, b"2g"), Err(Problem::MoreThan(1 << 30)));
        assert!(matches!(refused(Key::DecayMs, b"1s"), Err(Problem::Is(_))));
        assert!(matches!(refused(Key::SoftLimit, b"-1"), Err(Problem::Is(_))));
        assert!(matches!(refused(Key::PageSize, b"5000"), Err(Problem::Is(_))));
        assert!(matches!(refused(Key::Cgroup, b"relative/path"), Err(Problem::Is(_))));
        assert!(matches!(refused(Key::Cgroup, b"/"), Err(Problem::Is(_))));
        assert!(matches!(refused(Key::HugePages, b"sometimes"), Err(Problem::Is(_))));
    }
}
