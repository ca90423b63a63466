//! Few runs, summed up: medians, and ratios of pairs with an interval.
//!
//! The figures of a round belong together: what disturbs the machine for longer than a run falls
//! on all of a round. So the ratio is taken within each round. Ratios multiply, so their
//! logarithms are averaged, and the interval is Student's t for the mean of those logarithms. It
//! is exact for few pairs if the logarithms are normally distributed.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Fewer pairs have no interval.
pub const LEAST_PAIRS: usize = 3;

/// The probability with which the interval covers the true ratio.
const CONFIDENCE: f64 = 0.95;

/// How one figure of an allocator compares with Arenite's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Geometric mean over the rounds of this allocator / Arenite.
    pub value: f64,
    /// The interval around it.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Ratio {
    /// The ratio of pairs of this allocator and Arenite. None without pairs, or if a figure is
    /// zero, as CPU times below the kernel's resolution are.
    pub fn of_pairs(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let logarithms: Vec<_> = pairs.into_iter().map(|(this, base)| (this / base).ln()).collect();
        if logarithms.is_empty() || !logarithms.iter().all(|logarithm| logarithm.is_finite()) {
            return None;
        }
        let count = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / count;
        let half = (logarithms.len() >= LEAST_PAIRS).then(|| {
            let squares: f64 = logarithms.iter().map(|one| (one - mean).powi(2)).sum();
            let error = (squares / (count - 1.0) / count).sqrt();
            // A distribution with at least one degree of freedom exists.
            let quantile = StudentsT::new(0.0, 1.0, count - 1.0)
                .map_or(f64::INFINITY, |t| t.inverse_cdf(0.5 + CONFIDENCE / 2.0));
            quantile * error
        });
        Some(Self {
            value: mean.exp(),
            low: half.map(|half| (mean - half).exp()),
            high: half.map(|half| (mean + half).exp()),
        })
    }

    /// Whether the interval, if there is one, leaves 1 out.
    pub fn differs(&self) -> Option<bool> {
        let (low, high) = self.low.zip(self.high)?;
        Some(low > 1.0 || high < 1.0)
    }
}

/// One figure over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// None without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found}, not {expected}");
    }

    #[test]
    fn the_interval_is_students_t_of_the_logarithms() {
        // Logarithms 0.1, 0.2, 0.3, 0.4, 0.5: mean 0.3, variance 0.025, error of the mean
        // sqrt(0.005). The 97.5 % quantile of t with 4 degrees of freedom is 2.776445 in tables.
        let base = [3.0, 0.5, 7.0, 1.0, 2.0];
        let pairs = (1u8..).zip(base).map(|(n, base)| ((f64::from(n) / 10.0).exp() * base, base));
        let ratio = Ratio::of_pairs(pairs).expect("a ratio");
        let half = 2.776_445_105 * 0.005f64.sqrt();
        close(ratio.value, 0.3f64.exp());
        close(ratio.low.expect("an interval"), (0.3 - half).exp());
        close(ratio.high.expect("an interval"), (0.3 + half).exp());
        assert_eq!(ratio.differs(), Some(true));
    }

    #[test]
    fn an_interval_that_spans_1_shows_no_difference() {
        let ratio = Ratio::of_pairs([(2.0, 1.0), (1.0, 2.0), (1.1, 1.0)]).expect("a ratio");
        assert_eq!(ratio.differs(), Some(false));
        // The same figure every time, as faults often are.
        let ratio = Ratio::of_pairs([(5.0, 5.0); 4]).expect("a ratio");
        assert_eq!((ratio.value, ratio.low, ratio.high), (1.0, Some(1.0), Some(1.0)));
        assert_eq!(ratio.differs(), Some(false));
        let ratio = Ratio::of_pairs([(10.0, 5.0); 4]).expect("a ratio");
        assert_eq!(ratio.differs(), Some(true));
    }

    #[test]
    fn few_pairs_have_no_interval() {
        let ratio = Ratio::of_pairs([(2.0, 1.0), (8.0, 1.0)]).expect("a ratio");
        close(ratio.value, 4.0);
        assert_eq!((ratio.low, ratio.high, ratio.differs()), (None, None, None));
        assert_eq!(Ratio::of_pairs([]), None);
    }

    #[test]
    fn a_figure_of_zero_has_no_ratio() {
        for pair in [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)] {
            assert_eq!(Ratio::of_pairs([(1.0, 1.0), (1.0, 1.0), pair]), None);
        }
    }

    /// Of intervals at 95 %, about 95 in 100 cover the truth: a check that does not use the
    /// formula.
    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(1);
        let truth = 1.25;
        // The sum of twelve uniform numbers is close to normal, with variance 1.
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let covered = (0..4000)
            .filter(|_| {
                let pairs: Vec<_> = (0..5)
                    .map(|_| (truth * (0.1 * normal()).exp(), (0.1 * normal()).exp()))
                    .collect();
                let ratio = Ratio::of_pairs(pairs).expect("a ratio");
                ratio.low.zip(ratio.high).is_some_and(|(low, high)| low < truth && truth < high)
            })
            .count();
        // Four standard deviations of a binomial to either side.
        assert!((3745..=3855).contains(&covered), "{covered} of 4000");
    }

    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }
}
