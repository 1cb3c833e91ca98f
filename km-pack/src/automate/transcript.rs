//! What a page says comes of a command, against what came.

use super::normal::normal;
use super::scenario::status;

/// A line that stands for any number of lines.
const ANY_LINES: &str = "...";
/// What stands for anything within a line.
const ANY_TEXT: &str = "[..]";
/// Longer outputs are not aligned line by line.
const MOST_LINES: usize = 3000;

/// How two outputs lie beside each other: a line for each line of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alignment {
    rows: Vec<Row>,
}

/// By index into what was expected, and into what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// They match.
    Both(usize, usize),
    /// A `...`, whatever it stands for.
    Any(usize),
    /// What a `...` stands for.
    Within(usize),
    /// Expected, and did not come.
    Missing(usize),
    /// Came, and was not expected.
    Extra(usize),
}

impl Alignment {
    /// Lays what came beside what was expected, so that as little as possible differs.
    pub(super) fn new(expected: &[String], actual: &[String], unordered: bool) -> Self {
        let expected: Vec<String> = expected.iter().map(|line| normal(line)).collect();
        let actual: Vec<String> = actual.iter().map(|line| normal(line)).collect();
        let rows = if unordered { pair(&expected, &actual) } else { align(&expected, &actual) };
        Self { rows }
    }

    /// Whether nothing differs.
    pub(super) fn matches(&self) -> bool {
        !self.rows.iter().any(|row| matches!(row, Row::Missing(_) | Row::Extra(_)))
    }

    /// Whether all that was expected has come, in its order; more may have.
    pub(super) fn holds_all(&self) -> bool {
        !self.rows.iter().any(|row| matches!(row, Row::Missing(_)))
    }

    /// `-` what should have come, `+` what came.
    pub(super) fn difference(&self, expected: &[String], actual: &[String]) -> String {
        let line = |row: &Row| match *row {
            Row::Both(_, at) | Row::Within(at) => format!("  {}\n", actual[at]),
            Row::Any(_) => String::new(),
            Row::Missing(at) => format!("- {}\n", expected[at]),
            Row::Extra(at) => format!("+ {}\n", actual[at]),
        };
        let lines: Vec<String> = self.rows.iter().map(line).filter(|line| !line.is_empty()).collect();
        let differs = |at: &usize| !lines[*at].starts_with("  ");
        let near = |at: usize| (at.saturating_sub(3)..(at + 4).min(lines.len())).any(|at| differs(&at));
        let mut text = String::new();
        let mut left_out = false;
        for (at, line) in lines.iter().enumerate() {
            if near(at) {
                text.push_str(line);
            } else if !left_out {
                text.push_str("  …\n");
            }
            left_out = !near(at);
        }
        text
    }

    /// What the page should say: its own lines as long as they hold, else what came.
    ///
    /// # Errors
    /// A line that came and would be read as something else.
    pub(super) fn accepted(&self, expected: &[String], actual: &[String]) -> Result<Vec<String>, String> {
        let mut lines: Vec<String> = Vec::new();
        for row in &self.rows {
            let (line, came) = match *row {
                Row::Both(at, _) | Row::Any(at) => (&expected[at], false),
                Row::Extra(at) => (&actual[at], true),
                Row::Within(_) | Row::Missing(_) => continue,
            };
            let is_first = lines.is_empty();
            if is_first && continues(line) || came && means_more(line) {
                return Err(line.clone());
            }
            lines.push(line.clone());
        }
        Ok(lines)
    }
}

/// Whether a line directly below a command would continue it.
fn continues(line: &str) -> bool {
    line == ">" || line.starts_with("> ")
}

/// Whether a line of output would be read as something else, wherever it stands.
fn means_more(line: &str) -> bool {
    let is_fence = ["```", "~~~"].iter().any(|fence| line.trim_start().starts_with(fence));
    let is_command = line == "$" || line.starts_with("$ ");
    is_fence || is_command || status(line).is_some() || is_any(line) || line.contains(ANY_TEXT)
}

