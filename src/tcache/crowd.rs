//! Whether a thread should move to another arena: because it meets its arena's lock held by others
//! too often, or because it frees what the threads of another arena allocate.
//!
//! A move costs memory: what is free in the old arena stays there. A thread that has just begun
//! has little there, so that short waits suffice; later only waits that put it to sleep count.

use crate::arena::{Arena, Waits};
use crate::sync::lock::Locked;
use core::cell::Cell;

/// Uses of its arena's lock for which a thread is young.
const YOUNG_USES: u32 = 512;
/// Uses of the lock after which a young thread asks itself whether to move …
const YOUNG_VERDICT: u32 = 32;
/// … and those among them that met the lock held, from which it moves.
const YOUNG_MET: u32 = 4;
/// As many uses of one that is not young …
const VERDICT: u32 = 256;
/// … and the part of them that slept.
const SLEPT: u32 = 4;

/// Blocks that a thread takes from its arena, or sends home to others, after which it asks itself
/// whether to follow those that it trades with.
const TRADE: usize = 2048;

/// Part of what it sends home that a thread takes at most if it only frees.
const TAKES_LITTLE: usize = 8;
/// Looks at its trade in a row after which a thread that only frees goes to an arena behind its own.
const LOOKS: u8 = 2;

/// Bytes that a thread may leave behind in its arena to follow others, or for short waits.
const LEFT_BEHIND: usize = 1024 * 1024;

/// What a thread remembers of its uses of its arena's lock, and of its trade with other arenas.
pub struct Crowd {
    /// Uses since the thread joined the arena; up to [`YOUNG_USES`].
    age: Cell<u32>,
    /// Uses since the last verdict …
    uses: Cell<u32>,
    /// … that met the lock held, …
    met: Cell<u32>,
    /// … and that slept.
    slept: Cell<u32>,
    /// The thread slept on its arena's lock so often that it was to leave: it follows nobody any more.
    fled: Cell<bool>,
    /// Blocks that it took from its arena since it last looked at its trade.
    taken: Cell<usize>,
    /// Bytes of all that it took from its arena.
    taken_bytes: Cell<usize>,
    /// Blocks that it sent home to other arenas …
    sent: Cell<usize>,
    /// … the first one of them.
    sent_to: Cell<u16>,
    /// What [`Arena::remote_frees`] was.
    remote_frees: Cell<u64>,
    /// Looks in a row at which the thread only freed, and blocks of arenas behind its own; [`LOOKS`] once it has
    /// gone there.
    behind: Cell<u8>,
    /// When it last looked, most of what it freed was others', or most of its own was freed by others.
    trades: Cell<bool>,
}

impl Crowd {
    /// No use yet.
    pub const fn new() -> Self {
        Self {
            age: Cell::new(0),
            uses: Cell::new(0),
            met: Cell::new(0),
            slept: Cell::new(0),
            fled: Cell::new(false),
            taken: Cell::new(0),
            taken_bytes: Cell::new(0),
            sent: Cell::new(0),
            sent_to: Cell::new(u16::MAX),
            remote_frees: Cell::new(0),
            behind: Cell::new(0),
            trades: Cell::new(false),
        }
    }

    /// Another thread has the cache; it joins an arena next.
    pub fn begin(&self) {
        self.fled.set(false);
        self.behind.set(0);
    }

    /// Forgets what was in the arena that the thread left.
    pub fn join(&self, arena: &Arena) {
        self.age.set(0);
        self.uses.set(0);
        self.met.set(0);
        self.slept.set(0);
        self.taken_bytes.set(0);
        self.trades.set(false);
        self.close_books(arena);
    }

    /// Takes note that the thread follows others there, and should not part from them for little.
    pub fn follow(&self) {
        self.age.set(YOUNG_USES);
    }

    fn close_books(&self, arena: &Arena) {
        self.taken.set(0);
        self.sent.set(0);
        self.sent_to.set(u16::MAX);
        self.remote_frees.set(arena.remote_frees());
    }

