//! A class's slabs that have blocks to give, in lists by how full they are.
//!
//! The fuller ones give first, so that those of which little is in use may come to be unused. Within a list the one
//! that came last is the first.

use super::slab::{self, Slab};
use super::{Inner, slab_pages};
use crate::page_map::{self, PageDesc, PageId};
use crate::size_class::{self, Class};
use crate::window;
use core::sync::atomic::Ordering::Relaxed;

/// One of a class's lists. They give in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct List(u8);

impl List {
    /// Open slabs of which at least three quarters of the blocks are out.
    const FULL: List = List(0);
    /// Other open slabs.
    pub const OPEN: List = List(1);
    /// Closed slabs of which at least a quarter of the blocks are out.
    const CLOSED: List = List(2);
    /// Other closed slabs.
    const NEARLY_EMPTY: List = List(3);
    /// Open slabs whose free pages were given back to the kernel.
    pub const BARE: List = List(4);
    /// Closed ones.
    const CLOSED_BARE: List = List(5);
    /// None: all blocks of the slab are out.
    pub const NONE: List = List(u8::MAX);

    /// Those of slabs that were in use lately.
    pub const WARM: [List; 4] = [List::FULL, List::OPEN, List::CLOSED, List::NEARLY_EMPTY];

    /// The list of slabs of which `used` of `blocks` blocks are out.
    #[inline]
    fn of(used: usize, blocks: usize, is_closed: bool) -> List {
        match is_closed {
            false if 4 * used >= 3 * blocks => List::FULL,
            false => List::OPEN,
            true if 4 * used >= blocks => List::CLOSED,
            true => List::NEARLY_EMPTY,
        }
    }

    /// Whether its slabs were in use lately.
    #[inline]
    fn is_warm(self) -> bool {
        self.0 < List::BARE.0
    }
}

/// Lists of a class.
const LISTS: usize = List::WARM.len() + 2;

/// First and last slab of a list.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: PageId,
    last: PageId,
}

/// The lists of a class.
#[derive(Debug, Clone, Copy)]
pub struct Lists([Ends; LISTS]);

impl Lists {
    /// No slabs.
    pub const EMPTY: Lists = Lists([Ends { first: 0, last: 0 }; LISTS]);

    /// The slab that gives the next blocks, by its first page.
    #[inline]
    pub fn first(&self) -> Option<PageId> {
        self.0.iter().map(|ends| ends.first).find(|&first| first != 0)
    }

    /// Whether a list has one slab alone.
    pub fn has_one(&self, list: List) -> bool {
        self.ends(list).is_some_and(|ends| ends.first == ends.last)
    }

    /// The last slab of a list, by its first page.
    pub fn last(&self, list: List) -> Option<PageId> {
        self.ends(list).map(|ends| ends.last).filter(|&last| last != 0)
    }

    fn ends(&self, list: List) -> Option<Ends> {
        self.0.get(usize::from(list.0)).copied()
    }

    /// Makes a slab the first of a list, or what follows another one there; or the last, or what comes before.
    ///
    /// # Safety
    /// Ids other than 0 are those of slabs on that list, whose arena's lock is held.
    #[inline]
    unsafe fn set_next(&mut self, list: List, of: PageId, next: PageId) {
        if of != 0 {
            // SAFETY: the caller's contract.
            unsafe { (*page_map::desc(page_map::page_address(of))).next = next };
        } else if let Some(ends) = self.0.get_mut(usize::from(list.0)) {
            ends.first = next;
        }
    }

    /// As [`Lists::set_next`], in the other direction.
    ///
    /// # Safety
    /// As for [`Lists::set_next`].
    #[inline]
    unsafe fn set_prev(&mut self, list: List, of: PageId, prev: PageId) {
        if of != 0 {
            // SAFETY: the caller's contract.
            unsafe { (*page_map::desc(page_map::page_address(of))).prev = prev };
        } else if let Some(ends) = self.0.get_mut(usize::from(list.0)) {
            ends.last = prev;
        }
    }
}

