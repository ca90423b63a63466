//! The page map: from any address to (kind, arena) in two loads, and the page descriptors.
//!
//! ```text
//! address bits   46 … 26        25 … 14          13 … 0
//!                root slot      granule entry    offset
//! ROOT[slot] ──► Region { entries[4096]: arena << 7 | kind, pages[16384]: descriptors,
//!                         huge[4096]: huge blocks }
//! ```
//!
//! A region is 64 MiB of address space in which the allocator has, or once had, memory. Foreign
//! addresses meet an empty slot or a zero entry; nothing behind the address is touched.

use crate::os::{self, PAGE};
use crate::size_class::{CLASSES, Class, GRANULE};
use crate::sync::publish::{Entry, RegionSlot};
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};

const REGION_SHIFT: u32 = 26;
const REGION_BYTES: usize = 1 << REGION_SHIFT;
/// Bits of a user address. Addresses above are never ours: the kernel gives them only to who
/// asks for them by a hint (Documentation/arch/x86/x86_64/5level-paging.rst,
/// Documentation/arch/arm64/memory.rst).
const ADDRESS_BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 48 };
const ROOT_SLOTS: usize = 1 << (ADDRESS_BITS - REGION_SHIFT);
const GRANULES: usize = REGION_BYTES / GRANULE;
const PAGES: usize = REGION_BYTES / PAGE;
/// Regions that page ids can name: 4 TiB of heaps and huge blocks.
const MAX_REGIONS: usize = 1 << 16;
/// Regions in .bss, so that a small process maps nothing for its page map: the break's, which may
/// lie in two, and those of the first large blocks, which the kernel may move.
const STATIC_REGIONS: usize = 4;

/// Number of arenas that entries can name.
pub const MAX_ARENAS: usize = 1 << (16 - KIND_BITS);
const KIND_BITS: u32 = 7;
const KIND_MASK: u16 = (1 << KIND_BITS) - 1;

/// Kind of a granule whose blocks are runs of pages; the descriptor of the page tells.
pub const KIND_LARGE: u16 = 126;
/// Kind of the granule in which a huge block starts.
pub const KIND_HUGE: u16 = 127;

const _: () = assert!(CLASSES < KIND_LARGE as usize);

/// What the page map says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u16);

impl PageDesc {
    /// A page inside a chunk.
    pub const INSIDE: PageDesc = PageDesc {
        state: PageState::Inside,
        flags: 0,
        home_or_epoch: 0,
        pages: 0,
        next: 0,
        prev: 0,
    };
}

impl Owner {
    /// Not ours.
    pub const NONE: Owner = Owner(0);

    /// The entry of `kind`, a class id or one of the `KIND_` constants, in `arena`.
    #[inline]
    pub const fn new(arena: u16, kind: u16) -> Self {
        Self(arena << KIND_BITS | kind)
    }

    /// A class id, a `KIND_` constant, or 0.
    #[inline(always)]
    pub const fn kind(self) -> u16 {
        self.0 & KIND_MASK
    }

    /// The arena that the granule's blocks return to.
    #[inline(always)]
    pub const fn arena(self) -> u16 {
        self.0 >> KIND_BITS
    }
}

/// What a page is, said by its descriptor. Only first pages of chunks and last pages of free chunks have a
/// state other than `Inside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageState {
    /// Inside a chunk, or never used.
    Inside = 0,
    /// First page of a free chunk.
    Free,
    /// Last page of a free chunk of more than one page.
    FreeEnd,
    /// First page of a run of pages in use by the program. Whoever frees it claims it, which
    /// makes it `Returning`: the one change of a descriptor without the arena's lock.
    Large,
    /// First page of a run that was freed and is on its way to its arena.
    Returning,
    /// First page of a slab. The descriptor is the head of a [`crate::arena::slab::Slab`].
    Slab,
    /// Last page of an mmap'd heap, which is never given out: no chunk grows past it.
    HeapEnd,
}

