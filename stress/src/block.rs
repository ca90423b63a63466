//! Blocks that can tell when somebody else wrote to them.

use crate::Target;
use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

/// What a block found out about the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A byte is not what its block wrote there.
    Changed {
        /// The block's address.
        block: usize,
        /// Its size.
        size: usize,
        /// Which byte.
        offset: usize,
        /// What the block wrote.
        expected: u8,
        /// What is there.
        found: u8,
    },
    /// A byte of an `alloc_zeroed` block is not zero.
    NotZero {
        /// The block's address.
        block: usize,
        /// Its size.
        size: usize,
        /// Which byte.
        offset: usize,
        /// What is there.
        found: u8,
    },
    /// A block's address is not a multiple of the alignment asked for.
    Misaligned {
        /// The block's address.
        block: usize,
        /// The alignment asked for.
        align: usize,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Changed { block, size, offset, expected, found } => write!(
                f,
                "block {block:#x} of {size} bytes: byte {offset} is {found:#04x}, \
                 its owner wrote {expected:#04x}"
            ),
            Self::NotZero { block, size, offset, found } => {
                write!(f, "zeroed block {block:#x} of {size} bytes: byte {offset} is {found:#04x}")
            }
            Self::Misaligned { block, align } => {
                write!(f, "block {block:#x} is not aligned to {align}")
            }
        }
    }
}

/// A block of the allocator under test, filled with a pattern.
///
/// The pattern follows from the block's address and its id, which no two blocks of a run share:
/// of two live blocks that overlap, the one filled first is found changed when it is checked (of
/// one shared byte that agrees by chance, once in 256, nothing is seen), and stale contents never
/// look right. A block that goes out of scope is leaked.
#[derive(Debug)]
#[must_use = "a block that is dropped is leaked, unchecked"]
pub struct Block {
    address: NonNull<u8>,
    layout: Layout,
    id: u64,
}

// SAFETY: a block is plain memory that belongs to whoever has the `Block`.
unsafe impl Send for Block {}

impl Block {
    /// Allocates and fills a block; `Ok(None)` if the allocator has no memory. The size is not 0.
    pub fn allocate(target: Target, layout: Layout, id: u64) -> Result<Option<Self>, Violation> {
        assert!(layout.size() > 0, "GlobalAlloc takes no empty layout");
        // SAFETY: the layout is not empty.
        Self::take(unsafe { target.alloc(layout) }, layout, id)
    }

    /// The same with `alloc_zeroed`; every byte is checked to be zero before the block is filled.
    pub fn allocate_zeroed(
        target: Target,
        layout: Layout,
        id: u64,
    ) -> Result<Option<Self>, Violation> {
        assert!(layout.size() > 0, "GlobalAlloc takes no empty layout");
        // SAFETY: the layout is not empty.
        let address = unsafe { target.alloc_zeroed(layout) };
        if !address.is_null() {
            // SAFETY: the block is ours, and the allocator says it is initialised.
            let bytes = unsafe { std::slice::from_raw_parts(address, layout.size()) };
            // Page by page: the search for the one byte is slow, the sum of all is not.
            let dirty = |page: &[u8]| page.iter().fold(0, |sum, byte| sum | byte) != 0;
            if let Some(page) = bytes.chunks(4096).position(dirty) {
                let from = page * 4096;
                let in_page = bytes[from..].iter().position(|&byte| byte != 0);
                let offset = from + in_page.unwrap_or(0);
                return Err(Violation::NotZero {
                    block: address.addr(),
                    size: layout.size(),
                    offset,
                    found: bytes[offset],
                });
            }
        }
        Self::take(address, layout, id)
    }

    /// Makes a filled block of the memory at `address`.
    fn take(address: *mut u8, layout: Layout, id: u64) -> Result<Option<Self>, Violation> {
        let Some(address) = NonNull::new(address) else {
            return Ok(None);
        };
        let block = Self { address, layout, id };
        block.check_alignment()?;
        block.fill();
        Ok(Some(block))
    }

    /// Where the block begins.
    pub fn address(&self) -> usize {
        self.address.as_ptr().addr()
    }

    /// The size asked for.
    pub fn size(&self) -> usize {
        self.layout.size()
    }

