//! The lists of a class's slabs: where its next blocks come from, and which slabs others may have.

use super::Inner;
use super::slab::{ClassState, Slab};
use crate::page_map::{self, PageDesc, PageId};
use crate::size_class::{self, CLASSES, Class};

/// A class's lists of slabs that have blocks to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum List {
    /// On none: all blocks are out.
    None,
    /// Those that were in use lately, and the first to give.
    Warm,
    /// Those whose free pages were given back to the kernel.
    Bare,
    /// Those of which no block is out.
    Empty,
}

/// The slabs on a list, linked through their descriptors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slabs {
    /// The one that came last …
    pub(super) first: PageId,
    /// … and the one that is there for longest; 0 when there is none.
    pub(super) last: PageId,
}

impl Slabs {
    /// No slab.
    pub(super) const NONE: Self = Self { first: 0, last: 0 };
}

/// Bytes of empty slabs that an arena keeps, beside one of each class.
const MOST_EMPTY: usize = 16 * 1024 * 1024;

impl ClassState {
    fn list_mut(&mut self, list: List) -> &mut Slabs {
        match list {
            List::Bare => &mut self.bare,
            List::Empty => &mut self.empty,
            List::Warm | List::None => &mut self.warm,
        }
    }
}

impl Inner {
    /// Keeps a slab of which no block is out any more for the next blocks of its class, or makes it a free
    /// chunk: a borrowed one, so that its home gets it back, and what is too much.
    ///
    /// # Safety
    /// The slab is a warm one of this arena, of `class`, whose blocks are counted; the arena's lock is
    /// held.
    pub(super) unsafe fn slab_is_unused(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            self.unlist(class, slab);
            let is_own = (*slab).desc.home_or_epoch == self.id;
            let fits = self.empty_bytes + size_class::slab_bytes(class) <= MOST_EMPTY;
            if self.class(class).empty.first == 0 || is_own && fits {
                self.list(class, start, slab, List::Empty);
            } else {
                self.drop_slab(class, start, slab);
            }
        }
    }

    /// Makes an empty slab a free chunk; false when there is none.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub(super) unsafe fn drop_empty_slab(&mut self) -> bool {
        let class = self.empty_classes.trailing_zeros() as Class;
        if class >= CLASSES {
            return false;
        }
        // SAFETY: the caller's contract; the class has empty slabs.
        unsafe { self.drop_last_empty(class) };
        true
    }

    /// Makes the empty slab of `class` a free chunk that is there for longest.
    ///
    /// # Safety
    /// There is one; the arena's lock is held.
    pub(super) unsafe fn drop_last_empty(&mut self, class: Class) {
        // SAFETY: the caller's contract; ids on the lists are those of slabs.
        unsafe {
            let start = page_map::page_address(self.class(class).empty.last);
            let slab = page_map::desc(start).cast::<Slab>();
            self.unlist(class, slab);
            self.drop_slab(class, start, slab);
        }
    }

    /// The slab that gives the class's next blocks, made a warm one: its start and state.
    pub(super) unsafe fn slab_with_room(&mut self, class: Class) -> Option<(usize, *mut Slab)> {
        let ClassState { warm, empty, bare, .. } = *self.class(class);
        let id = [warm, empty, bare].iter().map(|list| list.first).find(|&id| id != 0)?;
        // SAFETY: ids on the lists are those of slabs.
        unsafe {
            let start = page_map::page_address(id);
            let slab = page_map::desc(start).cast::<Slab>();
            if warm.first == 0 {
                self.warm(class, start, slab);
            }
            Some((start, slab))
        }
    }

    /// Makes the slab the first of the warm ones, from whatever list it is on.
    ///
    /// # Safety
    /// The slab is one of this arena, of `class`; the arena's lock is held.
    pub(super) unsafe fn warm(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        unsafe {
            if (*slab).list != List::None {
                self.unlist(class, slab);
            }
            self.list(class, start, slab, List::Warm);
        }
    }

    /// Puts a slab that is on no list in front of one.
    ///
    /// # Safety
    /// As for [`Inner::warm`].
    pub(super) unsafe fn list(&mut self, class: Class, start: usize, slab: *mut Slab, list: List) {
        // SAFETY: the caller's contract; ids on the lists are those of slabs.
        unsafe {
            let id = page_map::page_id(start);
            let slabs = self.class_mut(class).list_mut(list);
            let next = core::mem::replace(&mut slabs.first, id);
            if next == 0 {
                slabs.last = id;
            }
            (*slab).desc.next = next;
            (*slab).desc.prev = 0;
            (*slab).list = list;
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = id;
            }
            match list {
                List::Warm => self.note_free_blocks(slab, 0),
                List::Empty => {
                    self.empty_bytes += size_class::slab_bytes(class);
                    self.empty_classes |= 1 << class;
                }
                List::Bare | List::None => {}
            }
        }
    }

    /// Takes a slab off its list.
    ///
    /// # Safety
    /// As for [`Inner::warm`]; the slab is on a list.
    pub(super) unsafe fn unlist(&mut self, class: Class, slab: *mut Slab) {
        // SAFETY: the caller's contract; ids on the lists are those of slabs.
        unsafe {
            let PageDesc { next, prev, .. } = (*slab).desc;
            let list = core::mem::replace(&mut (*slab).list, List::None);
            let slabs = self.class_mut(class).list_mut(list);
            if prev == 0 {
                slabs.first = next;
            }
            if next == 0 {
                slabs.last = prev;
            }
            let is_last_one = slabs.first == 0;
            if prev != 0 {
                (*page_map::desc(page_map::page_address(prev))).next = next;
            }
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = prev;
            }
            match list {
                List::Warm => {
                    let bytes = usize::from((*slab).free_count) * size_class::size(class);
                    self.warm_free_bytes -= bytes;
                }
                List::Empty => {
                    self.empty_bytes -= size_class::slab_bytes(class);
                    if is_last_one {
                        self.empty_classes &= !(1 << class);
                    }
                }
                List::Bare | List::None => {}
            }
        }
    }
}
