//! Runs the scenarios on the allocators.

use crate::allocators::{ARENITE, Allocator, Choice};
use crate::child::{self, End};
use crate::readme;
use crate::report::{Figure, Measured};
use crate::scale::Scale;
use crate::scenario::{self, Scenario};
use crate::scenarios;
use crate::table;
use anyhow::Result;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use stress::sabotage::Sabotage;

/// The arguments of `give_back all`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    choice: Choice,
    /// This scenario only; can be given several times
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    #[command(flatten)]
    scale: Scale,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the figures that have a limit into this document, between its markers
    /// `<!-- give_back -->` and `<!-- /give_back -->`
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Fail also if Arenite does not keep a limit
    #[arg(long)]
    assert: bool,
    /// Seconds beyond its duration after which a scenario counts as hung
    #[arg(long, value_name = "S", default_value_t = 600)]
    patience: u64,
    /// Break the allocators, to see it found
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

/// A scenario on an allocator.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub scenario: &'static str,
    pub allocator: String,
    /// Why there are no figures: it crashed, hung, or lost bytes.
    pub broken: Option<String>,
    /// Whether a broken run fails the command.
    pub fails: bool,
    pub figures: Vec<Figure>,
    /// What the children measured, in the order of the scenario's parts.
    pub measured: Vec<Measured>,
}

impl Outcome {
    /// The limits that are not kept.
    pub fn missed(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.kept() == Some(false))
    }
}

/// All of them, and with what they were made.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub version: u32,
    pub arguments: &'a [String],
    pub allocators: &'a [Allocator],
    pub outcomes: Vec<Outcome>,
}

/// Runs what is asked for and prints it. Broken runs fail, and with `--assert` missed limits.
pub fn all(options: &Options) -> Result<ExitCode> {
    let names: Vec<_> = options.only.iter().map(String::as_str).collect();
    names.iter().try_for_each(|name| scenario::find(name).map(|_| ()))?;
    let chosen: Vec<_> = scenarios::ALL
        .iter()
        .filter(|scenario| names.is_empty() || names.contains(&scenario.name))
        .collect();
    let allocators = options.choice.allocators()?;
    let arguments = options.scale.arguments();
    let bar = progress((chosen.len() * allocators.len()) as u64);
    let mut outcomes = Vec::new();
    for scenario in chosen {
        for allocator in &allocators {
            bar.set_message(format!("{} on {}", scenario.name, allocator.name));
            outcomes.push(options.outcome(scenario, allocator, &arguments)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let report = Report { version: 1, arguments: &arguments, allocators: &allocators, outcomes };
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&table::with_verdicts(&report)?)?),
        false => print!("{}", table::Screen(&report)),
    }
    if let Some(document) = &options.readme {
        stress::markers::replace(document, "give_back", &readme::summary(&report))?;
    }
    let broken = report.outcomes.iter().any(|outcome| outcome.fails);
    let missed = options.assert
        && report
            .outcomes
            .iter()
            .any(|outcome| outcome.allocator == ARENITE && outcome.missed().next().is_some());
    Ok(if broken || missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Options {
    fn outcome(
        &self,
        scenario: &Scenario,
        allocator: &Allocator,
        arguments: &[String],
    ) -> Result<Outcome> {
        let mut arguments = arguments.to_vec();
        let how = self.sabotage.and_then(|how| how.to_possible_value());
        arguments.extend(how.map(|how| format!("--sabotage={}", how.get_name())));
        let patience =
            Duration::from_secs(self.patience) + self.scale.duration(LONGEST_S, LONGEST_S);
        let (mut measured, mut broken) = (Vec::new(), None);
        for part in scenario.parts {
            match child::run(scenario, part, allocator, &arguments, patience)? {
                End::Measured(one) => measured.push(one),
                End::Broken(why) => {
                    broken = Some(why);
                    break;
                }
            }
        }
        // Several peers can not start with little address space: that is what they show there.
        let excused = scenario.address_space.is_some() && allocator.name != ARENITE;
        let lost = broken.as_deref().is_some_and(|why| why.contains(child::VIOLATION));
        Ok(Outcome {
            scenario: scenario.name,
            allocator: allocator.name.clone(),
            fails: broken.is_some() && (lost || !excused),
            figures: if broken.is_none() { (scenario.judge)(&measured) } else { Vec::new() },
            broken,
            measured,
        })
    }
}

/// The longest duration of a scenario, in seconds, unless `--seconds` says another.
const LONGEST_S: f64 = 300.0;

fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}");
    let bar = ProgressBar::new(length);
    // The template is a constant, and right.
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}
