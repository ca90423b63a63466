//! Blocks of other arenas, and of closed slabs: collected per owner, sent home as whole chains.
//!
//! They are not reused here: that would put two threads' data in one cache line, and let memory
//! drift from thread to thread.

use super::{PENDING_BLOCKS, PENDING_BYTES, Pending, Tcache};
use crate::arena::ARENAS;
use crate::sync::block::{Block, Chain};
use crate::window;
use core::ptr;
use core::sync::atomic::Ordering::Release;
use core::sync::atomic::compiler_fence;

/// A chain that was taken from a cache, to be sent.
pub struct Sent {
    chain: Chain,
    bytes: usize,
    owner: u16,
}

impl Sent {
    /// Sends the chain home, from a thread of arena `from`.
    pub fn go_home(self, from: u16) {
        if let Some(owner) = ARENAS.get(self.owner) {
            // SAFETY: the chain holds blocks of that arena that a thread freed, and is nobody else's.
            unsafe { owner.send(self.chain, self.bytes, from) };
        }
    }

    /// Gives the blocks back to their arena, where the thread does not exist any more: it may have been about to
    /// add one, so that only the list itself is sure.
    pub fn give_back(self) {
        if let Some(owner) = ARENAS.get(self.owner) {
            // SAFETY: as above; the list ends in null.
            unsafe { owner.give(self.chain.head) };
        }
    }
}

impl Pending {
    /// Takes the chain, if there is one. The caller is its thread, or keeps that away.
    pub(super) fn take(&self) -> Option<Sent> {
        let head = self.head.replace(ptr::null_mut());
        let chain = Chain { head, tail: self.tail.get(), count: self.count.replace(0) };
        let sent = Sent { chain, bytes: self.bytes.replace(0), owner: self.arena.get() };
        (!head.is_null()).then_some(sent)
    }
}

impl Tcache {
    /// Collects a block of another arena or of a closed slab, of `bytes`, and sends the chain home when it is
    /// long; whether it was.
    ///
    /// # Safety
    /// The block is `owner`'s and the caller's to give.
    pub unsafe fn free_remote(&self, block: *mut Block, owner: u16, bytes: usize) -> bool {
        let collecting = self.collect();
        let used = self.pending.iter().find(|p| p.arena.get() == owner && p.count.get() > 0);
        let slot = match used.or_else(|| self.pending.iter().find(|p| p.count.get() == 0)) {
            Some(slot) => slot,
            None => {
                let first = &self.pending[0];
                self.send_one(first);
                first
            }
        };
        // SAFETY: the caller's contract.
        unsafe {
            Block::set_mark(block, window::free_mark(owner));
            Block::set_next(block, slot.head.get());
        }
        if slot.count.get() == 0 {
            slot.arena.set(owner);
            slot.tail.set(block);
        }
        compiler_fence(Release);
        slot.head.set(block);
        slot.count.set(slot.count.get() + 1);
        slot.bytes.set(slot.bytes.get() + bytes);
        let is_long = slot.count.get() >= PENDING_BLOCKS || slot.bytes.get() >= PENDING_BYTES;
        if is_long {
            self.send_one(slot);
            drop(collecting);
            self.follow_trade();
        }
        is_long
    }

    fn send_one(&self, slot: &Pending) {
        let Some(sent) = slot.take() else { return };
        if sent.owner != self.arena_id() {
            self.crowd.note_sent(sent.owner, sent.chain.count);
        }
        sent.go_home(self.arena_id());
    }

    /// Sends all pending chains home.
    pub fn send_pending(&self) {
        self.pending.iter().for_each(|slot| self.send_one(slot));
    }

    /// Bytes and blocks that wait to be sent home.
    pub fn pending_figures(&self) -> (usize, usize) {
        self.pending.iter().fold((0, 0), |(bytes, blocks), pending| {
            (bytes + pending.bytes.get(), blocks + pending.count.get())
        })
    }
}
