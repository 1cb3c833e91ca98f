//! A scenario: a Markdown file, read into what is to be run. What is not understood is refused, with its line.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer};

use super::commands::split;

/// What a file says.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    /// Its first heading.
    pub(super) title: String,
    pub(super) head: Head,
    pub(super) steps: Vec<Step>,
}

/// The comment at the very start.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// What is there before the first step.
    #[serde(default)]
    pub(super) given: Given,
    /// Programs without which it is skipped.
    #[serde(default)]
    pub(super) needs: Vec<String>,
    /// Left out by `--quick`.
    #[serde(default)]
    pub(super) slow: bool,
    /// For one command.
    #[serde(default, deserialize_with = "time")]
    pub(super) timeout: Option<Duration>,
    /// What the page says, and what is meant here.
    #[serde(default)]
    pub(super) alias: BTreeMap<String, String>,
}

/// What is there before the first step; each includes those before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Given {
    /// A folder, and the commands.
    #[default]
    Nothing,
    /// Keys, packages and a store.
    Packages,
    /// A server and an API key.
    Api,
    /// A customer with installed plugins.
    Customer,
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Where it stands, from 1.
    pub(super) line: usize,
    pub(super) what: What,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A command of a transcript, and what comes of it.
    Command { text: String, expected: Expected },
    /// A command that goes on while the next ones run.
    Background { text: String, expected: Expected },
    /// A command of an `sh` block.
    Plain(String),
    /// A file is written.
    File { path: String, content: String },
    /// Nothing; why.
    NotRun { why: String },
}

/// What a transcript says comes of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) lines: Vec<String>,
    /// The line numbers (from 1) that lines and exit status take in the file: the first, and the one after the last.
    pub(super) place: (usize, usize),
    pub(super) indent: String,
    pub(super) status: i32,
    pub(super) unordered: bool,
}

/// What cannot be understood, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) line: usize,
    pub(super) what: String,
}

fn refuse<T>(line: usize, what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { line, what: what.into() })
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time: Option<SignedDuration> = text.parse().ok();
    let time = time.and_then(|time| Duration::try_from(time).ok()).filter(|time| !time.is_zero());
    time.map(Some)
        .ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is not a time such as 90s or 2min")))
}

impl Scenario {
    /// Reads one.
    ///
    /// # Errors
    /// Where something is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines: Vec<&str> = text.lines().collect();
        let (head, begin) = read_head(&lines)?;
        let mut reader = Reader { lines: &lines, at: begin, title: None, steps: Vec::new() };
        reader.read()?;
        let Some(title) = reader.title else { return refuse(1, "there is no heading (`# …`)") };
        let runs = |step: &Step| !matches!(step.what, What::NotRun { .. } | What::File { .. });
        if !reader.steps.iter().any(runs) {
            return refuse(1, "there is nothing to run: no block is `console` or `sh`");
        }
        Ok(Self { title, head, steps: reader.steps })
    }
}

/// The comment, and the line after it.
fn read_head(lines: &[&str]) -> Result<(Head, usize), Refusal> {
    if lines.first().is_none_or(|line| line.trim_end() != "<!-- scenario") {
        return Ok((Head::default(), 0));
    }
    let Some(end) = lines.iter().position(|line| line.trim() == "-->") else {
        return refuse(1, "the comment has no end: `-->` on a line of its own");
    };
    let text = lines[1..end].join("\n");
    let head = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 2;
        Refusal { line, what: e.message().to_owned() }
    })?;
    Ok((head, end + 1))
}

struct Reader<'a> {
    lines: &'a [&'a str],
    at: usize,
    title: Option<String>,
    steps: Vec<Step>,
}

/// A comment that says something of the next block.
#[derive(Debug, Clone)]
enum Remark {
    File(String),
    NotRun(String),
}

