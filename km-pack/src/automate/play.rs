//! Playing a scenario: its steps in one shell, each compared with what the page says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use km_package::failure::{Failure, Kind};

use super::ground::{Base, Ground};
use super::normal::{Names, has_secret, masked, masked_lines};
use super::report::{Case, Done, Outcome, span};
use super::scenario::{Expected, Given, Scenario, Step, What};
use super::shell::{Ended, Ran, Shell};
use super::transcript::Alignment;

/// For one command, where the scenario does not say it.
const LIMIT: Duration = Duration::from_secs(60);
/// How often what was started in the background is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The exit status of what somebody has stopped: SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM.
const STOPPED: [i32; 5] = [129, 130, 137, 141, 143];
/// What `wait` says of a process that the scenario has waited for itself.
const WAITED_FOR: i32 = 127;
/// As much of an output is kept in reports.
const MOST_KEPT: usize = 64 << 10;

/// Outputs that pages should show instead: the lines of a file from one number to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Correction {
    /// From 1: the first line, and the one after the last.
    pub(super) place: (usize, usize),
    pub(super) lines: Vec<String>,
}

/// Plays scenarios.
#[derive(Debug)]
pub(super) struct Player<'a> {
    pub(super) base: &'a Base,
    /// Go on after a difference, and remember what came.
    pub(super) accept: bool,
    pub(super) stop: &'a AtomicBool,
}

/// One that is being played.
struct Play<'a> {
    player: &'a Player<'a>,
    shell: Shell,
    ground: Ground,
    names: Names,
    limit: Duration,
    corrections: Vec<Correction>,
    /// What runs in the background.
    started: Vec<Started>,
}

/// What goes on while the next commands run.
struct Started {
    line: Option<usize>,
    command: String,
    process: Option<u32>,
    log: PathBuf,
}

/// What became of a step, and whether the next ones make sense.
struct Judged {
    done: Done,
    go_on: bool,
}

impl Player<'_> {
    /// Plays one to its end and says in `case` what came of it.
    pub(super) fn play(&self, scenario: &Scenario, case: &mut Case) -> Vec<Correction> {
        let begun = Instant::now();
        let corrections = match self.set_up(scenario, &case.name) {
            Ok(play) => play.run(&scenario.steps, case),
            Err(failure) => {
                case.fail(masked(&failure.to_string()));
                Vec::new()
            }
        };
        case.took = begun.elapsed();
        corrections
    }

    fn set_up(&self, scenario: &Scenario, name: &str) -> Result<Play<'_>, Failure> {
        let head = &scenario.head;
        let ground = Ground::prepare(self.base, name, head.given)?;
        let shell = Shell::start(&ground.home, &ground.environment())?;
        let limit = head.timeout.unwrap_or(LIMIT);
        let (names, corrections) = (Names::default(), Vec::new());
        let mut play = Play { player: self, shell, ground, names, limit, corrections, started: Vec::new() };
        play.give(head.given)?;
        let fill = |(page, here): (&String, &String)| Ok((page.clone(), play.ground.fill_in(here)?));
        let aliases = head.alias.iter().map(fill).collect::<Result<HashMap<_, _>, Failure>>()?;
        play.names = Names::new(&play.ground.home.to_string_lossy(), aliases);
        Ok(play)
    }
}

