//! One block allocated and freed at once, of one size: with a layout that the compiler knows, as
//! in `Box<T>`, and with one that it does not.

use benches::blocks::{Block, layout};
use benches::for_each_allocator;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;
use std::hint::black_box;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn constant<const SIZE: usize, A: GlobalAlloc>(name: &str, allocator: &A, group: &mut Group) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| Block::new(allocator, const { layout(SIZE) }).free(allocator));
    });
}

fn opaque<A: GlobalAlloc>(name: &str, allocator: &A, group: &mut Group, size: usize) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| Block::new(allocator, black_box(layout(size))).free(allocator));
    });
}

fn size<const SIZE: usize>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("pairs_fixed/{SIZE}/constant"));
    for_each_allocator!(constant::<SIZE, _>, &mut group);
    group.finish();
    let mut group = criterion.benchmark_group(format!("pairs_fixed/{SIZE}/opaque"));
    for_each_allocator!(opaque, &mut group, SIZE);
    group.finish();
}

criterion_group!(benches, size<16>, size<64>, size<256>, size<1024>, size<4096>);
criterion_main!(benches);
