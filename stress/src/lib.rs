//! What the stress binaries share.
//!
//! A binary asks the allocator under test for memory and holds it to its contract:
//!
//! * [`block`]: every block is filled with a pattern of its own and checked before it is freed
//!   and after it is resized, so a block that overlaps another one, or lost its contents, is
//!   found;
//! * [`intervals`]: where blocks are few, the address ranges themselves are compared;
//! * [`run`]: arguments, workers, the end of the run, the watchdog that turns a hang into a
//!   failure, the last line of output;
//! * [`child`]: processes that are waited for with a time limit;
//! * [`sabotage`]: allocators broken on purpose, to show that the checks find it;
//! * [`markers`]: parts of a document that a command writes.
//!
//! A violation ends the process at once with a message and status 1 ([`fail`]).

pub mod block;
pub mod child;
pub mod fail;
pub mod intervals;
pub mod markers;
pub mod run;
pub mod sabotage;
pub mod sizes;

pub use block::{Block, Violation};
pub use run::{Common, Run, Worker};

use std::alloc::GlobalAlloc;

/// The allocator under test.
pub type Target = &'static (dyn GlobalAlloc + Sync);
