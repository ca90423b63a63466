//! What a scenario measured, and the figures that follow from it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one child measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The object that `malloc` was in.
    pub malloc: String,
    /// Quantities by name; the name ends with the unit.
    pub values: BTreeMap<String, f64>,
    /// How long calls took, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

impl Measured {
    /// Adds a quantity.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Quantity>) -> Self {
        self.values.insert(name.to_owned(), value.into().0);
        self
    }

    /// A quantity that the scenario measures; not a number if it is missing, which keeps no limit.
    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }

    /// A quantity in bytes, as MiB.
    pub fn mib(&self, name: &str) -> f64 {
        self.get(name) / f64::from(1 << 20)
    }
}

/// A number of any kind that is measured.
pub struct Quantity(f64);

impl From<f64> for Quantity {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<usize> for Quantity {
    fn from(value: usize) -> Self {
        Self(value as f64)
    }
}

/// The calls' times while memory was trimmed, and for as long without.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waits {
    pub trim: Distribution,
    pub control: Distribution,
}

/// A distribution of times, in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Distribution {
    pub calls: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    /// Calls that took less than each of [`BOUNDS_NS`] and no less than the one before; then the
    /// rest.
    pub histogram: Vec<u64>,
}

/// The bounds of [`Distribution::histogram`].
pub const BOUNDS_NS: [u64; 6] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// What a figure must not be beyond.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure of a scenario on an allocator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub limit: Option<Limit>,
}

impl Figure {
    /// A figure without a limit.
    pub fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, limit: None }
    }

    /// The same, not above `limit`.
    pub fn at_most(self, limit: f64) -> Self {
        Self { limit: Some(Limit::AtMost(limit)), ..self }
    }

    /// The same, not below `limit`.
    pub fn at_least(self, limit: f64) -> Self {
        Self { limit: Some(Limit::AtLeast(limit)), ..self }
    }

    /// Whether the limit is kept, if there is one. What is not a number keeps none.
    pub fn kept(&self) -> Option<bool> {
        Some(match self.limit? {
            Limit::AtMost(limit) => self.value <= limit,
            Limit::AtLeast(limit) => self.value >= limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept_at_the_limit_and_by_numbers_only() {
        let figure = |value| Figure::new("", value, "");
        assert_eq!(figure(1.0).kept(), None);
        assert_eq!(figure(1.0).at_most(1.0).kept(), Some(true));
        assert_eq!(figure(1.1).at_most(1.0).kept(), Some(false));
        assert_eq!(figure(1.0).at_least(1.0).kept(), Some(true));
        assert_eq!(figure(0.9).at_least(1.0).kept(), Some(false));
        assert_eq!(figure(f64::NAN).at_most(1.0).kept(), Some(false));
        assert_eq!(figure(f64::NAN).at_least(1.0).kept(), Some(false));
    }
}
