//! The page map: of two regions for one slot one wins, and both publishers and all readers see
//! that one, whole; an entry brings the descriptor that was written before it, and is seen by
//! every thread that was given a block of its granule; and of two threads that claim an entry
//! one gets it.
#![cfg(loom)]

use arenite::sync::publish::{Entry, RegionSlot};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{Acquire, Release};
use loom::thread;
use std::sync::Arc;

const BASE: usize = 0x400_0000;
const OWNER: u16 = 3 << 7 | 5;
const PAGES: u32 = 7;

/// A region of two granules, with one descriptor each.
struct Region {
    entries: [Entry; 2],
    pages: [UnsafeCell<u32>; 2],
    base: UnsafeCell<usize>,
}

impl Region {
    /// A region of nothing, in new memory.
    fn map() -> *mut Region {
        Box::into_raw(Box::new(Region {
            entries: [Entry::new(), Entry::new()],
            pages: [UnsafeCell::new(0), UnsafeCell::new(0)],
            base: UnsafeCell::new(0),
        }))
    }

    /// Writes the descriptor, then the entry.
    fn describe(&self, granule: usize) {
        // SAFETY: the granule is the caller's, who alone writes its descriptor.
        self.pages[granule].with_mut(|pages| unsafe { *pages = PAGES });
        self.entries[granule].set(OWNER);
    }

    /// What a free looks up: the owner, and the descriptor if there is one.
    fn look_up(&self, granule: usize) -> u16 {
        let owner = self.entries[granule].get();
        if owner != 0 {
            assert_eq!(owner, OWNER);
            // SAFETY: an entry was read, so the descriptor was written before.
            assert_eq!(self.pages[granule].with(|pages| unsafe { *pages }), PAGES);
        }
        owner
    }
}

/// One slot of the root, and the regions that were made for it.
struct Root {
    slot: RegionSlot<Region>,
    made: std::sync::Mutex<Vec<usize>>,
}

// SAFETY: regions are shared once they are published, as the models check.
unsafe impl Send for Root {}
// SAFETY: as above.
unsafe impl Sync for Root {}

impl Root {
    fn new() -> Arc<Self> {
        Arc::new(Self { slot: RegionSlot::new(), made: Default::default() })
    }

    /// The region, if there is one; whole.
    fn region(&self) -> Option<&Region> {
        // SAFETY: regions live as long as the root.
        let region = unsafe { self.slot.get().as_ref() }?;
        Some(self.whole(region))
    }

    /// The region, made if there is none, as for a new heap.
    fn cover(&self) -> &Region {
        if let Some(region) = self.region() {
            return region;
        }
        let new = Region::map();
        self.made.lock().unwrap().push(new.expose_provenance());
        // SAFETY: the region is known to this thread alone.
        unsafe { (*new).base.with_mut(|base| *base = BASE) };
        let stands = self.slot.publish(new);
        // SAFETY: as in `region`.
        self.whole(unsafe { &*stands })
    }

    fn whole<'a>(&'a self, region: &'a Region) -> &'a Region {
        // SAFETY: nobody writes the base once the region is published.
        assert_eq!(region.base.with(|base| unsafe { *base }), BASE, "the region is not whole");
        region
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for &region in self.made.lock().unwrap().iter() {
            // SAFETY: made by `map`, and nobody is left to use it.
            drop(unsafe {
                Box::from_raw(core::ptr::with_exposed_provenance_mut::<Region>(region))
            });
        }
    }
}

#[test]
fn one_region_stands() {
    loom::model(|| {
        let root = Root::new();
        let publishers = [0, 1].map(|granule| {
            let root = root.clone();
            thread::spawn(move || root.cover().describe(granule))
        });
        if let Some(region) = root.region() {
            region.look_up(0);
        }
        for publisher in publishers {
            publisher.join().unwrap();
        }
        let region = root.region().unwrap();
        assert_eq!([region.look_up(0), region.look_up(1)], [OWNER; 2], "used another region");
    });
}

/// A thread asks about an address that nobody gave it.
#[test]
fn an_entry_brings_its_descriptor() {
    loom::model(|| {
        let root = Root::new();
        let heap = {
            let root = root.clone();
            thread::spawn(move || root.cover().describe(0))
        };
        if let Some(region) = root.region() {
            region.look_up(0);
            assert_eq!(region.look_up(1), 0);
        }
        heap.join().unwrap();
    });
}

/// A thread frees a block that another one allocated and handed over, by whatever
/// synchronisation the program uses: it must find the owner. The entry's own ordering is not
/// needed for that, which is what the window of the main arena relies on: it is read relaxed.
#[test]
fn who_is_given_a_block_finds_its_owner() {
    loom::model(|| {
        let root = Root::new();
        let handed = Arc::new(AtomicUsize::new(0));
        let allocator = {
            let (root, handed) = (root.clone(), handed.clone());
            thread::spawn(move || {
                root.cover().describe(0);
                handed.store(BASE, Release);
            })
        };
        if handed.load(Acquire) == BASE {
            assert_eq!(root.region().map(|region| region.look_up(0)), Some(OWNER));
        }
        allocator.join().unwrap();
    });
}

/// The program frees a huge block twice, on two threads, while a third looks at it.
#[test]
fn one_of_two_claims_the_entry() {
    loom::model(|| {
        let root = Root::new();
        root.cover().describe(0);
        let other = {
            let root = root.clone();
            thread::spawn(move || claim(root.cover()))
        };
        let reader = {
            let root = root.clone();
            thread::spawn(move || root.cover().entries[0].get())
        };
        let claims = [claim(root.cover()), other.join().unwrap()];
        assert!([0, OWNER].contains(&reader.join().unwrap()));
        assert_ne!(claims[0], claims[1], "one of two gets it");
        assert_eq!(root.cover().look_up(0), 0);
    });
}

/// Claims the first granule; who got it owns its descriptor.
fn claim(region: &Region) -> bool {
    assert!(!region.entries[0].claim(OWNER + 1), "claimed what is not there");
    let got = region.entries[0].claim(OWNER);
    if got {
        // SAFETY: the granule is the claimer's.
        region.pages[0].with_mut(|pages| unsafe { *pages = 0 });
    }
    got
}
