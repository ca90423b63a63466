//! The comparison for people to read.

use super::allocators::{ARENITE, SYSTEM};
use super::measure::Outcome;
use super::statistics::{LEAST_PAIRS, Ratio, Spread};
use super::summary::{Figure, Summary};
use comfy_table::{Cell, CellAlignment, Table};
use indicatif::HumanCount;
use std::fmt::{self, Display};

/// The figures with a ratio in the second table.
const RATIOS: [Figure; 4] = [Figure::Wall, Figure::Cpu, Figure::PeakRss, Figure::MinorFaults];

/// How a median and its spread are written.
type Show = fn(Spread) -> String;

/// Everything that is printed.
pub struct Screen<'a> {
    pub outcome: &'a Outcome,
    pub summaries: &'a [Summary<'a>],
}

impl Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.figures())?;
        let summaries = self.summaries;
        if summaries.iter().any(|summary| summary.ratio(Figure::Wall).is_some()) {
            writeln!(f, "\nRatio to Arenite (above 1: more than Arenite), {}", self.method())?;
            writeln!(f, "{}", self.ratios())?;
        }
        for summary in summaries {
            let Some(failure) = summary.failure() else { continue };
            writeln!(f, "{} failed: {failure}", summary.allocator().name)?;
            for line in summary.measured.stderr.lines() {
                writeln!(f, "    {}", line.replace(char::is_control, " "))?;
            }
        }
        self.notes(f)
    }
}

impl Screen<'_> {
    fn method(&self) -> &'static str {
        // After a failure there are fewer than were asked for.
        let most = self.summaries.iter().map(|summary| summary.measured.samples.len()).max();
        match most.unwrap_or(0) >= LEAST_PAIRS {
            true => "with the 95 % confidence interval:",
            false => "without an interval, which needs 3 runs at least:",
        }
    }

    /// Median and spread of what was measured.
    fn figures(&self) -> Table {
        let mut table = new_table(&[
            "median\n(min..max)",
            "Wall time",
            "User",
            "System",
            "Peak RSS",
            "Minor faults",
            "Switches\n(vol. + invol.)",
        ]);
        for summary in self.summaries {
            let mut row = vec![Cell::new(&summary.allocator().name)];
            if summary.failure().is_some() {
                row.push(Cell::new("failed"));
                table.add_row(row);
                continue;
            }
            let shown: [(Figure, Show); 5] = [
                (Figure::Wall, seconds),
                (Figure::User, seconds),
                (Figure::System, seconds),
                (Figure::PeakRss, bytes),
                (Figure::MinorFaults, counts),
            ];
            for (figure, show) in shown {
                row.push(right(summary.spread(figure).map(show).unwrap_or_default()));
            }
            let switches = summary.switches();
            row.push(right(switches.map_or_else(String::new, |(voluntary, involuntary)| {
                format!("{} + {}", count(voluntary), count(involuntary))
            })));
            table.add_row(row);
        }
        table
    }

    fn ratios(&self) -> Table {
        let mut table = new_table(&["", "Wall time", "CPU time", "Peak RSS", "Minor faults"]);
        for summary in self.summaries {
            // A failed one has no ratio, nor has Arenite to itself.
            if summary.failure().is_some() || summary.allocator().name == ARENITE {
                continue;
            }
            let mut row = vec![Cell::new(&summary.allocator().name)];
            row.extend(RATIOS.map(|figure| right(ratio(summary.ratio(figure)))));
            table.add_row(row);
        }
        table
    }

    fn notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.outcome.stopped {
            writeln!(
                f,
                "Stopped there: all of the comparison needs {ARENITE} and {SYSTEM}. --keep-going \
                 measures the others."
            )?;
        }
        if self.outcome.unused {
            writeln!(
                f,
                "No process of the program reported a block of Arenite's. It is static, has an \
                 allocator of\nits own, or ended by _exit or a signal; in the first two cases no \
                 preloaded allocator serves it."
            )?;
        }
        Ok(())
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// In the unit that suits the median, as bytes are.
fn seconds(spread: Spread) -> String {
    let (unit, scale) = if spread.median >= 1.0 { ("s", 1.0) } else { ("ms", 1e3) };
    scaled(spread, unit, scale)
}

fn scaled(spread: Spread, unit: &str, scale: f64) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| value * scale);
    let digits = if median >= 100.0 { 0 } else { 2 };
    format!("{median:.digits$} {unit}\n({min:.digits$}..{max:.digits$})")
}

fn bytes(spread: Spread) -> String {
    let units = [("GiB", 1u32 << 30), ("MiB", 1 << 20)];
    let unit = units.into_iter().find(|&(_, bytes)| spread.median >= bytes.into());
    let (unit, bytes) = unit.unwrap_or(("KiB", 1 << 10));
    scaled(spread, unit, 1.0 / f64::from(bytes))
}

fn counts(spread: Spread) -> String {
    format!("{}\n({}..{})", count(spread.median), count(spread.min), count(spread.max))
}

fn count(number: f64) -> HumanCount {
    HumanCount(number.round() as u64)
}

fn ratio(ratio: Option<Ratio>) -> String {
    // Of figures that are zero there is none.
    let Some(ratio) = ratio else { return "–".to_owned() };
    let value = format!("{:.3}", ratio.value);
    let Some((low, high)) = ratio.low.zip(ratio.high) else { return value };
    let seen = if ratio.differs() == Some(true) { "" } else { "\nno difference seen" };
    format!("{value} [{low:.3}, {high:.3}]{seen}")
}
