//! One block allocated and freed at once, each of another random size.

use benches::blocks::{Block, random_layouts};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::{GlobalAlloc, Layout};

/// Pairs of one iteration.
const PAIRS: usize = 1024;

fn pairs<A: GlobalAlloc>(
    name: &str,
    allocator: &A,
    group: &mut BenchmarkGroup<WallTime>,
    layouts: &[Layout],
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for layout in layouts {
                Block::new(allocator, *layout).free(allocator);
            }
        });
    });
}

fn sizes(criterion: &mut Criterion) {
    for largest in [1024, 32 * 1024] {
        let mut group = criterion.benchmark_group(format!("pairs_mixed/16-{largest}"));
        group.throughput(Throughput::Elements(PAIRS as u64));
        let layouts = random_layouts(PAIRS, 16..=largest);
        for_each_allocator!(pairs, &mut group, &layouts);
        group.finish();
    }
}

criterion_group!(benches, sizes);
criterion_main!(benches);
