//! RESULTS.md, and the summary in README.md.

use crate::analysis::{self, LOSS, Outcome, best_peer, mean_relative, relative};
use crate::comparison::{ARENITE, CONTROL, Comparison, Measure, NO_PURGE, Ratio};
use crate::programs::{Kind, Program, THREADS};
use crate::{Places, machine, plots};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

/// Writes the report on the results that are there, and says which are not.
pub fn write(places: &Places, programs: &[Program]) -> Result<()> {
    let (outcomes, missing) = read(places, programs)?;
    let (scaling, single): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| matches!(outcome.kind, Kind::Scaling(_)));
    ensure!(!single.is_empty(), "no results in {}", places.results().display());
    let folder = places.report();
    fs::create_dir_all(folder.join("plots"))?;
    let pictures = plots::draw(&folder.join("plots"), &single, &scaling)?;

    let commits: BTreeSet<_> =
        single.iter().chain(&scaling).map(|outcome| outcome.commit.as_str()).collect();
    let facts = facts(commits.into_iter().collect::<Vec<_>>().join(" and "));
    let means = means(&single);
    let mut text = String::new();
    writeln!(
        text,
        "# Results\n\nWritten by `suite/run.sh`; [README.md](README.md) says how it is"
    )?;
    writeln!(text, "measured, and what the figures do not tell.\n\n## Machine\n\n{facts}")?;
    writeln!(text, "{}", versions(places)?)?;
    writeln!(text, "{}", conditions(single.iter().chain(&scaling)))?;
    if !missing.is_empty() {
        writeln!(text, "**Not measured:** {}\n", missing.join(", "))?;
    }
    writeln!(text, "## Summary\n\n{means}")?;
    writeln!(text, "{}", loss_tables(&single))?;
    writeln!(text, "{}", failures(single.iter().chain(&scaling)))?;
    for picture in &pictures.overview {
        writeln!(text, "![{}](plots/{})\n", picture.title, picture.file)?;
    }
    for measure in Measure::ALL {
        writeln!(text, "{}", by_program(&single, measure))?;
    }
    writeln!(text, "{}", control(&single))?;
    writeln!(text, "{}", purging(&single))?;
    writeln!(text, "{}", threads(&scaling))?;
    for picture in &pictures.threads {
        writeln!(text, "![{}](plots/{})\n", picture.title, picture.file)?;
    }
    writeln!(
        text,
        "## Instructions\n\nOf malloc and free: [benches/INSTRUCTIONS.md](../benches/INSTRUCTIONS.md); of whole \
         programs: `suite instructions`."
    )?;
    let file = folder.join("RESULTS.md");
    fs::write(&file, format!("{}\n", text.trim_end()))?;
    println!("{}", file.display());
    if !places.quick {
        let summary = summary(&single, &facts, &means, &pictures);
        stress::markers::replace(&places.root.join("README.md"), "results", &summary)?;
    }
    Ok(())
}

/// The results that are there, and the names of the programs that have none.
fn read(places: &Places, programs: &[Program]) -> Result<(Vec<Outcome>, Vec<String>)> {
    let (mut outcomes, mut missing) = (Vec::new(), Vec::new());
    for program in programs {
        let file = places.results().join(format!("{}.json", program.name));
        if file.exists() {
            let comparison = Comparison::read(&file)?;
            let commit = fs::read_to_string(file.with_extension("commit"));
            let commit = commit.unwrap_or_else(|_| "unknown".to_owned());
            let Program { name, kind, .. } = program;
            outcomes.push(Outcome { name: name.clone(), kind: *kind, comparison, commit });
        } else {
            missing.push(program.name.clone());
        }
    }
    Ok((outcomes, missing))
}

fn summary(outcomes: &[Outcome], facts: &str, means: &str, pictures: &plots::Pictures) -> String {
    let lost = analysis::losses(outcomes, Measure::LeastCpu).len();
    let mut text = format!(
        "{means}\nOf {} programs Arenite needs over 5 % more CPU time than the best peer of that program \
         on {lost}.\n[suite/RESULTS.md](suite/RESULTS.md) has every program, and where it loses.\n\n",
        outcomes.len()
    );
    if let Some(picture) = pictures.overview.first() {
        text += &format!("![{}](suite/plots/{})\n\n", picture.title, picture.file);
    }
    text + facts
}

