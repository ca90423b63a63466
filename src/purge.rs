//! Giving free memory back to the kernel: with time, and at once.
//!
//! Time is counted in epochs, of which the decay time has sixteen. In each, somebody *ticks*: the
//! helper thread (`purger.rs`), or where there is none a thread on a slow path. A tick looks at
//! what the program did not need (`arena/decay.rs`), and gives a part of it back. The kernel works
//! on chunks while no lock is held; of the top and of slabs only small pieces are given back under
//! it. So no thread waits long for an arena that is purged, by a tick or by malloc_trim(3).
//!
//! Memory goes back by MADV_DONTNEED. MADV_FREE would cost less only when the memory is wanted
//! again before the kernel takes it, which is what the decay time is for; the process would show
//! it as resident until then, and what was given back would not be known to be zero.

pub mod peak;

use crate::arena::purge::{RESERVE, Search};
use crate::arena::{ARENAS, Arena, DEPOT_SLOTS, Guard, STEPS};
use crate::config;
use crate::heap::MAPPED;
use crate::huge;
use crate::limit;
use crate::os::{self, PAGE};
use crate::page_map;
use crate::pressure;
use crate::size_class::{CLASSES, Class};
use crate::tcache::{State, Tcache};
use crate::tls;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

/// Pages of a top that go back under the lock at once: 256 KiB, some 30 µs.
const TOP_PIECE: usize = 64;
/// Pages of a chunk that go back at once, without the lock: 16 MiB.
const CHUNK_PIECE: usize = 4096;
/// Slabs that are looked through under the lock at once.
const SLABS_PIECE: usize = 8;
/// Slabs that are closed under the lock at once.
const CLOSED_AT_ONCE: usize = 64;
/// Pages that a thread on a slow path gives back in one epoch: 16 MiB, some 2 ms.
const SLOW_PATH_PAGES: usize = 4096;

/// Microseconds that a thread gives chunks back before it lets others have its CPU: a part of the time that
/// the kernel's scheduler gives it.
const TURN_MICROSECONDS: u64 = 500;

/// Chunks that the kernel refuses to empty, since the program locked them, after which no others are tried.
const REFUSALS: usize = 32;

/// How often a thread that finds no memory tries again for what others may have freed meanwhile.
const TRIES_WITHOUT_MEMORY: usize = 4;

/// Bytes at the end of each top that it leaves where they are.
const MOST_PAD: usize = 128 * 1024;

/// Times that a thread without memory offers its CPU to those that purge.
const PATIENCE: usize = 10_000;

/// Free bytes from which it is worth to look for some that can be given back, and as many again
/// for each arena.
const ENOUGH: usize = 1024 * 1024;

/// Bytes in use from which there may be much to give back later.
const MUCH_IN_USE: usize = 4 * 1024 * 1024;

/// Threads of which each may have a chunk that is in no bin, since the kernel drops its pages just
/// now. SeqCst: who finds the bins empty looks here afterwards.
static UNDERWAY: AtomicUsize = AtomicUsize::new(0);

/// The last epoch in which a slow path ticked.
static TICKED: AtomicU64 = AtomicU64::new(0);

/// Milliseconds between two looks for what a process at its soft limit can give back.
const SOFT_LIMIT_MILLISECONDS: u64 = 50;

/// When that was last done, in those.
static TRIMMED: AtomicU64 = AtomicU64::new(0);

/// Part of what is in use that is little; and so is what does not go with time either.
const LITTLE_PART: usize = 64;

/// When the program asked for trims.
static DEMAND: Demand = Demand::new();

/// Milliseconds between two ticks; `None` when memory is never given back with time.
pub fn epoch_milliseconds() -> Option<u64> {
    match config::DECAY_MS.load(Relaxed) {
        usize::MAX => None,
        decay => Some((decay / STEPS).max(1) as u64),
    }
}

/// The epoch of now.
pub fn epoch() -> Option<u64> {
    Some(os::coarse_milliseconds() / epoch_milliseconds()?)
}

/// Bytes that could be given back, about. (Those of arenas that a fork closed stay what they were then.)
pub fn purgeable_bytes() -> usize {
    purgeable_in_arenas() + huge::kept::bytes()
}

fn purgeable_in_arenas() -> usize {
    ARENAS.iter_open().map(Arena::purgeable_bytes).sum()
}

/// Bytes that arenas hold in memory, about.
pub fn bytes_in_arenas() -> usize {
    bytes_in_use() + purgeable_in_arenas()
}

/// Whether so much is free that some of it may be given back.
pub fn is_worth_it() -> bool {
    is_worth_it_beyond(0)
}

/// As [`is_worth_it`], where the kernel does not take so many bytes.
pub fn is_worth_it_beyond(refused: usize) -> bool {
    let enough = ENOUGH * (1 + ARENAS.count());
    purgeable_bytes().saturating_sub(refused) >= enough
}

