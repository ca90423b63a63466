//! The figures for people to read, and for programs.

use crate::allocators::ARENITE;
use crate::driver::{Outcome, Report};
use crate::report::{BOUNDS_NS, Distribution, Figure, Limit};
use crate::scenarios;
use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::fmt::{self, Display};

/// Everything that is printed.
pub struct Screen<'a>(pub &'a Report<'a>);

impl Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in &scenarios::ALL {
            let of_scenario = |outcome: &&Outcome| outcome.scenario == scenario.name;
            let outcomes: Vec<_> = self.0.outcomes.iter().filter(of_scenario).collect();
            if !outcomes.is_empty() {
                writeln!(f, "\n{}: {}", scenario.name, scenario.about)?;
                writeln!(f, "{}", figures(&outcomes))?;
                broken(&outcomes, f)?;
                waits(&outcomes, f)?;
            }
        }
        self.verdict(f)
    }
}

impl Screen<'_> {
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: Vec<_> =
            self.0.outcomes.iter().filter(|outcome| outcome.allocator == ARENITE).collect();
        let limits = own.iter().flat_map(|outcome| &outcome.figures);
        let limits = limits.filter(|figure| figure.limit.is_some()).count();
        let missed: usize = own.iter().map(|outcome| outcome.missed().count()).sum();
        if limits > 0 {
            writeln!(f, "\nArenite keeps {} of {limits} limits.", limits - missed)?;
        }
        let failed = self.0.outcomes.iter().filter(|outcome| outcome.fails).count();
        if failed > 0 {
            writeln!(f, "{failed} broken runs: they crashed, hung or lost bytes.")?;
        }
        Ok(())
    }
}

/// A row for the limits and one for each allocator, a column for each figure.
fn figures(outcomes: &[&Outcome]) -> Table {
    let mut columns: Vec<&Figure> = Vec::new();
    for figure in outcomes.iter().flat_map(|outcome| &outcome.figures) {
        if columns.iter().all(|column| column.name != figure.name) {
            columns.push(figure);
        }
    }
    let header = std::iter::once("").chain(columns.iter().map(|figure| figure.name));
    let mut table = new_table(&header.chain(["limit kept"]).collect::<Vec<_>>());
    let mut limits = vec![Cell::new("limit")];
    limits.extend(columns.iter().map(|figure| right(limit(figure))));
    table.add_row(limits);
    for outcome in outcomes {
        let mut row = vec![Cell::new(&outcome.allocator)];
        for column in &columns {
            let figure = outcome.figures.iter().find(|figure| figure.name == column.name);
            let value = figure.map(|figure| format!("{:.2} {}", figure.value, figure.unit));
            row.push(right(value.unwrap_or_else(|| "–".to_owned())));
        }
        row.push(Cell::new(outcome.verdict()));
        table.add_row(row);
    }
    table
}

impl Outcome {
    /// Whether the limits are kept, in a word.
    fn verdict(&self) -> String {
        let missed: Vec<_> = self.missed().map(|figure| figure.name).collect();
        let limited = self.figures.iter().filter(|figure| figure.limit.is_some()).count();
        match (limited, missed.len()) {
            (0, _) => "–".to_owned(),
            (_, 0) => "yes".to_owned(),
            (1, _) => "no".to_owned(),
            _ => format!("no: {}", missed.join("; ")),
        }
    }
}

fn broken(outcomes: &[&Outcome], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for outcome in outcomes {
        let Some(why) = &outcome.broken else { continue };
        let word = if outcome.fails { "BROKEN" } else { "did not run to its end" };
        let why = why.replace(char::is_control, " ");
        writeln!(f, "{} on {}: {word}: {why}", outcome.scenario, outcome.allocator)?;
    }
    Ok(())
}

/// The histograms of the calls, if any were timed.
fn waits(outcomes: &[&Outcome], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut header = vec!["calls".to_owned(), "during".to_owned()];
    header.extend(BOUNDS_NS.map(|bound| format!("< {}", time(bound))));
    header.extend(["more", "p50", "p99", "p99.9", "longest"].map(str::to_owned));
    let mut table = new_table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for outcome in outcomes {
        let Some(waits) = outcome.measured.iter().find_map(|one| one.waits.as_ref()) else {
            continue;
        };
        let trims = outcome.measured.iter().any(|one| one.get("has_trim") == 1.0);
        table.add_row(row(outcome, if trims { "trim" } else { "(no trim)" }, &waits.trim));
        table.add_row(row(outcome, "control", &waits.control));
    }
    if table.row_count() == 0 {
        return Ok(());
    }
    writeln!(f, "Times of malloc and free of the two other threads, by the clock on the wall:")?;
    writeln!(f, "{table}")?;
    writeln!(
        f,
        "The scheduler is in these times: on a machine with more threads than CPUs, a thread whose \
         time is\nover within a call shows as a long call. The threads offer their CPU between calls, \
         which makes that\nrare; the control, as long and without a trim, tells how rare. An allocator \
         without a malloc_trim of\nits own is not asked for anything in its place."
    )
}

fn row(outcome: &Outcome, during: &str, times: &Distribution) -> Vec<Cell> {
    let mut row = vec![Cell::new(&outcome.allocator), Cell::new(during)];
    row.extend(times.histogram.iter().map(|count| right(count.to_string())));
    let quantiles = [times.p50_ns, times.p99_ns, times.p999_ns, times.max_ns];
    row.extend(quantiles.map(|ns| right(time(ns))));
    row
}

/// Nanoseconds in the unit that suits.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", ns / 1_000),
        _ => format!("{:.4} ms", ns as f64 / 1e6).replace(".0000", ""),
    }
}

fn limit(figure: &Figure) -> String {
    match figure.limit {
        Some(Limit::AtMost(limit)) => format!("<= {limit} {}", figure.unit),
        Some(Limit::AtLeast(limit)) => format!(">= {limit} {}", figure.unit),
        None => String::new(),
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The report as JSON, with the verdict beside each limit.
pub fn with_verdicts(report: &Report) -> Result<Value> {
    let mut value = serde_json::to_value(report)?;
    for (number, outcome) in report.outcomes.iter().enumerate() {
        for (place, figure) in outcome.figures.iter().enumerate() {
            value["outcomes"][number]["figures"][place]["kept"] = json!(figure.kept());
        }
    }
    Ok(value)
}
