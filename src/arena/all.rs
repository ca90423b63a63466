//! The process's arenas: which there are, and which of them a thread joins.

use super::Arena;
use crate::config;
use crate::meta;
use crate::page_map::MAX_ARENAS;
use crate::window;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicUsize};

/// Arenas per usable CPU that are opened for threads that begin: as many as run at a time …
const FOR_NEW: usize = 1;
/// … and for threads that wait for short times: twice as many, so that two threads that run seldom
/// share one. Those that sleep get more, up to the setting.
const FOR_SHORT_WAITS: usize = 2;

/// Free bytes of an arena that are worth to go there …
const MUCH_FREE: usize = 1024 * 1024;
/// … if they are at least this part of its memory.
const MUCH_FREE_PART: usize = 16;

/// What a thread leaves its arena for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// It often found the lock held for a moment.
    Short,
    /// It often slept on it.
    Long,
}

/// All arenas.
pub struct Arenas {
    main: Arena,
    /// Numbers given to others than the main one. Its release in `open` pairs with the acquire in `count`; the
    /// arenas themselves are published by their slots.
    others: AtomicUsize,
}

/// The arenas but the main one, by their numbers. All zeros and so in .bss, which a program with
/// one arena does not touch.
static OTHERS: [AtomicPtr<Arena>; MAX_ARENAS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_ARENAS];

/// Memory for an arena that was not opened after all, or null.
static UNUSED: AtomicPtr<Arena> = AtomicPtr::new(core::ptr::null_mut());

/// The process's arenas.
pub static ARENAS: Arenas = Arenas { main: Arena::new(0), others: AtomicUsize::new(0) };

/// What an arena begins as: copied, since the stack of a thread may be smaller than it. All zeros, and
/// so in .bss like the main arena.
static FRESH: Arena = Arena::new(0);

impl Arenas {
    /// The main arena.
    pub fn main(&self) -> &Arena {
        &self.main
    }

    /// Number of arenas.
    pub fn count(&self) -> usize {
        (self.others.load(Acquire) + 1).min(MAX_ARENAS)
    }

    /// The arena with this number.
    pub fn get(&self, id: u16) -> Option<&Arena> {
        if id == 0 {
            return Some(&self.main);
        }
        // Acquire pairs with the release in `open`.
        let arena = OTHERS.get(usize::from(id))?.load(Acquire);
        // SAFETY: arenas live as long as the process.
        unsafe { arena.as_ref() }
    }

    /// All arenas.
    pub fn iter(&self) -> impl Iterator<Item = &Arena> {
        (0..self.count() as u16).filter_map(|id| self.get(id))
    }

    /// All arenas that are in use.
    pub fn iter_open(&self) -> impl Iterator<Item = &Arena> {
        self.iter().filter(|arena| !arena.attach.is_closed())
    }

    /// The arena for a thread that can not stay on arena `not`: the least loaded one, or a new
    /// one if all have threads and the ceiling is not reached. `not` itself if there is no
    /// other.
    pub fn choose(&self, not: u16) -> &Arena {
        let least = self.least_loaded(not);
        let found = self.idle_or_new(least, usize::MAX).or(least);
        found.or(self.get(not)).unwrap_or(&self.main)
    }

    /// A less crowded arena for a thread of `own`, if there is one. Threads that met short waits
    /// only open fewer arenas.
    pub fn choose_less_crowded(&self, own: &Arena, waits: Waits) -> Option<&Arena> {
        let least = self.least_loaded(own.id);
        let per_cpu = if waits == Waits::Short { FOR_SHORT_WAITS } else { usize::MAX };
        let fewer = |arena: &&Arena| arena.attach.threads() + 1 < own.attach.threads();
        self.idle_or_new(least, per_cpu).or(least.filter(fewer))
    }

    /// The arena with the most free memory, if that is much: for a thread that would touch fresh memory in
    /// `own`.
    pub fn richer_than(&self, own: &Arena) -> Option<&Arena> {
        let others = self.iter_open().filter(|arena| arena.id != own.id);
        let richest = others.max_by_key(|arena| arena.purgeable_bytes())?;
        let free = richest.purgeable_bytes();
        let much = MUCH_FREE.max(richest.bytes_in_use() / MUCH_FREE_PART);
        (free >= much.max(2 * own.purgeable_bytes())).then_some(richest)
    }

    /// Where a thread begins: on an arena of its own if it can be, for its blocks would lie in the
    /// cache lines of others' else, and its slow paths wait for theirs.
    pub fn for_new_thread(&self) -> &Arena {
        let least = self.least_loaded(u16::MAX);
        self.idle_or_new(least, FOR_NEW).or(least).unwrap_or(&self.main)
    }

    /// The least loaded arena if it has no threads, else a new one if there may be one more.
    fn idle_or_new<'a>(&'a self, least: Option<&'a Arena>, per_cpu: usize) -> Option<&'a Arena> {
        least.filter(|arena| arena.attach.threads() == 0).or_else(|| self.open(per_cpu))
    }

    /// The open arena with the fewest threads, of several the first, but not arena `not`.
    fn least_loaded(&self, not: u16) -> Option<&Arena> {
        self.iter_open().filter(|arena| arena.id != not).min_by_key(|arena| arena.attach.threads())
    }

    /// Opens a new arena, unless there are as many as the setting says, or so many per usable CPU.
    #[cold]
    fn open(&self, per_cpu: usize) -> Option<&Arena> {
        let closed = self.count() - self.iter_open().count();
        let ceiling =
            config::arena_ceiling().min(per_cpu.saturating_mul(config::usable_cpus() as usize));
        let ceiling = (ceiling + closed).min(MAX_ARENAS);
        if self.count() >= ceiling {
            return None;
        }
        // The memory first: a number that is taken for an arena which can not be made is lost.
        // Acquire pairs with the release below.
        let left = UNUSED.swap(core::ptr::null_mut(), Acquire);
        let place = if left.is_null() { meta::allocate(size_of::<Arena>()).cast() } else { left };
        if place.is_null() {
            return None;
        }
        // The number is taken before the arena is published; readers skip the empty slot in between.
        let next = |others: usize| (others + 1 < ceiling).then_some(others + 1);
        let Ok(others) = self.others.fetch_update(Release, Relaxed, next) else {
            // Other threads were faster; two at once lose memory, as often as there are arenas.
            UNUSED.store(place, Release);
            return None;
        };
        let id = others + 1;
        const { assert!(align_of::<Arena>() <= 128) };
        window::of(id as u16).open();
        // SAFETY: new memory of the right size, unknown to other threads until the store.
        unsafe {
            place.copy_from_nonoverlapping(&FRESH, 1);
            (*place).set_id(id as u16);
            OTHERS.get(id)?.store(place, Release);
            Some(&*place)
        }
    }
}

#[cfg(test)]
impl Arenas {
    /// The main arena is for one test at a time, as long as it has this.
    pub fn main_for_test(&self) -> impl Drop {
        extern crate std;
        static MAIN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        MAIN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
