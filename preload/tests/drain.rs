//! What a thread has cached is taken from it while it sleeps: by the helper, and by malloc_trim.
//! No block is lost or given out twice by that.

mod common;

use common::{compile, passes, run, run_in};

#[test]
fn threads_that_sleep_keep_little() {
    passes("drain.c", &["sleepers"]).expect_done();
}

#[test]
fn threads_that_sleep_again_keep_little() {
    let settings = [("ARENITE_CONF", "decay_ms:200")];
    run_in(&compile("drain.c"), &["sleepers_again"], &settings).expect_done();
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
fn threads_that_only_end_take_no_cache() {
    passes("drain.c", &["detached"]).expect_done();
}

#[test]
fn a_thread_that_is_gone_is_left_alone() {
    passes("drain.c", &["raw_exit"]).expect_done();
}

#[test]
fn no_handler_waits_for_a_thread_that_is_drained() {
    passes("in_drain.c", &["fork_in_handler"]).expect_done();
}

#[test]
fn no_child_waits_for_who_drained_its_thread() {
    passes("in_drain.c", &["child_without_handlers"]).expect_done();
}

#[test]
fn a_child_in_the_same_memory_waits_for_who_drains_its_thread() {
    passes("in_drain.c", &["child_in_the_same_memory"]).expect_done();
}

#[test]
fn a_blocked_signal_stays_blocked() {
    passes("drain.c", &["blocked_signal"]).expect_done();
}

#[test]
fn children_are_whole() {
    passes("drain.c", &["forks"]).expect_done();
}

#[test]
fn a_double_free_of_what_was_taken_is_found() {
    run(&compile("drain.c"), &["double_free"]).expect_double_free();
}
