//! The allocators that the benchmarks compare, and what the benchmarks share.
//!
//! Every allocator is driven through `GlobalAlloc` by code that is generated for its type, so that
//! one written in Rust is inlined as it would be in a program that uses it. None is the process's
//! own `#[global_allocator]`: Criterion's and the benchmarks' own tables live on the system's.
//!
//! Empty without the feature `peers`.
#![cfg(feature = "peers")]

pub mod blocks;

use std::alloc::System;

/// Arenite.
pub static ARENITE: arenite::Arenite = arenite::Arenite::new();
/// libc's `malloc`.
pub static SYSTEM: System = System;
/// mimalloc, version 3.
pub static MIMALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// jemalloc.
pub static JEMALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
/// snmalloc.
pub static SNMALLOC: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc::new();
/// rpmalloc.
pub static RPMALLOC: rpmalloc::RpMalloc = rpmalloc::RpMalloc;
/// Google's tcmalloc, without its background thread.
pub static TCMALLOC: tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;
/// rusty_alloc, a mimalloc in Rust.
pub static RUSTY_ALLOC: rusty_alloc_api::RustyAlloc = rusty_alloc_api::RustyAlloc;

/// talc's source of memory: blocks of at least 1 MiB of the system's allocator.
type TalcSource = talc::source::GlobalAllocSource<System>;
/// talc, which has no caches of threads: one heap under parking_lot's mutex.
pub static TALC: talc::TalcLock<parking_lot::RawMutex, TalcSource> =
    talc::TalcLock::new(TalcSource::new(System));

/// Calls a generic function for every allocator: `f("name", &ALLOCATOR, arguments…)`.
///
/// The one list of the allocators. The names are the last part of each benchmark's name.
#[macro_export]
macro_rules! for_each_allocator {
    ($function:path $(, $argument:expr)* $(,)?) => {{
        $function("arenite", &$crate::ARENITE $(, $argument)*);
        $function("system", &$crate::SYSTEM $(, $argument)*);
        $function("mimalloc", &$crate::MIMALLOC $(, $argument)*);
        $function("jemalloc", &$crate::JEMALLOC $(, $argument)*);
        $function("snmalloc", &$crate::SNMALLOC $(, $argument)*);
        $function("rpmalloc", &$crate::RPMALLOC $(, $argument)*);
        $function("tcmalloc", &$crate::TCMALLOC $(, $argument)*);
        $function("rusty_alloc", &$crate::RUSTY_ALLOC $(, $argument)*);
        $function("talc", &$crate::TALC $(, $argument)*);
    }};
}
