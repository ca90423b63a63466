//! A process that may have little address space: it starts, comes to the limit, and goes on.

use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::io;
use stress::sizes::any_magnitude;
use stress::{Block, fail};

pub const SCENARIO: Scenario = Scenario {
    name: "limited",
    about: "256 MiB of address space: blocks until ENOMEM, half freed, half of that again",
    parts: WHOLE,
    address_space: Some(ADDRESS_SPACE),
    run,
    judge: |parts| {
        vec![
            Figure::new("blocks at the limit", parts[0].mib("reached_bytes"), "MiB"),
            Figure::new("had again of half", 100.0 * parts[0].get("again_ratio"), "%")
                .at_least(100.0),
        ]
    },
};

/// Bytes of address space, by `RLIMIT_AS` before the program starts.
const ADDRESS_SPACE: u64 = 256 << 20;
/// Size of the largest block.
const LARGEST: usize = 64 << 10;
/// More blocks than fit: they are of 5 KiB in the mean.
const MOST_BLOCKS: usize = 100_000;

fn run(setup: &Setup) -> Measured {
    expect_limit();
    let mut source = setup.source(0);
    let mut blocks = Books::new(MOST_BLOCKS);
    let reached = fill(&mut source, &mut blocks, usize::MAX);
    if reached == usize::MAX {
        fail!("the limit on the address space does not hold");
    }
    source.rng.shuffle(&mut blocks);
    let mut freed = 0;
    for _ in 0..blocks.len() / 2 {
        if let Some(block) = blocks.pop() {
            freed += block.size();
            source.free(block);
        }
    }
    let wanted = freed / 2;
    let again = fill(&mut source, &mut blocks, wanted);
    source.free_all(&mut blocks);
    Measured::default()
        .with("reached_bytes", reached)
        .with("freed_bytes", freed)
        .with("again_ratio", again as f64 / wanted.max(1) as f64)
}

/// Allocates blocks of `bytes`, or until there is no memory, which errno has to say. Returns the
/// bytes it got, at most `bytes`.
fn fill(source: &mut Source, blocks: &mut Books<Block>, bytes: usize) -> usize {
    let mut sum = 0;
    while sum < bytes {
        let size = any_magnitude(&mut source.rng, LARGEST);
        // SAFETY: the thread's own errno.
        unsafe { *libc::__errno_location() = 0 };
        let Some(block) = source.try_allocate(size) else {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOMEM) {
                fail!("no memory, but errno is not ENOMEM: {error:?}");
            }
            break;
        };
        sum += size;
        blocks.push(block);
    }
    sum.min(bytes)
}

/// Fails if the process may have more than it should.
fn expect_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is ours to write to.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    if !read || limit.rlim_cur > ADDRESS_SPACE {
        fail!("start this under `ulimit -v {}`", ADDRESS_SPACE / 1024);
    }
}
