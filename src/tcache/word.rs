//! Words of a cache that its thread writes and other threads may read.

use super::State;
use crate::sync::block::Block;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};

/// What a [`Word`] can hold.
pub trait Value: Copy {
    /// The atomic type with the same bits.
    type Atomic;
    /// The value in a new atomic.
    fn load(from: &Self::Atomic) -> Self;
    /// Puts the value into an atomic.
    fn store(self, to: &Self::Atomic);
}

/// A word that one thread writes at a time, like a [`core::cell::Cell`], and any thread reads: reports, the
/// search for a freed block, and who looks for threads that sleep.
///
/// Relaxed, but for the heads of bins that are published: who reads another thread's word gets some value
/// that it had, and goes by it only after it looked at what it names.
#[repr(transparent)]
pub struct Word<T: Value>(T::Atomic);

impl<T: Value> Word<T> {
    /// The value.
    #[inline(always)]
    pub fn get(&self) -> T {
        T::load(&self.0)
    }

    /// Sets the value; the owner does.
    #[inline(always)]
    pub fn set(&self, value: T) {
        value.store(&self.0);
    }

    /// Sets the value, and returns the one before; the owner does.
    #[inline]
    pub fn replace(&self, value: T) -> T {
        let before = self.get();
        self.set(value);
        before
    }
}

impl Word<*mut Block> {
    /// Sets the first block of a list, which is linked to the next one; the owner does.
    #[inline(always)]
    pub fn publish(&self, block: *mut Block) {
        // Release pairs with the acquire of `observe`. An ordinary store on x86_64.
        self.0.store(block, Release);
    }

    /// The first block of another thread's list; its link is seen if it was published.
    pub fn observe(&self) -> *mut Block {
        // Acquire pairs with the release of `publish`.
        self.0.load(Acquire)
    }
}

macro_rules! value {
    ($type:ty, $atomic:ty) => {
        impl Value for $type {
            type Atomic = $atomic;

            #[inline(always)]
            fn load(from: &$atomic) -> Self {
                from.load(Relaxed)
            }

            #[inline(always)]
            fn store(self, to: &$atomic) {
                to.store(self, Relaxed);
            }
        }

        impl Word<$type> {
            /// A word with this value.
            pub const fn new(value: $type) -> Self {
                Self(<$atomic>::new(value))
            }
        }
    };
}

value!(u16, AtomicU16);
value!(u32, AtomicU32);
value!(usize, AtomicUsize);
value!(*mut Block, AtomicPtr<Block>);

impl Value for State {
    type Atomic = AtomicU8;

    #[inline(always)]
    fn load(from: &AtomicU8) -> Self {
        // Of a length that takes no division.
        const STATES: [State; 8] = {
            let mut states = [State::Empty; 8];
            states[State::Ended as usize] = State::Ended;
            states[State::Live as usize] = State::Live;
            states[State::Parked as usize] = State::Parked;
            states[State::Vanished as usize] = State::Vanished;
            states
        };
        STATES[usize::from(from.load(Relaxed)) % STATES.len()]
    }

    #[inline(always)]
    fn store(self, to: &AtomicU8) {
        to.store(self as u8, Relaxed);
    }
}

impl Word<State> {
    /// A word with this value.
    pub const fn new(value: State) -> Self {
        Self(AtomicU8::new(value as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_the_one_that_was_set() {
        let word = Word::<State>::new(State::Empty);
        use State::{Empty, Ended, Live, Parked, Vanished};
        for state in [Live, Ended, Parked, Vanished, Empty] {
            word.set(state);
            assert_eq!(word.get(), state);
        }
    }
}
