//! A PostgreSQL of a test's own: in a temporary folder, on a free port, ended with the test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{path, wait_until};

/// A running PostgreSQL with an empty database.
#[derive(Debug)]
pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    /// None while it is stopped.
    server: Option<Child>,
    port: u16,
}

/// The programs of the newest version that Debian has installed.
///
/// # Errors
/// When there is none.
pub fn programs() -> Result<PathBuf, String> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| "PostgreSQL is not installed (apt-get install postgresql)".to_owned())
}

impl Postgres {
    /// Makes and starts one. It refuses to run as root, and is then run as the user `postgres`.
    pub fn start(programs: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let user = owner();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("root may do that");
        }
        let programs = programs.to_owned();
        let mut postgres = Self { folder, programs, user, server: None, port: free_port() };
        let made = postgres
            .command("initdb")
            .args(["-D", path(&postgres.data()), "-U", "km", "--auth=trust", "-N", "-E", "UTF8"])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.run();
        assert!(postgres.psql("CREATE DATABASE km"), "a new server takes a database");
        postgres
    }

    /// Starts it, where it listened before if it did, and waits until it answers.
    pub fn run(&mut self) {
        let server = self
            .command("postgres")
            .args(["-D", path(&self.data()), "-p", &self.port.to_string(), "-k", path(self.folder.path())])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres runs");
        self.server = Some(server);
        wait_until("PostgreSQL answers", || self.psql("SELECT 1"));
    }

    /// Ends it at once, without waiting for its clients.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(server.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = server.wait();
    }

    /// Whether it does something.
    fn psql(&self, sql: &str) -> bool {
        let mut psql = self.command("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "km", "-d", "postgres", "-c", sql]);
        psql.output().is_ok_and(|output| output.status.success())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("LC_ALL", "C").current_dir(self.folder.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// As `--database` takes it.
    pub fn url(&self) -> String {
        format!("postgres://km@127.0.0.1:{}/km", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ids of the user that PostgreSQL is run as by root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("readable");
    let line =
        users.lines().find(|line| line.starts_with("postgres:")).expect("Debian makes a user postgres");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().expect("a number"));
    Some((ids.next()?, ids.next()?))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
