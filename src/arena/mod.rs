//! Arenas: a lock over slabs by class, free chunks by size and a top chunk, with a lock-free
//! list of blocks on their way home and a lock-free depot of magazines beside it.
//!
//! Lock order: a thread waits for one arena's lock only while it holds none. It may *try*
//! another arena's while it holds one (`pages.rs`, `lenders`). Debug builds check this.

mod all;
pub mod chunk;
mod decay;
mod hole;
mod magazines;
pub mod pages;
pub mod purge;
pub mod slab;
mod slab_lists;
mod slab_pages;
mod slack;
mod sparse;
pub mod top;

pub use all::{ARENAS, Waits};
pub use decay::{IdleEpochs, STEPS};

use crate::check::invariant;
use crate::heap::Heap;
use crate::limit;
use crate::os;
use crate::size_class::{self, CLASS_PLACES, Class, PerClass};
use crate::sync::attach::Attach;
use crate::sync::block::{Block, Chain};
use crate::sync::depot::DepotSlot;
use crate::sync::lock::{Locked, RawLock};
use crate::sync::remote_list::RemoteList;
use chunk::Bins;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize};
use crossbeam_utils::CachePadded;
use decay::Decay;
use hole::Hole;
use slab::ClassState;
use slack::Slack;

/// Magazines of one class that an arena's depot holds at most.
pub const DEPOT_SLOTS: usize = 4;

/// Bytes of undrained remote frees from which a sender takes the list to its arena itself.
const REMOTE_LIMIT: usize = 1024 * 1024;

/// A thread cache without a thread, of which an arena knows nothing but that it waits there.
#[derive(Debug)]
pub enum Parked {}

/// What the arena's lock guards.
#[derive(Debug)]
pub struct Inner {
    id: u16,
    /// Free chunks.
    pub bins: Bins,
    /// The newest heap, with the top chunk.
    pub heap: Heap,
    /// The break's heap, when the main arena went on in a mapped one.
    left_brk: Heap,
    classes: PerClass<ClassState>,
    /// Free bytes at the top that the arena keeps beyond the trim threshold.
    slack: Slack,
    /// Those that it has beyond that and could not give back in this epoch: the kernel takes nothing of what the program
    /// locked (mlockall(2)).
    refused_top: usize,
    /// What a large block that was freed left.
    hole: Hole,
    /// The epoch of the purge clock that the arena is in (see `decay.rs`).
    epoch: u64,
    /// The first that it was in; 0 before. What is stamped counts from there, so that memory of before
    /// is not taken for old.
    first_epoch: u64,
    /// What slabs are stamped with that get blocks back: that epoch, modulo 256, or one that makes
    /// them as cold as the blocks are.
    stamp: u8,
    /// How many dirty pages the program needed again.
    decay: Decay,
    /// Bytes of free blocks in slabs that were not looked through for pages to give back.
    warm_free_bytes: usize,
    /// Bytes of the magazines that lie in no slot of the depot.
    magazine_bytes: usize,
    /// Caches of ended threads, with what they hold: the first of a list that the caches link.
    pub parked: *mut Parked,
    /// Times that a thread began or ended in the arena.
    pub parked_uses: u32,
    /// How long none was.
    parked_idle: IdleEpochs,
    /// Bytes of theirs, and of what they hold.
    pub parked_bytes: usize,
    /// Bytes of the arena's heaps, but for the pages that end them.
    pub heap_bytes: usize,
    /// The most they were.
    pub peak_heap_bytes: usize,
    /// Large blocks in use, or on their way back.
    pub large_blocks: usize,
    /// Their bytes.
    pub large_bytes: usize,
}

impl Inner {
    const fn new(id: u16) -> Self {
        Self {
            id,
            bins: Bins::new(),
            heap: Heap::NONE,
            left_brk: Heap::NONE,
            slack: Slack::NONE,
            refused_top: 0,
            hole: Hole::NONE,
            epoch: 0,
            first_epoch: 0,
            stamp: 0,
            decay: Decay::new(),
            warm_free_bytes: 0,
            magazine_bytes: 0,
            parked: core::ptr::null_mut(),
            parked_uses: 0,
            parked_idle: IdleEpochs::NONE,
            parked_bytes: 0,
            classes: PerClass([ClassState::NEW; CLASS_PLACES]),
            heap_bytes: 0,
            peak_heap_bytes: 0,
            large_blocks: 0,
            large_bytes: 0,
        }
    }

    /// The state of a class.
    #[inline]
    pub fn class(&self, class: Class) -> &ClassState {
        &self.classes[class]
    }