/// A fenced block.
struct Block<'a> {
    /// The line of its fence, from 1.
    line: usize,
    info: &'a str,
    indent: &'a str,
    content: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Result<(), Refusal> {
        let mut remark: Option<(usize, Remark)> = None;
        while let Some(line) = self.lines.get(self.at) {
            let text = line.trim();
            if let Some(block) = self.block(line)? {
                self.take(&block, remark.take().map(|(_, remark)| remark))?;
                continue;
            }
            if let Some((line, _)) = remark {
                return refuse(line, "no block follows directly");
            }
            self.at += 1;
            remark = read_remark(text, self.at)?.map(|remark| (self.at, remark));
            if text.starts_with("<!--") {
                self.skip_comment()?;
                continue;
            }
            if let Some(title) = text.strip_prefix("# ") {
                self.title.get_or_insert_with(|| title.trim().to_owned());
            }
        }
        remark.map_or(Ok(()), |(line, _)| refuse(line, "no block follows directly"))
    }

    /// Goes on after the comment that begins in the line before.
    fn skip_comment(&mut self) -> Result<(), Refusal> {
        let begin = self.at;
        let Some(length) = self.lines[begin - 1..].iter().position(|line| line.contains("-->")) else {
            return refuse(begin, "the comment has no end");
        };
        self.at += length;
        Ok(())
    }

    /// The block that begins with this line, if one does. Afterwards it is behind.
    fn block(&mut self, line: &'a str) -> Result<Option<Block<'a>>, Refusal> {
        let text = line.trim_start();
        let Some(mark) = ['`', '~'].into_iter().find(|mark| text.starts_with(&mark.to_string().repeat(3)))
        else {
            return Ok(None);
        };
        let length = text.chars().take_while(|c| *c == mark).count();
        let (fence, info) = text.split_at(length);
        if info.contains('`') {
            return Ok(None);
        }
        let indent = &line[..line.len() - text.len()];
        let begin = self.at + 1;
        let rest = &self.lines[begin..];
        let closes = |line: &&str| line.trim().starts_with(fence) && line.trim().chars().all(|c| c == mark);
        let Some(length) = rest.iter().position(closes) else {
            return refuse(begin, "the block has no end");
        };
        let content =
            rest[..length].iter().map(|line| line.strip_prefix(indent).unwrap_or(line.trim_start()));
        self.at = begin + length + 1;
        Ok(Some(Block { line: begin, info: info.trim(), indent, content: content.collect() }))
    }

    fn take(&mut self, block: &Block<'_>, remark: Option<Remark>) -> Result<(), Refusal> {
        let step = |what| Step { line: block.line, what };
        match remark {
            Some(Remark::NotRun(why)) => self.steps.push(step(What::NotRun { why })),
            Some(Remark::File(path)) => {
                let content = block.content.iter().map(|line| format!("{line}\n")).collect();
                self.steps.push(step(What::File { path, content }));
            }
            None => {
                let mut words = block.info.split_whitespace();
                match (words.next(), words.next(), words.next()) {
                    (Some("sh"), None, None) => {
                        for (line, text) in split(&block.content).map_err(|at| Refusal {
                            line: block.line + 1 + at,
                            what: "the command does not end in this block, or `sh` does not understand it"
                                .to_owned(),
                        })? {
                            self.steps.push(Step { line: block.line + 1 + line, what: What::Plain(text) });
                        }
                    }
                    (Some("console"), None, None) => self.transcript(block, false)?,
                    (Some("console"), Some("unordered"), None) => self.transcript(block, true)?,
                    (Some("console"), Some("background"), None) => self.background(block)?,
                    (Some("console" | "sh"), ..) => {
                        let what = format!(
                            "`{}` is not understood: `sh`, `console`, `console unordered` or `console background`",
                            block.info
                        );
                        return refuse(block.line, what);
                    }
                    (Some(language), ..) if is_shell(language) => {
                        let what = format!("`{language}` is not run; write `sh`, or `<!-- not run: WHY -->`");
                        return refuse(block.line, what);
                    }
                    _ if block.content.first().is_some_and(|line| line.starts_with("$ ")) => {
                        let what = "a transcript is `console`; else `<!-- not run: WHY -->` stands before it";
                        return refuse(block.line, what);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn transcript(&mut self, block: &Block<'_>, unordered: bool) -> Result<(), Refusal> {
        for (line, text, expected) in read_transcript(block, unordered)? {
            self.steps.push(Step { line, what: What::Command { text, expected } });
        }
        Ok(())
    }

    /// One command, and lines that say when the next one may begin.
    fn background(&mut self, block: &Block<'_>) -> Result<(), Refusal> {
        let mut commands = read_transcript(block, false)?;
        let (Some((line, text, expected)), true) = (commands.pop(), commands.is_empty()) else {
            return refuse(block.line, "a block in the background holds one command");
        };
        if expected.status != 0 {
            return refuse(line, "what goes on in the background has no exit status yet");
        }
        if expected.lines.iter().all(|line| stands_for_all(line)) {
            return refuse(line, "a block in the background shows what to wait for");
        }
        self.steps.push(Step { line, what: What::Background { text, expected } });
        Ok(())
    }
}

/// Whether a block in this language looks as if it were run.
fn is_shell(language: &str) -> bool {
    ["sh", "shell", "bash", "zsh"].iter().any(|shell| language.eq_ignore_ascii_case(shell))
}

/// Whether a line of a transcript holds whatever comes.
fn stands_for_all(line: &str) -> bool {
    matches!(line.trim(), "" | "..." | "[..]")
}

/// What a comment says; `line` is its own. One that says something stands alone in its line.
fn read_remark(text: &str, line: usize) -> Result<Option<Remark>, Refusal> {
    let Some(comment) = text.strip_prefix("<!--") else { return Ok(None) };
    let begins = |word: &str| {
        let rest = comment.trim_start().strip_prefix(word);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    if begins("scenario") {
        return refuse(line, "`<!-- scenario` is the file's first line, or not there");
    }
    let Some(comment) = comment.strip_suffix("-->") else {
        if begins("file:") || begins("not run:") {
            return refuse(line, "the comment stands alone in its line");
        }
        return Ok(None);
    };
    let said = |word: &str| comment.trim().strip_prefix(word).map(|rest| rest.trim().to_owned());
    let (what, remark) = match (said("file:"), said("not run:")) {
        (Some(path), _) => (path.clone(), Remark::File(path)),
        (_, Some(why)) => (why.clone(), Remark::NotRun(why)),
        _ => return Ok(None),
    };
    if what.is_empty() {
        return refuse(line, "nothing stands after the colon");
    }
    Ok(Some(remark))
}

/// The commands of a transcript, each with its line and what comes of it.
fn read_transcript(block: &Block<'_>, unordered: bool) -> Result<Vec<(usize, String, Expected)>, Refusal> {
    let mut commands: Vec<(usize, String, Expected)> = Vec::new();
    for (line, text) in (block.line + 1..).zip(&block.content) {
        let begins = text.strip_prefix("$ ").or((*text == "$").then_some(""));
        if let Some(command) = begins {
            let expected = Expected {
                lines: Vec::new(),
                place: (line + 1, line + 1),
                indent: block.indent.to_owned(),
                status: 0,
                unordered,
            };
            commands.push((line, command.to_owned(), expected));
            continue;
        }
        let Some((_, command, expected)) = commands.last_mut() else {
            return refuse(line, "a transcript begins with a command: `$ …`");
        };
        let goes_on = text.strip_prefix("> ").or((*text == ">").then_some(""));
        match goes_on {
            Some(more) if expected.lines.is_empty() && expected.place.0 == line => {
                command.push('\n');
                command.push_str(more);
                expected.place = (line + 1, line + 1);
            }
            _ => {
                if expected.place.1 > expected.place.0 + expected.lines.len() {
                    return refuse(line, "after the exit status comes a command, or the block's end");
                }
                match status(text) {
                    Some(status) => expected.status = status,
                    None => expected.lines.push((*text).to_owned()),
                }
                expected.place.1 = line + 1;
            }
        }
    }
    if commands.is_empty() {
        return refuse(block.line, "the transcript is empty");
    }
    Ok(commands)
}

/// The exit status that a line says.
pub(super) fn status(line: &str) -> Option<i32> {
    line.strip_prefix("[exit ")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests;
