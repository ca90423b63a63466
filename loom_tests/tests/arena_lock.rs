//! The arena lock: one holder at a time, who sees what the holders before wrote; every thread
//! that waits gets the lock in the end or runs out of patience, and no wake-up is lost; and a
//! thread can tell its own hold from another's.
#![cfg(loom)]

use arenite::sync::let_time_pass;
use arenite::sync::lock::{Locked, RawLock};
use loom::cell::UnsafeCell;
use loom::thread;
use loom_tests::check_bounded;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// A lock, and a count of its holders so far that is no atomic.
struct Counter {
    lock: RawLock,
    holds: UnsafeCell<usize>,
}

// SAFETY: `holds` is reached under the lock only, which loom checks.
unsafe impl Sync for Counter {}
// SAFETY: as above.
unsafe impl Send for Counter {}

impl Counter {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: RawLock::new(), holds: UnsafeCell::new(0) })
    }

    /// Does what a holder does, and gives the lock up.
    fn count_and_unlock(&self) {
        // SAFETY: the calling thread holds the lock.
        self.holds.with_mut(|holds| unsafe { *holds += 1 });
        // SAFETY: as above.
        unsafe { self.lock.unlock() };
    }

    fn lock_once(&self, thread: usize) {
        let locked = self.lock.lock(thread);
        assert!(
            matches!(locked, Locked::AtOnce | Locked::AfterSpin | Locked::AfterWait),
            "{locked:?}"
        );
        self.count_and_unlock();
    }

    /// The holds that were; nobody holds the lock now.
    fn holds(&self) -> usize {
        assert!(self.lock.try_lock(9), "free, but not to be had");
        // SAFETY: the calling thread holds the lock.
        let holds = self.holds.with(|holds| unsafe { *holds });
        // SAFETY: as above.
        unsafe { self.lock.unlock() };
        holds
    }
}

/// Three threads: with two waiters, a wake-up must be handed on by who was woken.
#[test]
fn three_threads_get_it_in_turn() {
    check_bounded(3, || {
        let counter = Counter::new();
        let others = [2, 3].map(|number| {
            let counter = counter.clone();
            thread::spawn(move || counter.lock_once(number))
        });
        counter.lock_once(1);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(counter.holds(), 3);
    });
}

/// Two threads, twice each: a thread that comes back competes with the one it has woken.
#[test]
fn two_threads_take_turns() {
    check_bounded(3, || {
        let counter = Counter::new();
        let other = {
            let counter = counter.clone();
            thread::spawn(move || {
                counter.lock_once(2);
                counter.lock_once(2);
            })
        };
        counter.lock_once(1);
        counter.lock_once(1);
        other.join().unwrap();
        assert_eq!(counter.holds(), 4);
    });
}

/// Who only tries may steal the lock from under a thread that was woken for it.
#[test]
fn a_thread_that_tries_beside_two_that_wait() {
    check_bounded(3, || {
        let counter = Counter::new();
        let waiter = {
            let counter = counter.clone();
            thread::spawn(move || counter.lock_once(2))
        };
        let trier = {
            let counter = counter.clone();
            thread::spawn(move || {
                let got = counter.lock.try_lock(3);
                if got {
                    counter.count_and_unlock();
                }
                got
            })
        };
        counter.lock_once(1);
        waiter.join().unwrap();
        let got = trier.join().unwrap();
        assert_eq!(counter.holds(), 2 + usize::from(got));
    });
}

/// Two threads ask whether they hold the lock while they take it and give it up.
#[test]
fn a_thread_knows_its_own_hold() {
    fn lock_and_ask(lock: &RawLock, thread: usize) {
        assert!(!lock.is_held_by(thread));
        let _ = lock.lock(thread);
        assert!(lock.is_held_by(thread) && lock.is_held());
        // SAFETY: the calling thread holds the lock.
        unsafe { lock.unlock() };
        assert!(!lock.is_held_by(thread));
    }
    check_bounded(3, || {
        let counter = Counter::new();
        let other = {
            let counter = counter.clone();
            thread::spawn(move || lock_and_ask(&counter.lock, 2))
        };
        lock_and_ask(&counter.lock, 1);
        other.join().unwrap();
        assert!(!counter.lock.is_held());
    });
}

/// What a signal handler meets that interrupted the holder, while another thread waits.
#[test]
fn the_holder_is_not_given_it_twice() {
    check_bounded(3, || {
        let counter = Counter::new();
        let other = {
            let counter = counter.clone();
            thread::spawn(move || counter.lock_once(2))
        };
        let _ = counter.lock.lock(1);
        assert_eq!(counter.lock.lock(1), Locked::HeldByCaller);
        assert!(!counter.lock.try_lock(1));
        counter.count_and_unlock();
        other.join().unwrap();
        assert_eq!(counter.holds(), 2);
    });
}

/// A waiter that runs out of patience goes without the lock, and takes no wake-up with it that
/// another waiter needs.
#[test]
fn a_waiter_out_of_patience_leaves_the_rest_in_order() {
    static TIMED_OUT: AtomicBool = AtomicBool::new(false);
    check_bounded(3, || {
        let counter = Counter::new();
        let waiters = [2, 3].map(|number| {
            let counter = counter.clone();
            thread::spawn(move || {
                let locked = counter.lock.lock(number);
                if locked == Locked::TimedOut {
                    TIMED_OUT.store(true, Relaxed);
                    assert!(!counter.lock.is_held_by(number));
                    return 0;
                }
                counter.count_and_unlock();
                1
            })
        });
        let _ = counter.lock.lock(1);
        let_time_pass();
        counter.count_and_unlock();
        let holds: usize = waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum();
        assert!(holds > 0, "one thread at most runs out of patience");
        assert_eq!(counter.holds(), 1 + holds);
    });
    assert!(TIMED_OUT.load(Relaxed), "the model never reaches what it is about");
}
