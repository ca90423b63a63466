//! A burst of which one block in a thousand, at random places, stays in use.

use super::burst::Burst;
use crate::report::{Figure, Measured};
use crate::scenario::{Scenario, WHOLE};

pub const SCENARIO: Scenario = Scenario {
    name: "survivors",
    about: "a burst of which one block in a thousand stays in use",
    parts: WHOLE,
    address_space: None,
    run: |setup| {
        let burst = Burst::new(setup, Some(1000)).run();
        Measured::default()
            .with("full_bytes", burst.full)
            .with("at_once_bytes", burst.at_once)
            .with("kept_bytes", burst.kept)
            .with("pinned_bytes", burst.pinned)
    },
    judge: |parts| {
        let (kept, pinned) = (parts[0].mib("kept_bytes"), parts[0].mib("pinned_bytes"));
        vec![
            Figure::new("pages of the survivors", pinned, "MiB"),
            Figure::new("kept after 2 s", kept, "MiB"),
            Figure::new("kept / pages", kept / pinned, "x").at_most(1.25),
        ]
    },
};
