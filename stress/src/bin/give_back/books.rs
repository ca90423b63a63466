//! Tables of a fixed capacity outside of malloc.
//!
//! A scenario enters its blocks here. The memory is resident from the start, so that it is in
//! every reading of resident memory alike, and no reading says something about the books.

use std::ops::{Deref, DerefMut, RangeInclusive};
use std::ptr::NonNull;
use stress::fail;

/// A table with room for a number of entries, all of it touched. Entries that are in it when it
/// is dropped are forgotten.
pub struct Books<T> {
    base: NonNull<T>,
    len: usize,
    capacity: usize,
}

// SAFETY: the table owns its entries, and its mapping is bound to no thread.
unsafe impl<T: Send> Send for Books<T> {}

impl<T> Books<T> {
    /// An empty table for `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        assert!(align_of::<T>() <= 4096, "a mapping is aligned to a page");
        let capacity = capacity.max(1);
        // SAFETY: a new mapping touches no other; a failure is seen below.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                capacity * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            fail!("no memory for a table of {capacity} entries");
        }
        let base = NonNull::new(base.cast()).expect("no mapping is at address 0");
        Self { base, len: 0, capacity }
    }

    /// An empty table for blocks of random `sizes` that make up `bytes`, with a quarter to spare.
    pub fn for_blocks(bytes: usize, sizes: &RangeInclusive<usize>) -> Self {
        let mean = usize::midpoint(*sizes.start(), *sizes.end());
        let blocks = bytes / mean;
        Self::new(blocks + blocks / 4 + 1024)
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: T) {
        if self.len == self.capacity {
            fail!("a table of {} entries is too small", self.capacity);
        }
        // SAFETY: the place is inside the mapping, and holds no entry.
        unsafe { self.base.add(self.len).write(entry) };
        self.len += 1;
    }

    /// Takes the last entry.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: there is an entry, which is not among the table's any more.
        Some(unsafe { self.base.add(self.len).read() })
    }
}

impl<T> Deref for Books<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` places hold entries.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Books<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the table is borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T> Drop for Books<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is the table's, and nothing borrows from it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.capacity * size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_last_first() {
        let mut books = Books::new(3);
        for entry in ["a", "b", "c"] {
            books.push(entry);
        }
        books.swap(0, 2);
        assert_eq!(*books, ["c", "b", "a"]);
        assert_eq!(
            [books.pop(), books.pop(), books.pop(), books.pop()],
            [Some("a"), Some("b"), Some("c"), None]
        );
    }
}
