//! Every allocator against the best peer of each program.

use crate::comparison::{ARENITE, CONTROL, Comparison, Measure, NO_PURGE};

/// The results of one program.
pub struct Outcome {
    pub name: String,
    pub kind: crate::programs::Kind,
    pub comparison: Comparison,
    /// Of what commit Arenite was.
    pub commit: String,
}

/// A ratio above which Arenite is said to lose.
pub const LOSS: f64 = 1.05;

/// The least of the peers' figures: of all allocators that did not fail, but Arenite.
pub fn best_peer(comparison: &Comparison, measure: Measure) -> Option<(&str, f64)> {
    comparison
        .allocators
        .iter()
        .map(|allocator| allocator.name.as_str())
        .filter(|name| ![ARENITE, CONTROL, NO_PURGE].contains(name))
        .filter_map(|name| Some((name, comparison.figure(name, measure)?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// An allocator's figure over the best peer's; none if it failed, or nothing was there to measure.
pub fn relative(comparison: &Comparison, allocator: &str, measure: Measure) -> Option<f64> {
    let (_, best) = best_peer(comparison, measure)?;
    let own = comparison.figure(allocator, measure)?;
    (best > 0.0 && own > 0.0).then(|| own / best)
}

/// A geometric mean over programs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    pub value: f64,
    /// Programs that it is over: those that the allocator did not fail.
    pub programs: usize,
}

/// The geometric mean of values above 0; none of none.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<Mean> {
    let (sum, programs) =
        values.into_iter().fold((0.0, 0), |(sum, count), value| (sum + value.ln(), count + 1));
    (programs > 0).then(|| Mean { value: (sum / programs as f64).exp(), programs })
}

/// The geometric mean of an allocator's ratios to the best peers.
pub fn mean_relative<'a>(
    results: impl IntoIterator<Item = &'a Outcome>,
    allocator: &str,
    measure: Measure,
) -> Option<Mean> {
    geometric_mean(
        results.into_iter().filter_map(|result| relative(&result.comparison, allocator, measure)),
    )
}

/// The names of all allocators, in the order of their first appearance.
pub fn allocators(results: &[Outcome]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for allocator in results.iter().flat_map(|result| &result.comparison.allocators) {
        if !names.contains(&allocator.name) {
            names.push(allocator.name.clone());
        }
    }
    names
}

/// A program on which Arenite needs more than the best peer.
pub struct Loss<'a> {
    pub program: &'a str,
    pub ratio: f64,
    pub best: &'a str,
}

/// All programs with a ratio above `LOSS`, the largest first.
pub fn losses(outcomes: &[Outcome], measure: Measure) -> Vec<Loss<'_>> {
    let mut losses: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| {
            let ratio = relative(&outcome.comparison, ARENITE, measure)?;
            let (best, _) = best_peer(&outcome.comparison, measure)?;
            (ratio > LOSS).then_some(Loss { program: &outcome.name, ratio, best })
        })
        .collect();
    losses.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
    losses
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::programs::Kind;

    /// A fixture, nothing measured: each allocator's wall time in s, and its peak RSS is twice so
    /// many bytes; a negative time is a failure.
    pub fn fixture(name: &str, times: &[(&str, f64)]) -> Outcome {
        let allocators: Vec<_> = times
            .iter()
            .map(|&(name, time)| {
                let sample = serde_json::json!({"wall_s": time, "user_s": time, "system_s": 0.0,
                    "peak_rss_bytes": (2.0 * time) as u64, "minor_faults": 0, "major_faults": 0});
                let failure = (time < 0.0).then_some("it broke");
                serde_json::json!({"name": name, "library": null, "environment": {},
                    "failure": failure, "samples": [sample], "summary": null})
            })
            .collect();
        let text = serde_json::json!({"version": 1, "command": ["fixture"], "runs": 1,
            "allocators": allocators});
        let comparison = Comparison::parse(&text.to_string()).expect("a fixture of the schema");
        Outcome { name: name.to_owned(), kind: Kind::Program, comparison, commit: String::new() }
    }

    #[test]
    fn geometric_means() {
        let mean = geometric_mean([2.0, 8.0]).expect("two values");
        assert!((mean.value - 4.0).abs() < 1e-12);
        assert_eq!(mean.programs, 2);
        assert_eq!(geometric_mean([]), None);
    }

    #[test]
    fn best_peer_is_neither_arenite_nor_failed() {
        let result = fixture(
            "a",
            &[(ARENITE, 1.0), (CONTROL, 0.9), ("system", 4.0), ("broken", -1.0), ("fast", 2.0)],
        );
        assert_eq!(best_peer(&result.comparison, Measure::Wall), Some(("fast", 2.0)));
        assert_eq!(relative(&result.comparison, ARENITE, Measure::Wall), Some(0.5));
        assert_eq!(relative(&result.comparison, "fast", Measure::Wall), Some(1.0));
        assert_eq!(relative(&result.comparison, "broken", Measure::Wall), None);
        assert_eq!(relative(&result.comparison, "absent", Measure::Wall), None);
        assert_eq!(relative(&result.comparison, ARENITE, Measure::MinorFaults), None);
    }

    #[test]
    fn means_count_the_programs_that_ran() {
        let results = [
            fixture("a", &[(ARENITE, 2.0), ("system", 1.0), ("fragile", 4.0)]),
            fixture("b", &[(ARENITE, 8.0), ("system", 1.0), ("fragile", -1.0)]),
        ];
        let arenite = mean_relative(&results, ARENITE, Measure::Wall).expect("it ran");
        assert!((arenite.value - 4.0).abs() < 1e-12);
        assert_eq!(arenite.programs, 2);
        let fragile = mean_relative(&results, "fragile", Measure::Wall).expect("it ran once");
        assert_eq!((fragile.value, fragile.programs), (4.0, 1));
        assert_eq!(allocators(&results), [ARENITE, "system", "fragile"]);
    }

    #[test]
    fn losses_are_those_beyond_the_limit() {
        let results = [
            fixture("near", &[(ARENITE, 104.0), ("system", 100.0)]),
            fixture("lost", &[(ARENITE, 150.0), ("system", 100.0), ("other", 120.0)]),
            fixture("won", &[(ARENITE, 50.0), ("system", 100.0)]),
        ];
        let losses = losses(&results, Measure::Wall);
        assert_eq!(losses.len(), 1);
        assert_eq!((losses[0].program, losses[0].best, losses[0].ratio), ("lost", "system", 1.5));
    }
}