    #[inline]
    fn class_mut(&mut self, class: Class) -> &mut ClassState {
        &mut self.classes[class]
    }
}

/// One arena.
pub struct Arena {
    id: u16,
    lock: CachePadded<RawLock>,
    inner: UnsafeCell<Inner>,
    remote: CachePadded<RemoteList>,
    /// Bytes on the remote list, about.
    remote_bytes: AtomicUsize,
    /// Blocks that threads of other arenas sent, ever.
    remote_frees: AtomicU64,
    /// The arena of the thread that sent the last of them; none before.
    remote_from: AtomicU16,
    /// Times a thread had to wait for the lock.
    pub lock_waits: AtomicU64,
    /// What [`Inner::purgeable_bytes`] was when the lock was last given up.
    purgeable: AtomicUsize,
    /// What [`Inner::bytes_in_use`] was then …
    in_use: AtomicUsize,
    /// … the bytes of dirty chunks and magazines …
    dirty: AtomicUsize,
    /// … and of all chunks and magazines.
    at_hand: AtomicUsize,
    /// The bytes that were counted against the process's limits. Written under the lock.
    counted: AtomicUsize,
    attach: Attach,
    depot: PerClass<[DepotSlot; DEPOT_SLOTS]>,
}

// SAFETY: `inner` is reached through the guard of the lock only; all else is atomic.
unsafe impl Sync for Arena {}

/// The arena's lock, held.
pub struct Guard<'a> {
    arena: &'a Arena,
    /// How the lock was got.
    pub how: Locked,
}

impl<'a> Guard<'a> {
    /// The guard, unless the arena was closed while the thread was on its way to the lock: a
    /// signal handler forked meanwhile, and this is the child, in which the holder that the
    /// thread waited for does not exist.
    fn if_open(self) -> Option<Guard<'a>> {
        if self.arena.attach.is_closed() { None } else { Some(self) }
    }
}

impl Deref for Guard<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        // SAFETY: the lock is held.
        unsafe { &*self.arena.inner.get() }
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        // SAFETY: the lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.arena.inner.get() }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Relaxed: an estimate, which orders nothing.
        self.arena.purgeable.store(self.purgeable_bytes(), Relaxed);
        self.arena.in_use.store(self.bytes_in_use(), Relaxed);
        let dirty = self.bins.dirty_pages() * os::PAGE + self.magazine_bytes;
        self.arena.dirty.store(dirty, Relaxed);
        let at_hand = self.bins.pages() * os::PAGE + self.magazine_bytes;
        self.arena.at_hand.store(at_hand, Relaxed);
        if limit::is_set() {
            let now = self.committed_bytes();
            limit::note(self.arena.counted.load(Relaxed), now);
            self.arena.counted.store(now, Relaxed);
        }
        // SAFETY: the guard is the holder.
        unsafe { self.arena.lock.unlock() };
    }
}

impl Arena {
    const fn new(id: u16) -> Self {
        Self {
            id,
            lock: CachePadded::new(RawLock::new()),
            inner: UnsafeCell::new(Inner::new(id)),
            remote: CachePadded::new(RemoteList::new()),
            remote_bytes: AtomicUsize::new(0),
            remote_frees: AtomicU64::new(0),
            remote_from: AtomicU16::new(u16::MAX),
            lock_waits: AtomicU64::new(0),
            purgeable: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
            dirty: AtomicUsize::new(0),
            at_hand: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
            attach: Attach::new(),
            depot: PerClass([const { [const { DepotSlot::new() }; DEPOT_SLOTS] }; CLASS_PLACES]),
        }
    }

    /// Gives a new arena its number.
    fn set_id(&mut self, id: u16) {
        self.id = id;
        self.inner.get_mut().id = id;
    }

