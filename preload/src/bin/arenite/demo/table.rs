//! The figures of both allocators, side by side.

use super::load::Outcome;
use super::{REST, ROUNDS, Round};
use crate::allocator::Choice;
use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use indicatif::{HumanBytes, HumanCount};
use std::fmt::{self, Display};

/// All rounds so far.
#[derive(Debug)]
pub struct Totals {
    arenite: Column,
    system: Column,
    /// Requests per second of each round.
    rates: Vec<f64>,
}

/// One allocator's rounds together. Of memory the most counts.
#[derive(Debug)]
struct Column {
    load: Outcome,
    peak_rss_bytes: u64,
    rest_rss_bytes: u64,
}

impl Column {
    fn new() -> Result<Self> {
        Ok(Self { load: Outcome::new()?, peak_rss_bytes: 0, rest_rss_bytes: 0 })
    }

    /// A latency in milliseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        self.load.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl Totals {
    pub fn new() -> Result<Self> {
        Ok(Self { arenite: Column::new()?, system: Column::new()?, rates: Vec::new() })
    }

    pub fn add(&mut self, allocator: Choice, round: Round) -> Result<()> {
        self.rates.push(round.load.rate());
        let column = match allocator {
            Choice::Arenite => &mut self.arenite,
            Choice::System => &mut self.system,
        };
        column.peak_rss_bytes = column.peak_rss_bytes.max(round.peak_rss_bytes);
        column.rest_rss_bytes = column.rest_rss_bytes.max(round.rest_rss_bytes);
        column.load.elapsed += round.load.elapsed;
        column.load.add(round.load)
    }

    /// The first error of all rounds.
    pub fn first_error(&self) -> Option<&str> {
        [&self.arenite, &self.system].iter().find_map(|column| column.load.first_error.as_deref())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["", Choice::Arenite.title(), Choice::System.title(), "Arenite / system"]);
        let mut row = |name: &str, show: fn(f64) -> String, figure: &dyn Fn(&Column) -> f64| {
            let (ours, theirs) = (figure(&self.arenite), figure(&self.system));
            let ratio = if theirs > 0.0 { format!("{:.2}", ours / theirs) } else { String::new() };
            table.add_row([name.to_owned(), show(ours), show(theirs), ratio]);
        };
        row("Requests per second", whole, &|column| column.load.rate());
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let name = format!("Latency {name}");
            row(&name, |ms| format!("{ms:.2} ms"), &|column| column.quantile(quantile));
        }
        row("Peak RSS", bytes, &|column| column.peak_rss_bytes as f64);
        let rest = format!("RSS {} s after the load", REST.as_secs());
        row(&rest, bytes, &|column| column.rest_rss_bytes as f64);
        row("Errors", whole, &|column| column.load.errors as f64);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table())?;
        let rates: Vec<_> = ROUNDS
            .iter()
            .zip(&self.rates)
            .map(|(allocator, &rate)| format!("{} {}", allocator.title(), whole(rate)))
            .collect();
        writeln!(f, "Requests per second by round: {}.", rates.join(", "))?;
        writeln!(f, "RSS is the service's alone, the larger of two rounds.")?;
        writeln!(f, "This is a demonstration on a shared machine, not a benchmark.")
    }
}

fn whole(number: f64) -> String {
    HumanCount(number.round() as u64).to_string()
}

fn bytes(number: f64) -> String {
    HumanBytes(number as u64).to_string()
}
