//! A cache's life: made or found parked, attached to an arena, moved to another, emptied at its
//! thread's end.

use super::{State, Tcache};
use crate::arena::{ARENAS, Arena, Guard};
use crate::os;
use crate::page_map;
use crate::size_class::{CLASSES, size};
use crate::window;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Every cache that was ever made. Only grows.
static ALL: AtomicPtr<Tcache> = AtomicPtr::new(ptr::null_mut());

struct FirstTcache(UnsafeCell<Tcache>);
// SAFETY: given to one thread, by `FIRST_TAKEN`.
unsafe impl Sync for FirstTcache {}
/// The first thread's cache: in .data, so that a single-threaded program maps nothing for it.
static FIRST: FirstTcache = FirstTcache(UnsafeCell::new(Tcache::constant(State::Parked)));
static FIRST_TAKEN: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// Bytes that a cache without a thread may have for the next thread, its own counted …
const PARKED_BYTES: usize = 256 * 1024;
/// … and all of them in one arena: a thread that began in another one does not find them.
const ALL_PARKED_BYTES: usize = 1024 * 1024;

/// Empty caches that no arena has, linked by `next_parked`: those of threads that ended without their arena's lock, or where
/// many waited, or that nobody needed for the decay time, or vanished at a fork. Taken whole, so there is no ABA.
static LOOSE: AtomicPtr<Tcache> = AtomicPtr::new(ptr::null_mut());

impl Tcache {
    /// Makes an empty cache one that waits for a thread of any arena.
    pub(super) fn let_loose(this: *mut Tcache) {
        // SAFETY: the cache is the caller's; caches live as long as the process.
        unsafe {
            (*this).state.set(State::Parked);
            let mut head = LOOSE.load(Relaxed);
            loop {
                (*this).next_parked.set(head);
                // Release publishes the emptied cache to the acquire of `catch_loose`.
                match LOOSE.compare_exchange_weak(head, this, Release, Relaxed) {
                    Ok(_) => return,
                    Err(now) => head = now,
                }
            }
        }
    }

    /// An empty cache that no arena has. Takes the whole list and puts the rest back.
    fn catch_loose() -> *mut Tcache {
        // Acquire pairs with the release of `let_loose`.
        let first = LOOSE.swap(ptr::null_mut(), Acquire);
        if first.is_null() {
            return first;
        }
        // SAFETY: the list is this thread's alone now.
        unsafe {
            let mut rest = (*first).next_parked.get();
            // Release, for the whole list, as in `let_loose`.
            if LOOSE.compare_exchange(ptr::null_mut(), rest, Release, Relaxed).is_ok() {
                return first;
            }
            // Others were let loose meanwhile.
            while !rest.is_null() {
                let next = (*rest).next_parked.get();
                Self::let_loose(rest);
                rest = next;
            }
        }
        first
    }

    /// Leaves a cache with its arena for the next thread, with what is in it; or empties it for one of any arena
    /// if that is much, or many wait.
    fn park(this: *mut Tcache, held: &mut Guard<'_>) {
        // SAFETY: the cache is the caller's; its blocks are those of the arena, whose lock is
        // held.
        unsafe {
            held.parked_uses = held.parked_uses.wrapping_add(1);
            let bytes = (*this).parked_bytes();
            if bytes > PARKED_BYTES || bytes + held.parked_bytes > ALL_PARKED_BYTES {
                (*this).flush(|class, head, count| held.give_blocks_of(class, head, count));
                (*this).close_drain();
                Self::let_loose(this);
                return;
            }
            held.parked_bytes += bytes;
            (*this).next_parked.set(held.parked.cast());
            held.parked = this.cast();
            (*this).close_drain();
            (*this).state.set(State::Parked);
        }
    }

