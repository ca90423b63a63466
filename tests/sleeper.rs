//! What a thread that sleeps has kept goes home: the helper takes it.

use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

static ARENITE: Arenite = Arenite::new().decay_ms(50);

/// So much is in use that a helper may be started.
const MUCH: Layout = Layout::new::<[u8; 100_000]>();
const COUNT: usize = 100;
/// Small enough to be kept.
const BUFFER: Layout = Layout::new::<[u8; 60_000]>();

#[test]
fn the_large_block_of_a_thread_that_sleeps_goes_home() {
    let (kept, has_kept) = sync_channel(0);
    let (woken, is_woken) = sync_channel::<()>(0);
    let thread = thread::spawn(move || {
        // SAFETY: the layouts are not empty; the blocks are this thread's.
        unsafe {
            let much = [(); COUNT].map(|()| ARENITE.alloc(MUCH));
            // Again where the helper was faster.
            let has_kept = (0..1000).any(|_| {
                (0..3).for_each(|_| ARENITE.dealloc(ARENITE.alloc(BUFFER), BUFFER));
                stats::collect().cached_bytes >= BUFFER.size()
            });
            kept.send(has_kept).expect("the test waits");
            is_woken.recv().expect("the test goes on");
            much.iter().for_each(|&block| ARENITE.dealloc(block, MUCH));
        }
    });
    assert_eq!(has_kept.recv(), Ok(true));
    let begun = Instant::now();
    while stats::collect().cached_bytes >= BUFFER.size() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the block stays with the thread");
        thread::sleep(Duration::from_millis(5));
    }
    woken.send(()).expect("the thread waits");
    assert!(thread.join().is_ok());
}