    /// Checks every byte.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_prefix(self.size(), self.seed())
    }

    /// Checks the block, resizes it, checks what it kept and fills it again. `Ok(false)` if there
    /// is no memory: the block is then as it was. The size is not 0.
    pub fn resize(&mut self, target: Target, size: usize) -> Result<bool, Violation> {
        assert!(size > 0, "GlobalAlloc takes no empty layout");
        self.check()?;
        let (old_size, old_seed) = (self.size(), self.seed());
        let layout = Layout::from_size_align(size, self.layout.align()).expect("a valid layout");
        // SAFETY: the block came from `target` with this layout; the new size is valid.
        let address = unsafe { target.realloc(self.address.as_ptr(), self.layout, size) };
        let Some(address) = NonNull::new(address) else {
            self.check()?;
            return Ok(false);
        };
        self.address = address;
        self.layout = layout;
        self.check_alignment()?;
        self.check_prefix(old_size.min(size), old_seed)?;
        self.fill();
        Ok(true)
    }

    /// Checks the block and gives it back.
    pub fn free(self, target: Target) -> Result<(), Violation> {
        self.check()?;
        // SAFETY: the block came from `target` with this layout, and ends here.
        unsafe { target.dealloc(self.address.as_ptr(), self.layout) };
        Ok(())
    }

    /// Where the pattern starts. An odd multiple of the id and a shuffle of the sum keep the
    /// patterns of neighbours apart.
    fn seed(&self) -> u64 {
        let mut x =
            (self.address() as u64).wrapping_add(self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 29)
    }

    fn fill(&self) {
        let seed = self.seed();
        let words = self.size() / 8;
        for i in 0..words {
            // SAFETY: word `i` is inside the block, which is ours.
            unsafe { self.word(i).write_unaligned(pattern(seed, i)) };
        }
        let last = pattern(seed, words).to_ne_bytes();
        for (i, byte) in last.iter().take(self.size() % 8).enumerate() {
            // SAFETY: inside the block, which is ours.
            unsafe { self.address.add(words * 8 + i).write(*byte) };
        }
    }

    /// Checks the first `len` bytes against the pattern of `seed`. `len` is at most the size.
    fn check_prefix(&self, len: usize, seed: u64) -> Result<(), Violation> {
        let words = len / 8;
        for i in 0..words {
            // SAFETY: word `i` is inside the block, which was filled up to `len` at least.
            if unsafe { self.word(i).read_unaligned() } != pattern(seed, i) {
                return Err(self.changed(i * 8, seed));
            }
        }
        let last = pattern(seed, words).to_ne_bytes();
        for (i, byte) in last.iter().take(len % 8).enumerate() {
            // SAFETY: as above.
            if unsafe { self.address.add(words * 8 + i).read() } != *byte {
                return Err(self.changed(words * 8, seed));
            }
        }
        Ok(())
    }

    /// Which byte at or after `from` is wrong. If another thread repairs it meanwhile, the byte
    /// at `from` is named.
    #[cold]
    fn changed(&self, from: usize, seed: u64) -> Violation {
        let expected = |offset: usize| pattern(seed, offset / 8).to_ne_bytes()[offset % 8];
        // SAFETY: offsets below the size are inside the block, which was filled.
        let found = |offset: usize| unsafe { self.address.add(offset).read() };
        let offset = (from..self.size().min(from + 8))
            .find(|&offset| found(offset) != expected(offset))
            .unwrap_or(from);
        Violation::Changed {
            block: self.address(),
            size: self.size(),
            offset,
            expected: expected(offset),
            found: found(offset),
        }
    }

    fn check_alignment(&self) -> Result<(), Violation> {
        let (block, align) = (self.address(), self.layout.align());
        if block.is_multiple_of(align) {
            Ok(())
        } else {
            Err(Violation::Misaligned { block, align })
        }
    }

    /// Word `i` of the block, which has it.
    fn word(&self, i: usize) -> *mut u64 {
        self.address.as_ptr().cast::<u64>().wrapping_add(i)
    }
}

/// Word `i` of the pattern of `seed`.
fn pattern(seed: u64, i: usize) -> u64 {
    seed.wrapping_add((i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    #[test]
    fn an_untouched_block_keeps_its_pattern() {
        for size in (1..70).chain([4095, 4096, 100_001]) {
            let mut block = Block::allocate(&System, layout(size), 1).unwrap().unwrap();
            assert_eq!(block.check(), Ok(()));
            assert_eq!(block.resize(&System, size * 3), Ok(true));
            assert_eq!(block.resize(&System, size.div_ceil(2)), Ok(true));
            assert_eq!(block.free(&System), Ok(()));
        }
    }

    #[test]
    fn any_changed_byte_is_found_and_named() {
        for size in [1, 7, 8, 9, 16, 61] {
            for offset in 0..size {
                let block = Block::allocate(&System, layout(size), 7).unwrap().unwrap();
                // SAFETY: inside the block.
                let byte = unsafe { block.address.add(offset).as_mut() };
                let expected = *byte;
                *byte ^= 0x40;
                let found = *byte;
                assert_eq!(
                    block.check(),
                    Err(Violation::Changed {
                        block: block.address(),
                        size,
                        offset,
                        expected,
                        found
                    })
                );
                *byte = expected;
                assert_eq!(block.free(&System), Ok(()));
            }
        }
    }

    /// Patterns follow from addresses, which differ from run to run, so that one shared byte
    /// agrees by chance once in 256: eight second blocks do not all agree.
    #[test]
    fn overlapping_blocks_are_found_whatever_they_share() {
        let mut memory = [0_u8; 64];
        let start = memory.as_mut_ptr();
        for distance in [0_usize, 1, 8, 31] {
            let found = |id| {
                let first = Block::take(start, layout(32), 1).unwrap().unwrap();
                let second = start.wrapping_add(distance);
                let second = Block::take(second, layout(32), id).unwrap().unwrap();
                assert_eq!(second.check(), Ok(()));
                match first.check() {
                    Ok(()) => false,
                    Err(Violation::Changed { offset, .. }) => {
                        assert!((distance..distance + 8).contains(&offset));
                        true
                    }
                    Err(other) => panic!("{other}"),
                }
            };
            let times = (2..10).filter(|&id| found(id)).count();
            assert!(if distance == 31 { times > 0 } else { times == 8 }, "{times} at {distance}");
        }
    }
}