/// A Markdown table; the first column is text, the others numbers.
fn table(head: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    aligned_table("---:|", head, rows)
}

/// A Markdown table of text.
pub fn text_table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    aligned_table("---|", &head.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), rows)
}

fn aligned_table(
    alignment: &str,
    head: &[String],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut text = format!("| {} |\n|---|", head.join(" | "));
    text += &alignment.repeat(head.len().saturating_sub(1));
    text.push('\n');
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// The machine and what is measured, as a table.
pub fn facts(commit: String) -> String {
    let rows = machine::facts(commit).into_iter().map(|(what, value)| vec![what.to_owned(), value]);
    text_table(&["machine", ""], rows)
}

fn versions(places: &Places) -> Result<String> {
    let peers = machine::peers(places)?;
    let rows = peers.into_iter().map(|one| vec![one.name, one.version, one.compiler, one.from]);
    Ok(text_table(&["allocator", "version", "built by", "from"], rows))
}

/// How often each was run, and what was set for single allocators.
fn conditions<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let (mut runs, mut settings) = (BTreeSet::new(), BTreeSet::new());
    for outcome in outcomes {
        runs.insert(outcome.comparison.runs);
        for allocator in &outcome.comparison.allocators {
            for (variable, value) in &allocator.environment {
                settings.insert(format!("`{variable}={value}` for {}", allocator.name));
            }
        }
    }
    let runs = match (runs.first(), runs.last()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(all), _) => all.to_string(),
        _ => String::new(),
    };
    let settings: Vec<_> = settings.into_iter().collect();
    let settings = if settings.is_empty() { "nothing".to_owned() } else { settings.join(", ") };
    format!("Runs of each program on each allocator: {runs}. Set in the environment: {settings}.\n")
}

/// Geometric means over programs, relative to the best peer of each.
fn means(outcomes: &[Outcome]) -> String {
    let is_program = |outcome: &&Outcome| outcome.kind == Kind::Program;
    let head = [
        "geometric mean over programs, best peer of each = 1",
        "least CPU time",
        "the same, real programs",
        "the same, synthetic ones",
        "wall time",
        "peak RSS",
        "the same, real programs",
        "minor faults",
        "failed",
    ];
    let of = outcomes.len();
    let mut rows: Vec<(f64, Vec<String>)> = analysis::allocators(outcomes)
        .into_iter()
        .map(|name| {
            let all = |measure| mean_relative(outcomes, &name, measure);
            let real = |measure| mean_relative(outcomes.iter().filter(is_program), &name, measure);
            let synthetic = mean_relative(
                outcomes.iter().filter(|outcome| !is_program(outcome)),
                &name,
                Measure::LeastCpu,
            );
            let time = all(Measure::LeastCpu);
            let cells = [
                time,
                real(Measure::LeastCpu),
                synthetic,
                all(Measure::Wall),
                all(Measure::PeakRss),
                real(Measure::PeakRss),
                all(Measure::MinorFaults),
            ]
            .map(|mean| number(mean.map(|mean| mean.value)));
            let failed = of - time.map_or(0, |mean| mean.programs);
            let failed = if failed == 0 { String::new() } else { format!("{failed} of {of}") };
            let row = [vec![marked(&name)], cells.to_vec(), vec![failed]].concat();
            (time.map_or(f64::INFINITY, |mean| mean.value), row)
        })
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    table(&head.map(str::to_owned), rows.into_iter().map(|(_, row)| row))
        + "\nA mean is over the programs that the allocator did not fail. 1.00 throughout would be an \
           allocator that is the best on every program. arenite-again is Arenite once more, the control: \
           what it differs by is noise. arenite-no-purge never gives memory back, and mimalloc-nothp is \
           mimalloc without huge pages.\n"
}

