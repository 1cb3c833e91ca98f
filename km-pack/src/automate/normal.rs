//! What differs from run to run, made the same on both sides, so that pages show real output.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// The name of a scenario's folder on its page.
pub(super) const HOME: &str = "/home/you";

/// What stands for what, in order: a whole key is no hex, a time is no number.
const RULES: [(&str, &str); 8] = [
    (r"km_live_(?:[A-Za-z0-9_-]+|…)|km_l…[A-Za-z0-9_-]{4}", "<key>"),
    (r"\b(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)", "<time>"),
    (r"\b127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
    (r"\bpid \d+", "pid <number>"),
    (r"\b\d+(?:\.\d+)? ?(?:[kKMGT]i?B|B)\b", "<size>"),
    (r"\b\d+(?:\.\d+)? ?(?:ns|µs|us|ms|s|min|h)\b(?: ?\d+(?:\.\d+)? ?(?:ms|s|min)\b)*", "<duration>"),
    (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "<hex>"),
    (r"\b[0-9a-fA-F]{8,}\b", "<hex>"),
];

type Rules = Vec<(Regex, &'static str)>;

static COMPILED: LazyLock<Rules> = LazyLock::new(|| compile(&RULES));

fn compile(rules: &[(&str, &'static str)]) -> Rules {
    rules.iter().filter_map(|(rule, stands)| Some((Regex::new(rule).ok()?, *stands))).collect()
}

fn replaced(text: &str, rules: &Rules) -> String {
    let mut text = Cow::from(text);
    for (rule, stands) in rules {
        if let Cow::Owned(changed) = rule.replace_all(&text, *stands) {
            text = changed.into();
        }
    }
    text.into_owned()
}

/// The columns of a table are as wide as what stands in them.
static PADDING: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\S) {2,}").ok());

/// A line as it is compared.
pub(super) fn normal(line: &str) -> String {
    let line = replaced(line.trim_end(), &COMPILED);
    match PADDING.as_ref().map(|padding| padding.replace_all(&line, "$1  ")) {
        Some(Cow::Owned(changed)) => changed,
        _ => line,
    }
}

/// The two names of things: on the page, and here.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// (page, here)
    pairs: Vec<(String, String)>,
}

impl Names {
    /// The folder's, and those of the scenario.
    pub(super) fn new(folder: &str, aliases: impl IntoIterator<Item = (String, String)>) -> Self {
        let home = (HOME.to_owned(), folder.to_owned());
        let pairs: Vec<_> = aliases.into_iter().chain([home]).filter(|(_, here)| !here.is_empty()).collect();
        Self { pairs }
    }

    /// What the page says, as it is meant here.
    pub(super) fn here(&self, text: &str) -> String {
        let mut pairs: Vec<_> = self.pairs.iter().map(|(page, here)| (page, here)).collect();
        pairs.sort_by_key(|(page, _)| std::cmp::Reverse(page.len()));
        pairs.into_iter().fold(text.to_owned(), |text, (page, here)| text.replace(page.as_str(), here))
    }

    /// What was said here, as the page says it; whole keys masked.
    pub(super) fn page(&self, text: &str) -> String {
        replaced(&self.named(text), &COMPILED_SECRETS)
    }

    /// What was said here, as a report may show it.
    pub(super) fn report(&self, text: &str) -> String {
        masked(&self.named(text))
    }

    fn named(&self, text: &str) -> String {
        let mut pairs: Vec<_> = self.pairs.iter().map(|(page, here)| (page, here)).collect();
        pairs.sort_by_key(|(_, here)| std::cmp::Reverse(here.len()));
        pairs.into_iter().fold(text.to_owned(), |text, (page, here)| text.replace(here.as_str(), page))
    }
}

/// What no page shows, and what is no difference: API keys, private keys from begin to end, tokens.
const SECRETS: [(&str, &str); 3] = [
    ("km_live_[A-Za-z0-9_-]{8,}", "km_live_…"),
    (
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:(?:\\[nr]|\r?\n)+[ \t]*(?:(?:Proc-Type|DEK-Info): [^\n]*|[A-Za-z0-9+/=]*))*-----END [A-Z0-9 ]*PRIVATE KEY-----",
        "-----PRIVATE KEY…-----",
    ),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "eyJ…"),
];

