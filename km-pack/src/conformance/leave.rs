//! How it ends when it is not asked over the connection: by signals, and with its host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use go_plugin::host::{
    Executable, Grace, Instance, Pipe, PluginProcess, Runner as _, Running, StoppedBy, Tls,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::AsyncReadExt as _;

use super::ground::{Ground, Subject};
use super::{Checks, Finding, Found, fine};
use crate::environment::CONFORMANCE_HOST;

/// How long a plugin may take to leave.
const LEAVE: Duration = Duration::from_secs(2);
/// How long a plugin that should not leave is watched.
const NOTICE: Duration = Duration::from_millis(300);

pub(super) async fn check(ground: &Ground, checks: &mut Checks<'_>) {
    let what = "asked by go-plugin's controller alone it leaves, with exit status 0";
    checks.make("controller", what, controller(ground)).await;
    let what = "SIGINT is ignored: Ctrl-C is its host's to handle";
    checks.make("sigint", what, interrupt(ground)).await;
    checks.make("sigterm", "on SIGTERM it leaves within two seconds", terminate(ground)).await;
    let what = "it is gone within two seconds when its host is killed";
    checks.make("host-killed", what, host_killed(ground)).await;
    let what = "it leaves by itself when its host is gone";
    checks.make("host-gone", what, host_gone(ground)).await;
}

/// Hosts that know nothing of Kilometers call no other `Shutdown`.
async fn controller(ground: &Ground) -> Found {
    let session = ground.start(&ground.host()).await.map_err(|e| e.to_string())?;
    let begun = Instant::now();
    match session.plugin.stop(Grace::default()).await {
        (StoppedBy::Request, Some(status)) if status.success() => {
            fine(format!("{} ms", begun.elapsed().as_millis()))
        }
        (StoppedBy::Request, Some(status)) => Err(format!("it ended with {status}")),
        _ => Err("it did not leave within two seconds".to_owned()),
    }
}

async fn interrupt(ground: &Ground) -> Found {
    let session = ground.start(&ground.host()).await.map_err(|e| e.to_string())?;
    let Some(pid) = session.plugin.id().and_then(pid) else {
        return Ok(Finding::Inapplicable("it is no process".to_owned()));
    };
    rustix::process::kill_process(pid, Signal::INT).map_err(|e| e.to_string())?;
    if let Ok(status) = tokio::time::timeout(NOTICE, session.plugin.wait()).await {
        return Err(format!("it ended: {status}"));
    }
    let health = session.plugin.check_health(Duration::from_secs(5)).await;
    health.map_err(|e| format!("after SIGINT: {e}"))?;
    fine("")
}

async fn terminate(ground: &Ground) -> Found {
    let session = ground.start(&ground.host()).await.map_err(|e| e.to_string())?;
    let begun = Instant::now();
    session.plugin.terminate();
    match tokio::time::timeout(LEAVE, session.plugin.wait()).await {
        Err(_) => Err("it still runs".to_owned()),
        Ok(status) if status.success() => fine(format!("{} ms", begun.elapsed().as_millis())),
        Ok(status) => Ok(Finding::Warning(format!("{status}: it does not finish what it has begun"))),
    }
}

/// Starts this program again as a host, and kills it.
async fn host_killed(ground: &Ground) -> Found {
    let failed = |e: std::io::Error| format!("cannot start a host: {e}");
    let own = Executable::open("/proc/self/exe").map_err(failed)?;
    let environment: Vec<(OsString, OsString)> = vec![
        (CONFORMANCE_HOST.into(), ground.subject.executable.clone().into()),
        ("TMPDIR".into(), ground.sockets.path().into()),
    ];
    let Running { mut stdout, stderr: _stderr, instance } = own.start(environment).await.map_err(failed)?;
    let plugin = line(&mut stdout).await.and_then(|line| line.trim().parse().ok()).and_then(pid);
    let plugin = plugin.ok_or("the host could not start it")?;
    // Taken while it lives: it cannot be mistaken for another process later.
    let pidfd = rustix::process::pidfd_open(plugin, PidfdFlags::empty()).map_err(|e| e.to_string())?;
    instance.kill();
    let begun = Instant::now();
    let gone = tokio::task::spawn_blocking(move || {
        let limit = Timespec { tv_sec: 2, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))
    });
    match gone.await {
        Ok(Ok(1)) => fine(format!("{} ms", begun.elapsed().as_millis())),
        _ => {
            let _ = rustix::process::kill_process(plugin, Signal::KILL);
            Err("it lives on".to_owned())
        }
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

async fn line(pipe: &mut Pipe) -> Option<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 64 * 1024 {
        line.push(pipe.read_u8().await.ok()?);
    }
    String::from_utf8(line).ok()
}

/// Under a host that gives it no parent-death signal: only its pipes tell that the host is gone.
async fn host_gone(ground: &Ground) -> Found {
    // Nothing connects: the folder for its socket must outlive the host that named it.
    let folder = ground.sockets.path().join("left");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let mut environment = ground.environment(&ground.with_tls(Tls::Off)).await;
    environment.retain(|(name, _)| name != "PLUGIN_UNIX_SOCKET_DIR" && name != "TMPDIR");
    environment.extend(["PLUGIN_UNIX_SOCKET_DIR", "TMPDIR"].map(|name| (name.into(), folder.clone().into())));
    let executable = ground.executable().map_err(|e| e.to_string())?;
    let Running { mut stdout, stderr, instance } =
        executable.start(environment).await.map_err(|e| e.to_string())?;
    line(&mut stdout).await.ok_or("no handshake")?;
    drop((stdout, stderr));
    let begun = Instant::now();
    if ended(&*instance).await {
        fine(format!("{} ms", begun.elapsed().as_millis()))
    } else {
        let what = "it lives on; under km the kernel ends it, under a host in Go nobody does";
        Ok(Finding::Warning(what.to_owned()))
    }
}

async fn ended(instance: &dyn Instance) -> bool {
    let mut exit = instance.exit();
    tokio::time::timeout(LEAVE, exit.wait_for(Option::is_some)).await.is_ok()
}

/// The host that is started to be killed: starts the plugin, says its process id, and waits to be
/// killed.
///
/// # Errors
/// What went wrong, in words.
pub fn hold(executable: PathBuf) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let subject = Subject { executable, name: None, manifest: None, api_key: String::new() };
        let ground = Ground::new(subject).map_err(|e| e.to_string())?;
        let executable = ground.executable().map_err(|e| e.to_string())?;
        let plugin = PluginProcess::start(&ground.host(), executable, Arc::new(|_, _: &[u8]| {})).await;
        let plugin = plugin.map_err(|e| e.to_string())?;
        println!("{}", plugin.id().unwrap_or_default());
        plugin.wait().await;
        Ok(())
    })
}
