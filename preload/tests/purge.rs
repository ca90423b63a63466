//! Memory goes back to the kernel: by the helper thread while the program sleeps, on slow paths
//! without it, and by malloc_trim. What is in use stays intact meanwhile.

mod common;

use common::{compile, passes, run, run_in};

#[test]
fn a_burst_drains_while_its_threads_sleep() {
    passes("purge.c", &["drains"]);
}

#[test]
fn the_helper_blocks_signals_and_ends_when_idle() {
    passes("purge.c", &["helper_comes_and_goes"]);
}

#[test]
fn a_child_gets_a_helper_of_its_own() {
    passes("purge.c", &["in_a_child"]);
}

#[test]
fn a_child_without_atfork_handlers_waits_for_no_helper() {
    passes("purge.c", &["child_without_handlers"]).expect_done();
}

#[test]
fn a_child_that_shares_the_memory_leaves_the_helper_alone() {
    passes("purge.c", &["child_with_shared_memory"]).expect_done();
}

#[test]
fn slow_paths_do_the_work_without_a_helper() {
    let settings = [("ARENITE_CONF", "purge_thread:false")];
    run_in(&compile("purge.c"), &["without_helper"], &settings).expect_success();
}

#[test]
fn what_other_threads_free_goes_back() {
    let settings = [("ARENITE_CONF", "decay_ms:100")];
    run_in(&compile("purge.c"), &["frees_of_others"], &settings).expect_done();
}

#[test]
fn the_helper_has_a_stack_beside_much_that_is_thread_local() {
    let settings = [("ARENITE_CONF", "decay_ms:50")];
    run_in(&compile("thread_locals.c"), &["needs_a_stack"], &settings).expect_done();
}

#[test]
fn trim_gives_fragments_back_and_says_so_once() {
    passes("purge.c", &["trims"]);
}

#[test]
fn who_trims_all_the_time_gets_what_is_worth_it() {
    let settings = [("ARENITE_CONF", "decay_ms:never")];
    run_in(&compile("purge.c"), &["trims_all_the_time"], &settings).expect_done();
}

#[test]
fn what_the_program_locked_keeps_nothing_else_from_going_back() {
    passes("purge.c", &["trims_around_locked"]);
}

#[test]
fn what_describes_free_memory_goes_back_with_it() {
    passes("purge.c", &["trims_descriptors"]);
}

#[test]
fn a_double_free_in_a_page_given_back_is_found() {
    run(&compile("purge.c"), &["double_free"]).expect_double_free();
}

#[test]
fn no_free_starts_the_helper_under_a_lock_of_glibc() {
    passes("purge.c", &["many_joins"]).expect_done();
}

#[test]
fn the_last_thread_of_the_process_is_the_programs() {
    passes("purge.c", &["last_thread"]).expect_done();
}
