//! What requests that are refused leave behind: nothing.

mod common;

use common::{Outcome, compile, on_system, run_in, scratch};

/// Runs a mode of the program, which may have four arenas; what it says, and what it reports at its end.
#[track_caller]
fn refuses(mode: &str) -> Option<(Outcome, serde_json::Value)> {
    let report = scratch().join(format!("{mode}.json"));
    let variables =
        [("MALLOC_ARENA_MAX", "4"), ("ARENITE_REPORT", report.to_str().expect("a path of text"))];
    let outcome = run_in(&compile("refusals.c"), &[mode], &variables);
    outcome.expect_done();
    if on_system() {
        return None;
    }
    let text = std::fs::read(&report).expect("a report");
    Some((outcome, serde_json::from_slice(&text).expect("a report in JSON")))
}

#[test]
fn a_block_survives_a_realloc_that_is_refused() {
    if let Some((outcome, _)) = refuses("realloc_is_refused") {
        assert!(outcome.number("refused") > 0, "{outcome}");
    }
}

#[test]
fn what_a_refused_request_took_can_be_had() {
    refuses("refused_growth_is_free");
}

#[test]
fn many_refusals_take_nothing_away() {
    if let Some((_, report)) = refuses("refused_often") {
        let arenas = report["arenas"].as_u64().expect("a number of arenas");
        assert!(arenas <= 4, "{report}");
    }
}

#[test]
fn small_requests_are_served_after_a_large_one_was_refused() {
    refuses("small_ones_go_on");
}

#[test]
fn what_is_locked_is_not_trimmed_at_each_free() {
    if let Some((_, report)) = refuses("locked_top") {
        let madvise = report["kernel_calls"]["madvise"].as_u64().expect("a number of calls");
        assert!(madvise < 2000, "{report}");
    }
}
