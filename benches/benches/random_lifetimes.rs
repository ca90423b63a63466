//! An array of live blocks: a random one is freed, a new one of a random size takes its place.

use benches::blocks::{Block, random_layouts, random_places};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::{GlobalAlloc, Layout};

/// Random steps drawn in advance; one iteration takes them all.
const STEPS: usize = 16 * 1024;

fn replace<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    steps: &[(usize, Layout)],
    live: usize,
) {
    let mut blocks: Vec<Block> =
        steps.iter().cycle().take(live).map(|step| Block::new(allocator, step.1)).collect();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for &(place, layout) in steps {
                blocks[place].free(allocator);
                blocks[place] = Block::new(allocator, layout);
            }
        });
    });
    blocks.into_iter().for_each(|block| block.free(allocator));
}

fn live_blocks(criterion: &mut Criterion) {
    let layouts = random_layouts(STEPS, 16..=1024);
    for live in [1_000, 100_000] {
        let steps: Vec<_> =
            random_places(STEPS, live).into_iter().zip(layouts.iter().copied()).collect();
        let mut group = criterion.benchmark_group(format!("random_lifetimes/{live}"));
        group.throughput(Throughput::Elements(STEPS as u64));
        for_each_allocator!(replace, &mut group, &steps, live);
        group.finish();
    }
}

criterion_group!(benches, live_blocks);
criterion_main!(benches);
