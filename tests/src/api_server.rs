//! `km-pack serve` on a free port, with a database and a store of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use km_pack::customers::{Address, Database};

use crate::build::{binary, packages};
use crate::environment::Finished;
use crate::path;
use crate::processes::wait_until;

/// A running API server. Ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    folder: tempfile::TempDir,
    database: String,
    store: String,
    /// Credentials of the store, and where it is.
    variables: Vec<(String, String)>,
    options: Vec<String>,
    child: Option<Child>,
    /// Where it listens, as `127.0.0.1:port`.
    address: String,
    scheme: String,
}

impl ApiServer {
    /// On SQLite, in a folder of its own.
    pub fn start(options: &[&str]) -> Self {
        Self::new(None, None, &[], options)
    }

    /// On a database that is there already.
    pub fn on(database: &str, options: &[&str]) -> Self {
        Self::new(Some(database), None, &[], options)
    }

    /// On a store that is there already, with these variables of the environment.
    pub fn with_store(store: &str, variables: &[(String, String)], options: &[&str]) -> Self {
        Self::new(None, Some(store), variables, options)
    }

    /// Another one on the same database and store.
    pub fn beside(&self, options: &[&str]) -> Self {
        Self::new(Some(&self.database), Some(&self.store), &self.variables, options)
    }

    fn new(
        database: Option<&str>,
        store: Option<&str>,
        variables: &[(String, String)],
        options: &[&str],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = |name: &str| format!("{}/{name}", path(folder.path()));
        let mut server = Self {
            database: database.map_or_else(|| format!("sqlite://{}", own("km.db")), str::to_owned),
            store: store.map_or_else(|| own("store"), str::to_owned),
            variables: variables.to_vec(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            child: None,
            address: "127.0.0.1:0".to_owned(),
            scheme: String::new(),
            folder,
        };
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
            .args(["--store", &self.store])
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

    /// The store, as `--store` takes it.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// Publishes packages into its store, with the key that they are signed with; gives what was said.
    pub fn publish(&self, files: &[&Path]) -> serde_json::Value {
        let mut command = self.command();
        command.args(["publish", "--json", "--store", &self.store, "--key", path(&packages().private_key)]);
        let finished: Finished = command.args(files).output().expect("km-pack runs").into();
        finished.expect(0).json()
    }

    /// Asks it to leave, and waits until it has.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        wait_until("the server has left", || child.try_wait().is_ok_and(|status| status.is_some()));
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it has ended");
        }
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
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
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