impl Play<'_> {
    fn run(mut self, steps: &[Step], case: &mut Case) -> Vec<Correction> {
        for step in steps {
            let Judged { done, go_on } = self.step(step);
            if done.outcome == Outcome::Failed {
                case.fail(done.why.clone().unwrap_or_default());
            }
            case.steps.push(done);
            if !go_on {
                self.shell.end();
                return self.corrections;
            }
        }
        for started in std::mem::take(&mut self.started) {
            if let Some(done) = self.failed_in_background(&started) {
                case.fail(done.why.clone().unwrap_or_default());
                case.steps.push(done);
            }
        }
        self.shell.end();
        self.corrections
    }

    /// What is to be said of what went on, if it has ended and should not have.
    fn failed_in_background(&mut self, started: &Started) -> Option<Done> {
        let process = started.process.filter(|process| has_ended(*process))?;
        let status = exit_of(self.command(&format!("wait {process}")).ended)?;
        if status == 0 || status == WAITED_FOR || STOPPED.contains(&status) {
            return None;
        }
        let mut done = Done::new(started.line, &started.command);
        done.exit = Some(status);
        let output = std::fs::read(&started.log).unwrap_or_default();
        let name = done.command.lines().next().unwrap_or_default();
        done.fail(format!("{name} ended with {status}"), Some(self.shown(&String::from_utf8_lossy(&output))));
        Some(done)
    }

    fn step(&mut self, step: &Step) -> Judged {
        match &step.what {
            What::NotRun { why } => {
                let mut done = Done::new(step.line, "");
                (done.outcome, done.why) = (Outcome::Skipped, Some(format!("not run: {why}")));
                Judged { done, go_on: true }
            }
            What::Plain(text) => {
                // A command in its midst that fails is not overlooked: the shell ends there.
                let text_here =
                    format!("set -e\n{}\n__km_status=$?\nset +e\n__km_again", self.names.here(text));
                let ran = self.command(&text_here);
                self.must_succeed(Done::new(step.line, text), ran)
            }
            What::File { path, content } => {
                let text = writing(&self.names.here(path), &self.names.here(content));
                let ran = self.command(&text);
                self.must_succeed(Done::new(step.line, &format!("write {path}")), ran)
            }
            What::Command { text, expected } => {
                let ran = self.command(&self.names.here(text));
                self.compare(Done::new(step.line, text), expected, &ran)
            }
            What::Background { text, expected } => {
                self.background(Done::new(step.line, text), text, expected)
            }
        }
    }

    fn command(&mut self, text: &str) -> Ran {
        self.shell.run(text, self.limit, self.player.stop)
    }

    fn must_succeed(&self, mut done: Done, ran: Ran) -> Judged {
        done.took = ran.took;
        done.exit = exit_of(ran.ended);
        let failed = done.exit.filter(|status| *status != 0);
        let failed = failed.map(|status| format!("exit {status}, where 0 was expected"));
        if let Some(why) = failed.or_else(|| self.trouble(ran.ended)) {
            done.fail(why, Some(self.shown(&ran.output)));
            return Judged { done, go_on: false };
        }
        Judged { done, go_on: true }
    }

    /// Why a command did not come to its end; none if it did.
    fn trouble(&self, ended: Ended) -> Option<String> {
        match ended {
            Ended::Exited(_) => None,
            Ended::WithShell(status) => Some(format!("it ended the scenario's shell (exit {status})")),
            Ended::Abandoned => Some("the keeper of the scenario's shell was killed".to_owned()),
            Ended::Late => Some(format!("it did not end within {}", span(self.limit))),
            Ended::TooMuch => Some("it printed more than 16 MiB".to_owned()),
            Ended::Interrupted => Some("interrupted".to_owned()),
        }
    }

    /// The end of an output. It is cut when it holds no secrets any more: half a key would not be known as one.
    fn shown(&self, output: &str) -> String {
        cut(self.names.report(output))
    }

    fn lines(&self, output: &str) -> Vec<String> {
        let mut lines: Vec<String> =
            self.names.page(output).lines().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    fn compare(&mut self, mut done: Done, expected: &Expected, ran: &Ran) -> Judged {
        done.took = ran.took;
        done.exit = exit_of(ran.ended);
        if let Some(why) = self.trouble(ran.ended) {
            done.fail(why, Some(self.shown(&ran.output)));
            return Judged { done, go_on: false };
        }
        let came = self.lines(&ran.output);
        let alignment = Alignment::new(&expected.lines, &came, expected.unordered);
        let status = done.exit.unwrap_or_default();
        let same_status = status == expected.status;
        if same_status && alignment.matches() {
            return Judged { done, go_on: true };
        }
        if self.player.accept {
            self.accept(&mut done, expected, alignment.accepted(&expected.lines, &came), status);
            return Judged { done, go_on: true };
        }
        let why = if same_status {
            "the output is not as expected".to_owned()
        } else {
            format!("exit {status}, where {} was expected", expected.status)
        };
        done.fail(why, Some(self.shown(&ran.output)));
        if !alignment.matches() {
            done.difference = Some(alignment.difference(&expected.lines, &masked_lines(&came)));
        }
        Judged { done, go_on: same_status }
    }

    /// Remembers what a page should say, if it can say that.
    fn accept(
        &mut self,
        done: &mut Done,
        expected: &Expected,
        lines: Result<Vec<String>, String>,
        status: i32,
    ) {
        let mut lines = match lines {
            Ok(lines) if has_secret(&lines.join("\n")) => {
                return done
                    .fail("what came holds a secret, which cannot stand in a transcript".to_owned(), None);
            }
            Ok(lines) => lines,
            Err(line) => {
                return done.fail(format!("{:?} cannot stand in a transcript", masked(&line)), None);
            }
        };
        if status != 0 {
            lines.push(format!("[exit {status}]"));
        }
        let indented = |line: &String| format!("{}{line}", expected.indent).trim_end().to_owned();
        let lines = lines.iter().map(indented).collect();
        self.corrections.push(Correction { place: expected.place, lines });
    }

    /// Starts a command, and waits until the lines shown have come.
    fn background(&mut self, mut done: Done, text: &str, expected: &Expected) -> Judged {
        let begun = Instant::now();
        let (started, why) = self.start(done.line, &self.names.here(text), text);
        let (came, why) = match why {
            Some(why) => (Vec::new(), Some(why)),
            None => self.await_lines(expected, &started),
        };
        self.started.push(started);
        done.took = begun.elapsed();
        let Some(why) = why else { return Judged { done, go_on: true } };
        let alignment = Alignment::new(&expected.lines, &came, false);
        if self.player.accept && !came.is_empty() {
            let lines = Alignment::new(&[], &came, false).accepted(&[], &came);
            self.accept(&mut done, expected, lines, 0);
            return Judged { done, go_on: true };
        }
        done.fail(why, Some(self.shown(&came.join("\n"))));
        done.difference = Some(alignment.difference(&expected.lines, &masked_lines(&came)));
        Judged { done, go_on: false }
    }

    /// Starts a command in the background, so that `$!` is its own. Also says why it could not.
    fn start(&mut self, line: Option<usize>, command: &str, shown: &str) -> (Started, Option<String>) {
        let log = self.ground.notes.join(format!("{}.log", self.started.len()));
        let to = quoted(&log.to_string_lossy());
        let command = in_background(command);
        let ran = self.command(&format!("exec 6>&1 7>&2 >{to} 2>&1\n{command}\nexec >&6 2>&7 6>&- 7>&-"));
        (Started { line, command: shown.to_owned(), process: ran.background, log }, self.trouble(ran.ended))
    }

    /// What has come when all lines have, and why they did not.
    fn await_lines(&self, expected: &Expected, started: &Started) -> (Vec<String>, Option<String>) {
        let deadline = Instant::now() + self.limit;
        loop {
            // Looked at before the log: what it wrote last has been written by then.
            let ended = started.process.is_some_and(has_ended);
            let came = self.lines(&String::from_utf8_lossy(&std::fs::read(&started.log).unwrap_or_default()));
            if Alignment::new(&expected.lines, &came, false).holds_all() {
                return (came, None);
            }
            if ended {
                return (came, Some("it ended before these lines came".to_owned()));
            }
            if Instant::now() >= deadline || self.player.stop.load(Ordering::Relaxed) {
                return (came, Some(format!("these lines did not come within {}", span(self.limit))));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Does what comes before the first step.
    fn give(&mut self, given: Given) -> Result<(), Failure> {
        if given < Given::Api {
            return Ok(());
        }
        let customers = &self.player.base.customers;
        let Some(first) = customers.first().cloned() else {
            return Err(Failure::new(Kind::Failed, "automate.toml names no customers"));
        };
        self.must(&format!("km-pack customers add {} --tier {} > key.txt", first.id, first.tier))?;
        for other in &customers[1..] {
            self.must(&format!("km-pack customers add {} --tier {} > /dev/null", other.id, other.tier))?;
        }
        let endpoint = self.serve()?;
        self.must(&format!("export KM_API_ENDPOINT={endpoint}"))?;
        self.ground.variables.push(("KM_API_ENDPOINT".to_owned(), endpoint));
        if given >= Given::Customer {
            self.must("km trust add keys/release.pub.pem")?;
            self.must("km init --api-key - --auto-provision-plugins < key.txt")?;
        }
        Ok(())
    }

    fn must(&mut self, command: &str) -> Result<(), Failure> {
        let ran = self.command(command);
        match ran.ended {
            Ended::Exited(0) => Ok(()),
            ended => {
                let why =
                    self.trouble(ended).unwrap_or_else(|| format!("exit {}", exit_of(ended).unwrap_or(1)));
                let output = self.shown(ran.output.trim_end());
                Err(Failure::new(Kind::Failed, format_args!("what is given: $ {command}\n{why}\n{output}")))
            }
        }
    }

    /// Starts the plugin API; gives its URL.
    fn serve(&mut self) -> Result<String, Failure> {
        let serve = "km-pack serve --listen 127.0.0.1:0 --json";
        let (started, why) = self.start(None, serve, serve);
        let says = Expected {
            lines: vec!["{\"listening\":[..]}".to_owned()],
            place: (0, 0),
            indent: String::new(),
            status: 0,
            unordered: false,
        };
        let (came, why) = match why {
            Some(why) => (Vec::new(), Some(why)),
            None => self.await_lines(&says, &started),
        };
        self.started.push(started);
        let url = came.iter().find_map(|line| {
            let document: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(document.get("listening")?.as_str()?.to_owned())
        });
        url.ok_or_else(|| {
            let why = why.unwrap_or_else(|| "it says no address".to_owned());
            let what = format!("what is given: $ km-pack serve\n{why}\n{}", came.join("\n"));
            Failure::new(Kind::Failed, what)
        })
    }
}

impl Done {
    /// A step that has nothing to say yet.
    pub(super) fn new(line: impl Into<Option<usize>>, command: &str) -> Self {
        Self {
            line: line.into(),
            command: masked(command),
            exit: None,
            took: Duration::ZERO,
            outcome: Outcome::Passed,
            why: None,
            output: None,
            difference: None,
        }
    }

    /// It failed, because of this.
    pub(super) fn fail(&mut self, why: String, output: Option<String>) {
        (self.outcome, self.why, self.output) = (Outcome::Failed, Some(why), output);
    }
}

pub(super) fn exit_of(ended: Ended) -> Option<i32> {
    match ended {
        Ended::Exited(status) | Ended::WithShell(status) => Some(status),
        Ended::Abandoned | Ended::Late | Ended::TooMuch | Ended::Interrupted => None,
    }
}

/// The end of a long text, from the beginning of a line if there is one.
fn cut(text: String) -> String {
    if text.len() <= MOST_KEPT {
        return text;
    }
    let earliest = text.ceil_char_boundary(text.len() - MOST_KEPT);
    let before = text[earliest..].find('\n').map_or(earliest, |at| earliest + at + 1);
    format!("… {before} bytes before\n{}", &text[before..])
}

/// A command with its `&`, which belongs to all of it and to no comment or here-document. What needs no
/// braces has none: not every shell puts what is in them in its own place.
fn in_background(command: &str) -> String {
    if command.contains(['#', '\n', ';']) { format!("{{ {command}\n}} &") } else { format!("{command} &") }
}

/// A word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The command that writes a file, wherever the shell is by now.
fn writing(path: &str, content: &str) -> String {
    let path = match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", quoted(rest)),
        None => quoted(path),
    };
    format!("mkdir -p \"$(dirname {path})\" && printf %s {} > {path}", quoted(content))
}

/// Whether a process has; what waits to be reaped has.
fn has_ended(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_none_or(|state| state == 'Z' || state == 'X')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_output_is_cut_when_it_is_masked() {
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}", "QUJD\n".repeat(20_000));
        assert_eq!(cut(Names::default().report(&key)), "-----PRIVATE KEY…-----");
        let long = format!("{}\nlast", "ä".repeat(MOST_KEPT));
        assert_eq!(cut(long), "… 131073 bytes before\nlast");
        assert!(cut("ä".repeat(MOST_KEPT)).ends_with('ä'));
        assert_eq!(cut("short".to_owned()), "short");
    }

    #[test]
    fn what_is_put_in_the_background_is_all_of_it() {
        assert_eq!(in_background("sleep 20"), "sleep 20 &");
        assert_eq!(in_background("sleep 20 # serve"), "{ sleep 20 # serve\n} &");
        assert_eq!(in_background("cat <<E\nx\nE"), "{ cat <<E\nx\nE\n} &");
    }
}
