//! Blocks that change their size.

use super::large::resize_large;
use super::{class_in_window, free, malloc_aligned, usable_size_by_page_map};
use crate::arena::pages::is_huge;
use crate::check::Misuse;
use crate::config::MMAP_THRESHOLD_MAX;
use crate::huge;
use crate::os::{self, PAGE};
use crate::page_map::{self, KIND_LARGE};
use crate::purge::peak;
use crate::purger;
use crate::size_class::{self, MAX_SMALL, MIN_ALIGN};
use crate::tcache::bin_of_size;
use crate::tls;
use core::ptr;

/// Makes the block hold `bytes`: in place where it fits, by the kernel's page tables for huge
/// blocks, else by a copy. Null when there is no memory; the block is then as it was.
///
/// # Safety
/// The block is in use by the caller, who uses only the returned one afterwards. Its alignment
/// is kept when it moves only up to `align`.
pub unsafe fn realloc(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    unsafe {
        match class_in_window(tls::get(), block) {
            Some(class) => resize_small(block, size_class::size(class), bytes, align),
            None => realloc_by_page_map(block, bytes, align),
        }
    }
}

/// [`realloc`] of a block of a class, which holds `old` bytes at least.
///
/// # Safety
/// As for [`realloc`].
#[inline(always)]
unsafe fn resize_small(block: *mut u8, old: usize, bytes: usize, align: usize) -> *mut u8 {
    if stays_in_place(bytes, old) {
        return block;
    }
    // SAFETY: the caller's contract.
    unsafe { move_to(block, old, bytes, align) }
}

/// # Safety
/// As for [`realloc`].
#[inline(never)]
unsafe fn realloc_by_page_map(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    unsafe {
        let old = usable_size_by_page_map(block, Misuse::InvalidRealloc);
        let owner = page_map::owner(block.addr());
        if page_map::class_of(owner) != 0 {
            return resize_small(block, old, bytes, align);
        }
        if owner.kind() == KIND_LARGE {
            // Pages that serve a small request at the start of a program stay, as a block of a
            // class does.
            let stays = bytes <= MAX_SMALL && bytes <= old && old - bytes < PAGE.max(old / 2);
            if stays {
                return block;
            }
            if resize_large(block.addr(), owner, bytes, old) {
                purger::poll();
                return block;
            }
        } else if is_huge(bytes) {
            let moved = huge::resize(block.addr(), bytes, align <= PAGE);
            if !moved.is_null() {
                if bytes > old.max(MMAP_THRESHOLD_MAX) {
                    peak::make_room();
                }
                purger::poll();
                return moved;
            }
        }
        move_to(block, old, bytes, align)
    }
}

/// As [`realloc`], where both sizes are at most [`MAX_TABLE`](crate::size_class::MAX_TABLE) and the caller
/// knows the old one; for alignments of malloc's blocks.
///
/// # Safety
/// As for [`realloc`], and the block was asked for with `old` bytes.
#[inline(never)]
pub unsafe fn realloc_known(block: *mut u8, old: usize, bytes: usize) -> *mut u8 {
    if bin_of_size(old) == bin_of_size(bytes) {
        return block;
    }
    // SAFETY: the caller's contract.
    unsafe {
        if bytes < old {
            // The block may be a larger one: it stayed where it is when it shrank before.
            realloc(block, bytes, MIN_ALIGN)
        } else {
            resize_small(block, old, bytes, MIN_ALIGN)
        }
    }
}

/// Moves a block of `old` bytes to a new one of `bytes`, if there is memory for that.
///
/// # Safety
/// As for [`realloc`]; the block holds so many bytes.
#[inline]
unsafe fn move_to(block: *mut u8, old: usize, bytes: usize, align: usize) -> *mut u8 {
    let shrinks = bytes <= old;
    let errno = if shrinks { os::errno() } else { 0 };
    let new = malloc_aligned(bytes, align);
    if new.is_null() {
        if shrinks {
            // It can stay.
            os::set_errno(errno);
            return block;
        }
        return new;
    }
    // SAFETY: the caller's contract.
    unsafe {
        ptr::copy_nonoverlapping(block, new, old.min(bytes));
        free(block);
    }
    new
}

/// Whether a block of a class with `old` bytes serves `bytes` as well: unless they need more, or would
/// leave most of it unused.
#[inline]
fn stays_in_place(bytes: usize, old: usize) -> bool {
    bytes <= old && (bytes > old / 2 || old <= 64)
}