/// The chunk begins its mmap'd heap.
pub const CHUNK_FIRST: u8 = 1;
/// The free chunk's memory is known to be zero.
pub const CHUNK_ZERO: u8 = 2;
/// A run of pages that began here was freed: what a second free of it meets. Only the message depends on it.
pub const CHUNK_WAS_FREED: u8 = 4;
/// The large run is no block of the program's: another arena borrowed it and sends it back.
pub const CHUNK_RETURNED: u8 = 8;

/// A page id: the region's number and the page in it; 0 is no page.
pub type PageId = u32;

/// The descriptor of a page.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PageDesc {
    /// What the page is.
    pub state: PageState,
    /// `CHUNK_` flags, on first pages of chunks.
    pub flags: u8,
    /// On first pages of runs in use: the arena in whose heap they lie. Of free chunks: the epoch
    /// of the arena's purge clock in which they became free.
    pub home_or_epoch: u16,
    /// Pages of the chunk (on its first page, and on its last if free).
    pub pages: u32,
    /// Next chunk or slab of the list this one is on.
    pub next: PageId,
    /// Previous chunk or slab of the list.
    pub prev: PageId,
}

const _: () = assert!(size_of::<PageDesc>() == 16);

/// The huge block that starts in a granule: its bytes, which are whole pages, and in the bits below the number of its
/// first page in the granule, and whether it was freed. 0 before the first one.
///
/// Relaxed throughout: it is written before the granule's entry, whose order it shares.
#[derive(Debug)]
struct HugeBlock(AtomicUsize);

impl HugeBlock {
    const FREED: usize = GRANULE / PAGE;

    /// The number of a page in its granule.
    const fn page(address: usize) -> usize {
        address / PAGE % (GRANULE / PAGE)
    }

    /// The bytes of the block that starts at `address`, and whether it was freed; 0 if none does.
    fn at(&self, address: usize) -> (usize, bool) {
        let value = self.0.load(Relaxed);
        let starts =
            address.is_multiple_of(PAGE) && value & (Self::FREED - 1) == Self::page(address);
        (if starts { value & !(PAGE - 1) } else { 0 }, value & Self::FREED != 0)
    }
}

const _: () = assert!(HugeBlock::FREED < PAGE);

/// 64 MiB of address space. All zeros is a valid region of nothing.
#[repr(C)]
pub struct Region {
    entries: [Entry; GRANULES],
    pages: [UnsafeCell<PageDesc>; PAGES],
    /// The huge blocks that start, or started, in each granule. Not in the descriptors: of those, each block of a
    /// mebibyte or more would fill a page of memory with its one.
    huge: [HugeBlock; GRANULES],
    /// The region's own address bits.
    base: usize,
    /// Its number in `REGIONS`, never 0.
    number: u32,
}

// SAFETY: entries are atomic; a descriptor is only written by the thread that holds the lock of the
// chunk's home arena, or of the arena that borrowed it, or that owns the large block. What others
// read of it meanwhile is its state, which is written atomically then (`set_state`, `claim_large`).
unsafe impl Sync for Region {}

struct StaticRegions(UnsafeCell<MaybeUninit<[Region; STATIC_REGIONS]>>);
// SAFETY: each is handed out once by `STATIC_USED`, then shared as a `Region`.
unsafe impl Sync for StaticRegions {}

static ROOT: [RegionSlot<Region>; ROOT_SLOTS] = [const { RegionSlot::new() }; ROOT_SLOTS];
static REGIONS: [AtomicPtr<Region>; MAX_REGIONS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_REGIONS];
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);
static FIRST: StaticRegions = StaticRegions(UnsafeCell::new(MaybeUninit::zeroed()));
static STATIC_USED: AtomicUsize = AtomicUsize::new(0);
/// What a [`SpareRegion`] left over, or null.
static SPARE: AtomicPtr<Region> = AtomicPtr::new(core::ptr::null_mut());

/// To be called before the first region is entered.
pub fn refuse_huge_pages() {
    os::refuse_huge_pages((&raw const ROOT).expose_provenance(), size_of_val(&ROOT));
}

#[inline(always)]
fn region(address: usize) -> *mut Region {
    match ROOT.get(address >> REGION_SHIFT) {
        Some(slot) => slot.get(),
        None => core::ptr::null_mut(),
    }
}

