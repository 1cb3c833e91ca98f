//! Writing files whole: scenarios with what really came in them, and reports.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use km_package::failure::Failure;

use super::play::Correction;

/// The text with corrections in place; their places are those of the text as it was.
pub(super) fn corrected(text: &str, corrections: &[Correction]) -> String {
    let mut corrections: Vec<&Correction> = corrections.iter().collect();
    corrections.sort_by_key(|correction| correction.place);
    let mut corrected = String::new();
    let mut corrections = corrections.into_iter().peekable();
    let write = |correction: &Correction, to: &mut String| {
        for line in &correction.lines {
            to.push_str(line);
            to.push('\n');
        }
    };
    let mut skip_to = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        while let Some(correction) = corrections.next_if(|correction| correction.place.0 == number) {
            write(correction, &mut corrected);
            skip_to = correction.place.1;
        }
        if number >= skip_to {
            corrected.push_str(line);
        }
    }
    corrected
}

/// Writes a file in one step, so that it is never half.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let permissions = std::fs::metadata(path).map(|metadata| metadata.permissions());
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(permissions.unwrap_or_else(|_| PermissionsExt::from_mode(0o644)))?;
        file.persist(path).map_err(|e| e.error)
    };
    write().map(drop).map_err(|e| Failure::file("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outputs_that_differ_are_written() {
        let text = "# T\n```console\n$ a\nold\nmore\n[exit 1]\n$ b\n$ c\nkept\n```\n";
        let correct = |place, lines: &[&str]| Correction {
            place,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let corrections = [correct((8, 8), &["b says"]), correct((4, 7), &["new"])];
        let expected = "# T\n```console\n$ a\nnew\n$ b\nb says\n$ c\nkept\n```\n";
        assert_eq!(corrected(text, &corrections), expected);
        assert_eq!(corrected(text, &[]), text);
        assert_eq!(corrected("$ a\nx\n", &[correct((2, 3), &[])]), "$ a\n");
    }
}
