//! What a scenario is, and the child that runs one.

use crate::malloc::{self, Malloc};
use crate::report::{Figure, Measured};
use crate::scale::Scale;
use crate::scenarios;
use crate::source::Source;
use anyhow::{Context, Result, bail};
use stress::Target;
use stress::sabotage::{Sabotage, Saboteur};

/// One thing that programs do, and how memory comes back after it.
pub struct Scenario {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// A child is started for each; most scenarios have one, without a name.
    pub parts: &'static [&'static str],
    /// Limits that are set for the child.
    pub address_space: Option<u64>,
    /// What a child does.
    pub run: fn(&Setup) -> Measured,
    /// The figures that follow from what the children measured, in the order of the parts.
    pub judge: fn(&[Measured]) -> Vec<Figure>,
}

/// The parts of a scenario that has one child.
pub const WHOLE: &[&str] = &[""];

/// The arguments of a child.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The scenario
    scenario: String,
    /// Which part of it, if it has several
    #[arg(long, default_value = "")]
    part: String,
    #[command(flatten)]
    scale: Scale,
    /// Break the allocator, to see it found
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

/// What a scenario works with.
pub struct Setup {
    pub scale: Scale,
    pub part: String,
    pub target: Target,
}

impl Setup {
    /// The blocks of thread `number`.
    pub fn source(&self, number: usize) -> Source {
        Source::new(self.target, self.scale.seed, number)
    }
}

/// The scenario with this name.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let found = scenarios::ALL.iter().find(|scenario| scenario.name == name);
    found.with_context(|| {
        let names: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
        format!("there is no scenario '{name}', only {}", names.join(", "))
    })
}

/// Runs a scenario on the malloc of this process and prints what it measured.
pub fn run(args: &RunArgs) -> Result<()> {
    let scenario = find(&args.scenario)?;
    if !scenario.parts.contains(&args.part.as_str()) {
        bail!("{} has the parts {}", scenario.name, scenario.parts.join(", "));
    }
    let mut target: Target = &Malloc;
    if let Some(how) = args.sabotage {
        target = Box::leak(Box::new(Saboteur::new(target, how)));
    }
    let setup = Setup { scale: args.scale.clone(), part: args.part.clone(), target };
    let mut measured = (scenario.run)(&setup);
    measured.malloc = malloc::object();
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
