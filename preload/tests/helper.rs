//! The helper thread: when it sleeps, where it runs, and what else depends on where threads run.

mod common;

use common::{compile, on_system, passes, run_in};

/// Runs a mode with a short decay time.
#[track_caller]
fn quickly(mode: &str) {
    run_in(&compile("helper.c"), &[mode], &[("ARENITE_CONF", "decay_ms:160")]).expect_done();
}

#[test]
fn sleeps_beside_memory_that_the_kernel_does_not_take() {
    quickly("sleeps_beside_locked");
}

#[test]
fn huge_blocks_are_not_kept_beside_a_process_that_grows() {
    let variables = [("ARENITE_CONF", "decay_ms:1800000")];
    run_in(&compile("helper.c"), &["kept_beside_mappings"], &variables).expect_done();
}

#[test]
fn sleeps_in_children_of_a_busy_process() {
    quickly("sleeps_in_children");
}

#[test]
fn runs_as_the_program_not_as_who_started_it() {
    passes("helper.c", &["runs_as_the_program"]).expect_done();
}

#[test]
fn is_tried_again_when_no_thread_was_to_be_had() {
    quickly("starts_later");
}

#[test]
fn is_not_there_for_the_last_thread() {
    quickly("none_for_the_last_thread");
}

#[test]
fn is_there_beside_threads_without_blocks() {
    quickly("starts_beside_threads_without_blocks");
}

#[test]
fn is_started_by_the_process_and_not_by_a_child_in_its_memory() {
    quickly("starts_after_a_vfork");
}

#[test]
fn is_one_in_the_child_of_a_handler_that_interrupted_its_start() {
    quickly("starts_one_where_a_handler_forks");
}

#[test]
fn a_thread_with_one_cpu_is_no_measure_of_the_process() {
    let outcome = passes("helper.c", &["counts_cpus_before_pins"]);
    let arenas = outcome.stderr.lines().find_map(|line| line.strip_prefix("arenas         = "));
    // Which knows quotas as well.
    let one_cpu = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
    assert!(on_system() || one_cpu || arenas == Some("2"), "{outcome}");
}
