//! Puts the summary between the markers of README.md.

use anyhow::{Context, Result};
use std::path::Path;

const START: &str = "<!-- results -->";
const END: &str = "<!-- /results -->";

/// Replaces what is between the markers of the file.
pub fn update(path: &Path, summary: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let updated = between_markers(&text, summary)
        .with_context(|| format!("{} has no {START} and {END}", path.display()))?;
    std::fs::write(path, updated)?;
    Ok(())
}

fn between_markers(text: &str, summary: &str) -> Option<String> {
    let (before, rest) = text.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}\n{}\n{END}{after}", summary.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::between_markers;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- results -->\nold\n<!-- /results -->\nb\n";
        let new = between_markers(text, "new\n").expect("both markers");
        assert_eq!(new, "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n");
        assert_eq!(between_markers(&new, "new").as_deref(), Some(new.as_str()));
        assert_eq!(between_markers("a <!-- /results -->", "new"), None);
    }
}
