//! The shipping lock, remote list and attach word, put together as in `src/arena/mod.rs`.

use arenite::sync::attach::Attach;
use arenite::sync::block::{Block, Chain};
use arenite::sync::lock::{Locked, RawLock};
use arenite::sync::remote_list::RemoteList;
use loom::cell::UnsafeCell;

/// What an arena's lock guards: where its blocks go back to.
pub trait Home {
    /// Takes blocks back.
    ///
    /// # Safety
    /// `head` is a list of the arena's blocks that ends in null, the caller's to give.
    unsafe fn give_blocks(&mut self, head: *mut Block);
}

/// How [`Arena::send`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Some thread is attached, and will take the chain.
    LeftToTheAttached,
    /// The sender has drained the list itself.
    Drained,
    /// The sender should have drained the list, but somebody held the lock.
    Refused,
}

/// An arena. The methods have the names and the steps of `src/arena/mod.rs`.
pub struct Arena<H> {
    lock: RawLock,
    remote: RemoteList,
    attach: Attach,
    inner: UnsafeCell<H>,
}

// SAFETY: `inner` is reached under the lock only, which loom checks; all else is atomic.
unsafe impl<H: Send> Sync for Arena<H> {}
// SAFETY: as above.
unsafe impl<H: Send> Send for Arena<H> {}

/// The arena's lock, held.
pub struct Guard<'a, H> {
    arena: &'a Arena<H>,
}

impl<H> Guard<'_, H> {
    /// Reaches what the lock guards.
    pub fn with<R>(&mut self, reach: impl FnOnce(&mut H) -> R) -> R {
        // SAFETY: the lock is held, and the guard is borrowed mutably.
        self.arena.inner.with_mut(|inner| reach(unsafe { &mut *inner }))
    }
}

impl<H> Drop for Guard<'_, H> {
    fn drop(&mut self) {
        // SAFETY: the guard is the holder.
        unsafe { self.arena.lock.unlock() };
    }
}

impl<H: Home> Arena<H> {
    /// An arena with no thread attached.
    pub fn new(home: H) -> Self {
        Self {
            lock: RawLock::new(),
            remote: RemoteList::new(),
            attach: Attach::new(),
            inner: UnsafeCell::new(home),
        }
    }

    /// The attach word.
    pub fn attach(&self) -> &Attach {
        &self.attach
    }

    /// Takes the lock.
    pub fn lock(&self, thread: usize) -> Guard<'_, H> {
        assert!(matches!(
            self.lock.lock(thread),
            Locked::AtOnce | Locked::AfterSpin | Locked::AfterWait
        ));
        Guard { arena: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self, thread: usize) -> Option<Guard<'_, H>> {
        self.lock.try_lock(thread).then(|| Guard { arena: self })
    }

    /// Counts the calling thread in.
    pub fn join(&self, _held: &Guard<'_, H>) -> bool {
        let joined = self.attach.attach();
        if joined {
            self.remote.adopt();
        }
        joined
    }

    /// Counts the calling thread out. The last one takes the remote list with it.
    pub fn leave(&self, held: &mut Guard<'_, H>) {
        if self.attach.detach() {
            let head = self.remote.orphan();
            // SAFETY: the list was taken whole, and its blocks are this arena's.
            held.with(|home| unsafe { home.give_blocks(head) });
        }
    }

    /// Counts the calling thread out where the lock can not be had, as `Tcache::leave` does:
    /// what it had cached goes to the remote list, and nobody looks at that.
    ///
    /// # Safety
    /// The chain's blocks are this arena's and the caller's to give.
    pub unsafe fn leave_unlocked(&self, cached: Chain) {
        // SAFETY: the caller's contract.
        unsafe { self.remote.push(cached) };
        self.attach.detach();
    }

    /// Takes what came home on the remote list.
    pub fn drain(&self, held: &mut Guard<'_, H>) {
        if self.remote.is_empty() {
            return;
        }
        let head = self.remote.take_all();
        // SAFETY: the list was taken whole, and its blocks are this arena's.
        held.with(|home| unsafe { home.give_blocks(head) });
    }

    /// Sends a chain home. The sender drains the list itself when nobody is attached, or when
    /// the list is `long`.
    ///
    /// # Safety
    /// The chain's blocks are this arena's and the caller's to give.
    pub unsafe fn send(&self, chain: Chain, thread: usize, long: bool) -> Sent {
        // SAFETY: the caller's contract.
        let orphan = unsafe { self.remote.push(chain) };
        if !orphan && !long {
            return Sent::LeftToTheAttached;
        }
        match self.try_lock(thread) {
            Some(mut held) => {
                self.drain(&mut held);
                Sent::Drained
            }
            None => Sent::Refused,
        }
    }

    /// Whether blocks wait on the remote list.
    pub fn has_waiting(&self) -> bool {
        !self.remote.is_empty()
    }
}