/// The owner of any address, or [`Owner::NONE`].
#[inline(always)]
pub fn owner(address: usize) -> Owner {
    let region = region(address);
    if region.is_null() {
        return Owner::NONE;
    }
    // SAFETY: published regions live for ever; the index is below the array's length.
    unsafe {
        let entry = (&raw const (*region).entries).cast::<Entry>();
        Owner((*entry.add(address / GRANULE % GRANULES)).get())
    }
}

/// Makes the regions that cover the range exist. False when there is no memory for them.
pub fn cover(start: usize, bytes: usize) -> bool {
    let mut at = start & !(REGION_BYTES - 1);
    while at < start + bytes {
        if region(at).is_null() && !add_region(at, None) {
            return false;
        }
        at += REGION_BYTES;
    }
    true
}

/// Makes a region of `memory`, or of new one.
#[cold]
fn add_region(base: usize, memory: Option<*mut Region>) -> bool {
    let Some(slot) = ROOT.get(base >> REGION_SHIFT) else {
        return false;
    };
    // The memory first: a number that is taken for a region which can not be made is lost.
    let Some(new) = memory.or_else(|| SpareRegion::take().map(SpareRegion::into_memory)) else {
        return false;
    };
    let number = NEXT_NUMBER.fetch_add(1, Relaxed);
    let Some(place) = REGIONS.get(number as usize) else {
        NEXT_NUMBER.fetch_sub(1, Relaxed);
        drop(SpareRegion(new));
        return false;
    };
    // SAFETY: the memory is new, zeroed, and known to this thread alone. All zeros is a valid
    // region.
    unsafe {
        (*new).base = base;
        (*new).number = number;
    }
    // Release pairs with the acquire in `page_address`.
    place.store(new, Release);
    // Who comes second leaves a region that covers nothing; it costs address space only, and
    // two threads meet here at most once per region.
    !slot.publish(new).is_null()
}

/// One of the regions in .bss, or null.
fn static_region() -> *mut Region {
    let take = |used| (used < STATIC_REGIONS).then_some(used + 1);
    match STATIC_USED.fetch_update(Relaxed, Relaxed, take) {
        Ok(index) => FIRST.0.get().cast::<Region>().wrapping_add(index),
        Err(_) => core::ptr::null_mut(),
    }
}

fn is_static(region: *mut Region) -> bool {
    let offset = region.addr().wrapping_sub(FIRST.0.get().addr());
    offset < size_of::<StaticRegions>()
}

/// Bytes that are mapped for a region.
fn region_bytes() -> usize {
    size_of::<Region>().next_multiple_of(os::page_size())
}

/// Zeroed memory for one region, so that [`cover_with`] does not fail for lack of it.
#[derive(Debug)]
pub struct SpareRegion(*mut Region);

impl SpareRegion {
    /// One that was left over, one of those in .bss, or a new one; `None` when there is no memory for it, or no number
    /// left.
    pub fn take() -> Option<Self> {
        if NEXT_NUMBER.load(Relaxed) as usize >= MAX_REGIONS {
            return None;
        }
        // Acquire pairs with the release in `drop`.
        let mut spare = SPARE.swap(core::ptr::null_mut(), Acquire);
        if spare.is_null() {
            spare = static_region();
        }
        if spare.is_null() {
            spare = os::map(region_bytes()).cast();
        }
        (!spare.is_null()).then_some(Self(spare))
    }

    fn into_memory(self) -> *mut Region {
        let memory = self.0;
        core::mem::forget(self);
        memory
    }
}

impl Drop for SpareRegion {
    /// Leaves it for whoever needs one next, unless there is one already.
    fn drop(&mut self) {
        // AcqRel pairs with the acquire in `take`, and with itself. One in .bss stays rather than a mapped one.
        let other = if is_static(self.0) {
            SPARE.swap(self.0, AcqRel)
        } else {
            let is_left = SPARE.compare_exchange(core::ptr::null_mut(), self.0, AcqRel, Relaxed);
            if is_left.is_ok() { core::ptr::null_mut() } else { self.0 }
        };
        if !other.is_null() && !is_static(other) {
            // SAFETY: mapped by `take`, and used by nobody.
            unsafe { os::unmap(other.cast(), region_bytes()) };
        }
    }
}

