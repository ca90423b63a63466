//! The thread cache: per size class a bin of free blocks and a spare magazine. What the fast paths use is written by the
//! thread alone; others may take the spares, and what is in the bins of one that sleeps (`drain.rs`).
//!
//! Hot parts first: the bins, at `class * 24` bytes from the start so that the window's entries
//! and the table of small sizes can hold ready offsets.
//!
//! A bin changes with a single store of its head, and a magazine on its way into a bin is named in
//! `in_transit`, so that the child after fork can take back what vanished threads had cached.

mod cool;
mod crowd;
mod direction;
mod drain;
mod large;
mod life;
mod remote;
mod search;
mod surplus;
mod vanished;
mod word;

use crate::arena::{ARENAS, Arena, Guard};
use crate::check::invariant;
use crate::size_class::{
    self, CLASS_PLACES, CLASSES, Class, MAX_TABLE, PerClass, magazine_capacity, reciprocal,
    slab_align,
};
use crate::sync::block::{Block, Chain};
use crate::sync::depot::DepotSlot;
use crate::window::{self, BIN_BYTES, NO_WINDOW, bin_offset};
use cool::Activity;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::Release;
use core::sync::atomic::{AtomicPtr, AtomicU16, compiler_fence};
use crowd::Crowd;
use direction::Direction;
use drain::Drain;
use large::Large;
use word::Word;

/// One free place of a bin, in units of [`Bin::room`]: larger than every product of a block's
/// offset in its slab and the reciprocal of its size (see [`size_class::reciprocal`]).
const ROOM_UNIT: u32 = 1 << 16;

/// Arenas for which a thread collects remote frees at a time.
const PENDING: usize = 8;
/// A pending chain goes home at so many blocks …
const PENDING_BLOCKS: usize = 128;
/// … or so many bytes.
const PENDING_BYTES: usize = 32 * 1024;

/// From slabs a class first gets a magazine halved so often, and twice as much each time: what a
/// thread has in classes that it hardly uses, others can not have.
const SLOW_START: u8 = 3;

/// The free blocks of one class.
#[repr(C)]
pub struct Bin {
    /// First free block.
    pub head: Word<*mut Block>,
    /// [`size_class::reciprocal`] of the class.
    reciprocal: Cell<u32>,
    /// Free places, times [`ROOM_UNIT`]. Also the bound that the product of an offset and the
    /// reciprocal must be below: 0 places let nothing through.
    room: Word<u32>,
    /// The bits of an address that are its offset in a slab of the class.
    mask: Cell<u32>,
    /// Places when it is empty.
    places: Word<u16>,
}

const _: () = assert!(size_of::<Bin>() == BIN_BYTES);

/// Blocks of one arena that wait to be sent home together.
struct Pending {
    arena: Word<u16>,
    head: Word<*mut Block>,
    tail: Cell<*mut Block>,
    count: Word<usize>,
    bytes: Word<usize>,
}

/// What a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The constant cache of threads that have not started.
    Empty = 0,
    /// The constant cache of threads that have ended: they do without one.
    Ended,
    /// A thread's cache.
    Live,
    /// Waits for a thread: in its arena, with what it holds, or empty.
    Parked,
    /// The cache of a thread that a fork left behind, in the child: it is emptied there later.
    Vanished,
}

