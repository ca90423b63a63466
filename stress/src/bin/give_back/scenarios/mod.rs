//! The scenarios, each in its file: what it does, what it measures and what is judged.

use crate::scenario::Scenario;
use std::sync::Barrier;
use std::time::Duration;

mod burst;
mod idle_threads;
mod limited;
mod phases;
mod producer_consumer;
mod ring;
mod service;
mod small_freed;
mod survivors;
mod trim;
mod turnover;

/// All of them, in the order in which they run.
pub const ALL: [Scenario; 11] = [
    burst::SCENARIO,
    survivors::SCENARIO,
    turnover::SCENARIO,
    producer_consumer::SCENARIO,
    phases::SCENARIO,
    service::SCENARIO,
    idle_threads::SCENARIO,
    ring::SCENARIO,
    small_freed::SCENARIO,
    limited::SCENARIO,
    trim::SCENARIO,
];

/// How long a process idles before it is looked at, where nothing else is said.
const IDLE: Duration = Duration::from_secs(2);

/// Reads while all threads stand between two steps: after the one that they wait for, before the
/// next.
fn between_steps<T>(step: &Barrier, reading: impl FnOnce() -> T) -> T {
    step.wait();
    let read = reading();
    step.wait();
    read
}
