//! How caches that are not used give their blocks back.

use super::{State, Tcache};
use crate::arena::{ARENAS, Arena, IdleEpochs, STEPS};
use crate::page_map;
use crate::size_class::{CLASS_PLACES, CLASSES, Class, size};
use crate::sync::block::{Block, Chain};
use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Ends of slow paths after which a thread looks at the purge clock.
const POLL: u32 = 32;

/// The decay time, of those since the clock began, in which all threads that sleep were last looked at.
static LOOKED_AT_ALL: AtomicU64 = AtomicU64::new(0);

/// What a cache remembers of its use.
pub struct Activity {
    /// The thread's slow paths. Written by the thread alone.
    uses: AtomicU32,
    /// As many when the helper last saw a difference …
    seen: AtomicU32,
    /// … and the epochs since then. Both are of whoever ticks the purge clock, one at a time.
    idle: AtomicU8,
    /// Ends of slow paths.
    polls: Cell<u32>,
    /// Bit n: class n took a slow path since `cooled`.
    classes: Cell<u64>,
    /// The epoch in which the thread last gave back what it does not use.
    cooled: Cell<u64>,
}

impl Activity {
    /// No use yet.
    pub const fn new() -> Self {
        Self {
            uses: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            idle: AtomicU8::new(0),
            polls: Cell::new(0),
            classes: Cell::new(0),
            cooled: Cell::new(0),
        }
    }

    /// Looks at the thread's use, once per epoch; the epochs in which it took no slow path.
    fn idle_epochs(&self) -> usize {
        let seen = self.seen.load(Relaxed);
        let mut idle = IdleEpochs { seen, epochs: self.idle.load(Relaxed) };
        let epochs = idle.tick(self.uses.load(Relaxed));
        self.seen.store(idle.seen, Relaxed);
        self.idle.store(idle.epochs, Relaxed);
        epochs
    }

    /// Slow paths that the thread took.
    pub fn uses(&self) -> usize {
        self.uses.load(Relaxed) as usize
    }

    /// Takes note of a slow path of `class`.
    pub fn note(&self, class: Class) {
        // Relaxed: a count, by its only writer.
        self.uses.store(self.uses.load(Relaxed).wrapping_add(1), Relaxed);
        self.classes.set(self.classes.get() | 1 << (class % CLASS_PLACES));
    }
}

/// Gives a list of at most `limit` blocks of one class home that nobody used for long.
///
/// # Safety
/// The blocks are the caller's, of that class and arena.
pub(super) unsafe fn give_idle(arena: &Arena, class: Class, head: *mut Block, limit: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match arena.lock_open() {
            Some(mut held) => held.give_idle_blocks(class, head, limit),
            None => arena.give_remotely(head),
        }
    }
}

impl Tcache {
    /// Takes note of the end of a slow path; whether the thread should look at the purge clock now.
    pub fn is_poll_due(&self) -> bool {
        let polls = self.activity.polls.get().wrapping_add(1);
        self.activity.polls.set(polls);
        polls.is_multiple_of(POLL)
    }

    /// Gives the spare magazines of classes back that the thread did not use for the decay time, and the bins of those that
    /// it only frees.
    pub fn cool(&self, epoch: u64) {
        if epoch.wrapping_sub(self.activity.cooled.get()) < STEPS as u64 {
            return;
        }
        self.activity.cooled.set(epoch);
        self.cool_large();
        let _inside = self.go_inside();
        let used = self.activity.classes.replace(0);
        for class in (1..CLASSES).filter(|class| used >> class & 1 == 0) {
            self.give_spare(class);
            self.give_few_home(class);
            self.refills[class].set(0);
            self.patience[class].set(0);
        }
    }

    /// Gives the spare magazine of a class back to its arena; its bytes. Any thread may do that.
    fn give_spare(&self, class: Class) -> usize {
        let Some(Chain { head, count, .. }) = self.spare(class).take() else { return 0 };
        let Some(arena) = ARENAS.get(page_map::owner(head.addr()).arena()) else { return 0 };
        // SAFETY: a magazine is a list of blocks of one arena, and whoever takes it out of its
        // slot owns it.
        unsafe { give_idle(arena, class, head, count) };
        count * size(class)
    }

    /// Gives all spare magazines back to their arenas; their bytes. Any thread may do that.
    fn give_spares(&self) -> usize {
        (1..CLASSES).map(|class| self.give_spare(class)).sum()
    }

    /// Takes the spare magazines of threads that sleep, and what is in their bins: that took no slow path for `age`
    /// epochs; of those that sleep for longer only now and then, since it is little. Called once per epoch. Whether
    /// there was something, or may be soon, since a thread took one.
    pub fn cool_sleepers(age: usize, epoch: u64) -> bool {
        // Not each epoch has a tick.
        let decay = epoch / STEPS as u64;
        let looks_at_all = LOOKED_AT_ALL.swap(decay, Relaxed) != decay;
        let mut is_awake = false;
        for cache in Self::all().filter(|cache| cache.state() == State::Live) {
            let idle = cache.activity.idle_epochs();
            is_awake |= idle < age
                || (looks_at_all || idle < 2 * age)
                    && cache.give_spares() + cache.cool_large() + cache.drain_if_asleep() > 0;
        }
        is_awake
    }

    /// Takes the spare magazines and kept large blocks of all threads, and takes note of what their bins look like.
    pub fn take_spares() {
        for cache in Self::all().filter(|cache| cache.state() == State::Live) {
            cache.give_spares();
            cache.give_large_home();
            cache.has_changed();
        }
    }

    /// Empties the bins of threads that did nothing since [`Tcache::take_spares`]. One that runs is left alone:
    /// it might have to wait where this thread has to, for a CPU. The bytes taken.
    pub fn drain_unchanged() -> usize {
        let live = Self::all().filter(|cache| cache.state() == State::Live);
        live.filter(|cache| !cache.has_changed()).map(|cache| cache.drain(1)).sum()
    }

    /// Empties the cache into its arena, a magazine at a time; the thread goes on with it.
    pub fn give_all_back(&self) {
        let _inside = self.go_inside();
        self.send_pending();
        let arena = self.arena();
        // SAFETY: the cache's blocks are its arena's.
        self.flush(|class, head, _| unsafe {
            arena.give_under(arena.lock_open().as_mut(), class, head);
        });
    }
}
