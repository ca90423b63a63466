//! Parts of a document that commands write: what stands between `<!-- name -->` and
//! `<!-- /name -->`.

use std::io;
use std::path::Path;

/// Replaces what stands between the markers of that name in the file by `text`.
///
/// # Errors
/// What reading or writing the file ends with, or `InvalidData` if the markers are not there.
pub fn replace(path: &Path, name: &str, text: &str) -> io::Result<()> {
    let old = std::fs::read_to_string(path)?;
    let new = between(&old, name, text).ok_or_else(|| {
        let what = format!("{} has no <!-- {name} --> and <!-- /{name} -->", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    std::fs::write(path, new)
}

fn between(old: &str, name: &str, text: &str) -> Option<String> {
    let (start, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = old.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n{}\n{end}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = "a\n<!-- x -->\n<!-- /x -->\n<!-- y -->\nold\n<!-- /y -->\nb\n";
        let new = between(old, "y", "new\n").expect("both markers");
        assert_eq!(new, "a\n<!-- x -->\n<!-- /x -->\n<!-- y -->\nnew\n<!-- /y -->\nb\n");
        assert_eq!(between(&new, "y", "new").as_deref(), Some(new.as_str()));
        assert_eq!(between("a <!-- /y -->", "y", "new"), None);
    }
}
