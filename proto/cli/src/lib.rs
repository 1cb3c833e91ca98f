//! The rules that `km` and `km-pack` share at their edge: results on stdout, everything else on
//! stderr, one JSON document with `--json`, errors that say what to do next, exit codes of
//! [`Kind`], progress only on a terminal.
//!
//! It reads no environment: each command hands in what it read ([`Settings`]).

#![warn(missing_docs)]

mod man;
mod progress;

pub use man::Man;
pub use progress::Progress;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Args, ColorChoice, CommandFactory, Parser, ValueEnum};
use km_package::failure::{ErrorDocument, Failure, Kind};
use serde::Serialize;

/// Arguments that every command takes.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Print one JSON document on stdout and nothing else
    #[arg(long, global = true, help_heading = "Common options")]
    pub json: bool,
    /// When to use colors on stderr
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Common options")]
    pub color: Color,
    /// Log more on stderr; repeat for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Common options")]
    pub verbose: u8,
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a command found in its environment about logging.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `KM_DEBUG`
    pub debug: bool,
    /// `KM_LOG`: a tracing filter.
    pub log: Option<String>,
    /// Takes each line of the log in stderr's place.
    pub log_to: Option<fn(Vec<u8>)>,
}

/// Where a line of the log goes.
struct LogWriter(Option<fn(Vec<u8>)>);

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0 {
            Some(log_to) => log_to(line.to_vec()),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A parsed command line.
pub trait Command: Parser {
    /// The arguments that every command takes.
    fn common(&self) -> &CommonArgs;
}

/// The body of a command's `main`: parses, sets up logs, runs, reports.
pub fn main<C: Command>(
    arguments: impl IntoIterator<Item = OsString>,
    settings: &Settings,
    run: impl FnOnce(&C, &Output) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = match C::try_parse_from(&arguments) {
        Ok(command) => command,
        Err(error) => return report_usage(&arguments, &error),
    };
    let common = command.common();
    let output = Output { json: common.json, verbose: common.verbose, trouble: RefCell::new(None) };
    match common.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    start_logs(common.verbose, settings);
    match (run(&command, &output), output.trouble.take()) {
        (Err(failure), _) => output.fail(&failure),
        (Ok(code), None) => code,
        (Ok(_), Some(e)) => {
            output.fail(&Failure::new(Kind::Local, format_args!("cannot write the result to stdout: {e}")))
        }
    }
}

/// clap's own words, and with `--json` the error document besides.
fn report_usage(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // --help and --version.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // What follows `--` belongs to another program.
    let mut own = arguments.iter().take_while(|argument| *argument != "--");
    if own.any(|argument| argument == "--json") {
        let text = without_secrets(&error.render().to_string(), arguments);
        // What is missing or wrong may stand on lines of its own.
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let message = lines.collect::<Vec<_>>().join(" ");
        let message = message.trim_start_matches("error: ");
        let failure = Failure::new(Kind::Usage, message).help("--help shows how it is used");
        // There is nobody left to tell when stdout takes nothing.
        let _ = print_json(&ErrorDocument::from(&failure));
    } else {
        let text = error.render();
        match without_secrets(&text.to_string(), arguments) {
            same if same == text.to_string() => drop(error.print()),
            masked => eprint!("{masked}"),
        }
    }
    ExitCode::from(Kind::Usage.code())
}

/// Arguments that are quoted where they were not expected may be keys, or URLs with passwords: masked.
fn without_secrets(text: &str, arguments: &[OsString]) -> String {
    let mut text = text.to_owned();
    for argument in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        let value = argument.split_once('=').map_or(argument, |(_, value)| value);
        let is_key = value.len() >= 16
            && value.bytes().any(|b| b.is_ascii_digit())
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if value.starts_with("km_") || is_key {
            text = text.replace(value, "…");
        }
    }
    mask(&text)
}