/// One thread's cache.
#[repr(C)]
pub struct Tcache {
    bins: PerClass<Bin>,
    /// First address of the arena's window, or [`NO_WINDOW`].
    pub window_base: Cell<usize>,
    /// Its entries, whose address is also the mark of the arena's free blocks.
    pub window: Cell<*const AtomicU16>,
    /// [`BINS_BY_SIZE`], where the fast malloc finds it in one instruction less.
    table: [u16; MAX_TABLE / 16 + 1],
    state: Word<State>,
    arena: Word<u16>,
    /// The owner's [`os::thread_number`].
    thread: Word<usize>,
    /// First block of a magazine that is between two places.
    in_transit: Cell<*mut Block>,
    /// A full magazine beside each bin, or none. Slots as the depot's, so that the magazines of a
    /// thread that sleeps can be taken.
    spares: PerClass<DepotSlot>,
    /// Per class, magazines in a row that found the depot full; up to [`surplus::PROBED`] …
    overflows: PerClass<Cell<u8>>,
    /// … and how often that was taken for more than it was.
    patience: PerClass<Cell<u8>>,
    /// Per class, which way its blocks go (`direction.rs`).
    directions: PerClass<Direction>,
    /// Per class, how often it was refilled from slabs; up to [`SLOW_START`].
    refills: PerClass<Cell<u8>>,
    pending: [Pending; PENDING],
    /// The large block that it freed last.
    large: Large,
    /// Bit n: class n has slabs, or need not borrow from a larger class any more.
    own_slabs: Cell<u64>,
    /// Whether it should move to another arena (`crowd.rs`).
    crowd: Crowd,
    /// What says how long the thread sleeps, and which classes it uses (`cool.rs`).
    activity: Activity,
    /// Through what others empty the bins of a thread that sleeps (`drain.rs`).
    drain: Drain,
    next_all: AtomicPtr<Tcache>,
    next_parked: Cell<*mut Tcache>,
}

// SAFETY: a cache is written by its thread alone; what others read of it is atomic; the constant ones are
// never written.
unsafe impl Sync for Tcache {}

/// Offset of the bin for requests of up to 16 × index bytes.
const BINS_BY_SIZE: [u16; MAX_TABLE / 16 + 1] = {
    let mut table = [0; MAX_TABLE / 16 + 1];
    let mut index = 0;
    while index < table.len() {
        table[index] = bin_offset(size_class::of(index * 16)) as u16;
        index += 1;
    }
    table
};

/// Offset of the bin for requests of up to `bytes`, which are at most [`MAX_TABLE`]. The compiler knows it
/// where it knows the size.
#[inline(always)]
pub const fn bin_of_size(bytes: usize) -> usize {
    BINS_BY_SIZE[(bytes + 15) >> 4] as usize
}

impl Tcache {
    const fn constant(state: State) -> Self {
        Self {
            bins: PerClass([const { Bin::NONE }; CLASS_PLACES]),
            window_base: Cell::new(NO_WINDOW),
            window: Cell::new(ptr::null()),
            table: BINS_BY_SIZE,
            state: Word::<State>::new(state),
            arena: Word::<u16>::new(u16::MAX),
            thread: Word::<usize>::new(0),
            in_transit: Cell::new(ptr::null_mut()),
            spares: PerClass([const { DepotSlot::new() }; CLASS_PLACES]),
            overflows: PerClass([const { Cell::new(0) }; CLASS_PLACES]),
            patience: PerClass([const { Cell::new(0) }; CLASS_PLACES]),
            directions: PerClass([const { Direction::new() }; CLASS_PLACES]),
            refills: PerClass([const { Cell::new(0) }; CLASS_PLACES]),
            pending: [const {
                Pending {
                    arena: Word::<u16>::new(u16::MAX),
                    head: Word::<*mut Block>::new(ptr::null_mut()),
                    tail: Cell::new(ptr::null_mut()),
                    count: Word::<usize>::new(0),
                    bytes: Word::<usize>::new(0),
                }
            }; PENDING],
            large: Large::new(),
            own_slabs: Cell::new(0),
            crowd: Crowd::new(),
            activity: Activity::new(),
            drain: Drain::new(),
            next_all: AtomicPtr::new(ptr::null_mut()),
            next_parked: Cell::new(ptr::null_mut()),
        }
    }
}

/// The cache of threads that have not started: every bin is empty and has no room, and no
/// address is in its window.
pub static EMPTY: Tcache = Tcache::constant(State::Empty);
/// The cache of threads that have ended.
static ENDED: Tcache = Tcache::constant(State::Ended);

