//! What a thread has cached is taken from it while it sleeps: by the helper, and by malloc_trim.
//! No block is lost or given out twice by that.

mod common;

use common::{compile, passes, run};

#[test]
fn threads_that_sleep_keep_little() {
    passes("drain.c", &["sleepers"]).expect_done();
}

#[test]
fn threads_that_run_lose_no_block() {
    passes("drain.c", &["runners"]).expect_done();
}

#[test]
fn threads_that_start_and_end_lose_no_block() {
    passes("drain.c", &["ends"]).expect_done();
}

#[test]
fn children_are_whole() {
    passes("drain.c", &["forks"]).expect_done();
}

#[test]
fn a_double_free_of_what_was_taken_is_found() {
    run(&compile("drain.c"), &["double_free"]).expect_double_free();
}
