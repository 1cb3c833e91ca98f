//! The lines of an `sh` block, as commands.

use super::keeper::is_complete;

/// Splits a block into its commands, each with the number of its first line (from 0). A command goes on
/// past the end of a line as long as the shell, which is asked, would read on.
///
/// # Errors
/// The first line of a command that does not end, or that the shell does not understand.
pub(super) fn split(lines: &[&str]) -> Result<Vec<(usize, String)>, usize> {
    let mut commands = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (at, line) in lines.iter().enumerate() {
        let empty = line.trim().is_empty() || line.trim_start().starts_with('#');
        if begun.is_none() && empty {
            continue;
        }
        let (_, text) = begun.get_or_insert_with(|| (at, String::new()));
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
        // That there is no shell is said where one is to run them.
        if !is_continued(line) && is_complete(text).unwrap_or(true) {
            commands.extend(begun.take());
        }
    }
    match begun {
        Some((at, _)) => Err(at),
        None => Ok(commands),
    }
}

/// Whether its last character is a backslash that is not itself escaped.
fn is_continued(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<(usize, String)> {
        split(&text.lines().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_line_is_a_command() {
        let found = commands("# first\nkm version   # it's a comment\n\ncd x; ls");
        assert_eq!(found, [(1, "km version   # it's a comment".to_owned()), (3, "cd x; ls".to_owned())]);
    }

    #[test]
    fn a_command_goes_on_as_in_a_shell() {
        for whole in [
            "echo a \\\n  b",
            "echo 'a\nb'",
            "echo \"a \\\" $(x)\nb\"",
            "cat > x <<EOF\nit's\nEOF",
            "cat <<-'END' | sort\n\tb\n\tEND",
            "for i in 1 2; do\n  echo $i\ndone",
            "if true\nthen echo a\nfi",
            "say() {\n  echo a\n}",
            "case x in\nx) echo a ;;\nesac",
            "echo a |\n  sort",
            "true &&\n  echo a",
            "(\necho a\n)",
            "a=$(echo 1\necho 2)",
            "(while read -r x; do\necho $x; done)",
            "say(){\n  echo a\n}",
        ] {
            let after = format!("{whole}\nkm version");
            let found = commands(&after);
            assert_eq!(found.len(), 2, "{found:?}");
            assert_eq!(found[0], (0, whole.to_owned()));
        }
    }

    #[test]
    fn one_line_holds_a_whole_loop() {
        let text = "for i in 1 2; do echo $i; done\nuntil [ -s x ]; do sleep 1; done\n[ \"$a\" = '{' ]\necho \\\\\n(for i in 1; do ls; done) | sort";
        assert_eq!(commands(text).len(), 5);
    }

    #[test]
    fn words_that_only_look_like_syntax_are_words() {
        let text = "echo if\nfalse\necho fi\necho $((1 << 2))\necho '<<EOF'\necho {\nls # (\necho done";
        assert_eq!(commands(text).len(), 8);
    }

    #[test]
    fn a_command_without_end_is_found() {
        for text in ["echo 'a", "echo a \\", "cat <<EOF\nx", "if true", "a |", "fi"] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(split(&lines), Err(0), "{text}");
        }
    }
}
