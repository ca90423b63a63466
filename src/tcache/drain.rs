//! How the bins of a thread that sleeps are emptied, without its doing.
//!
//! A thread's fast paths take no lock and no atomic step: others can not know whether it is in the middle
//! of one. They need not. Who empties the bins
//!
//! 1. is inside the cache's gate (`sync/gate.rs`), so that the thread is on no slow path;
//! 2. turns the thread's word to the empty cache, in which everything misses;
//! 3. lets a barrier run on all CPUs (membarrier(2)): the thread now ends one fast path at most, which read
//!    its word before. That one takes the first block of a bin, or puts one before it;
//! 4. reads which block follows the first one of each bin. It may have been taken just then, and hold what
//!    the program wrote;
//! 5. lets a barrier run again. Where the first block is still the first one, it was so at step 4: with one
//!    fast path it can not have gone and come back;
//! 6. notes these second blocks, in `taken`, leaves the gate, and gives them and all behind them home.
//!
//! The chains of blocks on their way to their arenas (`remote.rs`) are changed by a slow path that passes no gate.
//! It says so in `collects` first, and looks at the word after that: if it sees its cache there, who drains sees
//! `collects` after the first barrier, and leaves the chains alone; else it goes through the gate.
//!
//! The next thing that the thread does misses in the empty cache. On that slow path it finds its cache by
//! its pthread key (`thread.rs`), comes through the gate, ends each bin before what was taken, and goes on.
//! So one block of each bin stays, for a thread that sleeps as for one that runs.
//!
//! A child after fork has nobody inside a gate. What was on its way home just then is lost there: up to what
//! one thread had in its bins.

use super::cool::give_idle;
use super::remote::Sent;
use super::{PENDING, Pending, State, Tcache, Word, empty};
use crate::arena::Arena;
use crate::os::{self, ProcessMark};
use crate::page_map::{self, Owner};
use crate::size_class::{CLASS_PLACES, CLASSES, Class, PerClass, size};
use crate::sync::block::Block;
use crate::sync::gate::{Gate, Passage, cut};
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, compiler_fence};

/// Of a process whose threads somebody drained. (The child of vfork(2) has it, and who drains is there.)
static DRAINS_HERE: ProcessMark = ProcessMark::new();

/// Whether the thread of that number, which was inside a gate, is one of the process that this one was forked from.
fn is_gone(thread: i32) -> bool {
    DRAINS_HERE.is_an_ancestors() && !os::has_thread(thread)
}

/// Bytes in bins, without the first block of each, for which a thread is worth it.
const WORTH_IT: usize = 16 * 1024;

/// What a cache has for it.
pub struct Drain {
    gate: Gate,
    /// The thread's word. Null unless a thread has the cache whose end will come through the gate. Written
    /// inside the gate.
    word: AtomicPtr<AtomicPtr<Tcache>>,
    /// The kernel's number of that thread: it may end without its destructors (exit(2)), and the word with it.
    thread: AtomicI32,
    /// Whether the thread changes its chains of blocks on their way home, outside of the gate.
    collects: AtomicBool,
    /// Per class, the first block that was taken from the bin, or null.
    taken: PerClass<Word<*mut Block>>,
    /// What the bins looked like when somebody last looked. Who writes it does not matter: a wrong guess
    /// costs a thread that runs a slow path.
    seen: Word<usize>,
}

impl Drain {
    /// Of a cache that has no thread.
    pub const fn new() -> Self {
        Self {
            gate: Gate::new(),
            word: AtomicPtr::new(ptr::null_mut()),
            thread: AtomicI32::new(0),
            collects: AtomicBool::new(false),
            taken: PerClass([const { Word::<*mut Block>::new(ptr::null_mut()) }; CLASS_PLACES]),
            seen: Word::<usize>::new(0),
        }
    }

    /// Whether blocks were taken from the bin of `class`, and the thread did not look yet what is left.
    pub fn took(&self, class: Class) -> bool {
        !self.first_taken(class).is_null()
    }

