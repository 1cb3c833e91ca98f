//! `km plugins status`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use go_plugin::host::Grace;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use serde::Serialize;

use super::Local;
use crate::auth::Authority;
use crate::host::report::AccessReport;
use crate::host::resources::resident_bytes;
use crate::host::{PluginFailure, PluginHost};
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
pub(super) struct Health {
    /// `serving`, `failed`, or `not started`.
    pub(super) health: &'static str,
    pub(super) authenticated: bool,
    /// What it may do, and until when.
    access: Option<AccessReport>,
    /// Whether the connection to it is mutual TLS.
    encrypted: Option<bool>,
    start_ms: Option<f64>,
    memory_bytes: Option<u64>,
    pub(super) error: Option<String>,
    /// The kind of the error, as exit codes have it.
    error_kind: Option<Kind>,
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
        let authority =
            Arc::new(Authority::open(&local.environment, &local.home, &local.config, |failure| {
                output.warn(format_args!("plugins run without an API key: {failure}"));
            }));
        let progress = output.progress();
        progress.step("asking the plugins");
        let plugins = super::block_on(async {
            let mut plugins = Vec::new();
            for entry in entries {
                let health = ask(local, &authority, &entry).await;
                plugins.push(PluginStatus { entry, health });
            }
            plugins
        })?;
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
pub(super) async fn ask(local: &Local, authority: &Arc<Authority>, entry: &Entry) -> Health {
    match entry.state {
        State::Installed | State::Allowed => {}
        State::Unsigned | State::Untrusted | State::Disabled => {
            let error_kind = Some(match entry.state {
                State::Disabled => Kind::Unauthorized,
                _ => Kind::Untrusted,
            });
            return Health {
                health: "not started",
                error: entry.reason.clone(),
                error_kind,
                ..Health::default()
            };
        }
    }
    start(local, authority, &entry.name).await.unwrap_or_else(|(health, error, kind)| Health {
        health,
        error: Some(error),
        error_kind: Some(kind),
        ..Health::default()
    })
}

async fn start(
    local: &Local,
    authority: &Arc<Authority>,
    name: &PluginName,
) -> Result<Health, (&'static str, String, Kind)> {
    let refused = |failure: Failure| ("not started", failure.message, failure.kind);
    let failed = |failure: PluginFailure| ("failed", failure.to_string(), failure.kind());
    let runnable = store::open(&local.home, &local.trust, &local.config, name).map_err(refused)?;
    let host = PluginHost::new(&local.home, local.environment.debug, None).map_err(refused)?;
    let spawned = host.spawn(runnable).await.map_err(failed)?;
    if let Err(failure) = spawned.check_health().await {
        spawned.stop(GRACE).await;
        return Err(failed(failure));
    }
    let start_ms = Some((spawned.start_time.as_secs_f64() * 10_000.0).round() / 10.0);
    let memory_bytes = spawned.id().and_then(resident_bytes);
    let encrypted = Some(spawned.is_encrypted());
    let health = Health { health: "serving", encrypted, start_ms, memory_bytes, ..Health::default() };
    match spawned.authenticate(authority, host.debug).await {
        Ok(plugin) => {
            let access = Some(AccessReport::new(&plugin.access, None, false));
            plugin.stop(GRACE).await;
            Ok(Health { authenticated: true, access, ..health })
        }
        Err(failure) => {
            let error_kind = Some(failure.kind());
            Ok(Health { error: Some(failure.to_string()), error_kind, ..health })
        }
    }
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
            let access = access(&plugin["access"]);
            let error = plugin["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
            text += &format!(
                "  {} {}{access}{restarts}{error}: {} delivered{}, {} waiting{}, {} failed, {} dropped\n",
                word("name"),
                word("life"),
                plugin["delivered"],
                handling(&plugin["handling_ms"]),
                plugin["waiting"],
                spooled(&plugin["spooled"]),
                plugin["failed"],
                plugin["dropped"]
            );
        }
    }
    text
}

/// For example ` (p50 0.2 ms, p99 3.1 ms)`: how long the plugin takes for a message.
fn handling(quantiles: &serde_json::Value) -> String {
    let Some((p50, p99)) = quantiles["p50"].as_f64().zip(quantiles["p99"].as_f64()) else {
        return String::new();
    };
    format!(" (p50 {p50} ms, p99 {p99} ms)")
}

/// For example ` (12 on disk)`.
fn spooled(count: &serde_json::Value) -> String {
    count.as_u64().filter(|count| *count > 0).map(|count| format!(" ({count} on disk)")).unwrap_or_default()
}

/// For example `, Pro until 2026-11-22T12:00:00Z`, and why it was not renewed.
fn access(access: &serde_json::Value) -> String {
    let Some(tier) = access["tier"].as_str() else { return String::new() };
    let until = access["expires_at"].as_str().map(|end| format!(" until {end}")).unwrap_or_default();
    let trouble = access["trouble"].as_str().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    format!(", {tier}{until}{trouble}")
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
