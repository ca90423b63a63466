//! One block with a large alignment allocated and freed at once.

use benches::blocks::{Block, aligned_layout};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

fn pair<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    layout: Layout,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| Block::new(allocator, black_box(layout)).free(allocator));
    });
}

fn alignments(criterion: &mut Criterion) {
    for align in [64, 4096] {
        for size in [64, 1000, 4096] {
            let mut group = criterion.benchmark_group(format!("aligned/{size}_to_{align}"));
            for_each_allocator!(pair, &mut group, aligned_layout(size, align));
            group.finish();
        }
    }
}

criterion_group!(benches, alignments);
criterion_main!(benches);