/// A text without API keys and without passwords in URLs, whoever put them there.
pub fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`".contains(c)) {
        let key = word.find("km_live_").filter(|at| word.len() > at + 16);
        match (key, word.split_once("://")) {
            (Some(at), _) => {
                let end = word[at..].find(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c));
                masked.push_str(&word[..at]);
                masked.push_str("km_live_…");
                masked.push_str(end.map_or("", |end| &word[at + end..]));
            }
            (None, Some((scheme, rest))) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                masked.push_str(&format!("{scheme}://…@{host}"));
            }
            _ => masked.push_str(word),
        }
    }
    masked
}

fn start_logs(verbose: u8, settings: &Settings) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 if settings.debug => "debug",
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = settings
        .log
        .as_deref()
        .and_then(|log| EnvFilter::try_new(log).ok())
        // What libraries say of their frames is for those who ask for it by KM_LOG.
        .unwrap_or_else(|| {
            EnvFilter::new(format!("{level},h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn"))
        });
    let colors = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let log_to = settings.log_to;
    // A second call in one process (tests) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LogWriter(log_to))
        .with_ansi(colors)
        .with_target(false)
        .try_init();
}

fn print_json(document: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string(document).map_err(io::Error::other)?)
}

/// A reader that is gone is no trouble: `| head` is how much somebody wanted to see.
fn print_line(text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut stdout = anstream::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Where a command's results and remarks go.
#[derive(Debug, Default)]
pub struct Output {
    json: bool,
    verbose: u8,
    /// What kept a result from being written.
    trouble: RefCell<Option<io::Error>>,
}

impl Output {
    /// Whether one JSON document is asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// How often `--verbose` was given.
    pub fn verbose(&self) -> u8 {
        self.verbose
    }

    /// The command's result: `document` with `--json`, else `text`.
    pub fn result(&self, document: &impl Serialize, text: impl fmt::Display) {
        let text = text.to_string();
        let written = match (self.json, text.trim_end_matches('\n')) {
            (true, _) => print_json(document),
            (false, "") => Ok(()),
            (false, text) => print_line(&printable(text)),
        };
        if let Err(e) = written {
            self.trouble.replace(Some(e));
        }
    }

    /// Something worth knowing, on stderr.
    pub fn note(&self, text: impl fmt::Display) {
        remark("note", AnsiColor::Cyan, text);
    }

    /// Something that should be looked at, on stderr.
    pub fn warn(&self, text: impl fmt::Display) {
        remark("warning", AnsiColor::Yellow, text);
    }

    /// Reports a failure and gives its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        let failure = &Failure { message: mask(&failure.message), ..failure.clone() };
        if !self.json || print_json(&ErrorDocument::from(failure)).is_err() {
            remark("error", AnsiColor::Red, failure);
        }
        ExitCode::from(failure.kind.code())
    }

    /// Progress of something that may take a while.
    pub fn progress(&self) -> Progress {
        Progress::new(!self.json)
    }
}

fn remark(label: &str, color: AnsiColor, text: impl fmt::Display) {
    let style = Style::new().bold().fg_color(Some(color.into()));
    anstream::eprintln!("{style}{label}:{style:#} {}", printable(&mask(&text.to_string())));
}

/// Texts may come from a package or a plugin: what could move a terminal's cursor is taken out.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !"\n\t".contains(c) { '\u{fffd}' } else { c }).collect()
}

/// The same, as part of one line: what could begin another is taken out, too.
pub fn printable_line(text: &str) -> String {
    printable(text).replace('\n', "\u{fffd}")
}

/// Lines of cells, in columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(body).collect()
}

/// The completion script of a command for a shell.
pub fn completions<C: CommandFactory>(shell: clap_complete::Shell) -> String {
    let mut command = C::command().color(ColorChoice::Never);
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub use clap_complete::Shell;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_can_steer_a_terminal() {
        assert_eq!(printable_line("a\nkm: b\x1b[2K"), "a\u{fffd}km: b\u{fffd}[2K");
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\td\ne"), "a\u{fffd}[2Jb\u{fffd}c\td\ne");
    }

    #[test]
    fn keys_and_passwords_are_masked_wherever_they_are_quoted() {
        for (text, masked) in [
            ("no \"km_live_0123456789abcdef\" here", "no \"km_live_…\" here"),
            ("x km_live_0123456789abcdef.", "x km_live_…."),
            ("at postgres://km:pass/word@host/db:", "at postgres://km:pass/word@host/db:"),
            ("at postgres://km:password@host/db: no", "at postgres://…@host/db: no"),
            ("https://host/a@b and km_l…cdef", "https://host/a@b and km_l…cdef"),
        ] {
            assert_eq!(mask(text), masked);
        }
        let arguments =
            ["km", "init", "sk0123456789abcdef", "--plugin", "console-logger"].map(OsString::from);
        let text = "unexpected argument 'sk0123456789abcdef' found, 'console-logger'";
        assert_eq!(without_secrets(text, &arguments), "unexpected argument '…' found, 'console-logger'");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "bb".to_owned()], vec!["cccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&["x", "y"], &rows), "x     y\na     bb\ncccc  d\n");
    }
}
