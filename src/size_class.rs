//! Size classes: which block size serves a request.
//!
//! Steps of 16 bytes up to 128 bytes; then five classes per doubling, eight from 256 bytes to 8 KiB, and five
//! again to 32 KiB. The first of each doubling is a sixteenth (below 256 bytes: an eighth) above the power
//! of two, since programs ask for one and a header (see ARCHITECTURE.md, "Decisions").
//!
//! Class ids start at 1: id 0 is the class no block has, so that a zeroed page-map entry or
//! window entry means "no small block here".

/// Alignment of every block, in bytes (the ABI's `max_align_t`).
pub const MIN_ALIGN: usize = 16;

/// The classes of a doubling that begins at 128 bytes, in sixteenths of that, …
const FROM_128: [usize; 5] = [18, 20, 24, 28, 32];
/// … at 256 bytes to 2 KiB, …
const FROM_256: [usize; 8] = [17, 18, 20, 22, 24, 26, 28, 32];
/// … at 4 KiB, in units of 16 bytes, where one is sqlite's page of 4 KiB with its header, …
const FROM_4K: [usize; 8] = [272, 273, 288, 320, 352, 384, 448, 512];
/// … and at 8 and 16 KiB.
const FROM_8K: [usize; 5] = [17, 20, 24, 28, 32];

/// Number of class ids, id 0 (none) included.
pub const CLASSES: usize =
    1 + 8 + FROM_128.len() + 4 * FROM_256.len() + FROM_4K.len() + 2 * FROM_8K.len();

/// Block sizes in bytes. Class 0 has no blocks; its size only keeps divisions defined.
const SIZES: PerClass<u32> = {
    let mut sizes = [16; CLASS_PLACES];
    let mut class = 1;
    while class <= 8 {
        sizes[class] = 16 * class as u32;
        class += 1;
    }
    let mut begin = 128;
    while begin < MAX_SMALL {
        let (unit, steps): (usize, &[usize]) = match begin {
            128 => (begin / 16, &FROM_128),
            256..4096 => (begin / 16, &FROM_256),
            4096 => (16, &FROM_4K),
            _ => (begin / 16, &FROM_8K),
        };
        let mut step = 0;
        while step < steps.len() {
            sizes[class] = (unit * steps[step]) as u32;
            (class, step) = (class + 1, step + 1);
        }
        begin *= 2;
    }
    assert!(class == CLASSES);
    PerClass(sizes)
};

/// Largest size, in bytes, that a slab serves. Larger requests are runs of pages.
pub const MAX_SMALL: usize = 32 * 1024;

/// Largest request, in bytes, whose class the fast path of `malloc` finds by table.
pub const MAX_TABLE: usize = 8 * 1024;

/// Largest request, in bytes, that borrows from a larger class at the start of a program; larger
/// ones borrow pages.
pub const MAX_LENT: usize = 1024;

/// Smallest slab, its alignment, and the unit of the page map, in bytes.
pub const GRANULE: usize = 16 * 1024;

/// Largest slab and largest alignment of one, in bytes: what [`reciprocal`] can tell the starts of blocks in.
pub const MAX_SLAB: usize = 64 * 1024;

/// Bytes that one magazine (a bin, or its spare) holds at most.
const MAGAZINE_BYTES: usize = 16 * 1024;
/// Where that is less, a magazine holds so many blocks, …
const LARGE_MAGAZINE_BLOCKS: usize = 32;
/// … but no more bytes than this.
const LARGE_MAGAZINE_BYTES: usize = 64 * 1024;

/// A size class id: 1 to `CLASSES - 1`.
pub type Class = usize;

/// Places of a [`PerClass`].
pub const CLASS_PLACES: usize = CLASSES.next_power_of_two();

/// One `T` for each class, and some more: so many that finding one takes no division and no
/// comparison, and can not fail.
#[repr(transparent)]
#[derive(Debug)]
pub struct PerClass<T>(pub [T; CLASS_PLACES]);

impl<T: Copy> PerClass<T> {
    /// As indexing, for constants.
    #[inline(always)]
    pub const fn at(&self, class: Class) -> T {
        self.0[class % CLASS_PLACES]
    }
}

