//! One thread allocates, another frees. Blocks travel in batches and the emptied batches come
//! back, so that the channels are a small part of what is measured.

use benches::blocks::{Block, random_layouts};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::bounded;
use std::alloc::{GlobalAlloc, Layout};
use std::thread;
use std::time::Instant;

/// Blocks of a batch.
const BATCH: usize = 512;
/// Batches on their way, full or empty.
const BATCHES: usize = 4;

fn producer_consumer<A: GlobalAlloc + Sync>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    layouts: &[Layout],
) {
    let (full, to_free) = bounded::<Vec<Block>>(BATCHES);
    let (emptied, empty) = bounded::<Vec<Block>>(BATCHES);
    for _ in 0..BATCHES {
        emptied.send(Vec::with_capacity(BATCH)).expect("room for all batches");
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            for mut batch in to_free {
                batch.drain(..).for_each(|block| block.free(allocator));
                // The benchmark may be over.
                let _ = emptied.send(batch);
            }
        });
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|batches| {
                let start = Instant::now();
                for _ in 0..batches {
                    let mut batch = empty.recv().expect("the consumer lives");
                    batch.extend(layouts.iter().map(|layout| Block::new(allocator, *layout)));
                    full.send(batch).expect("the consumer lives");
                }
                // All batches are back: every block is freed.
                let back: Vec<_> = empty.iter().take(BATCHES).collect();
                let elapsed = start.elapsed();
                back.into_iter().for_each(|batch| full.send(batch).expect("the consumer lives"));
                elapsed
            });
        });
        drop(full);
    });
}

fn sizes(criterion: &mut Criterion) {
    for sizes in [64..=64, 16..=1024] {
        let name = format!("cross_thread/{}-{}", sizes.start(), sizes.end());
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(BATCH as u64));
        let layouts = random_layouts(BATCH, sizes);
        for_each_allocator!(producer_consumer, &mut group, &layouts);
        group.finish();
    }
}

criterion_group!(benches, sizes);
criterion_main!(benches);
