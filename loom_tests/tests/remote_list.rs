//! The remote list: no block that is pushed is lost or taken twice, and who takes a block sees
//! its link and contents as the pusher wrote them.
#![cfg(loom)]

use arenite::sync::remote_list::RemoteList;
use loom::thread;
use loom_tests::blocks::{Blocks, assert_each_once};
use loom_tests::check_bounded;
use std::sync::Arc;

/// The chains that two threads push.
const CHAINS: [&[&[usize]]; 2] = [&[&[0, 1], &[2]], &[&[3]]];

/// Two threads push, one of them twice, while the owner takes everything at once.
#[test]
fn two_pushers_and_the_owner() {
    check_bounded(4, || {
        let blocks = Arc::new(Blocks::new(4));
        let list = Arc::new(RemoteList::new());
        list.adopt();
        let pushers = CHAINS.map(|chains| {
            let (blocks, list) = (blocks.clone(), list.clone());
            thread::spawn(move || {
                for places in chains {
                    // SAFETY: the blocks are this thread's until it pushes them.
                    let orphan = unsafe { list.push(blocks.chain(places)) };
                    assert!(!orphan);
                }
            })
        });
        let mut found = Vec::new();
        for _ in 0..2 {
            // SAFETY: the list was taken whole.
            found.extend(unsafe { blocks.places(list.take_all()) });
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        // SAFETY: as above.
        found.extend(unsafe { blocks.places(list.take_all()) });
        assert!(list.is_empty());
        assert_each_once(found, 4);
    });
}

/// Chains keep their order, and a chain is found behind the one that was pushed after it: the
/// last link of a chain is written by `push`.
#[test]
fn a_chain_stays_together() {
    loom::model(|| {
        let blocks = Arc::new(Blocks::new(4));
        let list = Arc::new(RemoteList::new());
        let pusher = {
            let (blocks, list) = (blocks.clone(), list.clone());
            // SAFETY: the blocks are this thread's until it pushes them.
            thread::spawn(move || unsafe { list.push(blocks.chain(&[0, 1])) })
        };
        // SAFETY: as above.
        unsafe { list.push(blocks.chain(&[2, 3])) };
        // SAFETY: the list was taken whole.
        let first = unsafe { blocks.places(list.take_all()) };
        pusher.join().unwrap();
        // SAFETY: as above.
        let rest = unsafe { blocks.places(list.take_all()) };
        match first.len() {
            2 => assert!(first == [2, 3] && rest == [0, 1], "{first:?} {rest:?}"),
            _ => assert!([[0, 1, 2, 3], [2, 3, 0, 1]].iter().any(|whole| first == whole)),
        }
    });
}

/// A block comes back to the list's head while a pusher is about to link its chain to it: the
/// pusher may not notice, and nothing is wrong with that.
#[test]
fn a_block_that_comes_again() {
    loom::model(|| {
        let blocks = Arc::new(Blocks::new(3));
        let list = Arc::new(RemoteList::new());
        // SAFETY: the blocks are this thread's until it pushes them.
        unsafe { list.push(blocks.chain(&[0, 1])) };
        let pusher = {
            let (blocks, list) = (blocks.clone(), list.clone());
            // SAFETY: as above.
            thread::spawn(move || unsafe { list.push(blocks.chain(&[2])) })
        };
        // SAFETY: the list was taken whole.
        let mut found = unsafe { blocks.places(list.take_all()) };
        // Block 0 was handed out, and another thread frees it. Block 1 stays where it is.
        found.retain(|&place| place != 0);
        // SAFETY: the block was just taken.
        unsafe { list.push(blocks.chain(&[0])) };
        pusher.join().unwrap();
        // SAFETY: as above.
        found.extend(unsafe { blocks.places(list.take_all()) });
        assert_each_once(found, 3);
    });
}

/// A thread attaches while a chain comes in: what was pushed before it was seen to attach is
/// there for it to take.
#[test]
fn adopting_loses_nothing() {
    loom::model(|| {
        let blocks = Arc::new(Blocks::new(2));
        let list = Arc::new(RemoteList::new());
        let pusher = {
            let (blocks, list) = (blocks.clone(), list.clone());
            // SAFETY: the block is this thread's until it pushes it.
            thread::spawn(move || unsafe { list.push(blocks.chain(&[0])) })
        };
        list.adopt();
        // SAFETY: the list was taken whole.
        let mut found = unsafe { blocks.places(list.take_all()) };
        let orphan = pusher.join().unwrap();
        assert!(!orphan || found == [0], "left by its pusher and by the thread that attached");
        // SAFETY: the block is this thread's until it pushes it.
        assert!(!unsafe { list.push(blocks.chain(&[1])) });
        // SAFETY: as above.
        found.extend(unsafe { blocks.places(list.take_all()) });
        assert_each_once(found, 2);
    });
}