/// Makes the region of an address exist, of `spare` if there is none. False only when more regions are in
/// use than there are numbers.
pub fn cover_with(address: usize, spare: SpareRegion) -> bool {
    !region(address).is_null()
        || add_region(address & !(REGION_BYTES - 1), Some(spare.into_memory()))
}

/// The descriptor of the page at `address`.
///
/// # Safety
/// The address lies in memory that [`cover`] covered.
#[inline]
pub unsafe fn desc(address: usize) -> *mut PageDesc {
    let region = region(address);
    // SAFETY: covered by the caller's contract; the index is below the array's length.
    unsafe {
        let pages = (&raw const (*region).pages).cast::<UnsafeCell<PageDesc>>();
        UnsafeCell::raw_get(pages.add(address / PAGE % PAGES))
    }
}

/// The descriptor of the page at any address; null where the page map covers nothing.
#[inline]
pub fn try_desc(address: usize) -> *mut PageDesc {
    if region(address).is_null() {
        core::ptr::null_mut()
    } else {
        // SAFETY: covered, since the region exists.
        unsafe { desc(address) }
    }
}

/// Says what the page at `address` is, where another thread may ask just now: the holder of the lock of an
/// arena whose chunk ends there, for one that is borrowed.
///
/// # Safety
/// As for [`desc`]; the page is the caller's.
pub unsafe fn set_state(address: usize, state: PageState) {
    // SAFETY: covered by the caller's contract. Relaxed: to whoever asks, the page is in use, before and
    // after.
    unsafe {
        AtomicU8::from_ptr((&raw mut (*desc(address)).state).cast()).store(state as u8, Relaxed);
    }
}

/// What the page at `address` is. For pages that another thread may claim meanwhile.
///
/// # Safety
/// As for [`desc`].
pub unsafe fn state(address: usize) -> PageState {
    // SAFETY: the caller's contract.
    unsafe { state_and_flags(address).0 }
}

/// As [`state`], with the page's flags as they were at the same instant.
///
/// # Safety
/// As for [`desc`].
pub unsafe fn state_and_flags(address: usize) -> (PageState, u8) {
    const { assert!(offset_of!(PageDesc, state) == 0 && offset_of!(PageDesc, flags) == 1) };
    // SAFETY: covered by the caller's contract; the first byte always holds a `PageState`.
    unsafe {
        let both = AtomicU16::from_ptr(desc(address).cast()).load(Relaxed);
        let [state, flags] = both.to_ne_bytes();
        (core::mem::transmute::<u8, PageState>(state), flags)
    }
}

/// Makes a large run one that is on its way home; false when it is no large run in use. Of two
/// threads that free one run at once, exactly one succeeds.
///
/// # Safety
/// As for [`desc`].
pub unsafe fn claim_large(address: usize) -> bool {
    const LARGE: u8 = PageState::Large as u8;
    const RETURNING: u8 = PageState::Returning as u8;
    // SAFETY: covered by the caller's contract; other accesses of this byte at the same time are
    // those of `state` and of this function.
    unsafe {
        let state = AtomicU8::from_ptr((&raw mut (*desc(address)).state).cast());
        // Relaxed: the program's own synchronisation hands the block over, the arena's lock or
        // remote list takes it on.
        state.compare_exchange(LARGE, RETURNING, Relaxed, Relaxed).is_ok()
    }
}

/// The id of the page at `address`.
///
/// # Safety
/// As for [`desc`].
#[inline]
pub unsafe fn page_id(address: usize) -> PageId {
    // SAFETY: covered by the caller's contract.
    let number = unsafe { (*region(address)).number };
    number << (REGION_SHIFT - PAGE.trailing_zeros()) | (address / PAGE % PAGES) as u32
}

