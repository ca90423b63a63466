//! fork from a multi-threaded process at any moment, also while other threads allocate with a
//! stream's lock held, and from a signal handler that interrupted malloc. Parent and child go on
//! allocating; nothing ever hangs. A hanging process ends by its own alarm.

mod common;

use common::passes;

fn fork(mode: &str) {
    passes("fork.c", &[mode]);
}

#[test]
fn while_threads_allocate() {
    fork("storm");
}

#[test]
fn while_threads_allocate_under_stream_locks() {
    fork("storm_stdio");
}

#[test]
fn while_threads_start_and_end() {
    fork("storm_thread_ends");
}

#[test]
fn by_many_threads_at_once() {
    fork("all_fork");
}

#[test]
fn by_children_that_became_multi_threaded() {
    fork("generations");
}

#[test]
fn in_a_signal_handler() {
    fork("in_handler");
}

#[test]
fn in_a_signal_handler_of_any_thread() {
    fork("in_handler_threads");
}

#[test]
fn with_handlers_that_allocate() {
    fork("atfork_handlers");
}

#[test]
fn spawn_system_and_popen() {
    fork("spawns");
}

#[test]
fn caches_of_vanished_threads_come_back() {
    fork("caches_come_back");
}
