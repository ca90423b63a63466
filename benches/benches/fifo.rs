//! A queue of live blocks: the oldest is freed, a new one of a random size takes its place.

use benches::blocks::{Block, random_layouts};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::{GlobalAlloc, Layout};

/// Blocks freed and allocated in one iteration.
const STEPS: usize = 1024;

fn queue<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    layouts: &[Layout],
    live: usize,
) {
    let mut queue: Vec<Block> =
        layouts.iter().cycle().take(live).map(|layout| Block::new(allocator, *layout)).collect();
    let mut oldest = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for layout in layouts {
                queue[oldest].free(allocator);
                queue[oldest] = Block::new(allocator, *layout);
                oldest = if oldest + 1 == live { 0 } else { oldest + 1 };
            }
        });
    });
    queue.into_iter().for_each(|block| block.free(allocator));
}

fn lengths(criterion: &mut Criterion) {
    let layouts = random_layouts(STEPS, 16..=1024);
    for live in [100, 10_000] {
        let mut group = criterion.benchmark_group(format!("fifo/{live}"));
        group.throughput(Throughput::Elements(STEPS as u64));
        for_each_allocator!(queue, &mut group, &layouts, live);
        group.finish();
    }
}

criterion_group!(benches, lengths);
criterion_main!(benches);
