//! The figures with a limit, as a table for a document.

use crate::allocators::ARENITE;
use crate::driver::{Outcome, Report};
use crate::report::{Figure, Limit};
use crate::scenarios;
use std::fmt::Write;

/// A row for each figure that has a limit, a column for each allocator. In bold what keeps it.
pub fn summary(report: &Report<'_>) -> String {
    let allocators: Vec<_> = report.allocators.iter().map(|one| one.name.as_str()).collect();
    let mut text = String::from("| scenario: figure | limit |");
    for name in &allocators {
        let mark = if *name == ARENITE { "**" } else { "" };
        _ = write!(text, " {mark}{name}{mark} |");
    }
    text.push_str("\n|---|---:|");
    text.push_str(&"---:|".repeat(allocators.len()));
    text.push('\n');
    for scenario in &scenarios::ALL {
        let outcomes: Vec<_> =
            report.outcomes.iter().filter(|outcome| outcome.scenario == scenario.name).collect();
        let mut seen = Vec::new();
        for figure in outcomes.iter().flat_map(|outcome| &outcome.figures) {
            if figure.limit.is_some() && !seen.contains(&figure.name) {
                seen.push(figure.name);
                row(&mut text, figure, &allocators, &outcomes);
            }
        }
    }
    let arguments = match report.arguments {
        [] => String::new(),
        arguments => format!(" {}", arguments.join(" ")),
    };
    _ = writeln!(
        text,
        "\nWritten by `give_back all{arguments} --readme README.md`. Bold: within the limit. –: does \
not run so, or has no such function."
    );
    text
}

fn row(text: &mut String, figure: &Figure, allocators: &[&str], outcomes: &[&Outcome]) {
    let scenario = outcomes.first().map_or("", |outcome| outcome.scenario);
    let limit = match figure.limit {
        Some(Limit::AtMost(most)) => format!("≤ {most} {}", figure.unit),
        Some(Limit::AtLeast(least)) => format!("≥ {least} {}", figure.unit),
        None => String::new(),
    };
    _ = write!(text, "| {scenario}: {} | {limit} |", figure.name);
    for name in allocators {
        let outcome = outcomes.iter().find(|outcome| outcome.allocator == *name);
        let own = outcome.and_then(|outcome| {
            outcome.figures.iter().find(|own| own.name == figure.name && own.limit.is_some())
        });
        match own {
            Some(own) if own.kept() == Some(true) => _ = write!(text, " **{:.2}** |", own.value),
            Some(own) => _ = write!(text, " {:.2} |", own.value),
            None => text.push_str(" – |"),
        }
    }
    text.push('\n');
}