/// Whether so much is in use that it may be worth it later.
pub fn may_be_worth_it() -> bool {
    bytes_in_use() >= MUCH_IN_USE || huge::kept::is_wanted()
}

/// Bytes of slabs and large blocks, about.
fn bytes_in_use() -> usize {
    ARENAS.iter_open().map(Arena::bytes_in_use).sum()
}

/// A tick on a thread's slow path, if nobody ticked in this epoch, which gives chunks and tops back only
/// if `is_worth_it`. Passes over arenas whose lock another thread holds when it comes to them.
pub fn tick_on_slow_path(is_worth_it: bool) {
    let Some(epoch) = epoch() else { return };
    if TICKED.swap(epoch, Relaxed) != epoch {
        if os::is_single_threaded() {
            pressure::look();
            peak::look();
        }
        tick(epoch, if is_worth_it { SLOW_PATH_PAGES } else { 0 }, false);
    }
}

/// Gives back what was not needed lately, at most `pages` of chunks and tops; of all arenas if
/// `patient`, else of those whose lock is free at first. Whether there was something, or something
/// cools that may go in a later epoch.
pub fn tick(epoch: u64, pages: usize, patient: bool) -> bool {
    let at_once = config::DECAY_MS.load(Relaxed) == 0 || limit::is_above_soft();
    let kept = if at_once { 0 } else { 100 - usize::from(pressure::level().min(100)) };
    let mut left = pages;
    let age = config::DECAY_MS.load(Relaxed).saturating_mul(kept) / 100;
    let mut freed = huge::kept::release(age as u64);
    let mut cools = Tcache::cool_sleepers(STEPS, epoch) || huge::kept::bytes() > 0;
    for arena in ARENAS.iter_open() {
        let held = if patient { arena.lock_open() } else { arena.try_lock() };
        let Some(mut held) = held else { continue };
        arena.drain(&mut held);
        held.advance(epoch);
        cools |= arena.cool_depot(&mut held);
        cools |= !held.parked.is_null();
        let are_idle = held.parked_are_idle();
        drop(held);
        if are_idle {
            empty_parked(arena);
        }
        cool_magazines(arena);
        close_slabs(arena);
        freed += cool_slabs(arena, STEPS as u8, usize::MAX);
        let surplus = arena.lock_open().map_or(0, |held| held.surplus(kept)).min(left);
        let bytes = purge(arena, surplus, usize::MAX, &[STEPS as u16, STEPS as u16 / 2, 1, 0]);
        left -= (bytes / PAGE).min(left);
        freed += bytes;
    }
    cools || freed > 0
}

/// Gives the magazines of idle classes home that lie beside the depot, a few at a time.
fn cool_magazines(arena: &Arena) {
    // SAFETY: the lock is held.
    in_pieces(arena, |held, class| unsafe { held.give_idle_magazines(class) });
}

/// Closes slabs of sparse classes, some at a time.
fn close_slabs(arena: &Arena) {
    // SAFETY: the lock is held.
    in_pieces(arena, |held, class| unsafe { held.close_slabs(class, CLOSED_AT_ONCE) });
}