/// An allocator's name, Arenite's in bold.
fn marked(name: &str) -> String {
    if name == ARENITE { format!("**{name}**") } else { name.to_owned() }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

fn loss_tables(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "## Where Arenite loses\n\nPrograms on which it needs more than {LOSS} times what the best \
         peer needs.\n\n"
    );
    for measure in [Measure::LeastCpu, Measure::Wall, Measure::PeakRss] {
        let losses = analysis::losses(outcomes, measure);
        if losses.is_empty() {
            text += &format!("In {}: none.\n\n", measure.name());
            continue;
        }
        let head = [measure.name(), "Arenite / best peer", "best peer"].map(str::to_owned);
        let rows = losses.into_iter().map(|loss| {
            vec![loss.program.to_owned(), format!("{:.2}", loss.ratio), loss.best.to_owned()]
        });
        text += &format!("{}\n", table(&head, rows));
    }
    text
}

fn failures<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let mut rows = Vec::new();
    for outcome in outcomes {
        for allocator in &outcome.comparison.allocators {
            if let Some(failure) = &allocator.failure {
                let failure = failure.lines().next().unwrap_or_default().replace('|', "\\|");
                rows.push(vec![outcome.name.clone(), marked(&allocator.name), failure]);
            }
        }
    }
    if rows.is_empty() {
        return "## Failures\n\nNo allocator failed any program.\n".to_owned();
    }
    let table = text_table(&["program", "allocator", "how"], rows);
    format!("## Failures\n\nA failed allocator has no figures for that program.\n\n{table}")
}

fn by_program(outcomes: &[Outcome], measure: Measure) -> String {
    let names = analysis::allocators(outcomes);
    let marked_names = names.iter().map(|name| marked(name));
    let head = ["program".to_owned(), "best peer".to_owned()].into_iter().chain(marked_names);
    let rows = outcomes.iter().map(|outcome| {
        let best = best_peer(&outcome.comparison, measure);
        let best = best.map_or_else(|| "–".to_owned(), |(_, value)| unit(measure, value));
        let cells = names.iter().map(|name| cell(&outcome.comparison, name, measure));
        [outcome.name.clone(), best].into_iter().chain(cells).collect()
    });
    let title = measure.name();
    format!(
        "## By program: {title}\n\n{}, relative to that of the best peer, whose own figure is in the \
         second column.\n\n{}",
        if measure == Measure::LeastCpu { "The least of the runs" } else { "Medians" },
        table(&head.collect::<Vec<_>>(), rows)
    )
}

/// An allocator's ratio to the best peer, or that it failed.
fn cell(comparison: &Comparison, name: &str, measure: Measure) -> String {
    let failed = comparison.allocators.iter().any(|one| one.name == name && one.failure.is_some());
    if failed { "failed".to_owned() } else { number(relative(comparison, name, measure)) }
}

fn unit(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Wall | Measure::Cpu | Measure::LeastCpu => format!("{value:.3} s"),
        Measure::PeakRss => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Measure::MinorFaults => format!("{value:.0}"),
    }
}

/// A row per measure: least, greatest and mean ratio of `variant` to Arenite itself.
fn against_itself(outcomes: &[Outcome], variant: &str, measures: &[Measure]) -> String {
    let ratios = |measure: Measure| -> Vec<f64> {
        let ratio = |outcome: &Outcome| {
            let comparison = &outcome.comparison;
            Some(comparison.figure(variant, measure)? / comparison.figure(ARENITE, measure)?)
        };
        outcomes.iter().filter_map(ratio).collect()
    };
    let head = ["ratio of the figures", "least", "greatest", "geometric mean"].map(str::to_owned);
    let rows = measures.iter().map(|&measure| {
        let all = ratios(measure);
        let mean = analysis::geometric_mean(all.iter().copied()).map(|mean| mean.value);
        let least = all.iter().copied().reduce(f64::min);
        let greatest = all.iter().copied().reduce(f64::max);
        let numbers = [least, greatest, mean].map(three_digits);
        [vec![measure.name().to_owned()], numbers.to_vec()].concat()
    });
    table(&head, rows)
}

