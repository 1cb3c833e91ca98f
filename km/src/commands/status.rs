//! `km plugins status`

use std::time::Duration;

use clap::Args;
use go_plugin::host::Grace;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use serde::Serialize;

use super::Local;
use crate::host::PluginHost;
use crate::monitor::{self, SessionReport};
use crate::store::{self, Entry, State};

const GRACE: Grace = Grace { shutdown: Duration::from_secs(2), terminate: Duration::from_secs(2) };

/// Start each plugin and ask it how it is; show what live sessions do
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins status console-logger")]
pub(super) struct Status {
    /// Only this plugin
    name: Option<PluginName>,
}

#[derive(Debug, Serialize)]
struct Document {
    plugins: Vec<PluginStatus>,
    sessions: Vec<SessionReport>,
}

#[derive(Debug, Serialize)]
struct PluginStatus {
    #[serde(flatten)]
    entry: Entry,
    #[serde(flatten)]
    health: Health,
}

/// What starting a plugin showed.
#[derive(Debug, Default, Serialize)]
struct Health {
    /// `serving`, `failed`, or `not started`.
    health: &'static str,
    authenticated: bool,
    /// Whether the connection to it is mutual TLS.
    encrypted: Option<bool>,
    start_ms: Option<f64>,
    memory_bytes: Option<u64>,
    error: Option<String>,
}

impl Status {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let mut entries = store::list(&local.home, &local.trust, &local.config)?;
        if let Some(name) = &self.name {
            entries.retain(|entry| entry.name == *name);
            if entries.is_empty() {
                return Err(Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed"))
                    .help("`km plugins list` shows what is"));
            }
        }
        let progress = output.progress();
        progress.step("asking the plugins");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Kind::Local, e))?;
        let plugins = runtime.block_on(async {
            let mut plugins = Vec::new();
            for entry in entries {
                let health = ask(local, &entry).await;
                plugins.push(PluginStatus { entry, health });
            }
            plugins
        });
        drop(progress);
        let sessions = monitor::sessions(&local.home);
        if plugins.is_empty() && !output.is_json() {
            output.note("no plugins are installed; `km plugins install <package>` installs one");
        }
        let text = text(&plugins, &sessions);
        output.result(&Document { plugins, sessions }, text);
        Ok(())
    }
}

/// Starts one plugin, if it may run, and stops it again.
async fn ask(local: &Local, entry: &Entry) -> Health {
    match entry.state {
        State::Installed | State::Allowed => {}
        State::Unsigned | State::Untrusted | State::Disabled => {
            return Health { health: "not started", error: entry.reason.clone(), ..Health::default() };
        }
    }
    start(local, &entry.name).await.unwrap_or_else(|(health, error)| Health {
        health,
        error: Some(error),
        ..Health::default()
    })
}

async fn start(local: &Local, name: &PluginName) -> Result<Health, (&'static str, String)> {
    let refused = |failure: Failure| ("not started", failure.message);
    let runnable = store::open(&local.home, &local.trust, &local.config, name).map_err(refused)?;
    let host = PluginHost::new(&local.home, local.environment.debug, None).map_err(refused)?;
    let spawned = host.spawn(runnable).await.map_err(|e| ("failed", e.to_string()))?;
    if let Err(e) = spawned.check_health().await {
        spawned.stop(GRACE).await;
        return Err(("failed", e.to_string()));
    }
    let start_ms = Some((spawned.start_time.as_secs_f64() * 10_000.0).round() / 10.0);
    let memory_bytes = spawned.id().and_then(resident_bytes);
    let encrypted = Some(spawned.is_encrypted());
    let health = Health { health: "serving", encrypted, start_ms, memory_bytes, ..Health::default() };
    match spawned.authenticate(host.debug).await {
        Ok(plugin) => {
            plugin.stop(GRACE).await;
            Ok(Health { authenticated: true, ..health })
        }
        Err(e) => Ok(Health { error: Some(e.to_string()), ..health }),
    }
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn text(plugins: &[PluginStatus], sessions: &[SessionReport]) -> String {
    let mut text = String::new();
    if !plugins.is_empty() {
        let rows: Vec<Vec<String>> = plugins.iter().map(row).collect();
        text += &km_cli::table(
            &["NAME", "VERSION", "TIER", "HEALTH", "AUTHENTICATED", "START", "MEMORY", ""],
            &rows,
        );
    }
    for session in sessions {
        text += &format!("\nsession {}\n", session["pid"]);
        for plugin in session["plugins"].as_array().into_iter().flatten() {
            let word = |key: &str| plugin[key].as_str().unwrap_or("-").to_owned();
            let restarts = match plugin["restarts"].as_u64() {
                None | Some(0) => String::new(),
                Some(1) => ", started again once".to_owned(),
                Some(restarts) => format!(", started again {restarts} times"),
            };
            let error = plugin["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
            text += &format!(
                "  {} {}{restarts}{error}: {} delivered, {} waiting, {} failed, {} dropped\n",
                word("name"),
                word("life"),
                plugin["delivered"],
                plugin["waiting"],
                plugin["failed"],
                plugin["dropped"]
            );
        }
    }
    text
}

fn row(PluginStatus { entry, health }: &PluginStatus) -> Vec<String> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        entry.name.to_string(),
        dash(entry.version.clone()),
        dash(entry.tier.map(|tier| tier.to_string())),
        health.health.to_owned(),
        if health.authenticated { "yes" } else { "no" }.to_owned(),
        dash(health.start_ms.map(|ms| format!("{ms} ms"))),
        dash(health.memory_bytes.map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6))),
        health.error.clone().unwrap_or_default(),
    ]
}