/// The address of a page by its id.
///
/// # Safety
/// The id came from [`page_id`].
#[inline]
pub unsafe fn page_address(id: PageId) -> usize {
    let number = id >> (REGION_SHIFT - PAGE.trailing_zeros());
    // SAFETY: ids carry numbers of regions that exist. Acquire pairs with `add_region`.
    unsafe {
        let region = (*REGIONS.as_ptr().add(number as usize)).load(Acquire);
        (*region).base + (id as usize % PAGES) * PAGE
    }
}

/// Says whose the granules of the range are. A granule that is covered in part counts.
///
/// # Safety
/// The range is covered, and the caller owns it.
pub unsafe fn set_owner(start: usize, bytes: usize, owner: Owner) {
    let mut at = start & !(GRANULE - 1);
    while at < start + bytes {
        // SAFETY: covered by the caller's contract.
        unsafe { entry(at).set(owner.0) };
        at += GRANULE;
    }
}

/// Bytes of memory whose pages `bytes` of descriptors describe.
pub const fn described_by(bytes: usize) -> usize {
    bytes / size_of::<PageDesc>() * PAGE
}

/// Gives the kernel what memory the descriptors of a range of free pages fill alone: a kernel page for
/// each mebibyte, if that is 4 KiB. They say `Inside`, as before, but no more what was freed there.
///
/// # Safety
/// The range is whole pages, covered, and the caller's; their descriptors say `Inside`.
pub unsafe fn forget(start: usize, bytes: usize) {
    let mut at = start;
    while at < start + bytes {
        let end = ((at & !(REGION_BYTES - 1)) + REGION_BYTES).min(start + bytes);
        // SAFETY: covered by the caller's contract. Descriptors lie in mappings of the allocator, or in
        // whole pages of .bss; zeros say what they said.
        unsafe { os::discard(desc(at).cast(), (end - at) / PAGE * size_of::<PageDesc>()) };
        at = end;
    }
}

/// Enters a huge block of `bytes` bytes, whole pages.
///
/// # Safety
/// The block's first granule is covered, and the caller owns the block.
pub unsafe fn enter_huge(address: usize, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        (*huge_block(address)).0.store(bytes | HugeBlock::page(address), Relaxed);
        set_owner(address, 1, Owner::new(0, KIND_HUGE));
    }
}

/// Bytes of the huge block at `address`, whether it was freed or not; 0 when none started there.
///
/// # Safety
/// The address is covered.
pub unsafe fn huge_bytes(address: usize) -> usize {
    // SAFETY: the caller's contract.
    unsafe { (*huge_block(address)).at(address).0 }
}

/// Whether a huge block that started at any address was freed; only for messages.
pub fn was_huge(address: usize) -> bool {
    // SAFETY: covered, since the region exists.
    !region(address).is_null()
        && matches!(unsafe { (*huge_block(address)).at(address) }, (1.., true))
}

/// Takes the entry of a huge block away; false when another thread was first.
///
/// # Safety
/// The address is covered.
pub unsafe fn claim_huge(address: usize) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        let is_claimed = entry(address).claim(Owner::new(0, KIND_HUGE).0);
        if is_claimed {
            (*huge_block(address)).0.fetch_or(HugeBlock::FREED, Relaxed);
        }
        is_claimed
    }
}

/// # Safety
/// The address is covered.
unsafe fn huge_block(address: usize) -> *const HugeBlock {
    // SAFETY: covered by the caller's contract; the index is below the array's length.
    unsafe {
        let blocks = (&raw const (*region(address)).huge).cast::<HugeBlock>();
        blocks.add(address / GRANULE % GRANULES)
    }
}

/// # Safety
/// The address is covered.
unsafe fn entry<'a>(address: usize) -> &'a Entry {
    let region = region(address);
    // SAFETY: regions live for ever; the index is below the array's length.
    unsafe {
        let entries = (&raw const (*region).entries).cast::<Entry>();
        &*entries.add(address / GRANULE % GRANULES)
    }
}

/// The class of an owner's kind, or 0 when it is no class.
#[inline(always)]
pub const fn class_of(owner: Owner) -> Class {
    let kind = owner.kind() as Class;
    if kind < CLASSES { kind } else { 0 }
}
