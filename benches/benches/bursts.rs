//! Many blocks allocated, then all freed: in the order of their birth, or backwards.

use benches::blocks::{Block, layout};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;

/// Bytes of each block.
const SIZE: usize = 64;

fn burst<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    count: usize,
    backwards: bool,
) {
    let mut blocks = Vec::with_capacity(count);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for _ in 0..count {
                blocks.push(Block::new(allocator, const { layout(SIZE) }));
            }
            if backwards {
                blocks.drain(..).rev().for_each(|block| block.free(allocator));
            } else {
                blocks.drain(..).for_each(|block| block.free(allocator));
            }
        });
    });
}

fn counts(criterion: &mut Criterion) {
    for count in [100, 10_000] {
        for (order, backwards) in [("forwards", false), ("backwards", true)] {
            let mut group = criterion.benchmark_group(format!("bursts/{count}/{order}"));
            group.throughput(Throughput::Elements(count as u64));
            for_each_allocator!(burst, &mut group, count, backwards);
            group.finish();
        }
    }
}

criterion_group!(benches, counts);
criterion_main!(benches);
