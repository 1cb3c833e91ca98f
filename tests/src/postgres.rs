//! A PostgreSQL of a test's own: in a temporary folder, on a free port, ended with the test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{path, wait_until};

/// A running PostgreSQL with an empty database.
#[derive(Debug)]
pub struct Postgres {
    _folder: tempfile::TempDir,
    server: Child,
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
        let data = folder.path().join("data");
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.env("LC_ALL", "C").current_dir(folder.path());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let made = run("initdb")
            .args(["-D", path(&data), "-U", "km", "--auth=trust", "-N", "-E", "UTF8"])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let server = run("postgres")
            .args(["-D", path(&data), "-p", &port.to_string(), "-k", path(folder.path())])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres runs");
        wait_until("PostgreSQL answers", || {
            let mut create = run("psql");
            create.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "km", "-d", "postgres"]);
            create.args(["-c", "CREATE DATABASE km"]);
            create.output().is_ok_and(|output| output.status.success())
        });
        Self { _folder: folder, server, port }
    }

    /// As `--database` takes it.
    pub fn url(&self) -> String {
        format!("postgres://km@127.0.0.1:{}/km", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, without waiting for clients.
        if let Some(pid) = rustix::process::Pid::from_raw(self.server.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.server.wait();
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