/// Whether a line is what was expected, with `[..]` for anything.
fn holds(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split(ANY_TEXT);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

fn is_any(line: &str) -> bool {
    line.trim() == ANY_LINES
}

/// The alignment with the fewest differences, from the first line on.
fn align(expected: &[String], actual: &[String]) -> Vec<Row> {
    if expected.len().max(actual.len()) > MOST_LINES {
        return one_by_one(expected, actual);
    }
    let width = actual.len() + 1;
    // What it costs from here to the end.
    let mut cost = vec![0_u32; (expected.len() + 1) * width];
    for at in (0..=expected.len()).rev() {
        for to in (0..=actual.len()).rev() {
            let value = |at: usize, to: usize| cost[at * width + to];
            let (more, came) = (at < expected.len(), to < actual.len());
            cost[at * width + to] = match (more, came) {
                (false, false) => 0,
                (false, true) => 1 + value(at, to + 1),
                (true, came) if is_any(&expected[at]) => {
                    let none = value(at + 1, to);
                    if came { none.min(value(at, to + 1)) } else { none }
                }
                (true, false) => 1 + value(at + 1, to),
                (true, true) => {
                    let differs = 1 + value(at + 1, to).min(value(at, to + 1));
                    if holds(&expected[at], &actual[to]) {
                        differs.min(value(at + 1, to + 1))
                    } else {
                        differs
                    }
                }
            };
        }
    }
    let value = |at: usize, to: usize| cost[at * width + to];
    let (mut at, mut to, mut rows) = (0, 0, Vec::new());
    let mut begun = None;
    while at < expected.len() || to < actual.len() {
        let (more, came) = (at < expected.len(), to < actual.len());
        if more && is_any(&expected[at]) {
            if begun != Some(at) {
                rows.push(Row::Any(at));
                begun = Some(at);
            }
            if came && value(at, to + 1) == value(at, to) && value(at + 1, to) != value(at, to) {
                rows.push(Row::Within(to));
                to += 1;
            } else {
                at += 1;
            }
        } else if more && came && holds(&expected[at], &actual[to]) && value(at, to) == value(at + 1, to + 1)
        {
            rows.push(Row::Both(at, to));
            (at, to) = (at + 1, to + 1);
        } else if more && value(at, to) == 1 + value(at + 1, to) {
            rows.push(Row::Missing(at));
            at += 1;
        } else {
            rows.push(Row::Extra(to));
            to += 1;
        }
    }
    rows
}

fn one_by_one(expected: &[String], actual: &[String]) -> Vec<Row> {
    let same = expected.iter().zip(actual).take_while(|(expected, actual)| holds(expected, actual)).count();
    let both = (0..same).map(|at| Row::Both(at, at));
    let missing = (same..expected.len()).map(Row::Missing);
    both.chain(missing).chain((same..actual.len()).map(Row::Extra)).collect()
}

/// Each line finds one that holds for it, those without `[..]` first.
fn pair(expected: &[String], actual: &[String]) -> Vec<Row> {
    let mut partner: Vec<Option<usize>> = vec![None; expected.len()];
    let mut taken = vec![false; actual.len()];
    for patterns in [false, true] {
        for (at, line) in expected.iter().enumerate() {
            if line.contains(ANY_TEXT) != patterns || is_any(line) {
                continue;
            }
            let found = (0..actual.len()).find(|to| !taken[*to] && holds(line, &actual[*to]));
            if let Some(to) = found {
                partner[at] = Some(to);
                taken[to] = true;
            }
        }
    }
    let any = expected.iter().any(|line| is_any(line));
    let row = |(at, line): (usize, &String)| match partner[at] {
        _ if is_any(line) => Row::Any(at),
        Some(to) => Row::Both(at, to),
        None => Row::Missing(at),
    };
    let rest = (0..actual.len()).filter(|to| !taken[*to]);
    let rest = rest.map(|to| if any { Row::Within(to) } else { Row::Extra(to) });
    expected.iter().enumerate().map(row).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn matches(expected: &str, actual: &str) -> bool {
        Alignment::new(&lines(expected), &lines(actual), false).matches()
    }

    #[test]
    fn text_is_compared_line_by_line() {
        assert!(matches("a\nb", "a\nb"));
        assert!(matches("", ""));
        for (expected, actual) in
            [("a", "b"), ("a", "a\nb"), ("a\nb", "a"), ("a\nb", "b\na"), ("", "a"), ("a", "")]
        {
            assert!(!matches(expected, actual), "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn anything_may_stand_within_a_line() {
        let holding = [
            ("a [..] b", "a x b"),
            ("a[..]b", "ab"),
            ("a[..]b", "a b b"),
            ("[..]", "x"),
            ("a[..]c[..]e", "abcde"),
        ];
        for (expected, actual) in holding {
            assert!(matches(expected, actual), "{expected:?} {actual:?}");
        }
        for (expected, actual) in
            [("a[..]c", "abd"), ("a[..]b[..]c", "ac"), ("[..]x", "xy"), ("ab[..]ba", "aba")]
        {
            assert!(!matches(expected, actual), "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn any_lines_may_stand_between() {
        for actual in ["a\nb", "a\nx\nb", "a\nx\ny\nb", "a\nb\nb"] {
            assert!(matches("a\n...\nb", actual), "{actual:?}");
        }
        assert!(matches("...", "") && matches("...", "x\ny") && matches("...\na\n...", "x\na\ny"));
        for actual in ["a", "b", "a\nx", "x\na\nb", "a\nb\nx"] {
            assert!(!matches("a\n...\nb", actual), "{actual:?}");
        }
    }

    #[test]
    fn the_order_may_not_matter_but_the_number_does() {
        let unordered = |expected, actual| Alignment::new(&lines(expected), &lines(actual), true).matches();
        assert!(unordered("a\nb", "b\na"));
        assert!(unordered("[..]\na", "a\nb"));
        assert!(unordered("a\n...", "b\na\nc"));
        assert!(!unordered("a\na", "a\nb") && !unordered("a", "a\na") && !unordered("a\nb", "a"));
    }

    #[test]
    fn all_that_was_expected_may_have_come_with_more() {
        let holds = |actual| Alignment::new(&lines("a\nb"), &lines(actual), false).holds_all();
        assert!(holds("x\na\ny\nb\nz"));
        assert!(!holds("b\na") && !holds("a"));
    }

    #[test]
    fn the_difference_shows_what_should_have_come_and_what_came() {
        let (expected, actual) = (lines("one\ntwo\nthree"), lines("one\n2\nthree"));
        let difference = Alignment::new(&expected, &actual, false).difference(&expected, &actual);
        assert_eq!(difference, "  one\n- two\n+ 2\n  three\n");
        let (expected, actual) = (lines("...\nlast"), lines("a\nb\nc\nd\ne\nend"));
        let difference = Alignment::new(&expected, &actual, false).difference(&expected, &actual);
        assert!(difference.starts_with("  …\n") && difference.contains("- last\n"), "{difference}");
    }

    #[test]
    fn what_holds_stays_as_it_stands_on_the_page() {
        let accepted = |expected, actual| {
            let (expected, actual) = (lines(expected), lines(actual));
            Alignment::new(&expected, &actual, false).accepted(&expected, &actual).unwrap().join("\n")
        };
        assert_eq!(accepted("took 1 s\nold\n[..]x", "took 2 s\nnew\nyx"), "took 1 s\nnew\n[..]x");
        assert_eq!(accepted("a\n...\nz\nold", "a\n1\n2\nz\nnew"), "a\n...\nz\nnew");
        assert_eq!(accepted("", "a\nb"), "a\nb");
        assert_eq!(accepted("a\nb", ""), "");
    }

    #[test]
    fn what_would_be_read_as_something_else_is_not_accepted() {
        let accepted = |expected: &str, actual: &str| {
            let (expected, actual) = (lines(expected), lines(actual));
            Alignment::new(&expected, &actual, false).accepted(&expected, &actual)
        };
        for line in ["> x", ">", "[exit 4]", "...", "  ...", "a [..] b", "$ x", "$", "```", " ~~~sh"] {
            assert_eq!(accepted("old", line), Err(line.to_owned()));
        }
        for line in ["[exit 4]", "...", "$ x", "```"] {
            assert_eq!(accepted("a\nold", &format!("a\n{line}")), Err(line.to_owned()));
        }
        assert_eq!(accepted("gone\n> kept", "> kept"), Err("> kept".to_owned()));
        assert_eq!(accepted("a", "a\n> b"), Ok(lines("a\n> b")));
        assert_eq!(accepted("...\n[..]x", "...\n[..]x"), Ok(lines("...\n[..]x")));
    }
}
