//! One block of zeros allocated, one byte of each of its pages written, and freed.

use benches::blocks::{Block, layout};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;
use std::hint::black_box;

fn zeros<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    size: usize,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let block = Block::zeroed(allocator, black_box(layout(size)));
            block.touch_from(0);
            block.free(allocator);
        });
    });
}

fn sizes(criterion: &mut Criterion) {
    for size in [64, 4 << 10, 256 << 10, 4 << 20] {
        let mut group = criterion.benchmark_group(format!("zeroed/{size}"));
        for_each_allocator!(zeros, &mut group, size);
        group.finish();
    }
}

criterion_group!(benches, sizes);
criterion_main!(benches);
