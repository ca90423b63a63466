//! What the other models stand on: loom tries the interleavings in which a store comes between
//! another thread's accesses, also where the storing thread loads the same atomic first.
#![cfg(loom)]

use arenite::sync::attach::Attach;
use loom::thread;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// A thread attaches, by a load and a compare-and-swap, while another reads the count twice: it
/// may do so before, between and after the two. With loom's plain atomics only `[0, 0]` was seen.
#[test]
fn a_store_after_a_load_comes_at_any_time() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = seen.clone();
    loom::model(move || {
        let attach = Arc::new(Attach::new());
        let other = {
            let attach = attach.clone();
            thread::spawn(move || attach.attach())
        };
        let counts = [attach.threads(), attach.threads()];
        assert!(other.join().unwrap());
        all.lock().unwrap().insert(counts);
    });
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from([[0, 0], [0, 1], [1, 1]]));
}
