//! Answers a client from a script, over stdin and stdout.

use std::collections::HashSet;
use std::io::{self, BufRead as _, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use km_proto::jsonrpc::{Kind, Summary};

use super::script::{Action, Script, Step, TOKEN, each, member};

/// Most lines of the client that wait.
const WAITING: usize = 256;
/// JSON-RPC leaves this range to implementations, and MCP gives no meaning to this one.
const NOT_RECORDED: i32 = -32010;
const INVALID_JSON: i32 = -32700;

/// How fast answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speed {
    /// With the pauses of the recording
    #[value(name = "1")]
    Recorded,
    /// Without pauses
    Max,
}

/// Answers until stdin ends, or nobody reads stdout any more.
pub(super) fn serve(script: Script, speed: Speed) -> io::Result<()> {
    let lines = read_lines()?;
    let mut player = Player::new(script, speed, io::BufWriter::new(io::stdout()));
    match player.play(&lines) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        played => played,
    }
}

/// The client's lines. A thread reads them: answers may be due while none comes.
fn read_lines() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, lines) = mpsc::sync_channel(WAITING);
    thread::Builder::new().name("client".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        while stdin.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

struct Player<W> {
    script: Script,
    speed: Speed,
    running: Vec<Running>,
    /// The server's requests that the client is to answer, and those that it has answered.
    asked: HashSet<String>,
    answered: HashSet<String>,
    out: W,
}

/// A turn that is played.
struct Running {
    turn: usize,
    next: usize,
    /// The client's own.
    id: Option<String>,
    token: Option<String>,
    /// The step before: when it was played, and when it was recorded.
    played: Instant,
    recorded: Duration,
}

impl<W: Write> Player<W> {
    fn new(script: Script, speed: Speed, out: W) -> Self {
        let (asked, answered) = (HashSet::new(), HashSet::new());
        let mut player = Self { script, speed, running: Vec::new(), asked, answered, out };
        // What the server said unasked.
        player.begin(0, None, None);
        player
    }

    fn play(&mut self, lines: &mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
        loop {
            let due = self.advance()?;
            self.out.flush()?;
            let next = match due {
                Some(due) => lines.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => lines.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(line) => self.hear(&line)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The client wants no more, and gets what was on its way.
        self.speed = Speed::Max;
        self.advance()?;
        self.out.flush()
    }

    fn hear(&mut self, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line);
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        each(&line).into_iter().try_for_each(|message| self.hear_message(message))
    }

    fn hear_message(&mut self, line: &str) -> io::Result<()> {
        let Summary { kind, method, id } = Summary::of(line.as_bytes());
        match (kind, method) {
            (Kind::Notification, Some(method)) if method == "notifications/cancelled" => {
                let cancelled = member(line, &["params", "requestId"]);
                self.running.retain(|running| running.id.is_none() || running.id.as_deref() != cancelled);
            }
            (Kind::Request | Kind::Notification, Some(method)) => match self.script.find(&method, line) {
                Some(turn) => self.begin(turn, id, member(line, &TOKEN).map(str::to_owned)),
                None => {
                    if let Some(id) = id {
                        self.refuse(&id, NOT_RECORDED, &format!("not in the recording: {method}"))?;
                    }
                }
            },
            (Kind::Result | Kind::Error, _) => {
                self.answered.extend(id.filter(|id| self.asked.remove(id)));
            }
            (Kind::Invalid, _) => self.refuse("null", INVALID_JSON, "this is not JSON")?,
            (Kind::Request | Kind::Notification | Kind::Batch | Kind::Other, _) => {}
        }
        Ok(())
    }

    fn begin(&mut self, turn: usize, id: Option<String>, token: Option<String>) {
        let recorded = self.script.turn(turn).at;
        self.running.push(Running { turn, next: 0, id, token, played: Instant::now(), recorded });
    }

    /// Says what is due, and when more is.
    fn advance(&mut self) -> io::Result<Option<Instant>> {
        let mut soonest: Option<Instant> = None;
        let mut running = std::mem::take(&mut self.running);
        for turn in &mut running {
            if let Some(due) = self.advance_turn(turn)? {
                soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
            }
        }
        running.retain(|turn| turn.next < self.script.turn(turn.turn).steps.len());
        self.running = running;
        Ok(soonest)
    }

    fn advance_turn(&mut self, running: &mut Running) -> io::Result<Option<Instant>> {
        let steps = &self.script.turn(running.turn).steps;
        while let Some(Step { at, action }) = steps.get(running.next) {
            match action {
                Action::Await(id) if self.answered.remove(id) => running.played = Instant::now(),
                Action::Await(_) => return Ok(None),
                Action::Send(line) => {
                    let due = running.played + at.saturating_sub(running.recorded);
                    if self.speed == Speed::Recorded && due > Instant::now() {
                        return Ok(Some(due));
                    }
                    // Not now: what came too late before must not make everything later.
                    running.played = due;
                    self.asked.extend(line.asks.clone());
                    let text = line.text(running.id.as_deref(), running.token.as_deref());
                    self.out.write_all(text.as_bytes())?;
                    self.out.write_all(b"\n")?;
                }
            }
            running.recorded = *at;
            running.next += 1;
        }
        Ok(None)
    }

    fn refuse(&mut self, id: &str, code: i32, message: &str) -> io::Result<()> {
        let message = serde_json::Value::from(message);
        let error = format!(r#"{{"code":{code},"message":{message}}}"#);
        writeln!(self.out, r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}
