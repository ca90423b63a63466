//! The attach word: every attach and detach counts once, exactly one of the threads that detach
//! learns that it is the last, the count never falls below none, and it never rises after the
//! arena was closed.
#![cfg(loom)]

use arenite::sync::attach::Attach;
use loom::thread;
use loom_tests::check_bounded;
use std::sync::Arc;

#[test]
fn one_learns_that_it_is_the_last() {
    loom::model(|| {
        let attach = Arc::new(Attach::new());
        assert!((0..3).all(|_| attach.attach()));
        let others = [(), ()].map(|()| {
            let attach = attach.clone();
            thread::spawn(move || attach.detach())
        });
        let mut last = usize::from(attach.detach());
        for other in others {
            last += usize::from(other.join().unwrap());
        }
        assert_eq!(last, 1, "threads that learnt to be the last");
        assert_eq!(attach.threads(), 0);
    });
}

/// A thread that was attached all the time is the last, whatever came and went.
#[test]
fn threads_come_and_go() {
    check_bounded(5, || {
        let attach = Arc::new(Attach::new());
        assert!(attach.attach());
        let others = [(), ()].map(|()| {
            let attach = attach.clone();
            thread::spawn(move || {
                assert!(attach.attach());
                assert!((2..=3).contains(&attach.threads()));
                assert!(!attach.detach(), "another thread is attached");
            })
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(attach.threads(), 1);
        assert!(attach.detach());
    });
}

#[test]
fn nobody_attaches_after_the_close() {
    check_bounded(4, || {
        let attach = Arc::new(Attach::new());
        assert!(attach.attach());
        let others = [(), ()].map(|()| {
            let attach = attach.clone();
            thread::spawn(move || {
                let closed = attach.is_closed();
                let attached = attach.attach();
                assert!(!(closed && attached), "attached to what it saw closed");
                u32::from(attached)
            })
        });
        attach.close();
        assert!(attach.is_closed());
        let at_close = attach.threads();
        assert!(!attach.attach());
        let attached: u32 = others.into_iter().map(|other| other.join().unwrap()).sum();
        assert_eq!(attach.threads(), 1 + attached, "the close changed the count");
        assert_eq!(attach.threads(), at_close, "attached after the close");
        for left in (0..=attached).rev() {
            assert_eq!(attach.detach(), left == 0);
        }
        assert!(attach.is_closed());
    });
}

/// A thread that is counted out twice (see `Attach::detach`) does not make the count wrap.
#[test]
fn none_stays_none() {
    loom::model(|| {
        let attach = Arc::new(Attach::new());
        assert!(attach.attach());
        let other = {
            let attach = attach.clone();
            thread::spawn(move || attach.detach())
        };
        let close = {
            let attach = attach.clone();
            thread::spawn(move || attach.close())
        };
        assert!(attach.detach());
        assert!(other.join().unwrap());
        close.join().unwrap();
        assert_eq!(attach.threads(), 0);
        assert!(attach.is_closed());
    });
}
