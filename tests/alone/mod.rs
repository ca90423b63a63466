//! Tests of the process's figures, one after the other.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The figures are the process's, and each test's own.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test in a thread of its own, which has ended, with its cache, before another test begins.
pub fn alone(test: fn()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(panic) = thread::spawn(test).join() {
        resume_unwind(panic);
    }
}
