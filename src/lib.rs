//! Arenite: a memory allocator for multi-threaded Linux programs.
//!
//! Per-thread caches feed from several locked arenas; the main arena grows with `brk`, the
//! others in mmap'd heaps; blocks freed on another arena's thread travel home on lock-free
//! lists.
//!
//! ```no_run
//! use arenite::Arenite;
//!
//! #[global_allocator]
//! static GLOBAL: Arenite = Arenite::new();
//! # fn main() {}
//! ```
//!
//! The modules are the layers, and use only those further down this list:
//! `global` and `c_api`, `stats`, `malloc`, `thread` and `fork`, `purger`, `purge`, `tls`, `tcache`,
//! `arena`, `huge`, `meta` and `window`, `heap`, `page_map`, `limit` and `pressure`, `config`, `check`, `os`,
//! `size_class`. `sync` stands beside them and uses none of them but the futex of `os`.
#![no_std]
#![cfg_attr(loom, allow(missing_docs))]

pub mod sync;

#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
pub mod c_api;
#[cfg(not(loom))]
mod check;
#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod global;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
mod huge;
#[cfg(not(loom))]
mod limit;
#[cfg(not(loom))]
mod malloc;
#[cfg(not(loom))]
mod meta;
#[cfg(not(loom))]
mod os;
#[cfg(not(loom))]
mod page_map;
#[cfg(not(loom))]
mod pressure;
#[cfg(not(loom))]
mod purge;
#[cfg(not(loom))]
mod purger;
#[cfg(not(loom))]
mod size_class;
#[cfg(not(loom))]
pub mod stats;
#[cfg(not(loom))]
mod tcache;
#[cfg(not(loom))]
mod thread;
#[cfg(not(loom))]
mod tls;
#[cfg(not(loom))]
mod window;

#[cfg(not(loom))]
pub use config::HugePages;
#[cfg(not(loom))]
pub use global::Arenite;
// For tests, which set them before the first allocation.
#[cfg(not(loom))]
#[doc(hidden)]
pub use {config::HUGE_PAGES, os::SIMULATED_PAGE};

#[cfg(all(not(loom), not(target_os = "linux")))]
compile_error!("arenite is for Linux");