impl Bin {
    /// An empty bin of no class, without room.
    #[expect(clippy::declare_interior_mutable_const, reason = "what caches begin as")]
    const NONE: Bin = Bin {
        head: Word::<*mut Block>::new(ptr::null_mut()),
        reciprocal: Cell::new(0),
        room: Word::<u32>::new(0),
        mask: Cell::new(0),
        places: Word::<u16>::new(0),
    };

    /// Makes it the bin of `class`.
    fn serve(&self, class: Class) {
        self.reciprocal.set(reciprocal(class));
        self.mask.set(slab_align(class) as u32 - 1);
    }

    /// Of the offset in its slab of an address in one of the class, and the reciprocal.
    #[inline(always)]
    fn product(&self, address: usize) -> u32 {
        (address as u32 & self.mask.get()).wrapping_mul(self.reciprocal.get())
    }

    /// Whether a block may start at the address, which is in a slab of the class.
    #[inline(always)]
    pub fn may_start_at(&self, address: usize) -> bool {
        self.product(address) < ROOM_UNIT
    }

    /// As [`Bin::may_start_at`], and whether there is room for that block.
    #[inline(always)]
    pub fn has_room_for(&self, address: usize) -> bool {
        // SAFETY: only this thread writes it. Read so, it is no instruction of its own.
        let room = unsafe { (&raw const self.room).cast::<u32>().read() };
        self.product(address) < room
    }

    /// Free places.
    fn free_places(&self) -> usize {
        (self.room.get() / ROOM_UNIT) as usize
    }

    fn set_free_places(&self, places: usize) {
        self.room.set(places as u32 * ROOM_UNIT);
    }

    /// Whether there is room for a block.
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.room.get() >= ROOM_UNIT
    }
}

impl Tcache {
    /// The bin at a byte offset, as [`bin_offset`] gives it.
    ///
    /// # Safety
    /// The offset is one of a bin, or a window entry.
    #[inline(always)]
    pub unsafe fn bin_at<'a>(this: *mut Tcache, offset: usize) -> &'a Bin {
        // SAFETY: bins lie at the start of the cache; caches live as long as the process.
        unsafe { &*this.byte_add(offset).cast::<Bin>() }
    }

    /// As [`bin_of_size`], from the cache's own table.
    ///
    /// # Safety
    /// `bytes <= MAX_TABLE`.
    #[inline(always)]
    pub unsafe fn bin_of_any_size(this: *mut Tcache, bytes: usize) -> usize {
        // SAFETY: the caller's contract.
        unsafe { *(&raw const (*this).table).cast::<u16>().add((bytes + 15) >> 4) as usize }
    }

    /// What the cache is.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The arena that the thread is attached to.
    #[inline]
    pub fn arena_id(&self) -> u16 {
        self.arena.get()
    }

