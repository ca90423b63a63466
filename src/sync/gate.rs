//! The gate of a thread's bins: open to whoever comes first, the thread on a slow path, or somebody who
//! takes what a thread that sleeps has cached.
//!
//! | state | meaning | who leaves it |
//! |---|---|---|
//! | `OPEN` | nobody is inside | the thread: `BUSY`; another: `HELD` |
//! | `BUSY` | the thread is on a slow path | the thread: `OPEN` |
//! | `HELD` | another one is inside | that one: `OPEN` or `DRAINED`; the thread: `AWAITED` |
//! | `AWAITED` | the same, and the thread waits | that one: `OPEN` or `DRAINED`, and wakes the thread |
//! | `DRAINED` | another one took blocks away | the thread: `BUSY`, and then looks what is left |
//!
//! Beside `HELD` and `AWAITED` stands who is inside: the child of a fork inherits the gate, and not the other one. Where
//! no handler of pthread_atfork(3) ran, the thread finds that out: `AWAITED` to `BUSY`.
//!
//! A fast path does not pass here. It changes one bin with one store, so who is inside turns the thread's
//! word away first, lets a barrier run on all CPUs (membarrier(2)), and knows that from then on the thread
//! ends one fast path at most, which takes the first block of a bin or puts one before it. So the first
//! block of each bin stays, and [`cut`] tells what is left.

use super::block::Block;
use super::prim::{self, AtomicU32};
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

const OPEN: u32 = 0;
const BUSY: u32 = 1;
const HELD: u32 = 2;
const AWAITED: u32 = 3;
const DRAINED: u32 = 4;

/// The state's bits; above them is the kernel's number of the thread that is inside, of at most 22 bits
/// (`PID_MAX_LIMIT`).
const STATE: u32 = 7;
const HOLDER_SHIFT: u32 = STATE.count_ones();

/// How the thread came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It leaves again.
    First,
    /// It is inside already, further up.
    Again,
    /// It leaves again; somebody took blocks since it was here.
    AfterDrain,
    /// It leaves again; who was inside is gone, and has taken nothing.
    AfterGone,
}

/// A gate.
#[derive(Debug)]
pub struct Gate {
    state: AtomicU32,
}

impl Gate {
    /// An open gate.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(OPEN) }
    }

    /// An open gate.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(OPEN) }
    }

    /// Lets the bins' own thread in, when nobody else is inside, or when `is_gone` says of that one's number that
    /// there is no such thread.
    pub fn enter(&self, is_gone: impl Fn(i32) -> bool) -> Passage {
        loop {
            // Acquire pairs with the release of `leave`, of the thread that had the cache before; where it fails, with that
            // of `release`: what was taken is known; and with that of `hold`: `is_gone` knows what who is inside did before.
            match self.state.compare_exchange(OPEN, BUSY, Acquire, Acquire) {
                Ok(_) => return Passage::First,
                Err(BUSY) => return Passage::Again,
                Err(DRAINED) => {
                    if self.state.compare_exchange(DRAINED, BUSY, Relaxed, Relaxed).is_ok() {
                        return Passage::AfterDrain;
                    }
                }
                Err(held) if held & STATE == HELD => {
                    _ = self.state.compare_exchange(held, held - HELD + AWAITED, Relaxed, Relaxed);
                }
                Err(awaited) => {
                    // Where who is inside is gone, nobody else changes it.
                    if !prim::wait(&self.state, awaited)
                        && is_gone((awaited >> HOLDER_SHIFT) as i32)
                        && self.state.compare_exchange(awaited, BUSY, Relaxed, Relaxed).is_ok()
                    {
                        return Passage::AfterGone;
                    }
                }
            }
        }
    }

    /// The thread is out.
    pub fn leave(&self) {
        // Release pairs with the acquire of `hold`: the bins are whole.
        self.state.store(OPEN, Release);
    }

    /// Lets another one in, of that number, if nobody is inside and nothing was taken since the thread was.
    pub fn hold(&self, holder: i32) -> bool {
        let held = HELD | (holder as u32) << HOLDER_SHIFT;
        // Acquire pairs with the release of `leave`, release with the acquire of `enter`.
        self.state.compare_exchange(OPEN, held, AcqRel, Relaxed).is_ok()
    }

    /// Whether nobody is inside, and nothing was taken, at this instant.
    #[cfg(not(loom))]
    pub fn is_open(&self) -> bool {
        self.state.load(Relaxed) == OPEN
    }

    /// The other one is out; whether the thread is to look what is left.
    pub fn release(&self, is_drained: bool) {
        let next = if is_drained { DRAINED } else { OPEN };
        // Release pairs with the acquire of `enter`.
        if self.state.swap(next, Release) & STATE == AWAITED {
            prim::wake_one(&self.state);
        }
    }

    /// In the child after fork, where nobody else is: lets who was inside disappear. Whether
    /// somebody was.
    pub fn forget_holder(&self) -> bool {
        let is_held = matches!(self.state.load(Relaxed) & STATE, HELD | AWAITED);
        if is_held {
            self.state.store(OPEN, Relaxed);
        }
        is_held
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// Ends the list of a bin before the first block that was taken from it: its first block, or null, and
/// how many there are.
///
/// # Safety
/// The bin is the calling thread's. Its list leads to `taken`, unless it ends before that.
pub unsafe fn cut(head: *mut Block, taken: *mut Block) -> (*mut Block, usize) {
    let (mut last, mut at, mut count) = (ptr::null_mut(), head, 0);
    while at != taken && !at.is_null() {
        last = at;
        // SAFETY: blocks before the taken one are the thread's.
        at = unsafe { Block::next(at) };
        count += 1;
    }
    if last.is_null() {
        return (last, 0);
    }
    // SAFETY: as above.
    unsafe { Block::set_next(last, ptr::null_mut()) };
    (head, count)
}
