//! Threads that start and end at any rate, free each other's blocks, allocate to their very end,
//! run on the smallest stacks and are cancelled.

mod common;

use common::{Outcome, compile_with, on_system, passes, run};

fn threads(mode: &str) -> Outcome {
    passes("threads.c", &[mode])
}

#[test]
fn ten_thousand_threads_in_batches_keep_the_memory_flat() {
    let outcome = threads("churn");
    // The first few batches are no measure: how many threads run at once differs.
    let early = outcome.number("rss_kib_after_1000");
    let late = outcome.number("rss_kib_after_all");
    assert!(early > 0 && late <= 2 * early, "{early} KiB, then {late} KiB");
    // What a thread's cache holds at its end is still there for the next thread.
    let lost = outcome.number("in_use_after_all");
    assert!(on_system() || lost < 64 * 1024, "{lost} bytes in use at the end");
}

#[test]
fn threads_that_follow_others_to_their_arena_leave_no_cache_behind_each() {
    let outcome = threads("followers");
    let [early, late] =
        ["rss_kib_after_some", "rss_kib_after_all"].map(|name| outcome.number(name));
    // A cache has some 4 KiB, and there are never more than two threads.
    assert!(early > 0 && late < early + 3000, "{early} KiB, then {late} KiB");
}

#[test]
fn blocks_travel_between_threads_intact() {
    threads("travel");
}

#[test]
fn what_a_producer_allocates_and_a_consumer_frees_comes_back() {
    threads("producer_consumer");
}

#[test]
fn destructors_of_keys_allocate_after_the_allocators_own() {
    threads("end_of_thread");
}

#[test]
fn works_without_a_key_of_its_own() {
    threads("no_key_left");
}

#[test]
fn detached_threads() {
    threads("detached");
}

#[test]
fn the_smallest_stacks() {
    threads("small_stacks");
}

#[test]
fn many_threads_at_once() {
    threads("many_at_once");
}

#[test]
fn no_function_is_a_cancellation_point() {
    threads("cancellation");
}

#[test]
fn the_process_ends_while_threads_allocate() {
    for _ in 0..20 {
        threads("exit_under_load");
    }
}

#[test]
fn threads_outlive_the_main_thread() {
    let outcome = threads("main_ends_first");
    assert_eq!(outcome.number("outlived"), 1, "{outcome}");
}

#[test]
fn cxx_static_and_thread_local_objects() {
    let program = compile_with("thread_local.cpp", &["-std=c++17"]);
    let outcome = run::<&str>(&program, &[]);
    outcome.expect_success();
    assert_eq!(outcome.number("main_done"), 1);
    assert_eq!(outcome.number("static_destroyed"), 1);
}
