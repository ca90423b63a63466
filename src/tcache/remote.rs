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

impl Tcache {
    /// Collects a block of another arena or of a closed slab, of `bytes`, and sends the chain home when it is long; whether it
    /// was.
    ///
    /// # Safety
    /// The block is `owner`'s and the caller's to give.
    pub unsafe fn free_remote(&self, block: *mut Block, owner: u16, bytes: usize) -> bool {
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
            self.follow_trade();
        }
        is_long
    }

    fn send_one(&self, slot: &Pending) {
        let chain = Chain { head: slot.head.get(), tail: slot.tail.get(), count: slot.count.get() };
        let bytes = slot.bytes.get();
        slot.head.set(ptr::null_mut());
        slot.count.set(0);
        slot.bytes.set(0);
        if slot.arena.get() != self.arena_id() {
            self.crowd.note_sent(slot.arena.get(), chain.count);
        }
        if let Some(owner) = ARENAS.get(slot.arena.get()) {
            // SAFETY: the chain holds blocks of that arena that this thread freed.
            unsafe { owner.send(chain, bytes, self.arena_id()) };
        }
    }

    /// Sends all pending chains home.
    pub fn send_pending(&self) {
        for slot in &self.pending {
            if slot.count.get() > 0 {
                self.send_one(slot);
            }
        }
    }

    /// Bytes and blocks of other arenas that wait to be sent home.
    pub fn pending_figures(&self) -> (usize, usize) {
        self.pending.iter().fold((0, 0), |(bytes, blocks), pending| {
            (bytes + pending.bytes.get(), blocks + pending.count.get())
        })
    }
}