/// What it costs that free memory is given back with time.
fn purging(outcomes: &[Outcome]) -> String {
    format!(
        "## Purging\n\nEach round also runs Arenite with `decay_ms:never`, as {NO_PURGE}. Below 1: \
         what purging costs.\n\n{}",
        against_itself(outcomes, NO_PURGE, &Measure::ALL)
    )
}

/// How far Arenite differs from itself.
fn control(outcomes: &[Outcome]) -> String {
    let mut text = "## Control: Arenite against itself\n\nEach round runs Arenite twice, under two \
        names. What differs is noise, so no smaller difference between allocators means anything.\n\n"
        .to_owned();
    text +=
        &against_itself(outcomes, CONTROL, &[Measure::Wall, Measure::LeastCpu, Measure::PeakRss]);
    let intervals: Vec<(&str, Ratio)> = outcomes.iter().filter_map(control_interval).collect();
    let distinct = |ratio: &Ratio| match (ratio.low, ratio.high) {
        (Some(low), Some(high)) => low > 1.0 || high < 1.0,
        _ => false,
    };
    let false_alarms: Vec<_> = intervals
        .iter()
        .filter(|(_, ratio)| distinct(ratio))
        .map(|(name, ratio)| format!("{name} ({:.3})", ratio.value))
        .collect();
    let with_interval = intervals.iter().filter(|(_, ratio)| ratio.low.is_some()).count();
    text += &format!(
        "\nOf {with_interval} confidence intervals of wall time {} do not contain 1; one in twenty is \
         to be expected. {}\n",
        false_alarms.len(),
        false_alarms.join(", ")
    );
    text
}

fn three_digits(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn control_interval(outcome: &Outcome) -> Option<(&str, Ratio)> {
    let control = outcome.comparison.allocators.iter().find(|one| one.name == CONTROL)?;
    Some((&outcome.name, control.summary.as_ref()?.wall_s.ratio?))
}

/// Wall time and peak RSS of the workloads over 1 to 16 threads.
fn threads(scaling: &[Outcome]) -> String {
    if scaling.is_empty() {
        return String::new();
    }
    let cpus = machine::cpus();
    let mut text = format!(
        "## Threads\n\nThe same work in all, over more and more threads, on {cpus} CPUs: with more \
         than {cpus} threads the CPUs are oversubscribed, and what is seen is how an allocator bears \
         that.\n\n"
    );
    for workload in plots::scaled(scaling) {
        for measure in [Measure::Wall, Measure::PeakRss] {
            let head = [format!("{workload}, {}", measure.name())]
                .into_iter()
                .chain(THREADS.iter().map(|threads| format!("{threads} threads")));
            let rows = analysis::allocators(scaling).into_iter().map(|name| {
                let cells = THREADS.iter().map(|&threads| {
                    let value = plots::scaled_median(scaling, &workload, threads, &name, measure);
                    value.map_or_else(|| "–".to_owned(), |value| unit(measure, value))
                });
                [marked(&name)].into_iter().chain(cells).collect()
            });
            text += &format!("{}\n", table(&head.collect::<Vec<_>>(), rows));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::fixture;

    #[test]
    fn failed_peers_are_shown() {
        let outcomes = [fixture("p", &[(ARENITE, 3.0), ("system", 2.0), ("broken", -1.0)])];
        let text = by_program(&outcomes, Measure::Wall);
        assert!(text.contains("| p | 2.000 s | 1.50 | 1.00 | failed |"), "{text}");
        assert!(failures(outcomes.iter()).contains("| p | broken | it broke |"));
        assert!(means(&outcomes).contains("| broken | – | – | – | – | – | – | – | 1 of 1 |"));
        assert!(loss_tables(&outcomes).contains("| p | 1.50 | system |"));
    }

    #[test]
    fn control_is_the_spread_of_arenite_against_itself() {
        let outcomes = [
            fixture("p", &[(ARENITE, 100.0), (CONTROL, 98.0)]),
            fixture("q", &[(ARENITE, 100.0), (CONTROL, 103.0)]),
        ];
        assert!(control(&outcomes).contains("| wall time | 0.980 | 1.030 | 1.005 |"));
    }
}