    /// Counts a use of the lock.
    pub fn note(&self, how: Locked) {
        let add = |count: &Cell<u32>, if_so| count.set(count.get() + u32::from(if_so));
        add(&self.uses, true);
        add(&self.met, how != Locked::AtOnce);
        add(&self.slept, how == Locked::AfterWait);
    }

    /// Counts blocks of `size` bytes that the thread took from its arena.
    pub fn note_taken(&self, blocks: usize, size: usize) {
        self.taken.set(self.taken.get() + blocks);
        self.taken_bytes.set(self.taken_bytes.get().saturating_add(blocks * size));
    }

    /// Counts blocks that it sent home to an arena.
    pub fn note_sent(&self, to: u16, blocks: usize) {
        self.sent.set(self.sent.get() + blocks);
        self.sent_to.set(self.sent_to.get().min(to));
    }

    /// Whether enough was traded to look at it.
    pub fn has_traded(&self) -> bool {
        self.taken.get().max(self.sent.get()) >= TRADE
    }

    /// Whether the thread would leave much behind, at most what it took and its share of the arena.
    fn has_much_in(&self, own: &Arena) -> bool {
        let share = own.bytes_in_use() / own.attach().threads().max(1) as usize;
        self.taken_bytes.get().min(share) > LEFT_BEHIND
    }

    /// Whether the thread trades with others, as far as it knows.
    pub fn trades(&self) -> bool {
        self.trades.get()
    }

    /// Takes note that the thread wanted to go where memory is free, and whether it did: then it goes
    /// on trading there, and should not leave for little.
    pub fn go_for_memory(&self, went: bool) {
        if went {
            self.follow();
        }
        self.trades.set(went);
    }

    /// The arena to follow: one before the thread's own whose blocks it frees, if most of what it
    /// frees is others'; or whose threads free the blocks of this one, if they free most of them.
    /// All those that trade so end in the first of their arenas; but who only frees, and still does the next
    /// time, goes where the others stay, once. None where the thread would leave
    /// much behind: what is free in an arena without its threads is of use to nobody.
    pub fn partner(&self, own: &Arena) -> Option<u16> {
        let (taken, sent, sent_to) = (self.taken.get(), self.sent.get(), self.sent_to.get());
        let freed_by_others = own.remote_frees().wrapping_sub(self.remote_frees.get()) as usize;
        self.close_books(own);
        let threads = own.attach().threads() as usize;
        let sends = 2 * sent >= taken;
        let gets_back = 2 * freed_by_others >= taken * threads;
        self.trades.set(sends || gets_back);
        if self.fled.get() || self.has_much_in(own) {
            return None;
        }
        if self.goes_behind(sends && sent_to > own.id() && taken <= sent / TAKES_LITTLE) {
            return Some(sent_to);
        }
        let sends = sends && sent_to < own.id();
        let partner = if sends { sent_to } else { own.remote_from() };
        ((sends || gets_back) && partner < own.id()).then_some(partner)
    }

    /// Whether a thread that `only_frees` blocks of arenas behind its own goes there: the others had time to come
    /// to it, and have too much to leave.
    fn goes_behind(&self, only_frees: bool) -> bool {
        let looks = match self.behind.get() {
            LOOKS => return false,
            looks if only_frees => looks + 1,
            _ => 0,
        };
        self.behind.set(looks);
        looks == LOOKS
    }

    /// Why to move, if so. The counts start anew with each verdict, so that it needs a sustained
    /// share.
    pub fn verdict(&self, own: &Arena) -> Option<Waits> {
        let uses = self.uses.get();
        let young = self.age.get() < YOUNG_USES;
        if uses < if young { YOUNG_VERDICT } else { VERDICT } {
            return None;
        }
        let (met, slept) = (self.met.replace(0), self.slept.replace(0));
        self.uses.set(0);
        if young {
            self.age.set(self.age.get() + uses);
        }
        if slept >= uses / SLEPT {
            self.fled.set(true);
            Some(Waits::Long)
        } else if young && met >= YOUNG_MET && !self.has_much_in(own) {
            Some(Waits::Short)
        } else {
            None
        }
    }
}