/// Does something in all classes, from the first on, a piece under each use of the lock, which says with which
/// class to go on.
fn in_pieces(arena: &Arena, piece: impl Fn(&mut Guard<'_>, Class) -> Option<Class>) {
    let mut next = Some(1);
    while let Some(class) = next {
        next = arena.lock_open().and_then(|mut held| piece(&mut held, class));
    }
}

/// Gives the free pages back of at most about `slabs` slabs that were not touched for `age` epochs;
/// the bytes.
fn cool_slabs(arena: &Arena, age: u8, slabs: usize) -> usize {
    let (mut next, mut left, mut freed) = (Some(1), slabs, 0);
    while let (Some(class), 1..) = (next, left) {
        let Some(mut held) = arena.lock_open() else { break };
        // SAFETY: the lock is held.
        let (rest, bytes) = unsafe { held.cool_slabs(class, age, SLABS_PIECE) };
        next = rest;
        left = left.saturating_sub(SLABS_PIECE);
        freed += bytes;
    }
    freed
}

/// Gives `pages` dirty pages back, of the top first, since that is what is needed last, but no more
/// than `top` of it; then of chunks: those first that are free for the first of `ages` epochs, and
/// so on. The bytes.
fn purge(arena: &Arena, pages: usize, top: usize, ages: &[u16]) -> usize {
    let mut turn = Turn::begin();
    let mut freed = 0;
    while freed < pages.min(top) * PAGE {
        match purge_top(arena, pages.min(top) - freed / PAGE) {
            0 => break,
            bytes => freed += bytes,
        }
    }
    let mut refusals = 0;
    for mut search in ages.iter().map(|&age| Search::of(age)) {
        while freed < pages * PAGE
            && refusals < REFUSALS
            && let Some(bytes) = purge_chunk(arena, &mut search, pages - freed / PAGE, &mut turn)
        {
            freed += bytes;
            if bytes == 0 {
                refusals += 1;
                search.pass_over();
            }
        }
    }
    freed
}

/// A thread's turn on its CPU. Whose time is over soon is to be interrupted while it holds no lock, which
/// others would wait for meanwhile: so it goes by itself, but not after each chunk. On a machine with no
/// CPU to spare it comes back several milliseconds later.
struct Turn {
    /// [`os::microseconds`].
    begun: u64,
}

impl Turn {
    fn begin() -> Self {
        Self { begun: os::microseconds() }
    }

    /// Lets others have the CPU if the turn is over.
    fn end_if_over(&mut self) {
        if os::microseconds().wrapping_sub(self.begun) >= TURN_MICROSECONDS {
            os::yield_now();
            *self = Self::begin();
        }
    }
}

/// Gives at most `pages` of the end of the top back, and no more than one piece; the bytes.
fn purge_top(arena: &Arena, pages: usize) -> usize {
    // SAFETY: the lock is held.
    arena.lock_open().map_or(0, |mut held| unsafe { held.discard_top(pages.min(TOP_PIECE)) })
}

/// Gives at most `pages` of one dirty chunk back; the bytes, 0 when the kernel refuses, as it does
/// for memory that the program locked (mlockall(2)).
fn purge_chunk(arena: &Arena, search: &mut Search, pages: usize, turn: &mut Turn) -> Option<usize> {
    UNDERWAY.fetch_add(1, SeqCst);
    let purged = purge_one_chunk(arena, search, pages.min(CHUNK_PIECE), turn);
    leave(&UNDERWAY);
    purged
}

/// Counts the caller out. A count of none stays none: in a child after fork, a thread that was interrupted
/// in between was not counted again.
fn leave(underway: &AtomicUsize) {
    _ = underway.fetch_update(SeqCst, SeqCst, |others| others.checked_sub(1));
}

fn purge_one_chunk(
    arena: &Arena,
    search: &mut Search,
    pages: usize,
    turn: &mut Turn,
) -> Option<usize> {
    // SAFETY: the lock is held. The run then is this thread's alone, until it goes back to the
    // arena: under the lock, or as a borrowed one does.
    unsafe {
        let run = arena.lock_open()?.take_dirty(search, pages)?;
        let bytes = run.pages * PAGE;
        // Up to the end of the kernel's page, where nothing else is (`purgeable_part`).
        let whole = os::round_up(bytes, os::page_size()).unwrap_or(bytes);
        let dropped = os::discard(core::ptr::with_exposed_provenance_mut(run.start), whole);
        page_map::forget(run.start + PAGE, bytes - PAGE);
        turn.end_if_over();
        match arena.lock_open() {
            Some(mut held) => held.give_purged(run, dropped == whole),
            None => arena.send_returned_run(run.start),
        }
        Some(dropped.min(bytes))
    }
}

/// As [`trim`], for a process that stays near its soft limit, if much is free, and not all the time.
pub fn trim_at_soft_limit() {
    let now = os::coarse_milliseconds() / SOFT_LIMIT_MILLISECONDS;
    if TRIMMED.load(Relaxed) != now && is_worth_it() && TRIMMED.swap(now, Relaxed) != now {
        trim(0);
    }
}

/// Waits until what others purge just now is back in its arenas, for whoever needs the last free
/// memory; not for ever.
fn wait_for_others() {
    for _ in 0..PATIENCE {
        if UNDERWAY.load(SeqCst) == 0 {
            return;
        }
        os::yield_now();
    }
}

/// In the child after fork nobody else purges.
pub fn after_fork() {
    UNDERWAY.store(0, SeqCst);
}

/// As [`trim`], for the program, which gets 0 at once where it asks all the time.
pub fn trim_on_demand(pad: usize) -> usize {
    let is_little = || purgeable_bytes() < (RESERVE * PAGE).max(bytes_in_use() / LITTLE_PART);
    if DEMAND.is_met(os::coarse_milliseconds(), is_little) { 0 } else { trim(pad) }
}

/// Some programs trim after every few blocks. Each time all caches would be emptied for the few pages that became
/// free since, and then filled again.
struct Demand {
    /// The last tick of the kernel's clock, of some milliseconds, in which there was one.
    tick: AtomicU64,
    /// How many there were in it.
    count: AtomicU32,
}

impl Demand {
    /// Trims of a tick that are done in any case.
    const MOST: u32 = 4;

    const fn new() -> Self {
        Self { tick: AtomicU64::new(0), count: AtomicU32::new(0) }
    }

    /// Whether there were enough in the tick `now`, and what could be given back since is little.
    fn is_met(&self, now: u64, is_little: impl FnOnce() -> bool) -> bool {
        // Relaxed: threads that ask at once may be counted one too many or too few.
        if self.tick.swap(now, Relaxed) != now {
            self.count.store(0, Relaxed);
        }
        let is_met = self.count.load(Relaxed) >= Self::MOST && is_little();
        if !is_met {
            self.count.fetch_add(1, Relaxed);
        }
        is_met
    }
}

/// Gives all free memory of the arenas back that can be given back, in small steps, but `pad`
/// bytes at the top of each arena's newest heap. What is in the bins of threads that do nothing meanwhile goes
/// as well, but for one block of each. The bytes given back.
pub fn trim(pad: usize) -> usize {
    let before = MAPPED.bytes();
    Tcache::empty_vanished();
    // SAFETY: the word always points at a cache; a live one is this thread's.
    let cache = unsafe { &*tls::get() };
    if cache.state() == State::Live {
        cache.give_all_back();
    }
    Tcache::take_spares();
    let mut freed = huge::kept::release(0) + empty_all(pad);
    if Tcache::drain_unchanged() > 0 {
        freed += empty_all(pad);
    }
    // Blocks on their way home may have lowered the break already.
    freed.max(before.saturating_sub(MAPPED.bytes()))
}

/// Gives what the arenas have back; the bytes.
fn empty_all(pad: usize) -> usize {
    let mut freed = 0;
    for arena in ARENAS.iter_open() {
        empty(arena);
        // Not more than there is now: others go on meanwhile, and might never let it end.
        let slabs = arena.lock_open().map_or(0, |held| held.slab_count());
        freed += cool_slabs(arena, 0, slabs);
        freed += purge_all(arena, pad);
    }
    freed
}

/// Gives the blocks that wait in an arena's lists back to their slabs, a magazine at a time.
fn empty(arena: &Arena) {
    for class in (1..CLASSES).filter(|&class| arena.depot_count(class) > 0) {
        for _ in 0..DEPOT_SLOTS {
            let Some(mut held) = arena.lock_open() else { return };
            arena.give_depot_magazine(&mut held, class);
        }
    }
    // SAFETY: the lock is held.
    while arena.lock_open().is_some_and(|mut held| unsafe { held.give_most_magazines() }) {}
    if let Some(mut held) = arena.lock_open() {
        arena.drain(&mut held);
    }
    empty_parked(arena);
}

/// Empties the caches that wait in an arena, one under each use of the lock.
fn empty_parked(arena: &Arena) {
    // No more than there are at all: others may come meanwhile.
    for _ in Tcache::all() {
        if !arena.lock_open().is_some_and(|mut held| Tcache::flush_parked(&mut held)) {
            return;
        }
    }
}

/// Gives every dirty chunk back that is there now, and the top down to `pad` bytes; the bytes.
fn purge_all(arena: &Arena, pad: usize) -> usize {
    let Some(held) = arena.lock_open() else { return 0 };
    let top = (held.heap.spare_bytes() / PAGE).saturating_sub(pad.div_ceil(PAGE));
    let all = held.dirty_pages();
    drop(held);
    let freed = purge(arena, all, top, &[0]);
    // What is left to do for one call under the lock is to move the break, or to unmap a heap.
    // SAFETY: the lock is held.
    freed + arena.lock_open().map_or(0, |mut held| unsafe { held.trim_top_to(pad) })
}

/// Looks again for what was not found, after everything was given back that can be; what others
/// purge just now is waited for. A few times, since they go on taking. The tops keep their pad: where the kernel grants
/// nothing any more, small requests live on it.
pub fn find_after_trim<T>(find: impl Fn() -> Option<T>) -> Option<T> {
    (0..TRIES_WITHOUT_MEMORY).find_map(|_| {
        wait_for_others();
        trim(config::TOP_PAD.load(Relaxed).min(MOST_PAD));
        find()
    })
}

/// Makes every arena count against limits that were just set.
pub fn count_for_limits() {
    ARENAS.iter().for_each(|arena| drop(arena.lock_open()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_trims_all_the_time_gets_what_is_worth_it() {
        let demand = Demand::new();
        for tick in [1, 2] {
            assert!((0..Demand::MOST).all(|_| !demand.is_met(tick, || true)));
            assert!(demand.is_met(tick, || true));
            assert!(!demand.is_met(tick, || false));
            assert!(demand.is_met(tick, || true));
        }
    }

    #[test]
    fn a_fork_in_between_leaves_no_count() {
        let underway = AtomicUsize::new(2);
        leave(&underway);
        assert_eq!(underway.load(SeqCst), 1);
        // The child, in which the interrupted thread goes on.
        underway.store(0, SeqCst);
        leave(&underway);
        assert_eq!(underway.load(SeqCst), 0);
    }
}
