//! The depot: a magazine that changes hands belongs to exactly one thread at any time, who sees
//! its links and contents, and a put that is refused gives back the magazine it was given.
#![cfg(loom)]

use arenite::sync::depot::DepotSlot;
use loom::thread;
use loom_tests::blocks::{Blocks, assert_each_once};
use loom_tests::check_bounded;
use std::sync::Arc;

/// Puts a magazine of the blocks at `places`; the places of what is left in the caller's hands.
///
/// # Safety
/// The blocks are the caller's.
unsafe fn put(slot: &DepotSlot, blocks: &Blocks, places: &[usize]) -> Vec<usize> {
    // SAFETY: the caller's contract.
    unsafe {
        let magazine = blocks.chain(places);
        let given = (magazine.head, magazine.count);
        match slot.put(magazine) {
            Ok(()) => Vec::new(),
            Err(back) => {
                assert_eq!((back.head, back.count), given, "another magazine came back");
                blocks.magazine(given)
            }
        }
    }
}

/// Takes a magazine, if there is one.
fn take(slot: &DepotSlot, blocks: &Blocks) -> Vec<usize> {
    // SAFETY: who takes a magazine owns it.
    slot.take().map_or_else(Vec::new, |magazine| unsafe {
        blocks.magazine((magazine.head, magazine.count))
    })
}

/// Two threads put, one takes: every magazine is in one pair of hands, or in the slot.
#[test]
fn two_put_and_one_takes() {
    loom::model(|| {
        let blocks = Arc::new(Blocks::new(3));
        let slot = Arc::new(DepotSlot::new());
        let putters = [&[0, 1][..], &[2]].map(|places| {
            let (blocks, slot) = (blocks.clone(), slot.clone());
            // SAFETY: the blocks are this thread's.
            thread::spawn(move || unsafe { put(&slot, &blocks, places) })
        });
        let mut hands = take(&slot, &blocks);
        for putter in putters {
            hands.extend(putter.join().unwrap());
        }
        hands.extend(take(&slot, &blocks));
        assert_eq!(slot.count(), 0);
        assert_each_once(hands, 3);
    });
}

/// Two threads take, one puts: at most one of them gets it.
#[test]
fn one_puts_and_two_take() {
    loom::model(|| {
        let blocks = Arc::new(Blocks::new(2));
        let slot = Arc::new(DepotSlot::new());
        let takers = [(), ()].map(|()| {
            let (blocks, slot) = (blocks.clone(), slot.clone());
            thread::spawn(move || take(&slot, &blocks))
        });
        // SAFETY: the blocks are this thread's.
        let mut hands = unsafe { put(&slot, &blocks, &[0, 1]) };
        assert!(hands.is_empty(), "an empty slot takes a magazine");
        for taker in takers {
            hands.extend(taker.join().unwrap());
        }
        hands.extend(take(&slot, &blocks));
        assert_each_once(hands, 2);
    });
}

/// Three threads put and take in turn, so that a magazine comes to the slot again while others
/// look at it.
#[test]
fn magazines_go_round() {
    check_bounded(4, || {
        let blocks = Arc::new(Blocks::new(3));
        let slot = Arc::new(DepotSlot::new());
        // SAFETY: the block is this thread's.
        assert!(unsafe { put(&slot, &blocks, &[0]) }.is_empty());
        let others = [1, 2].map(|own| {
            let (blocks, slot) = (blocks.clone(), slot.clone());
            thread::spawn(move || {
                let mut hands = take(&slot, &blocks);
                hands.push(own);
                // SAFETY: what was taken, and its own block, are this thread's.
                unsafe { put(&slot, &blocks, &hands) }
            })
        });
        let mut hands = take(&slot, &blocks);
        for other in others {
            hands.extend(other.join().unwrap());
        }
        hands.extend(take(&slot, &blocks));
        assert_each_once(hands, 3);
    });
}
