//! What the models in `tests/` share. Empty unless built with `--cfg loom`.
//!
//! The models call the shipping types of `arenite::sync`. An arena itself does not compile under
//! loom (it lives on the kernel's memory), so [`arena::Arena`] puts the shipping lock, list and
//! attach word together in the order in which `src/arena/mod.rs` does.
#![cfg(loom)]

pub mod arena;
pub mod blocks;

/// Runs a model through the interleavings with at most `preemptions` preemptions: so often in all
/// a thread is interrupted though it could go on. Models of three threads with several steps each
/// have too many interleavings to look at them all.
pub fn check_bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
