//! What the tests stand on: a host with a folder of its own, and this program as its plugin.

use std::ffi::OsString;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use go_plugin::host::{Executable, Host, LineSink, PluginError, PluginProcess, Source, Tls};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal};

use crate::plugin::greeter::GreetRequest;
use crate::plugin::greeter::greeter_client::GreeterClient;
use crate::plugin::{COOKIE, Fault, VARIABLE};

/// Makes this program a host that starts a plugin, says its process id, and stays.
const HOLD: &str = "FAULTS_HOLD";

type Lines = Vec<(Source, Vec<u8>)>;

/// A host in a folder of its own.
pub(crate) struct Ground {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) host: Host,
    lines: Arc<Mutex<Lines>>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let host = Host::new(COOKIE, [1], folder.path());
        Self { folder, host, lines: Arc::default() }
    }

    pub(crate) fn with(change: impl FnOnce(&mut Host)) -> Self {
        let mut ground = Self::new();
        change(&mut ground.host);
        ground
    }

    pub(crate) fn host_for(&self, fault: Fault) -> Host {
        let mut host = self.host.clone();
        host.environment.push((VARIABLE.into(), fault.name().into()));
        host
    }

    pub(crate) fn sink(&self) -> LineSink {
        let lines = Arc::clone(&self.lines);
        Arc::new(move |source, line| lines.lock().expect("no panic").push((source, line.to_vec())))
    }

    pub(crate) async fn start(&self, fault: Fault) -> Result<PluginProcess, PluginError> {
        PluginProcess::start(&self.host_for(fault), this_program(), self.sink()).await
    }

    /// The error of a plugin that must not start, in words.
    pub(crate) async fn refuses(&self, fault: Fault) -> String {
        let error = self.start(fault).await.map(|_| ()).expect_err("it must not start");
        assert!(self.is_empty(), "a socket folder is left");
        error.to_string()
    }

    /// Everything that came from one source.
    pub(crate) fn read(&self, from: Source) -> Vec<u8> {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().filter(|(source, _)| *source == from).flat_map(|(_, line)| line.clone()).collect()
    }

    /// Whether nothing is left of any socket.
    pub(crate) fn is_empty(&self) -> bool {
        std::fs::read_dir(self.folder.path()).expect("the folder").next().is_none()
    }
}

pub(crate) fn this_program() -> Executable {
    Executable::open(std::env::current_exe().expect("a path")).expect("it can be opened")
}

pub(crate) async fn greet(plugin: &PluginProcess) -> Result<String, tonic::Status> {
    let mut client = GreeterClient::new(plugin.channel());
    Ok(client.greet(GreetRequest { name: "you".to_owned() }).await?.into_inner().greeting)
}

/// A test, on a runtime of its own, under a deadline.
pub(crate) fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test()).await })?;
        Ok(())
    })
}

/// What is left of this host's environment: a plugin in it would answer with a certificate.
pub(crate) fn hold(folder: &Path, fault: Fault, environment: &[(&str, &str)]) -> (Child, u32) {
    let mut host = Command::new(std::env::current_exe().expect("a path"))
        .env(HOLD, folder)
        .env("HOLD_FAULT", fault.name())
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(host.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let plugin = line.trim().parse().unwrap_or_else(|_| panic!("the host said {line:?}"));
    (host, plugin)
}

pub(crate) fn hold_if_asked() -> bool {
    let Some(folder) = std::env::var_os(HOLD) else { return false };
    let fault = std::env::var("HOLD_FAULT").expect("a fault");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut host = Host { tls: Tls::Off, ..Host::new(COOKIE, [1], folder) };
        host.environment.push((VARIABLE.into(), OsString::from(fault)));
        let plugin = PluginProcess::start(&host, this_program(), Arc::new(|_, _: &[u8]| {})).await;
        let plugin = plugin.expect("it starts");
        assert_eq!(greet(&plugin).await.expect("an answer"), "Good morning, you.");
        println!("{}", plugin.id().expect("a process"));
        plugin.wait().await;
    });
    true
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it lives");
}

/// Whether a process lives; what waits to be reaped does not.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// How long it took until this process was gone.
pub(crate) async fn gone(pid: u32) -> Duration {
    let begun = Instant::now();
    while alive(pid) {
        assert!(begun.elapsed() < Duration::from_secs(20), "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}
