//! What differs between the real build and loom: loom's half of the facade.

extern crate std;

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{self, Relaxed};
use loom::sync::{Condvar, Mutex, atomic};
use std::sync::Arc;
use std::vec::Vec;

/// An atomic of loom's, with a turn that every access takes first.
///
/// loom (0.7) forgets a load when another load of the same atomic follows. A thread that loads
/// and then stores, as every loop around a compare-and-swap does, so hides from loom that its
/// store could have come before the loads of other threads, and loom does not try that (loom's
/// issues 166 and 392). A read-modify-write is not forgotten; this one is relaxed and always
/// writes 0, so it orders nothing else.
#[derive(Debug)]
pub(crate) struct Turns<A> {
    turn: atomic::AtomicUsize,
    word: A,
}

impl<A> Turns<A> {
    fn take_turn(&self) -> &A {
        self.turn.fetch_and(0, Relaxed);
        &self.word
    }

    /// Accesses the word in the same step as the turn: loom tries all orders of the turns, which
    /// are the orders of the accesses.
    fn at_once<R>(&self, access: impl FnOnce(&A) -> R) -> R {
        let word = self.take_turn();
        loom::stop_exploring();
        let result = access(word);
        loom::explore();
        result
    }
}

pub(crate) type AtomicU16 = Turns<atomic::AtomicU16>;
pub(crate) type AtomicU32 = Turns<atomic::AtomicU32>;
pub(crate) type AtomicU64 = Turns<atomic::AtomicU64>;
pub(crate) type AtomicUsize = Turns<atomic::AtomicUsize>;
pub(crate) type AtomicPtr<T> = Turns<atomic::AtomicPtr<T>>;

macro_rules! accesses {
    ($([$($t:ident)?] $atomic:ty, $value:ty;)*) => {$(
        // Each type has what any of them needs.
        #[allow(dead_code)]
        impl $(<$t>)? Turns<$atomic> {
            pub(crate) fn new(value: $value) -> Self {
                Self { turn: atomic::AtomicUsize::new(0), word: <$atomic>::new(value) }
            }

            /// Not at once with the turn: loom tries the older values, too, that a load may see.
            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.take_turn().load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.at_once(|word| word.store(value, order))
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.at_once(|word| word.swap(value, order))
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.at_once(|word| word.compare_exchange(old, new, success, failure))
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }
        }
    )*};
}

accesses! {
    [] atomic::AtomicU16, u16;
    [] atomic::AtomicU32, u32;
    [] atomic::AtomicU64, u64;
    [] atomic::AtomicUsize, usize;
    [T] atomic::AtomicPtr<T>, *mut T;
}

macro_rules! bits {
    ($($atomic:ty, $value:ty;)*) => {$(
        // As above.
        #[allow(dead_code)]
        impl $atomic {
            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.at_once(|word| word.fetch_and(value, order))
            }

            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.at_once(|word| word.fetch_or(value, order))
            }
        }
    )*};
}

bits! {
    AtomicU32, u32;
    AtomicUsize, usize;
}

/// One round, so that models reach the sleeping path.
pub(crate) const SPINS: u32 = 1;

/// Nothing to do: the rounds are counted, so nobody needs the others to run. loom's own
/// would keep it from looking at some of the interleavings.
pub(crate) fn spin_loop() {}

/// A thread asleep on a futex.
struct Sleeper {
    /// The address of the word.
    on: usize,
    bell: Condvar,
    /// Whether it wakes because it ran out of patience. Changed under the table's lock.
    timed_out: AtomicBool,
}

loom::lazy_static! {
    /// The kernel's side of the futexes: who sleeps, the oldest first.
    static ref SLEEPERS: Mutex<Vec<Arc<Sleeper>>> = Mutex::new(Vec::new());
}

/// Looks at the word and falls asleep in one step, as the kernel does, and without spurious
/// returns: a sleeper that nobody wakes sleeps for ever, which loom reports as a deadlock.
/// Time passes only where a model says so, by [`super::let_time_pass`].
///
/// The mutex orders more than the kernel promises. The lock's own orderings show in the
/// interleavings in which nobody sleeps.
pub(crate) fn wait(word: &AtomicU32, seen: u32) -> bool {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if word.load(Relaxed) != seen {
        return true;
    }
    let on = core::ptr::from_ref(word).addr();
    let bell = Condvar::new();
    let this = Arc::new(Sleeper { on, bell, timed_out: AtomicBool::new(false) });
    sleepers.push(this.clone());
    drop(this.bell.wait(sleepers));
    !this.timed_out.load(Relaxed)
}

/// Wakes the thread that has slept on the word for longest, if there is one.
pub(crate) fn wake_one(word: &AtomicU32) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    let on = core::ptr::from_ref(word).addr();
    if let Some(first) = sleepers.iter().position(|sleeper| sleeper.on == on) {
        sleepers.remove(first).bell.notify_one();
    }
}

/// Makes the oldest sleeper run out of patience.
pub(crate) fn time_out_one() {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if !sleepers.is_empty() {
        let first = sleepers.remove(0);
        first.timed_out.store(true, Relaxed);
        first.bell.notify_one();
    }
}

/// loom's cell: it reports two accesses that no ordering separates.
pub(crate) struct Cell<T>(loom::cell::UnsafeCell<T>);

impl<T: Copy> Cell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// No other thread writes the cell at the same time.
    pub(crate) unsafe fn get(&self) -> T {
        // SAFETY: the caller's contract, which loom checks.
        self.0.with(|p| unsafe { *p })
    }

    /// # Safety
    /// No other thread reads or writes the cell at the same time.
    pub(crate) unsafe fn set(&self, value: T) {
        // SAFETY: the caller's contract, which loom checks.
        self.0.with_mut(|p| unsafe { *p = value });
    }
}