    /// The arena that the thread is attached to.
    pub fn arena(&self) -> &'static Arena {
        ARENAS.get(self.arena.get()).unwrap_or(ARENAS.main())
    }

    #[inline]
    fn bin(&self, class: Class) -> &Bin {
        &self.bins[class]
    }

    fn spare(&self, class: Class) -> &DepotSlot {
        &self.spares[class]
    }

    /// Whether the class is known to be served from its own slabs.
    pub fn serves_itself(&self, class: Class) -> bool {
        self.own_slabs.get() >> class & 1 != 0
    }

    /// Takes note that the class is served from its own slabs from now on.
    pub fn set_serves_itself(&self, class: Class) {
        self.own_slabs.set(self.own_slabs.get() | 1 << class);
    }

    /// Blocks in the bin of `class`.
    fn bin_count(&self, class: Class) -> usize {
        let bin = self.bin(class);
        usize::from(bin.places.get()).saturating_sub(bin.free_places())
    }

    /// Blocks of `class` in the cache, whether it has a thread or waits for one.
    pub fn count(&self, class: Class) -> usize {
        let in_bin = match self.bin(class).head.get().is_null() {
            true => 0,
            false if self.drain.took(class) => 1,
            false => self.bin_count(class),
        };
        self.spare(class).count() + in_bin
    }

    /// Takes the first block of the bin, if there is one, for the program.
    #[inline(always)]
    pub fn pop(bin: &Bin) -> *mut Block {
        let block = bin.head.get();
        if !block.is_null() {
            // SAFETY: blocks in a bin are free and this thread's alone.
            unsafe {
                let next = Block::next(block);
                Block::prefetch(next);
                bin.head.set(next);
                bin.room.set(bin.room.get().wrapping_add(ROOM_UNIT));
                Block::set_mark(block, 0);
            }
        }
        block
    }

    /// Puts a block in a bin that has room.
    ///
    /// # Safety
    /// The block is of the bin's class and the cache's arena, whose mark of free blocks `mark`
    /// is, and nobody uses it.
    #[inline(always)]
    pub unsafe fn push(bin: &Bin, block: *mut Block, mark: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            Block::set_mark(block, mark);
            bin.room.set(bin.room.get().wrapping_sub(ROOM_UNIT));
            Block::set_next(block, bin.head.get());
        }
        // One store makes the block part of the bin, after its link is written: a fork between
        // any two instructions finds a whole list, and so does who drains it.
        bin.head.publish(block);
    }

    /// Fills the bin of `class` with at least one block; false when memory is out, or the arena
    /// can not be entered now.
    #[cold]
    #[inline(never)]
    pub fn refill(&self, class: Class) -> bool {
        let _inside = self.go_inside();
        if !self.bin(class).head.get().is_null() {
            // The thread has just begun, with a cache that another one left.
            return true;
        }
        self.activity.note(class);
        let arena = self.arena();
        if let Some(full) = self.spare(class).take().or_else(|| arena.depot_take(class)) {
            self.in_transit.set(full.head);
            self.fill(class, full.head, full.count);
            return true;
        }
        self.send_pending();
        let held = self.lock_arena();
        let arena = self.arena();
        let Some(mut held) = held else {
            // Another thread holds the arena for very long: this one goes to another arena. But
            // nothing moves under the hands of a thread that a signal handler interrupted.
            return !arena.is_held_by_caller()
                && self.move_to(ARENAS.choose(arena.id()))
                && self.refill(class);
        };
        arena.drain_unless(&mut held, |block, class| self.keep_drained(block, class));
        if !self.bin(class).head.get().is_null() {
            return true;
        }
        // SAFETY: the guard holds the lock.
        if let Some(full) = unsafe { held.take_magazine(class) } {
            self.in_transit.set(full.head);
            drop(held);
            self.fill(class, full.head, full.count);
            return true;
        }
        // Who trades has blocks everywhere anyway: it goes where memory is free, rather than touch more.
        if self.crowd.trades()
            && held.would_grow(class)
            && let Some(richer) = ARENAS.richer_than(arena)
        {
            drop(held);
            self.crowd.go_for_memory(self.move_to(richer));
            return self.refill(class);
        }
        // SAFETY: the guard holds the lock.
        let got = unsafe { held.take_blocks(class, self.blocks_wanted(class)) };
        self.in_transit.set(got.head);
        drop(held);
        self.fill(class, got.head, got.count);
        // The main arena's first heap places the window.
        self.look_through_window();
        got.count > 0
    }

    /// Puts a block that came home to the thread's arena into its bin, if the thread allocates such and
    /// there is room: without the way through its slab. Whether it did.
    fn keep_drained(&self, block: *mut Block, class: Class) -> bool {
        let bin = self.bin(class);
        if self.refills[class].get() == 0 || !bin.has_room() {
            return false;
        }
        self.crowd.note_taken(1, size_class::size(class));
        // SAFETY: the block is free, of the cache's arena, and this thread's now.
        unsafe { Self::push(bin, block, window::free_mark(self.arena_id())) };
        true
    }

    /// How many blocks to take from slabs.
    fn blocks_wanted(&self, class: Class) -> usize {
        let refills = &self.refills[class];
        let halvings = SLOW_START - refills.get();
        refills.set((refills.get() + 1).min(SLOW_START));
        (magazine_capacity(class) >> halvings).max(1)
    }

    /// The thread's arena, after a move to another one if its own is closed or crowded, or if the
    /// thread trades with others.
    fn settle(&self) -> &'static Arena {
        let arena = self.arena();
        if arena.attach().is_closed() {
            self.leave_closed();
        } else if let Some(waits) = self.crowd.verdict(arena)
            && let Some(other) = ARENAS.choose_less_crowded(arena, waits)
        {
            self.move_to(other);
        } else {
            self.follow_trade();
        }
        self.arena()
    }

    /// The lock of the thread's arena, as [`Arena::lock_open`], for a request. The thread may move
    /// to another arena first.
    pub fn lock_arena(&self) -> Option<Guard<'static>> {
        let held = self.settle().lock_open()?;
        self.crowd.note(held.how);
        Some(held)
    }

    /// Makes the window of the cache's arena the one that the fast free looks through.
    fn look_through_window(&self) {
        let window = window::of(self.arena.get());
        if self.window_base.get() == window.base() && self.window.get() == window.entries() {
            return;
        }
        // A signal handler that frees in between must miss.
        self.window_base.set(NO_WINDOW);
        compiler_fence(Release);
        self.window.set(window.entries());
        compiler_fence(Release);
        self.window_base.set(window.base());
    }

    /// Makes room for so many blocks in the empty bin of `class`.
    fn set_places(&self, class: Class, places: usize) {
        let bin = self.bin(class);
        bin.places.set(places as u16);
        bin.set_free_places(places);
    }

    /// Makes a list, of at most a full magazine, the contents of the empty bin of `class`.
    fn fill(&self, class: Class, head: *mut Block, count: usize) {
        invariant(count <= magazine_capacity(class), "a list is longer than a bin");
        self.crowd.note_taken(count, size_class::size(class));
        let bin = self.bin(class);
        self.directions[class].note_taken();
        let capacity = self.capacity(class).max(count);
        bin.places.set(capacity as u16);
        bin.set_free_places(capacity - count);
        self.begin_to_keep(class);
        compiler_fence(Release);
        bin.head.set(head);
        compiler_fence(Release);
        self.in_transit.set(ptr::null_mut());
    }

    /// Takes everything out of the bin of `class`, which has so many places then.
    fn empty_bin(&self, class: Class, places: usize) -> Chain {
        let bin = self.bin(class);
        let (head, count) = (bin.head.get(), self.bin_count(class));
        bin.head.set(ptr::null_mut());
        self.set_places(class, places);
        Chain { head, tail: ptr::null_mut(), count }
    }

    /// Empties all bins and spares.
    fn flush(&self, mut give: impl FnMut(Class, *mut Block, usize)) {
        for class in 1..CLASSES {
            if !self.bin(class).head.get().is_null() {
                let bin = self.empty_bin(class, self.capacity(class));
                give(class, bin.head, bin.count);
            }
            if let Some(spare) = self.spare(class).take() {
                give(class, spare.head, spare.count);
            }
        }
    }
}

/// The constant cache of threads that have not started.
pub fn empty() -> *mut Tcache {
    (&raw const EMPTY).cast_mut()
}

/// The constant cache of threads that have ended.
pub fn ended() -> *mut Tcache {
    (&raw const ENDED).cast_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_with_room_takes_what_starts_a_block_of_its_class() {
        for class in 1..CLASSES {
            let bin = Bin::NONE;
            bin.serve(class);
            let slab = 3 * slab_align(class);
            for places in [0, 1, magazine_capacity(class)] {
                bin.set_free_places(places);
                for offset in 0..slab_align(class) {
                    let is_start = offset.is_multiple_of(size_class::size(class));
                    let is_taken = bin.has_room_for(slab + offset);
                    assert_eq!(is_taken, is_start && places > 0, "{offset} of class {class}");
                    assert_eq!(bin.may_start_at(slab + offset), is_start, "{offset}");
                }
            }
        }
    }
}