    /// Takes the first cache that waits in the arena off its list.
    fn take_parked(held: &mut Guard<'_>) -> Option<&'static Tcache> {
        // SAFETY: caches on the list are the arena's, whose lock is held; they live as long as the process.
        let cache = unsafe { held.parked.cast::<Tcache>().as_ref() }?;
        held.parked = cache.next_parked.get().cast();
        // A spare magazine may have been taken from the cache since it was parked.
        held.parked_bytes = match held.parked.is_null() {
            true => 0,
            false => held.parked_bytes.saturating_sub(cache.parked_bytes()),
        };
        Some(cache)
    }

    /// A cache that waits in the arena, made the calling thread's before the lock is given up: a
    /// fork meets it either as the arena's or as a thread's. Null if none waits.
    fn unpark(held: &mut Guard<'_>) -> *mut Tcache {
        let Some(cache) = Self::take_parked(held) else { return ptr::null_mut() };
        held.parked_uses = held.parked_uses.wrapping_add(1);
        cache.thread.set(os::thread_number());
        cache.state.set(State::Live);
        ptr::from_ref(cache).cast_mut()
    }

    /// Empties the first cache that waits in an arena, and makes it one that waits for a thread of any arena; false
    /// when none waits.
    pub fn flush_parked(held: &mut Guard<'_>) -> bool {
        let Some(cache) = Self::take_parked(held) else { return false };
        // SAFETY: the cache is the arena's, whose lock is held, and so are its blocks.
        cache.flush(|class, head, count| unsafe { held.give_idle_blocks(class, head, count) });
        Self::let_loose(ptr::from_ref(cache).cast_mut());
        true
    }

    /// Bytes that the cache costs while it waits in an arena: its own, and those of the blocks in it.
    fn parked_bytes(&self) -> usize {
        let blocks = (1..CLASSES).map(|class| self.count(class) * size(class));
        blocks.sum::<usize>() + size_of::<Tcache>()
    }

    /// A cache for the calling thread, attached to an arena; null when there is no memory. The thread is
    /// inside its gate, and calls [`Tcache::leave_gate`] when its word leads to the cache.
    pub fn open() -> *mut Tcache {
        let (arena, parked) = Self::enter(true);
        let this = if parked.is_null() { Self::make() } else { parked };
        // SAFETY: the cache is this thread's alone; without one the thread is counted out again.
        unsafe {
            if this.is_null() {
                arena.attach().detach();
                return this;
            }
            (*this).stay_inside();
            (*this).begin(arena, parked.is_null());
        }
        this
    }

    /// An empty cache: the first one, one that was let loose, or a new one.
    fn make() -> *mut Tcache {
        if !FIRST_TAKEN.swap(true, Relaxed) {
            // The first thread has allocated nothing yet.
            page_map::refuse_huge_pages();
            window::refuse_huge_pages();
            let this = FIRST.0.get();
            Self::register(this);
            return this;
        }
        Self::empty_vanished();
        let loose = Self::catch_loose();
        if !loose.is_null() {
            return loose;
        }
        let this: *mut Tcache = crate::meta::allocate(size_of::<Tcache>()).cast();
        if !this.is_null() {
            // Copied, not built on the stack first, which may be a small one.
            // SAFETY: new memory of the right size and alignment; the constant cache is never
            // written.
            unsafe {
                ptr::copy_nonoverlapping(&raw const super::EMPTY, this, 1);
                (*this).state.set(State::Parked);
            }
            Self::register(this);
        }
        this
    }

    fn register(this: *mut Tcache) {
        let mut head = ALL.load(Relaxed);
        loop {
            // SAFETY: the cache is the caller's. Release publishes it to `all`'s acquire.
            unsafe { (*this).next_all.store(head, Relaxed) };
            match ALL.compare_exchange_weak(head, this, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Makes the cache the calling thread's, in an arena that it was counted in.
    fn begin(&self, arena: &Arena, is_new: bool) {
        if is_new {
            for class in 1..CLASSES {
                self.bin(class).serve(class);
                self.set_places(class, self.capacity(class));
            }
        }
        self.thread.set(os::thread_number());
        self.refills.0.iter().for_each(|refills| refills.set(0));
        self.patience.0.iter().for_each(|patience| patience.set(0));
        self.crowd.begin();
        self.go_on_in(arena);
        self.state.set(State::Live);
    }

    /// Leaves the thread's arena for another one; false when that can not be entered. Does not
    /// wait for the lock of the old one, which many threads want, or one never gives up.
    #[cold]
    pub fn move_to(&self, target: &Arena) -> bool {
        let _inside = self.go_inside();
        let old = self.arena();
        if target.id() == old.id() || !target.lock_open().is_some_and(|held| target.join(&held)) {
            return false;
        }
        self.send_pending();
        self.leave(old, old.try_lock());
        self.go_on_in(target);
        true
    }

    /// Makes an arena the thread's that it was counted in.
    fn go_on_in(&self, arena: &Arena) {
        self.arena.set(arena.id());
        self.crowd.join(arena);
        self.look_through_window();
    }

    /// Moves the thread to the arena of the threads that it exchanges blocks with, if it does.
    #[inline]
    pub(super) fn follow_trade(&self) {
        if self.crowd.has_traded() {
            self.look_at_trade();
        }
    }

    #[cold]
    fn look_at_trade(&self) {
        if let Some(other) = self.crowd.partner(self.arena()).and_then(|id| ARENAS.get(id))
            && self.move_to(other)
        {
            self.crowd.follow();
        }
    }

    /// Gives the cache's blocks back to its arena and counts the thread out: under the lock, or
    /// over the remote list where that is not to be had.
    fn leave(&self, arena: &Arena, held: Option<Guard<'_>>) {
        match held {
            Some(mut held) => {
                self.flush(|class, head, count| {
                    // SAFETY: the cache's blocks are its arena's, and the lock is held.
                    unsafe { held.give_blocks_of(class, head, count) }
                });
                arena.leave(&mut held);
            }
            None => {
                // SAFETY: the cache's blocks are its arena's.
                self.flush(|_, head, _| unsafe { arena.give_remotely(head) });
                arena.attach().detach();
            }
        }
    }

    /// Counts the calling thread in at the arena where it should begin, or at another one when that
    /// can not be entered; with a cache that waits there, if wanted, or null.
    fn enter(wants_cache: bool) -> (&'static Arena, *mut Tcache) {
        let mut arena = ARENAS.for_new_thread();
        // Each may be held by a thread that a signal handler interrupted.
        for _ in 0..ARENAS.count() + 1 {
            match arena.lock_open() {
                Some(mut held) if arena.join(&held) => {
                    let parked =
                        if wants_cache { Self::unpark(&mut held) } else { ptr::null_mut() };
                    return (arena, parked);
                }
                _ => {
                    let other = ARENAS.choose(arena.id());
                    if other.id() == arena.id() {
                        break;
                    }
                    arena = other;
                }
            }
        }
        // Counted in without the lock, which another thread holds for very long.
        arena.attach().attach();
        (arena, ptr::null_mut())
    }

    /// Leaves an arena that was closed at a fork, for one that is in use.
    #[cold]
    pub fn leave_closed(&self) {
        let _inside = self.go_inside();
        self.send_pending();
        self.leave(self.arena(), None);
        let (arena, _) = Self::enter(false);
        self.go_on_in(arena);
    }

    /// Ends a thread's cache: blocks of other arenas go home, and it waits for another thread.
    ///
    /// # Safety
    /// The cache is the calling thread's, which is inside its gate ([`Tcache::stay_inside`]) and does not
    /// use it again.
    pub unsafe fn end(this: *mut Tcache) {
        // SAFETY: the caller's contract.
        unsafe {
            (*this).send_pending();
            (*this).give_large_home();
            let arena = (*this).arena();
            match arena.lock_open() {
                Some(mut held) => {
                    Self::park(this, &mut held);
                    arena.leave(&mut held);
                }
                None => {
                    (*this).abandon(arena);
                    arena.attach().detach();
                }
            }
        }
    }

    /// Gives a cache up whose arena's lock is not to be had.
    ///
    /// # Safety
    /// The cache is the calling thread's, which does not use it again, and `arena` its arena.
    unsafe fn abandon(&self, arena: &Arena) {
        // SAFETY: the cache's blocks are its arena's.
        self.flush(|_, head, _| unsafe { arena.give_remotely(head) });
        self.close_drain();
        Self::let_loose(ptr::from_ref(self).cast_mut());
    }

    /// Every cache. The list only grows.
    pub fn all() -> impl Iterator<Item = &'static Tcache> {
        // Acquire pairs with `register`.
        // SAFETY: caches live as long as the process.
        let first = unsafe { ALL.load(Acquire).as_ref() };
        core::iter::successors(first, |tcache| {
            // SAFETY: as above.
            unsafe { tcache.next_all.load(Acquire).as_ref() }
        })
    }
}
