//! A block that grows as a `Vec` does: from 64 bytes, doubled until it has its size. One byte of
//! each new page is written.

use benches::blocks::{Block, layout};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;

/// Bytes of the block at first.
const FIRST: usize = 64;

fn grow<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    last: usize,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let mut block = Block::new(allocator, layout(FIRST));
            block.touch_from(0);
            let mut size = FIRST;
            while size < last {
                block = block.grow(allocator, size * 2);
                block.touch_from(size);
                size *= 2;
            }
            block.free(allocator);
        });
    });
}

fn sizes(criterion: &mut Criterion) {
    for last in [4 << 10, 64 << 10, 1 << 20, 4 << 20] {
        let mut group = criterion.benchmark_group(format!("realloc_growth/{last}"));
        for_each_allocator!(grow, &mut group, last);
        group.finish();
    }
}

criterion_group!(benches, sizes);
criterion_main!(benches);
