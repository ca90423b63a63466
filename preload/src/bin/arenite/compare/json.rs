//! The comparison for other programs to read.

use super::Options;
use super::statistics::{Ratio, Spread};
use super::summary::{Figure, Summary};
use serde::Serialize;
use serde_json::{Map, Value, json};

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    spread: Spread,
    ratio: Option<Ratio>,
}

/// One object. The version changes when a key changes its meaning.
pub fn json(
    options: &Options,
    runs: u32,
    summaries: &[Summary<'_>],
) -> Result<Value, serde_json::Error> {
    let command = options.target.words();
    let allocators: Result<Vec<_>, _> = summaries.iter().map(allocator).collect();
    Ok(json!({
        "version": 1,
        "command": command,
        "runs": runs,
        "allocators": allocators?,
    }))
}

fn allocator(summary: &Summary<'_>) -> Result<Value, serde_json::Error> {
    let allocator = summary.allocator();
    Ok(json!({
        "name": allocator.name,
        "library": allocator.library.as_ref().map(|path| path.to_string_lossy()),
        "environment": allocator.environment,
        "failure": summary.failure(),
        "samples": serde_json::to_value(&summary.measured.samples)?,
        "summary": figures(summary)?,
    }))
}

/// All figures, or null without any run.
fn figures(summary: &Summary<'_>) -> Result<Option<Value>, serde_json::Error> {
    let mut figures = Map::new();
    for figure in Figure::ALL {
        let Some(spread) = summary.spread(figure) else { return Ok(None) };
        let entry = Entry { spread, ratio: summary.ratio(figure) };
        figures.insert(figure.key().to_owned(), serde_json::to_value(entry)?);
    }
    Ok(Some(Value::Object(figures)))
}
