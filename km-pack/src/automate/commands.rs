//! The lines of an `sh` block, as commands.

/// Splits a block into its commands, each with the number of its first line (from 0). A command goes on
/// past the end of a line as it does in a shell: after a backslash, within quotes, here-documents and
/// compound commands, after `|`, `&&` and `||`.
///
/// # Errors
/// The first line of a command that does not end.
pub(super) fn split(lines: &[&str]) -> Result<Vec<(usize, String)>, usize> {
    let mut commands = Vec::new();
    let mut open = Open::default();
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
        open.read(line);
        if open.is_closed() {
            commands.extend(begun.take());
        }
    }
    match begun {
        Some((at, _)) => Err(at),
        None => Ok(commands),
    }
}

/// What keeps a command from ending with its line.
#[derive(Debug, Default)]
struct Open {
    quote: Option<char>,
    /// The lines that end here-documents, and whether tabs may stand before them.
    documents: Vec<(String, bool)>,
    /// `if`, `for`, `{` and their kind.
    depth: usize,
    parentheses: usize,
    continued: bool,
}

impl Open {
    fn is_closed(&self) -> bool {
        self.quote.is_none()
            && self.documents.is_empty()
            && self.depth == 0
            && self.parentheses == 0
            && !self.continued
    }

    fn read(&mut self, line: &str) {
        if let Some((end, tabs)) = self.documents.first() {
            let line = if *tabs { line.trim_start_matches('\t') } else { line };
            if line == end {
                self.documents.remove(0);
            }
            return;
        }
        let bare = self.without_quotes(line);
        self.read_documents(line, &bare);
        for word in bare.split(|c: char| c.is_whitespace() || ";&|()".contains(c)) {
            match word {
                "if" | "for" | "while" | "until" | "case" | "{" => self.depth += 1,
                "fi" | "done" | "esac" | "}" => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        // Those that end a pattern of `case` close nothing.
        for c in bare.chars() {
            match c {
                '(' => self.parentheses += 1,
                ')' => self.parentheses = self.parentheses.saturating_sub(1),
                _ => {}
            }
        }
        let end = bare.trim_end();
        self.continued = bare.ends_with('\\') || ["|", "&&"].iter().any(|mark| end.ends_with(mark));
    }

    /// The line with nothing in its quotes, and without its comment.
    fn without_quotes(&mut self, line: &str) -> String {
        let mut bare = String::new();
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            match (self.quote, c) {
                (Some('\''), '\'') | (Some('"'), '"') => self.quote = None,
                (Some('"') | None, '\\') => {
                    // At the very end it continues the line.
                    if characters.next().is_none() && self.quote.is_none() {
                        bare.push('\\');
                    }
                }
                (Some(_), _) => {}
                (None, '\'' | '"') => {
                    self.quote = Some(c);
                    bare.push('_');
                }
                (None, '#') if bare.is_empty() || bare.ends_with(char::is_whitespace) => break,
                (None, _) => bare.push(c),
            }
        }
        bare
    }

    fn read_documents(&mut self, line: &str, bare: &str) {
        if !bare.contains("<<") || bare.contains("<<<") {
            return;
        }
        for rest in line.split("<<").skip(1) {
            let tabs = rest.starts_with('-');
            let rest = rest.trim_start_matches('-').trim_start();
            let end: String = rest
                .chars()
                .filter(|c| !"'\"\\".contains(*c))
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !end.is_empty() {
                self.documents.push((end, tabs));
            }
        }
    }
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
    fn a_command_without_end_is_found() {
        for text in ["echo 'a", "echo a \\", "cat <<EOF\nx", "if true", "a |"] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(split(&lines), Err(0), "{text}");
        }
    }
}