impl<T> core::ops::Index<Class> for PerClass<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, class: Class) -> &T {
        &self.0[class % CLASS_PLACES]
    }
}

impl<T> core::ops::IndexMut<Class> for PerClass<T> {
    #[inline(always)]
    fn index_mut(&mut self, class: Class) -> &mut T {
        &mut self.0[class % CLASS_PLACES]
    }
}

/// Block size in bytes of `class`, never 0.
#[inline]
pub const fn size(class: Class) -> usize {
    let size = SIZES.at(class);
    // Never less than 16; said so that the compiler knows a divisor when it sees one.
    if size < 16 { 16 } else { size as usize }
}

/// The smallest class that holds 0, 1, 2, … times `unit` bytes. It is that of all requests in between where
/// the sizes are multiples of `unit`.
const fn classes_of<const N: usize>(unit: usize) -> [u8; N] {
    let mut classes = [0; N];
    let (mut class, mut index) = (1, 0);
    while index < N {
        if size(class) < index * unit {
            class += 1;
        } else {
            classes[index] = class as u8;
            index += 1;
        }
    }
    classes
}

/// The class of a request of `bytes`.
///
/// `bytes` must be at most [`MAX_SMALL`]. Zero bytes get the smallest class, since
/// `malloc(0)` returns a unique pointer.
#[inline(always)]
pub const fn of(bytes: usize) -> Class {
    const CLASSES_OF: [u8; MAX_TABLE / MIN_ALIGN + 1] = classes_of(MIN_ALIGN);
    let index = bytes.div_ceil(MIN_ALIGN);
    if index < CLASSES_OF.len() { CLASSES_OF[index] as Class } else { of_above_table(bytes) }
}

/// The class of a request that is above [`MAX_TABLE`], and at most [`MAX_SMALL`]: by a table, for
/// which the sizes are multiples of a coarse unit.
#[inline]
pub const fn of_above_table(bytes: usize) -> Class {
    const UNIT: usize = 512;
    const CLASSES_OF: [u8; MAX_SMALL / UNIT + 1] = classes_of(UNIT);
    const { assert!(size(CLASSES_OF[MAX_TABLE / UNIT + 1] as Class).is_multiple_of(UNIT)) };
    let index = bytes.div_ceil(UNIT);
    if index < CLASSES_OF.len() { CLASSES_OF[index] as Class } else { CLASSES - 1 }
}

/// Bytes to ask for, so that the class that serves them has only blocks at multiples of `align`, a power of
/// two of at most [`GRANULE`]: the next multiple of it. A class whose size is no multiple of `align` is never
/// the smallest one that holds a multiple of it.
#[inline(always)]
pub const fn aligned(bytes: usize, align: usize) -> usize {
    (bytes + align - 1) & !(align - 1)
}

/// Alignment of slabs of `class`, in bytes: a granule, doubled until it holds 8 blocks, but no more than
/// [`MAX_SLAB`].
#[inline]
pub const fn slab_align(class: Class) -> usize {
    match 8 * size(class) {
        ..=GRANULE => GRANULE,
        MAX_SLAB.. => MAX_SLAB,
        need => need.next_power_of_two(),
    }
}

/// Blocks of one slab of `class`: as many as its alignment has room for.
#[inline]
pub const fn slab_blocks(class: Class) -> usize {
    const BLOCKS: PerClass<u16> = {
        let mut blocks = [0; CLASS_PLACES];
        let mut class = 1;
        while class < CLASSES {
            blocks[class] = (slab_align(class) / size(class)) as u16;
            class += 1;
        }
        PerClass(blocks)
    };
    BLOCKS.at(class) as usize
}

/// Bytes of one slab of `class`: the granules in which its blocks lie.
pub const fn slab_bytes(class: Class) -> usize {
    (slab_blocks(class) * size(class)).next_multiple_of(GRANULE)
}