/// What no report may show besides. A private key that does not end is one to the end of the text.
const MORE_SECRETS: [(&str, &str); 2] = [
    (
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        "-----PRIVATE KEY…-----",
    ),
    (r#"(?i)\b(authorization["']?: *["']?bearer )[^\s"']+"#, "${1}…"),
];

/// What sets colours and the like on a terminal.
const ESCAPES: [(&str, &str); 1] =
    [(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])", "")];

static COMPILED_SECRETS: LazyLock<Rules> = LazyLock::new(|| compile(&SECRETS));
static COMPILED_MORE_SECRETS: LazyLock<Rules> = LazyLock::new(|| compile(&MORE_SECRETS));
static COMPILED_ESCAPES: LazyLock<Rules> = LazyLock::new(|| compile(&ESCAPES));

/// A text without secrets, for reports; without escapes, too, which may stand within a key.
pub(super) fn masked(text: &str) -> String {
    let text = replaced(&plain(text), &COMPILED_SECRETS);
    replaced(&text, &COMPILED_MORE_SECRETS)
}

/// Whether a report would not show this text as it is.
pub(super) fn has_secret(text: &str) -> bool {
    masked(text) != plain(text)
}

/// Lines for a report: as many as there were.
pub(super) fn masked_lines(lines: &[String]) -> Vec<String> {
    let begin = lines.iter().position(|line| plain(line).contains("PRIVATE KEY-----"));
    let hidden = |(at, line): (usize, &String)| match begin {
        Some(begin) if at > begin => "…".to_owned(),
        _ => masked(line),
    };
    let has_key = begin.is_some_and(|_| has_secret(&lines.join("\n")));
    if has_key {
        lines.iter().enumerate().map(hidden).collect()
    } else {
        lines.iter().map(|line| masked(line)).collect()
    }
}

fn plain(text: &str) -> String {
    replaced(text, &COMPILED_ESCAPES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_a_rule() {
        assert_eq!(COMPILED.len(), RULES.len());
        assert_eq!(COMPILED_SECRETS.len(), SECRETS.len());
        assert_eq!(COMPILED_MORE_SECRETS.len(), MORE_SECRETS.len());
        assert_eq!(COMPILED_ESCAPES.len(), ESCAPES.len());
        assert!(PADDING.is_some());
    }

    #[test]
    fn what_differs_from_run_to_run_is_the_same() {
        for (one, other) in [
            ("at 2026-11-23T09:38:38Z.", "at 2025-01-01T00:00:00.123+02:00."),
            ("[a] 10:02:53.594Z in", "[a] 10:02:56.690Z in"),
            ("key id 10ff1abebd414d00", "key id 0000000000000000"),
            ("km-plugin-a-3a6bc2f1c237.kmpkg", "km-plugin-a-82c255755924.kmpkg"),
            ("id 67e55044-10b1-426f-9247-bb680e5fe0c8", "id 00000000-0000-0000-0000-000000000000"),
            ("took 12 ms", "took 1.3 s"),
            ("took 4 min 3 s, then", "took 900ms, then"),
            ("1.2 MB", "812 KiB"),
            ("on http://127.0.0.1:5194/v1", "on http://127.0.0.1:40000/v1"),
            ("km_live_0123456789abcdefABCDEF", "km_live_…"),
            ("API key km_l…c123", "API key km_l…9f0b"),
            ("pid 12", "pid 4711"),
            ("a  12 ms  b", "a  1.25 s    b   "),
        ] {
            assert_eq!(normal(one), normal(other));
        }
    }

    #[test]
    fn all_other_text_is_compared() {
        for (one, other) in [
            ("12 packages", "13 packages"),
            ("exit 6", "exit 7"),
            ("version 1.0.0", "version 1.0.1"),
            ("1234567", "1234568"),
            ("console-logger  1.0.0", "api-logger  1.0.0"),
            ("  indented", "    indented"),
            ("pids 12", "pids 13"),
            ("port 5194", "port 5195"),
            ("12 sheep", "13 sheep"),
        ] {
            assert_ne!(normal(one), normal(other));
        }
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\nMC4C\n-----END RSA PRIVATE KEY-----\n";
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----\n";
        for (secret, rest) in [
            ("key km_live_0123456789abcdef.", "key km_live_…."),
            (pem, "-----PRIVATE KEY…-----\n"),
            ("token eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjIn0.c2lnbmF0dXJl!", "token eyJ…!"),
            (legacy, "-----PRIVATE KEY…-----\n"),
            ("a\n-----BEGIN PRIVATE KEY-----\nMC4CAQ\nmore - text", "a\n-----PRIVATE KEY…-----"),
            ("Authorization: Bearer abc.def/1-2\nx", "Authorization: Bearer …\nx"),
            (r#"{"authorization": "bearer abc"}"#, r#"{"authorization": "bearer …"}"#),
            ("km_live_\u{1b}[1m0123456789abcdef\u{1b}[0m", "km_live_…"),
            ("\u{1b}[31mred\u{1b}]8;;x\u{7}\u{1b}(B", "red"),
        ] {
            assert_eq!(masked(secret), rest);
            assert_eq!(masked(rest), rest);
        }
    }

    #[test]
    fn what_is_compared_hides_whole_keys_only() {
        let page = |text: &str| Names::default().page(text);
        for whole in [
            "-----BEGIN PRIVATE KEY-----\nMC4CAQ+/=\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\\nMC4CAQ\\n-----END PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----\r\nMC4CAQ\r\n-----END EC PRIVATE KEY-----",
        ] {
            assert_eq!(page(whole), "-----PRIVATE KEY…-----", "{whole}");
        }
        for text in [
            "-----BEGIN PRIVATE KEY-----\nWRONG OUTPUT",
            "-----BEGIN PRIVATE KEY-----\nWRONG OUTPUT\n-----END PRIVATE KEY-----",
            "Authorization: Bearer wrong",
        ] {
            assert_eq!(page(text), text);
        }
    }

    #[test]
    fn lines_of_a_report_are_as_many_as_there_were() {
        let lines = ["a", "-----BEGIN PRIVATE KEY-----", "MC4C", "b"].map(str::to_owned);
        assert_eq!(masked_lines(&lines), ["a", "-----PRIVATE KEY…-----", "…", "…"]);
        let lines = ["-----PRIVATE KEY…-----", "b"].map(str::to_owned);
        assert_eq!(masked_lines(&lines), lines);
    }

    #[test]
    fn the_page_and_this_machine_have_names_of_their_own() {
        let aliases = [("https://plugins.example.com".to_owned(), "http://127.0.0.1:4000".to_owned())];
        let names = Names::new("/tmp/km-automate-1/a", aliases);
        let page = "km init --endpoint https://plugins.example.com in /home/you/x";
        let here = "km init --endpoint http://127.0.0.1:4000 in /tmp/km-automate-1/a/x";
        assert_eq!(names.here(page), here);
        assert_eq!(names.page(here), page);
        assert_eq!(names.page("km_live_0123456789abcdef!"), "km_live_…!");
    }
}