impl Inner {
    /// The slab that gives the class's next blocks, once it is [opened](Inner::open): its start and state.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub(super) unsafe fn slab_with_room(&self, class: Class) -> Option<(usize, *mut Slab)> {
        let first = self.class(class).lists.first()?;
        // SAFETY: the lock is held; ids on the lists are those of slabs.
        unsafe {
            let start = page_map::page_address(first);
            Some((start, page_map::desc(start).cast()))
        }
    }

    /// Makes a slab one that gives blocks: open and warm.
    ///
    /// # Safety
    /// As for [`Inner::file`].
    pub(super) unsafe fn open(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            if (*slab).closed.load(Relaxed) {
                (*slab).closed.store(false, Relaxed);
                self.class_mut(class).closed -= 1;
                slab_pages::open(slab, start, self.id);
            }
            self.file(class, start, slab, slab::used(slab));
        }
    }

    /// Files the slab where those are of which `used` blocks are out, as the first if it was on another list.
    ///
    /// # Safety
    /// The slab is one of this arena, of `class`; the arena's lock is held.
    #[inline]
    pub(super) unsafe fn file(&mut self, class: Class, start: usize, slab: *mut Slab, used: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let is_closed = (*slab).closed.load(Relaxed);
            let list = List::of(used, size_class::slab_blocks(class), is_closed);
            if (*slab).list != list {
                self.relist(class, start, slab, list);
            }
        }
    }

    /// Closes an open slab: its blocks go home from now on, and it gives some when others have none.
    ///
    /// # Safety
    /// As for [`Inner::file`].
    pub(super) unsafe fn close(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            (*slab).closed.store(true, Relaxed);
            self.class_mut(class).closed += 1;
            window::of(self.id).set(start, size_class::slab_bytes(class), 0);
            match (*slab).list {
                List::BARE => self.file_bare(class, start, slab),
                _ => self.file(class, start, slab, slab::used(slab)),
            }
        }
    }

    /// Files a slab whose free pages were given back.
    ///
    /// # Safety
    /// As for [`Inner::file`].
    pub(super) unsafe fn file_bare(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            let is_closed = (*slab).closed.load(Relaxed);
            let list = if is_closed { List::CLOSED_BARE } else { List::BARE };
            self.relist(class, start, slab, list);
        }
    }

    /// Makes the slab the first of a list, from whatever list it is on.
    ///
    /// # Safety
    /// As for [`Inner::file`].
    pub(super) unsafe fn relist(
        &mut self,
        class: Class,
        start: usize,
        slab: *mut Slab,
        list: List,
    ) {
        // SAFETY: the caller's contract; ids on the lists are those of slabs.
        unsafe {
            let before = self.unlink(class, slab);
            let id = page_map::page_id(start);
            let lists = &mut self.class_mut(class).lists;
            let next = lists.ends(list).map_or(0, |ends| ends.first);
            lists.set_next(list, 0, id);
            lists.set_prev(list, next, id);
            (*slab).desc.next = next;
            (*slab).desc.prev = 0;
            (*slab).list = list;
            // From one of these to another, blocks may have come back that are not counted yet.
            match (before.is_warm(), list.is_warm()) {
                (false, true) => self.note_free_blocks(slab, 0),
                (true, false) => self.forget_free_blocks(slab),
                _ => {}
            }
        }
    }

    /// Takes a slab off its list.
    ///
    /// # Safety
    /// As for [`Inner::file`]; the slab's blocks that are back are counted.
    pub(super) unsafe fn unlist(&mut self, class: Class, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.unlink(class, slab).is_warm() {
                self.forget_free_blocks(slab);
            }
        }
    }

    /// Takes a slab out of the list that it is on, if any; that list.
    ///
    /// # Safety
    /// As for [`Inner::file`].
    unsafe fn unlink(&mut self, class: Class, slab: *mut Slab) -> List {
        // SAFETY: the caller's contract; ids on the lists are those of slabs.
        unsafe {
            let list = core::mem::replace(&mut (*slab).list, List::NONE);
            if list != List::NONE {
                let PageDesc { next, prev, .. } = (*slab).desc;
                let lists = &mut self.class_mut(class).lists;
                lists.set_next(list, prev, next);
                lists.set_prev(list, next, prev);
            }
            list
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::block::Block;

    const CLASS: Class = size_class::of(512);
    const BLOCKS: usize = size_class::slab_blocks(CLASS);
    const _: () = assert!(BLOCKS == 32);

    fn start_of(block: *mut Block) -> usize {
        block.addr() & !(size_class::slab_align(CLASS) - 1)
    }

    /// Takes all blocks of a new slab. The others have none.
    ///
    /// # Safety
    /// The arena is the caller's alone.
    unsafe fn take_slab(inner: &mut Inner) -> [*mut Block; BLOCKS] {
        let mut blocks = [core::ptr::null_mut(); BLOCKS];
        let mut next: *mut Block = core::ptr::null_mut();
        // SAFETY: the caller's contract.
        unsafe {
            for (place, block) in blocks.iter_mut().enumerate() {
                if next.is_null() {
                    next = inner.take_blocks(CLASS, BLOCKS - place).head;
                }
                *block = next;
                next = Block::next(next);
            }
        }
        assert!(blocks.iter().all(|&block| start_of(block) == start_of(blocks[0])));
        blocks
    }

    /// The order in which slabs give, by their places in the list of how many blocks of each are in use, if one of
    /// them is closed.
    fn order<const N: usize>(arena: u16, used: [usize; N], closed: Option<usize>) -> [usize; N] {
        let mut inner = Inner::new(arena);
        // SAFETY: the arena is this test's alone, and so are its blocks.
        unsafe {
            let slabs = used.map(|_| take_slab(&mut inner));
            for (blocks, used) in slabs.iter().zip(used) {
                for &block in &blocks[used..] {
                    Block::set_next(block, core::ptr::null_mut());
                    inner.give_blocks_of(CLASS, block, 1);
                }
            }
            if let Some(closed) = closed {
                let start = start_of(slabs[closed][0]);
                let slab = page_map::desc(start).cast::<Slab>();
                inner.close(CLASS, start, slab);
            }
            used.map(|_| {
                let start = start_of(inner.take_blocks(CLASS, 1).head);
                let is_it = |blocks: &[*mut Block; BLOCKS]| start_of(blocks[0]) == start;
                let place = slabs.iter().position(is_it).expect("one of them");
                // All that it has, so that another one is the next.
                inner.take_blocks(CLASS, BLOCKS - used[place] - 1);
                place
            })
        }
    }

    #[test]
    fn slabs_of_two_blocks_have_lists_as_well() {
        assert_eq!(
            [0, 1, 2].map(|used| List::of(used, 2, false)),
            [List::OPEN, List::OPEN, List::FULL]
        );
        assert_eq!([0, 1].map(|used| List::of(used, 2, true)), [List::NEARLY_EMPTY, List::CLOSED]);
    }

    #[test]
    fn a_closed_slab_that_gives_nothing_stays_closed() {
        let mut inner = Inner::new(109);
        // SAFETY: the arena is this test's alone, and so are its blocks.
        unsafe {
            let full = take_slab(&mut inner);
            let start = start_of(inner.take_blocks(CLASS, BLOCKS / 4).head);
            let slab = page_map::desc(start).cast::<Slab>();
            assert!((*slab).free.is_null() && start != start_of(full[0]));
            inner.close(CLASS, start, slab);
            Block::set_next(full[0], core::ptr::null_mut());
            inner.give_blocks_of(CLASS, full[0], 1);
            // It could only give blocks that are not carved yet, for which nobody is in need.
            assert_eq!(inner.take_blocks(CLASS, BLOCKS).head, full[0]);
            assert!((*slab).closed.load(Relaxed));
            assert_eq!(start_of(inner.take_blocks(CLASS, BLOCKS).head), start);
            assert!(!(*slab).closed.load(Relaxed));
        }
    }

    #[test]
    fn the_fullest_slab_gives_first() {
        // Those less than three quarters full by when they came to be so.
        assert_eq!(order(101, [1, 25, 10], None), [1, 2, 0]);
        assert_eq!(order(102, [10, 1, 30], None), [2, 1, 0]);
    }

    #[test]
    fn a_closed_slab_gives_last() {
        assert_eq!(order(103, [1, 25, 10], Some(2)), [1, 0, 2]);
        assert_eq!(order(104, [1, 10, 3], Some(0)), [2, 1, 0]);
    }
}