    /// Its number; 0 is the main arena.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Takes the lock of an arena that is in use. `None` when it is closed, when another thread
    /// held it for very long, or when the calling thread holds it already: that is a signal
    /// handler that interrupted the allocator. Every caller can do without this arena.
    pub fn lock_open(&self) -> Option<Guard<'_>> {
        if self.attach.is_closed() {
            return None;
        }
        invariant(
            !cfg!(debug_assertions)
                || ARENAS.iter().all(|other| {
                    core::ptr::eq(other, self) || !other.lock.is_held_by(os::thread_number())
                }),
            "a thread waits for an arena's lock while it holds another's",
        );
        let how = self.lock.lock(os::thread_number());
        match how {
            Locked::AtOnce => {}
            Locked::AfterSpin | Locked::AfterWait => {
                self.lock_waits.fetch_add(1, Relaxed);
            }
            Locked::HeldByCaller => return None,
            Locked::TimedOut => {
                self.lock_waits.fetch_add(1, Relaxed);
                return None;
            }
        }
        Guard { arena: self, how }.if_open()
    }

    /// Takes the lock if it is free and the arena in use.
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        if self.attach.is_closed() || !self.lock.try_lock(os::thread_number()) {
            return None;
        }
        Guard { arena: self, how: Locked::AtOnce }.if_open()
    }

    /// Whether the calling thread holds the lock: it is a signal handler that interrupted the
    /// allocator.
    pub fn is_held_by_caller(&self) -> bool {
        self.lock.is_held_by(os::thread_number())
    }

    /// The attach word.
    pub fn attach(&self) -> &Attach {
        &self.attach
    }

    /// Counts the calling thread in; false when the arena is closed.
    pub fn join(&self, _held: &Guard<'_>) -> bool {
        let joined = self.attach.attach();
        if joined {
            self.remote.adopt();
        }
        joined
    }

    /// Counts the calling thread out. The last one takes the remote list with it.
    pub fn leave(&self, held: &mut Guard<'_>) {
        if self.attach.detach() {
            let head = self.remote.orphan();
            self.remote_bytes.store(0, Relaxed);
            // SAFETY: the list was taken whole, and its blocks are this arena's.
            unsafe { held.give_blocks(head, usize::MAX) };
        }
    }

    /// Counts the calling thread in again after [`Arena::after_fork`], whether it holds the lock
    /// or not.
    ///
    /// # Safety
    /// Called in the child, where the calling thread is the only one.
    pub unsafe fn join_again(&self) {
        if self.attach.attach() {
            self.remote.adopt();
        }
    }

    /// Takes what came home on the remote list.
    pub fn drain(&self, held: &mut Guard<'_>) {
        self.drain_unless(held, |_, _| false);
    }

    /// As [`Arena::drain`], but for the blocks of slabs that `keep` takes, given their class.
    #[inline(always)]
    pub fn drain_unless(&self, held: &mut Guard<'_>, keep: impl FnMut(*mut Block, Class) -> bool) {
        if self.remote.is_empty() {
            return;
        }
        self.remote_bytes.store(0, Relaxed);
        let head = self.remote.take_all();
        // SAFETY: the list was taken whole, and its blocks are this arena's.
        unsafe { held.give_blocks_unless(head, usize::MAX, keep) };
    }

    /// Sends a chain of blocks, of `bytes` in all, home to this arena from a thread that is
    /// attached to arena `from`, which may be this one. Takes the list to the arena itself when nobody else will, or
    /// when it has become long.
    ///
    /// # Safety
    /// The chain is not empty, its links up to its tail are valid, and its blocks are this
    /// arena's and the caller's to give.
    pub unsafe fn send(&self, chain: Chain, bytes: usize, from: u16) {
        if from != self.id {
            self.remote_frees.fetch_add(chain.count as u64, Relaxed);
            self.remote_from.store(from, Relaxed);
        }
        let undrained = self.remote_bytes.fetch_add(bytes, Relaxed) + bytes;
        // SAFETY: the caller's contract.
        let orphan = unsafe { self.remote.push(chain) };
        if (orphan || undrained > REMOTE_LIMIT)
            && let Some(mut held) = self.try_lock()
        {
            self.drain(&mut held);
        }
    }

    /// Sends a run back that another arena had borrowed, or that was purged. Does not drain: the
    /// caller may hold a lock.
    ///
    /// # Safety
    /// The run is described as a large one of this arena, and is the caller's to give.
    pub unsafe fn send_returned_run(&self, start: usize) {
        let mut chain = Chain::EMPTY;
        // SAFETY: the run's memory is in use by nobody.
        unsafe {
            chain.push(core::ptr::with_exposed_provenance_mut(start));
            self.remote.push(chain);
        }
    }

    /// Takes blocks back under the lock, or onto the remote list where that is not free.
    ///
    /// # Safety
    /// `head` is a null-terminated list of blocks of this arena, the caller's to give.
    pub unsafe fn give(&self, head: *mut Block) {
        // SAFETY: the caller's contract.
        unsafe {
            match self.try_lock() {
                Some(mut held) => held.give_blocks(head, usize::MAX),
                None => self.give_remotely(head),
            }
        }
    }

    /// Takes blocks of one class back under the lock that was asked for, or onto the remote list without it.
    ///
    /// # Safety
    /// As for [`Arena::give`]; the guard is this arena's, and the blocks lie in slabs of `class`.
    pub unsafe fn give_under(&self, held: Option<&mut Guard<'_>>, class: Class, head: *mut Block) {
        // SAFETY: the caller's contract.
        unsafe {
            match held {
                Some(held) => held.give_blocks_of(class, head, usize::MAX),
                None => self.give_remotely(head),
            }
        }
    }

    /// Puts a whole list on the remote list.
    ///
    /// # Safety
    /// As for [`Arena::give`].
    pub unsafe fn give_remotely(&self, head: *mut Block) {
        let mut tail = head;
        let mut count = 1;
        // SAFETY: the caller's contract.
        unsafe {
            while !Block::next(tail).is_null() {
                tail = Block::next(tail);
                count += 1;
            }
            self.remote.push(Chain { head, tail, count });
        }
    }

    /// Puts a magazine into the depot, or gives it back.
    ///
    /// # Safety
    /// The magazine is a null-terminated list of exactly `count` blocks of `class`, this
    /// arena's, the caller's to give.
    pub unsafe fn depot_put(&self, class: Class, mut magazine: Chain) -> Result<(), Chain> {
        for slot in &self.depot[class] {
            // SAFETY: the caller's contract.
            match unsafe { slot.put(magazine) } {
                Ok(()) => return Ok(()),
                Err(back) => magazine = back,
            }
        }
        Err(magazine)
    }

    /// Takes a magazine out of the depot.
    pub fn depot_take(&self, class: Class) -> Option<Chain> {
        self.depot[class].iter().find_map(DepotSlot::take)
    }

    /// Whether the depot holds the block, which is of `class`.
    pub fn depot_holds(&self, held: &mut Guard<'_>, class: Class, block: *mut Block) -> bool {
        let mut found = false;
        for slot in &self.depot[class] {
            let Some(magazine) = slot.take() else { continue };
            // SAFETY: a depot magazine is a list of `count` blocks of this arena, taken whole. It
            // goes back, or where that is not possible any more to its slabs.
            unsafe {
                found |= Block::list_holds(magazine.head, block);
                if let Err(magazine) = self.depot_put(class, magazine) {
                    held.give_blocks_of(class, magazine.head, magazine.count);
                }
            }
            if found {
                break;
            }
        }
        found
    }

    /// Blocks of `class` in the depot.
    pub fn depot_count(&self, class: Class) -> usize {
        self.depot[class].iter().map(DepotSlot::count).sum()
    }

    /// Bytes that the arena could give back to the kernel, about, free blocks on their way home
    /// included.
    pub fn purgeable_bytes(&self) -> usize {
        self.purgeable.load(Relaxed) + self.remote_bytes.load(Relaxed)
    }

    /// Bytes of its slabs and large blocks, about.
    pub fn bytes_in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// Bytes of its free chunks that may hold memory, and of its magazines, about.
    pub fn dirty_bytes(&self) -> usize {
        self.dirty.load(Relaxed)
    }

    /// Bytes of its free chunks and of its magazines, about.
    pub fn bytes_at_hand(&self) -> usize {
        self.at_hand.load(Relaxed)
    }

    /// Blocks that other arenas' threads freed, ever.
    pub fn remote_frees(&self) -> u64 {
        self.remote_frees.load(Relaxed)
    }

    /// The arena of one of those threads, a late one; `u16::MAX` before the first.
    pub fn remote_from(&self) -> u16 {
        self.remote_from.load(Relaxed)
    }

    /// Bytes and blocks that were freed from other arenas' threads: waiting, and ever.
    pub fn remote_figures(&self) -> (usize, u64) {
        (self.remote_bytes.load(Relaxed), self.remote_frees.load(Relaxed))
    }

    /// Repairs the arena in the child after fork, where the calling thread is the only one.
    ///
    /// # Safety
    /// Called in the child, before anything else uses the allocator.
    pub unsafe fn after_fork(&self, thread: usize) {
        // SAFETY: the process has one thread.
        unsafe {
            if self.lock.is_held_by(thread) {
                // A signal handler forked while this thread was inside; it goes on there later.
                self.lock.forget_waiters();
            } else if self.lock.is_held() {
                // Its holder does not exist here; what it left may be half-changed. Blocks of
                // the arena stay valid; frees of them pile up on the remote list.
                self.attach.close();
                self.lock.reset();
            }
            self.attach.reset_threads(0);
        }
        // Nobody is attached until the calling thread says so.
        let head = self.remote.orphan();
        self.remote_bytes.store(0, Relaxed);
        if head.is_null() {
            return;
        }
        // SAFETY: the list was taken whole, and its blocks are this arena's.
        unsafe { self.give(head) }
    }
}

const _: () = assert!(size_class::CLASSES <= 1 << 7);
