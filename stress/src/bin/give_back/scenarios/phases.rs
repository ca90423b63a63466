//! A program whose live set is of small blocks, then of large ones, and so on: what small blocks
//! left has to serve large ones, and the other way round.

use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup};
use stress::Block;
use stress::run::mib;

pub const SCENARIO: Scenario = Scenario {
    name: "phases",
    about: "the live set is of blocks of 64 bytes, then of 4096 bytes, ten times in turn",
    parts: &["alternating", "small", "large"],
    address_space: None,
    run,
    judge: |parts| {
        let [alternating, small, large] =
            [0, 1, 2].map(|part| parts.get(part).map_or(f64::NAN, |one| one.get("peak_bytes")));
        let larger = small.max(large);
        vec![
            Figure::new("peak of the larger phase", mib(larger as usize), "MiB"),
            Figure::new("peak of all phases", mib(alternating as usize), "MiB"),
            Figure::new("all / larger", alternating / larger, "x").at_most(1.3),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SMALL: usize = 64;
const LARGE: usize = 4096;
/// How often each phase comes.
const ROUNDS: usize = 10;

fn run(setup: &Setup) -> Measured {
    let mut source = setup.source(0);
    let live = setup.scale.live();
    let mut blocks: Books<Block> = Books::new(live / SMALL);
    let (rounds, sizes): (usize, &[usize]) = match setup.part.as_str() {
        "small" => (1, &[SMALL]),
        "large" => (1, &[LARGE]),
        _ => (ROUNDS, &[SMALL, LARGE]),
    };
    rss::reset_peak();
    let before = rss::now();
    for _ in 0..rounds {
        for &size in sizes {
            (0..live / size).for_each(|_| blocks.push(source.allocate(size)));
            source.rng.shuffle(&mut blocks);
            source.free_all(&mut blocks);
        }
    }
    Measured::default().with("peak_bytes", rss::peak().saturating_sub(before))
}
