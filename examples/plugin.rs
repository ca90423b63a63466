//! A shared library on Arenite that comes by dlopen(3), as an extension of a scripting language does: with more
//! thread-local variables than glibc reserves room for, which the feature `dynamic_tls` allows.
//!
//! `cargo build --release -p arenite --example plugin --features dynamic_tls` makes
//! `target/release/examples/libplugin.so`. (One that may be closed while threads live that used it must be
//! linked with `-z nodelete`, see README.md.)

use arenite::Arenite;
use std::cell::Cell;
use std::thread;

#[global_allocator]
static GLOBAL: Arenite = Arenite::new();

const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: [Cell<u8>; SCRATCH_BYTES] = const { [const { Cell::new(0) }; SCRATCH_BYTES] };
}

/// Allocates, on a thread, and uses what is local to it; the bytes of all lines.
fn work(number: u8) -> usize {
    let lines: Vec<String> = (10_000..20_000).map(|line| format!("{number}.{line}")).collect();
    SCRATCH.with(|scratch| {
        for (byte, line) in scratch.iter().zip(lines.iter().cycle()) {
            byte.set(byte.get() + line.len() as u8);
        }
        let sum: usize = scratch.iter().map(|byte| usize::from(byte.get())).sum();
        assert_eq!(sum, SCRATCH_BYTES * 7, "thread-local variables begin as zeros");
    });
    lines.iter().map(String::len).sum()
}

/// What the host calls.
#[unsafe(no_mangle)]
pub extern "C" fn run() {
    let threads: Vec<_> = (1..=4).map(|number| thread::spawn(move || work(number))).collect();
    for thread in threads {
        assert_eq!(thread.join().expect("no panic"), 70_000);
    }
}
