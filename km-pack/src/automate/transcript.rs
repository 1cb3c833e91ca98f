//! What a page says comes of a command, against what came.

use super::normal::normal;
use super::scenario::status;

/// A line that stands for any number of lines.
const ANY_LINES: &str = "...";
/// What stands for anything within a line.
const ANY_TEXT: &str = "[..]";
/// Longer outputs are not aligned line by line.
const MOST_LINES: usize = 3000;

/// As many lines of a failure are shown on a terminal.
const MOST_SHOWN: usize = 60;

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
        let expected: Vec<Line> = expected.iter().map(|line| Line::new(line)).collect();
        let actual: Vec<Line> = actual.iter().map(|line| Line::new(line)).collect();
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

/// A line as it came, and as it is compared.
#[derive(Debug)]
struct Line {
    raw: String,
    normal: String,
}

impl Line {
    fn new(raw: &str) -> Self {
        Self { raw: raw.trim_end().to_owned(), normal: normal(raw) }
    }

    fn is_any(&self) -> bool {
        is_any(&self.raw)
    }

    fn is_pattern(&self) -> bool {
        self.raw.contains(ANY_TEXT)
    }
}

/// Whether a line is what was expected. `[..]` may also stand for what would be made the same with what is
/// beside it, as in `took [..] ms`.
fn holds(expected: &Line, actual: &Line) -> bool {
    stands_for(&expected.normal, &actual.normal)
        || expected.is_pattern() && stands_for(&expected.raw, &actual.raw)
}

/// Whether two texts are the same, with `[..]` for anything.
fn stands_for(expected: &str, actual: &str) -> bool {
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
fn align(expected: &[Line], actual: &[Line]) -> Vec<Row> {
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
                (true, came) if expected[at].is_any() => {
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
        if more && expected[at].is_any() {
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

/// Without `...`: what is the same at the beginning and at the end, and between them line beside line.
fn one_by_one(expected: &[Line], actual: &[Line]) -> Vec<Row> {
    let shorter = expected.len().min(actual.len());
    let pairs = expected.iter().rev().zip(actual.iter().rev());
    let same = expected.iter().zip(actual).take_while(|(expected, actual)| holds(expected, actual)).count();
    let end = pairs.take(shorter - same).take_while(|(expected, actual)| holds(expected, actual)).count();
    let mut rows: Vec<Row> = (0..same).map(|at| Row::Both(at, at)).collect();
    for at in same..expected.len().max(actual.len()) - end {
        let (more, came) = (at < expected.len() - end, at < actual.len() - end);
        if more && came && holds(&expected[at], &actual[at]) {
            rows.push(Row::Both(at, at));
            continue;
        }
        rows.extend(more.then_some(Row::Missing(at)));
        rows.extend(came.then_some(Row::Extra(at)));
    }
    let both = |left| Row::Both(expected.len() - left, actual.len() - left);
    rows.extend((1..=end).rev().map(both));
    rows
}

/// As many lines as possible find one that holds for each; those without `[..]` choose first.
fn pair(expected: &[Line], actual: &[Line]) -> Vec<Row> {
    let mut pairs = Pairs { expected, actual, taken_by: vec![None; actual.len()] };
    for patterns in [false, true] {
        for (at, line) in expected.iter().enumerate() {
            if line.is_pattern() == patterns && !line.is_any() {
                pairs.find(at, &mut vec![false; actual.len()]);
            }
        }
    }
    let taken_by = pairs.taken_by;
    let mut partner: Vec<Option<usize>> = vec![None; expected.len()];
    for (to, at) in taken_by.iter().enumerate() {
        if let Some(at) = at {
            partner[*at] = Some(to);
        }
    }
    let any = expected.iter().any(Line::is_any);
    let row = |(at, line): (usize, &Line)| match partner[at] {
        _ if line.is_any() => Row::Any(at),
        Some(to) => Row::Both(at, to),
        None => Row::Missing(at),
    };
    let rest = (0..actual.len()).filter(|to| taken_by[*to].is_none());
    let rest = rest.map(|to| if any { Row::Within(to) } else { Row::Extra(to) });
    expected.iter().enumerate().map(row).chain(rest).collect()
}

/// Who has which line.
struct Pairs<'a> {
    expected: &'a [Line],
    actual: &'a [Line],
    taken_by: Vec<Option<usize>>,
}

impl Pairs<'_> {
    /// Finds a line for this one: a free one, or one whose owner finds another.
    fn find(&mut self, at: usize, asked: &mut [bool]) -> bool {
        for free in [true, false] {
            for to in 0..self.actual.len() {
                if asked[to]
                    || self.taken_by[to].is_none() != free
                    || !holds(&self.expected[at], &self.actual[to])
                {
                    continue;
                }
                asked[to] = true;
                let owner = self.taken_by[to];
                if owner.is_none_or(|owner| self.find(owner, asked)) {
                    self.taken_by[to] = Some(at);
                    return true;
                }
            }
        }
        false
    }
}

/// Of a longer text only the beginning, for a terminal.
pub(super) fn beginning(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= MOST_SHOWN {
        return text.to_owned();
    }
    let more = lines.len() - MOST_SHOWN;
    format!("{}\n… {more} more lines, see report\n", lines[..MOST_SHOWN].join("\n"))
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
    fn in_any_order_each_line_finds_its_own() {
        let unordered = |expected, actual| Alignment::new(&lines(expected), &lines(actual), true).matches();
        assert!(unordered("a[..]\n[..]b", "ab\na1"));
        assert!(unordered("a[..]\n[..]b", "a1\nab"));
        assert!(unordered("[..]\na[..]\nab[..]", "abc\nac\nx"));
        assert!(!unordered("a[..]\na[..]", "ab\nb"));
    }

    #[test]
    fn anything_may_stand_beside_a_unit() {
        assert!(matches("took [..] ms", "took 12 ms"));
        assert!(matches("[..] MB in 3 s", "1.2 MB in 3 s"));
        assert!(matches("id [..] took 3 s", "id 10ff1abebd414d00 took 4 s"));
        assert!(!matches("took [..] ms", "took 12 s"));
    }

    #[test]
    fn what_is_the_same_when_compared_is_no_difference() {
        let (expected, actual) = (lines("key 00000000\nold"), lines("key 10ff1abe\nnew"));
        for unordered in [false, true] {
            let difference = Alignment::new(&expected, &actual, unordered).difference(&expected, &actual);
            assert_eq!(difference, "  key 10ff1abe\n- old\n+ new\n");
        }
        let many = |last: &str| format!("first {last}\n{}key 00000000\n", "same\n".repeat(MOST_LINES));
        let (expected, actual) = (lines(&many("old")), lines(&many("new\nmore").replace("0000", "1111")));
        let difference = Alignment::new(&expected, &actual, false).difference(&expected, &actual);
        assert_eq!(difference, "- first old\n+ first new\n+ more\n  same\n  same\n  same\n  …\n");
    }

    #[test]
    fn a_terminal_sees_the_beginning_of_what_is_long() {
        assert_eq!(beginning("a\nb\n"), "a\nb\n");
        let long = beginning(&"x\n".repeat(MOST_SHOWN + 7));
        assert!(long.ends_with("x\n… 7 more lines, see report\n") && long.lines().count() == MOST_SHOWN + 1);
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
