//! A session through `km monitor`, driven line by line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use km_tests::{Finished, TestEnvironment, control};

/// A running `km monitor`, with the client's ends of its pipes.
pub(crate) struct Session {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    over: Arc<AtomicBool>,
}

/// A session that hangs is a failed test, not a hung one.
fn kill_when_stuck(pid: u32, over: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(90);
        while Instant::now() < deadline {
            if over.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
    }
}

impl Session {
    /// Starts `km monitor <arguments>`.
    pub(crate) fn start(environment: &TestEnvironment, arguments: &[&str]) -> Self {
        Self::with(environment, arguments, |_| {})
    }

    /// The same, with the command changed before.
    pub(crate) fn with(
        environment: &TestEnvironment,
        arguments: &[&str],
        change: impl FnOnce(&mut std::process::Command),
    ) -> Self {
        let mut command = environment.command("km");
        command.arg("monitor").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        Self::of(command)
    }

    /// Starts a command that has pipes.
    pub(crate) fn of(mut command: std::process::Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let over = Arc::new(AtomicBool::new(false));
        kill_when_stuck(child.id(), Arc::clone(&over));
        Self { stdin: child.stdin.take(), stdout, child, over }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the session says of itself on its control socket; nothing before it listens there.
    pub(crate) fn report(&self, environment: &TestEnvironment) -> serde_json::Value {
        control::report(environment, self.pid())
    }

    /// What it says of one plugin.
    pub(crate) fn plugin(&self, environment: &TestEnvironment, name: &str) -> serde_json::Value {
        control::plugin(environment, self.pid(), name)
    }

    /// One message to the server and back.
    pub(crate) fn exchange(&mut self, message: &str) {
        self.send(format!("{message}\n").as_bytes());
        assert_eq!(self.line(), format!("{message}\n"));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the server reads");
    }

    /// The next line with its newline; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).expect("readable");
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Closes stdin and waits for the end.
    pub(crate) fn finish(mut self) -> Finished {
        drop(self.stdin.take());
        self.wait()
    }

    /// Waits for the end with stdin open.
    pub(crate) fn wait(mut self) -> Finished {
        let errors = self.child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            // None where it goes to a file.
            errors.map(|mut errors| errors.read_to_end(&mut text));
            text
        });
        let mut stdout = Vec::new();
        self.stdout.read_to_end(&mut stdout).expect("readable");
        let status = self.child.wait().expect("it ends");
        let stderr = reader.join().expect("the reader ends");
        std::process::Output { status, stdout, stderr }.into()
    }
}
