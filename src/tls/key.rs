//! The pthread key whose value is the thread's cache, and whose destructor ends that (`thread.rs`).

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// No key yet.
pub const NO_KEY: u32 = u32::MAX;
/// A thread makes the key.
pub const MAKING: u32 = u32::MAX - 1;
/// The program has all keys that there may be.
pub const NONE_LEFT: u32 = u32::MAX - 2;

/// The key, or one of the above. Acquire and release pair with each other: who sees the key may use it.
pub static KEY: AtomicU32 = AtomicU32::new(NO_KEY);

/// In the child after fork, where the thread that was making the key may not be.
pub fn after_fork() {
    _ = KEY.compare_exchange(MAKING, NO_KEY, Relaxed, Relaxed);
}
