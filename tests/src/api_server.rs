//! `km-pack serve` on a free port, with a database of its own.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use km_pack::customers::{Address, Database};

use crate::build::binary;
use crate::environment::Finished;
use crate::path;
use crate::processes::wait_until;

/// A running API server. Ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    folder: tempfile::TempDir,
    database: String,
    options: Vec<String>,
    child: Option<Child>,
    /// Where it listens, as `127.0.0.1:port`.
    address: String,
    scheme: String,
}

impl ApiServer {
    /// On SQLite, in a folder of its own.
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = format!("sqlite://{}/km.db", path(folder.path()));
        Self::with(folder, database, options)
    }

    /// On a database that is there already.
    pub fn on(database: &str, options: &[&str]) -> Self {
        Self::with(tempfile::tempdir().expect("a temporary folder"), database.to_owned(), options)
    }

    fn with(folder: tempfile::TempDir, database: String, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (address, scheme) = ("127.0.0.1:0".to_owned(), String::new());
        let mut server = Self { folder, database, options, child: None, address, scheme };
        server.run();
        server
    }

    /// Starts it, where it listened before if it did.
    pub fn run(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut child = self
            .command()
            .args(["serve", "--json", "--database", &self.database, "--listen", &self.address])
            .args(&self.options)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("km-pack starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("readable");
        let document: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}: {}", self.log()));
        let url = document["listening"].as_str().unwrap_or_else(|| panic!("{document}"));
        let (scheme, address) = url.split_once("://").expect("a URL");
        (self.scheme, self.address) = (scheme.to_owned(), address.to_owned());
        self.child = Some(child);
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The database, as `--database` takes it.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Asks it to leave, and waits until it has.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        wait_until("the server has left", || child.try_wait().is_ok_and(|status| status.is_some()));
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// `km-pack customers <arguments>` on its database.
    pub fn customers(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command();
        command.arg("customers").args(arguments).args(["--database", &self.database]);
        command.output().expect("km-pack runs").into()
    }

    /// Adds a customer; gives the API key.
    pub fn add(&self, customer: &str, tier: &str) -> String {
        let added = self.customers(&["add", customer, "--tier", tier, "--json"]).expect(0).json();
        added["api_key"].as_str().expect("a key").to_owned()
    }

    /// The events of a customer, as they are kept.
    pub fn events(&self, customer: &str) -> Vec<serde_json::Value> {
        let read = async {
            let address = Address::parse(&self.database, self.folder.path()).expect("an address");
            let database = Database::open(&address).await.expect("it opens");
            let customer = customer.parse().expect("a customer id");
            let events = database.events_of(&customer).await.expect("events");
            database.close().await;
            events
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(read)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary("km-pack"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path());
        command
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