/// Blocks that one magazine of `class` holds at most.
///
/// `capacity << 16` must not exceed [`reciprocal`], or the room check of the fast `free` would
/// let an interior pointer through; [`tests`] asserts it.
pub const fn magazine_capacity(class: Class) -> usize {
    const BLOCKS: PerClass<u16> = {
        let mut blocks = [0; CLASS_PLACES];
        let mut class = 0;
        while class < CLASS_PLACES {
            let fit = MAGAZINE_BYTES / size(class);
            let large = LARGE_MAGAZINE_BYTES / size(class);
            let large = if large < LARGE_MAGAZINE_BLOCKS { large } else { LARGE_MAGAZINE_BLOCKS };
            blocks[class] = if fit < large { large as u16 } else { fit as u16 };
            class += 1;
        }
        PerClass(blocks)
    };
    BLOCKS.at(class) as usize
}

/// `ceil(2^32 / size)`: for offsets in a slab, `offset * reciprocal` modulo 2^32 is below 2^16 exactly when `size`
/// divides `offset`, and at least `reciprocal` otherwise (Lemire, Kaser, Kurz: "Faster remainder by direct
/// computation", 2019).
pub const fn reciprocal(class: Class) -> u32 {
    (1u64 << 32).div_ceil(size(class) as u64) as u32
}

/// Which block of a slab of `class` starts at `offset` bytes from the slab's start, if one does.
///
/// Without a division, as [`reciprocal`].
#[inline]
pub const fn block_index(offset: usize, class: Class) -> Option<usize> {
    const SHIFT: u32 = 48;
    const RECIPROCALS: PerClass<u64> = {
        let mut reciprocals = [0; CLASS_PLACES];
        let mut class = 0;
        while class < CLASSES {
            reciprocals[class] = (1u64 << SHIFT).div_ceil(size(class) as u64);
            class += 1;
        }
        PerClass(reciprocals)
    };
    let reciprocal = RECIPROCALS.at(class);
    let product = offset as u64 * reciprocal;
    if product & ((1 << SHIFT) - 1) < reciprocal { Some((product >> SHIFT) as usize) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        for bytes in 0..=MAX_SMALL {
            let class = of(bytes);
            assert!((1..CLASSES).contains(&class));
            assert!(size(class) >= bytes);
            assert!(class == 1 || size(class - 1) < bytes, "{bytes} in {class}");
            assert!(bytes <= MAX_TABLE || of_above_table(bytes) == class, "{bytes}");
        }
        assert_eq!(size(CLASSES - 1), MAX_SMALL);
    }

    #[test]
    fn classes_of_aligned_requests_have_aligned_blocks_only() {
        for align in (4..=GRANULE.ilog2()).map(|log| 1 << log) {
            for bytes in 1..=MAX_SMALL {
                let aligned = aligned(bytes, align);
                assert!(aligned >= bytes && aligned - bytes < align);
                // Slabs begin at multiples of the granule.
                assert!(aligned > MAX_SMALL || size(of(aligned)).is_multiple_of(align), "{bytes}");
            }
        }
    }

    #[test]
    fn reciprocals_tell_block_starts_from_interior_pointers() {
        for class in 1..CLASSES {
            let reciprocal = reciprocal(class);
            assert!((magazine_capacity(class) as u64) << 16 <= u64::from(reciprocal));
            for offset in 0..slab_align(class) as u32 {
                let product = offset.wrapping_mul(reciprocal);
                if (offset as usize).is_multiple_of(size(class)) {
                    assert!(product < 1 << 16, "{offset} of class {class}");
                } else {
                    assert!(product >= reciprocal);
                }
            }
        }
    }

    #[test]
    fn block_indices_are_those_of_a_division() {
        for class in 1..CLASSES {
            for offset in 0..slab_align(class) {
                let exact = offset.is_multiple_of(size(class));
                let expected = exact.then(|| offset / size(class));
                assert_eq!(block_index(offset, class), expected, "{offset} of class {class}");
            }
        }
    }

    #[test]
    fn slabs_hold_eight_blocks_or_are_as_large_as_may_be() {
        for class in 1..CLASSES {
            let (blocks, align) = (slab_bytes(class) / size(class), slab_align(class));
            assert!(blocks >= 8 || align == MAX_SLAB && blocks == align / size(class), "{class}");
            assert_eq!(blocks, slab_blocks(class));
            assert!(slab_bytes(class) <= align && align - slab_bytes(class) < size(class));
        }
    }
}