    /// Where the list of the bin of `class` ends, if not in null.
    pub fn first_taken(&self, class: Class) -> *mut Block {
        self.taken[class].get()
    }
}

/// The thread is inside its gate until this is dropped, if it came in by this.
pub struct Inside<'a>(Option<&'a Gate>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(gate) = self.0 {
            gate.leave();
        }
    }
}

/// The thread may change its chains of blocks on their way home until this is dropped.
pub struct Collecting<'a> {
    collects: &'a AtomicBool,
    /// As it was: a signal handler may have interrupted who collects.
    before: bool,
    _inside: Option<Inside<'a>>,
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        // Release pairs with the acquire of `take_pending`: the chains are whole.
        self.collects.store(self.before, Release);
    }
}

/// What was taken of a cache: blocks of its arena, from each bin, and chains on their way home.
struct Taken {
    arena: &'static Arena,
    rests: Blocks,
    pending: [Option<Sent>; PENDING],
}

/// First blocks of the bins, or blocks behind them.
type Blocks = [*mut Block; CLASS_PLACES];

impl Tcache {
    /// Comes inside the gate of the thread's own cache, as whatever takes more than one step in its bins
    /// must. The thread holds no arena's lock, unless it is inside already.
    #[inline]
    pub(super) fn go_inside(&self) -> Inside<'_> {
        match self.drain.gate.enter(is_gone) {
            Passage::First => Inside(Some(&self.drain.gate)),
            Passage::Again => Inside(None),
            Passage::AfterDrain => {
                self.take_back();
                Inside(Some(&self.drain.gate))
            }
            Passage::AfterGone => {
                self.drain_ended_at_fork();
                Inside(Some(&self.drain.gate))
            }
        }
    }

    /// Comes inside the gate, and stays there until [`Tcache::leave_gate`], or to the thread's end.
    pub fn stay_inside(&self) {
        core::mem::forget(self.go_inside());
    }

    /// Leaves the gate after [`Tcache::stay_inside`].
    pub fn leave_gate(&self) {
        self.drain.gate.leave();
    }

    /// Makes the cache the thread's again that somebody drained.
    pub fn come_back(&self) {
        drop(self.go_inside());
    }

    /// Keeps who drains away from the chains of blocks on their way home.
    #[inline]
    pub(super) fn collect(&self) -> Collecting<'_> {
        let collects = &self.drain.collects;
        let before = collects.load(Relaxed);
        collects.store(true, Relaxed);
        // The kernel's barrier between the other's two steps makes an order of these two (membarrier(2)).
        compiler_fence(SeqCst);
        // SAFETY: not null, it is the thread's own word.
        let word = unsafe { self.drain.word.load(Relaxed).as_ref() };
        let is_away = word.is_some_and(|word| !ptr::eq(word.load(Relaxed), self));
        let inside = is_away.then(|| self.go_inside());
        Collecting { collects, before, _inside: inside }
    }

    /// Takes the chains of blocks on their way home, unless the thread changes them just now. The caller is inside
    /// the gate, and let a barrier run after it had turned the thread's word away.
    fn take_pending(&self) -> [Option<Sent>; PENDING] {
        // Acquire pairs with the release of who collects.
        if self.drain.collects.load(Acquire) {
            return [const { None }; PENDING];
        }
        self.pending.each_ref().map(Pending::take)
    }

    /// Takes note of where the word lies of the thread that has the cache, and is inside the gate, and of the
    /// kernel's number of the thread.
    ///
    /// # Safety
    /// The word is there as long as the thread.
    pub unsafe fn may_be_drained(&self, word: *mut AtomicPtr<Tcache>, thread: i32) {
        self.drain.thread.store(thread, Relaxed);
        self.drain.word.store(word, Relaxed);
    }

    /// The kernel's number of the thread that has the cache, and whose end it will hear of; 0 before.
    pub fn thread_id(&self) -> i32 {
        self.drain.thread.load(Relaxed)
    }

    /// Leaves the gate of a cache that has no thread any more.
    pub(super) fn close_drain(&self) {
        self.drain.word.store(ptr::null_mut(), Relaxed);
        self.drain.gate.leave();
    }

    /// The thread, inside the gate, finds that blocks were taken.
    #[cold]
    fn take_back(&self) {
        self.end_lists();
        self.turn_word_back();
    }

    /// Ends the list of each bin before what was taken from it.
    fn end_lists(&self) {
        for class in 1..CLASSES {
            let taken = self.drain.taken[class].get();
            if taken.is_null() {
                continue;
            }
            let bin = self.bin(class);
            // SAFETY: the bin is the caller's; it led to what was taken, and at most one block was taken from
            // before that, or put there, since then.
            let (head, count) = unsafe { cut(bin.head.get(), taken) };
            let places = usize::from(bin.places.get());
            bin.set_free_places(places.saturating_sub(count));
            bin.head.set(head);
            // Not before: a child of a fork in between ends the list itself.
            compiler_fence(Release);
            self.drain.taken[class].set(ptr::null_mut());
        }
    }

    /// Makes the word of the cache's thread, which is the calling one, lead to the cache again.
    fn turn_word_back(&self) {
        // SAFETY: not null, it is the thread's own word.
        if let Some(word) = unsafe { self.drain.word.load(Relaxed).as_ref() } {
            word.store(ptr::from_ref(self).cast_mut(), Relaxed);
        }
    }

    /// Turns the word of another thread away from the cache; false where there is no such thread any more.
    /// The caller is inside the gate.
    fn turn_word_away(&self) -> bool {
        let cache = ptr::from_ref(self).cast_mut();
        // A thread that ends with its destructors comes through the gate first.
        let is_there = os::has_thread(self.drain.thread.load(Relaxed));
        // SAFETY: the thread's word is there as long as the thread.
        let word = unsafe { self.drain.word.load(Relaxed).as_ref() };
        is_there
            && word
                .is_some_and(|word| word.compare_exchange(cache, empty(), Relaxed, Relaxed).is_ok())
    }

    /// In the child after fork, for the cache of the calling thread, which a signal handler may have
    /// interrupted anywhere.
    pub(super) fn recover_own_drained(&self) {
        self.drain.thread.store(os::thread_id(), Relaxed);
        if self.drain.gate.forget_holder() {
            self.drain_ended_at_fork();
        }
    }

    /// Who was inside the gate of the calling thread's cache is not here, and has taken nothing.
    #[cold]
    fn drain_ended_at_fork(&self) {
        self.forget_taken();
        self.turn_word_back();
    }

    /// In the child after fork, for the cache of a thread that is not here.
    pub(super) fn recover_drained(&self) {
        self.forget_who_drains();
        // The thread may have been in the middle of it; the next one that has the cache is not.
        self.drain.collects.store(false, Relaxed);
        self.end_lists();
        self.close_drain();
    }

    /// In the child after fork, for a cache that no thread has.
    pub(super) fn forget_who_drains(&self) {
        if self.drain.gate.forget_holder() {
            self.forget_taken();
        }
    }

    fn forget_taken(&self) {
        self.drain.taken.0.iter().for_each(|taken| taken.set(ptr::null_mut()));
    }

    /// Empties the bins of a thread that takes no slow path, if it does nothing else either and they hold
    /// enough, since this was asked last. The bytes taken.
    pub(super) fn drain_if_asleep(&self) -> usize {
        if self.drain.word.load(Relaxed).is_null() || !self.drain.gate.is_open() {
            return 0;
        }
        if self.has_changed() { 0 } else { self.drain(WORTH_IT) }
    }

    /// Whether the thread did something since this was asked last, as far as its bins tell.
    pub(super) fn has_changed(&self) -> bool {
        let pending = self.pending.iter().map(|slot| slot.head.get().addr());
        let heads = (1..CLASSES).map(|class| self.bin(class).head.get().addr()).chain(pending);
        let looks =
            heads.fold(self.activity.uses(), |sum, head| sum.rotate_left(1).wrapping_add(head));
        self.drain.seen.replace(looks) != looks
    }

    /// Bytes that can be taken, about.
    fn bytes_to_take(&self) -> usize {
        let behind_first = |class| self.bin_count(class).saturating_sub(1) * size(class);
        (1..CLASSES).map(behind_first).sum::<usize>() + self.pending_figures().0
    }

    /// Empties the bins of another thread, but for the first block of each, and sends its blocks of others home, if
    /// these are `least` bytes, about. The bytes taken, about.
    pub(super) fn drain(&self, least: usize) -> usize {
        let bytes = self.bytes_to_take();
        if bytes < least || !os::HAS_BARRIER.load(Relaxed) {
            return 0;
        }
        DRAINS_HERE.set();
        // A handler that interrupts who is inside might wait for the thread, or fork: the child would take
        // the one inside for gone, who goes on there when the handler returns.
        let taken = os::without_signals(|| self.take_rests_inside()).flatten();
        let Some(Taken { arena, rests, pending }) = taken else { return 0 };
        for class in (1..CLASSES).filter(|&class| !rests[class].is_null()) {
            // SAFETY: nobody else reaches these blocks, which were in a bin of that arena; the list ends in
            // null.
            unsafe { give_idle(arena, class, rests[class], usize::MAX) };
        }
        pending.into_iter().flatten().for_each(|chain| chain.go_home(arena.id()));
        bytes
    }

    /// Comes inside the gate of another thread's cache, and takes what follows the first block of each bin, and the
    /// chains on their way home. `None` if nothing was taken.
    fn take_rests_inside(&self) -> Option<Taken> {
        if !self.drain.gate.hold(os::thread_id()) {
            return None;
        }
        // Only now, and not after it: outside the gate the cache may change hands, and the thread its arena.
        let may_be = self.state() == State::Live
            && !self.drain.word.load(Relaxed).is_null()
            && self.thread.get() != os::thread_number();
        let is_turned = may_be && self.turn_word_away();
        let taken = if is_turned { self.take_rests() } else { None };
        self.drain.gate.release(is_turned);
        taken
    }

    /// Takes what follows the first block of each bin, and notes it as taken, and the chains on their way home;
    /// `None` if nothing was. The caller is inside the gate, and has turned the thread's word away.
    fn take_rests(&self) -> Option<Taken> {
        if !os::barrier() {
            return None;
        }
        let (first, mut rests) = self.first_and_next()?;
        if !os::barrier() {
            return None;
        }
        for class in 1..CLASSES {
            if self.bin(class).head.get() == first[class] {
                self.drain.taken[class].set(rests[class]);
            } else {
                rests[class] = ptr::null_mut();
            }
        }
        Some(Taken { arena: self.arena(), rests, pending: self.take_pending() })
    }

    /// The first block of each bin and what its first word says, which is the next one if it is still the
    /// first block afterwards.
    fn first_and_next(&self) -> Option<(Blocks, Blocks)> {
        let arena = self.arena();
        let (mut first, mut next) =
            ([ptr::null_mut(); CLASS_PLACES], [ptr::null_mut(); CLASS_PLACES]);
        // Whatever happens to the block, its slab is there as long as the arena is locked.
        let _held = arena.lock_open()?;
        for class in 1..CLASSES {
            let head = self.bin(class).head.observe();
            if !head.is_null()
                && page_map::owner(head.addr()) == Owner::new(arena.id(), class as u16)
            {
                first[class] = head;
                // SAFETY: a slab lies there. Volatile, since the program may have the block by now, and
                // write it.
                next[class] = unsafe { head.cast::<*mut Block>().read_volatile() };
            }
        }
        Some((first, next))
    }
}
