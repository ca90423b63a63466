//! A thread ends while others send blocks to its arena: every block is found exactly once. A
//! block is left for later only when a thread is still attached, or when its sender saw that
//! none is and met the lock held: then the next thread that sends or attaches takes it.
#![cfg(loom)]

use arenite::sync::block::Block;
use loom::thread;
use loom_tests::arena::{Arena, Home, Sent};
use loom_tests::blocks::{Blocks, assert_each_once};
use loom_tests::check_bounded;
use std::sync::Arc;

/// The slabs: all that matters of them is which blocks came back.
struct Slabs {
    blocks: Arc<Blocks>,
    found: Vec<usize>,
}

impl Home for Slabs {
    unsafe fn give_blocks(&mut self, head: *mut Block) {
        // SAFETY: the caller's contract.
        self.found.extend(unsafe { self.blocks.places(head) });
    }
}

/// An arena, and the blocks that are in use by other arenas' threads.
struct World {
    arena: Arena<Slabs>,
    blocks: Arc<Blocks>,
}

impl World {
    fn new(blocks: usize) -> Arc<Self> {
        let blocks = Arc::new(Blocks::new(blocks));
        let arena = Arena::new(Slabs { blocks: blocks.clone(), found: Vec::new() });
        Arc::new(Self { arena, blocks })
    }

    /// A thread starts: it attaches, and its first refill drains.
    fn attach(&self, thread: usize) {
        let mut held = self.arena.lock(thread);
        assert!(self.arena.join(&held));
        self.arena.drain(&mut held);
    }

    fn leave(&self, thread: usize) {
        self.arena.leave(&mut self.arena.lock(thread));
    }

    /// # Safety
    /// The blocks are the caller's.
    unsafe fn send(&self, places: &[usize], thread: usize) -> Sent {
        // SAFETY: the caller's contract.
        unsafe { self.arena.send(self.blocks.chain(places), thread, false) }
    }

    /// Checks a sender's block: only who met the lock held, or left it to a thread that is
    /// attached, may have left it on the list.
    fn assert_cared_for(&self, place: usize, sent: Sent, attached: bool) {
        let found = self.arena.lock(9).with(|slabs| slabs.found.contains(&place));
        let may_wait = match sent {
            Sent::LeftToTheAttached => attached,
            Sent::Drained => false,
            Sent::Refused => true,
        };
        assert!(found || may_wait, "{sent:?}, and nobody takes it");
        assert!(found || self.arena.has_waiting(), "{sent:?}, and it is gone");
    }

    /// Checks that the next thread to attach finds the rest.
    fn assert_none_lost(&self, count: usize) {
        self.attach(9);
        let found = self.arena.lock(9).with(|slabs| slabs.found.clone());
        assert_each_once(found, count);
    }
}

/// The only thread leaves; two others send.
#[test]
fn the_last_thread_leaves() {
    check_bounded(4, || {
        let world = World::new(3);
        world.attach(1);
        let senders = [(2, &[0][..]), (3, &[1, 2])].map(|(thread, places)| {
            let world = world.clone();
            // SAFETY: the blocks are this thread's.
            thread::spawn(move || unsafe { world.send(places, thread) })
        });
        world.leave(1);
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        assert_eq!(world.arena.attach().threads(), 0);
        world.assert_cared_for(0, sent[0], false);
        world.assert_cared_for(1, sent[1], false);
        world.assert_none_lost(3);
    });
}

/// Two threads leave at once: the last of them takes the list.
#[test]
fn two_threads_leave() {
    check_bounded(4, || {
        let world = World::new(1);
        world.attach(1);
        world.attach(2);
        let other = {
            let world = world.clone();
            thread::spawn(move || world.leave(2))
        };
        let sender = {
            let world = world.clone();
            // SAFETY: the block is this thread's.
            thread::spawn(move || unsafe { world.send(&[0], 3) })
        };
        world.leave(1);
        other.join().unwrap();
        let sent = sender.join().unwrap();
        assert_eq!(world.arena.attach().threads(), 0);
        world.assert_cared_for(0, sent, false);
        world.assert_none_lost(1);
    });
}

/// One thread leaves while another attaches: the flag ends as the count says.
#[test]
fn one_leaves_and_one_attaches() {
    check_bounded(3, || {
        let world = World::new(2);
        world.attach(1);
        let other = {
            let world = world.clone();
            thread::spawn(move || world.attach(2))
        };
        let sender = {
            let world = world.clone();
            // SAFETY: the block is this thread's.
            thread::spawn(move || unsafe { world.send(&[0], 3) })
        };
        world.leave(1);
        other.join().unwrap();
        let sent = sender.join().unwrap();
        world.assert_cared_for(0, sent, true);
        assert_eq!(world.arena.attach().threads(), 1);
        // SAFETY: the block is this thread's.
        assert_eq!(unsafe { world.send(&[1], 1) }, Sent::LeftToTheAttached);
        world.assert_none_lost(2);
    });
}

/// The only thread leaves while a sender holds the lock, which found the list long: the word then
/// does not say that nobody is attached, and blocks wait for the next thread that attaches.
#[test]
fn the_last_thread_leaves_without_the_lock() {
    check_bounded(4, || {
        let world = World::new(3);
        world.attach(1);
        let senders = [(2, 0, true), (3, 1, false)].map(|(thread, place, long)| {
            let world = world.clone();
            thread::spawn(move || {
                // SAFETY: the block is this thread's.
                unsafe { world.arena.send(world.blocks.chain(&[place]), thread, long) };
            })
        });
        match world.arena.try_lock(1) {
            Some(mut held) => {
                // SAFETY: the block is this thread's.
                let cached = unsafe { world.blocks.chain(&[2]) };
                // SAFETY: as above.
                held.with(|slabs| unsafe { slabs.give_blocks(cached.head) });
                world.arena.leave(&mut held);
            }
            // SAFETY: as above.
            None => unsafe { world.arena.leave_unlocked(world.blocks.chain(&[2])) },
        }
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(world.arena.attach().threads(), 0);
        world.assert_none_lost(3);
    });
}

/// What a sender leaves that met the lock held, the next sender takes too.
#[test]
fn the_next_sender_takes_what_was_left() {
    loom::model(|| {
        let world = World::new(3);
        let held = world.arena.lock(1);
        // SAFETY: the blocks are this thread's.
        assert_eq!(unsafe { world.send(&[0, 1], 2) }, Sent::Refused);
        drop(held);
        world.assert_cared_for(0, Sent::Refused, false);
        // SAFETY: as above.
        assert_eq!(unsafe { world.send(&[2], 3) }, Sent::Drained);
        assert!(!world.arena.has_waiting());
        let found = world.arena.lock(9).with(|slabs| slabs.found.clone());
        assert_each_once(found, 3);
    });
}
