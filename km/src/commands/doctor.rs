//! `km doctor`

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use km_api::token::CLOCK_SKEW;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use serde::Serialize;

use super::{Local, init, status};
use crate::auth::{Authority, Settings, minutes};
use crate::config::{self, Config};
use crate::environment::Environment;
use crate::paths::Home;
use crate::store;
use crate::trust::Trust;

/// Check that everything is in order: files, keys, the API, each plugin
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km doctor")]
pub(super) struct Doctor {}

#[derive(Debug, Serialize)]
struct Document {
    ok: bool,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    id: String,
    outcome: Outcome,
    detail: String,
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Passed,
    Warned,
    Failed,
}

impl Check {
    fn new(id: &str, outcome: Outcome, detail: impl ToString) -> Self {
        Self { id: id.to_owned(), outcome, detail: detail.to_string(), help: None }
    }

    fn passed(id: &str, detail: impl ToString) -> Self {
        Self::new(id, Outcome::Passed, detail)
    }

    fn warned(id: &str, detail: impl ToString) -> Self {
        Self::new(id, Outcome::Warned, detail)
    }

    fn failed(id: &str, failure: Failure) -> Self {
        Self { help: failure.help, ..Self::new(id, Outcome::Failed, failure.message) }
    }

    fn help(self, help: impl ToString) -> Self {
        Self { help: Some(help.to_string()), ..self }
    }

    /// Its line, with what was looked at as wide as the widest.
    fn line(&self, width: usize) -> String {
        let mark = match self.outcome {
            Outcome::Passed => "ok  ",
            Outcome::Warned => "warn",
            Outcome::Failed => "FAIL",
        };
        let help = self.help.as_deref().map(|help| format!("\n      help: {help}")).unwrap_or_default();
        format!("{mark}  {:<width$}  {}{help}", self.id, self.detail)
    }
}

impl Doctor {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(super) fn run(&self, environment: Environment, output: &Output) -> Result<ExitCode, Failure> {
        let progress = output.progress();
        progress.step("looking");
        let home = Home::find(&environment)?;
        let mut checks = vec![check_home(&home)];
        let (config, checked) = check_config(&home);
        checks.push(checked);
        let (trust, checked) = check_trust(&home);
        checks.push(checked);
        let local = Local { environment, home, config, trust };
        match Settings::load(&local.environment, &local.home, &local.config) {
            Ok(settings) => {
                checks.extend(super::block_on(check_api(&settings))?);
                let authority = Arc::new(Authority::new(settings, &local.home));
                checks.extend(super::block_on(check_plugins(&local, &authority))?);
            }
            Err(failure) => checks.push(Check::failed("api-key", failure)),
        }
        drop(progress);
        let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
        let width = checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
        let text = checks.iter().map(|check| check.line(width)).collect::<Vec<_>>().join("\n");
        let error = (failed > 0).then(|| Failure::new(Kind::Failed, format_args!("{failed} checks failed")));
        output.result(&Document { ok: failed == 0, checks, error }, text);
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(Kind::Failed.code()) })
    }
}

/// Whether `km` can write there, and nobody else.
fn check_home(home: &Home) -> Check {
    let root = home.root();
    let place = root.display();
    if !root.exists() {
        return Check::warned("home", format_args!("{place} is not there")).help("`km init` makes it");
    }
    if let Err(e) = tempfile::NamedTempFile::new_in(root) {
        return Check::failed("home", Failure::file("write to", root, &e).help("KM_HOME moves it elsewhere"));
    }
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.permissions().mode() & 0o022 != 0 => {
            let failure = Failure::new(Kind::Local, format_args!("{place} can be written to by others"));
            Check::failed("home", failure.help(format_args!("chmod go-w {place}")))
        }
        _ => Check::passed("home", place),
    }
}

fn check_config(home: &Home) -> (Config, Check) {
    let path = home.config_file();
    let place = path.display();
    match Config::load(home) {
        Err(failure) => (Config::default(), Check::failed("configuration", failure)),
        Ok(config) if !path.exists() => {
            let check = Check::warned("configuration", format_args!("{place} is not there"));
            (config, check.help("`km init` writes it"))
        }
        Ok(config) if config.api_key().is_some() && !config::is_private(&path) => {
            let failure =
                Failure::new(Kind::Local, format_args!("{place} holds an API key that others can read"));
            (config, Check::failed("configuration", failure.help(format_args!("chmod 600 {place}"))))
        }
        Ok(config) => {
            let customer = config.customer.as_ref().map_or("no customer".to_owned(), ToString::to_string);
            (config, Check::passed("configuration", format_args!("{place}, {customer}")))
        }
    }
}

fn check_trust(home: &Home) -> (Trust, Check) {
    match Trust::load(home) {
        Err(failure) => (Trust::default(), Check::failed("release keys", failure)),
        Ok(trust) => {
            let ids: Vec<String> = trust.iter().map(|trusted| trusted.key.id().to_string()).collect();
            let check = match ids.is_empty() {
                true => Check::warned("release keys", "none is trusted: no package can be installed")
                    .help("`km trust add <release.pub.pem>`"),
                false => Check::passed("release keys", ids.join(", ")),
            };
            (trust, check)
        }
    }
}

/// The key, the API, and whether both clocks agree.
async fn check_api(settings: &Settings) -> Vec<Check> {
    let Some(key) = &settings.key else {
        let check = Check::warned("api-key", "none: plugins that need no more than Free run");
        return vec![check.help("`km auth login` sets one")];
    };
    let mut checks =
        vec![Check::passed("api-key", format_args!("{} from {}", key.value.masked(), key.source))];
    let client = match settings.client(init::DEADLINE) {
        Ok(client) => client,
        Err(failure) => {
            checks.push(Check::failed("api", failure));
            return checks;
        }
    };
    match client.health().await {
        Err(failure) => {
            checks.push(Check::failed("api", failure.into()));
            return checks;
        }
        Ok(answer) => {
            checks.push(Check::passed("api", client.endpoint()));
            checks.push(check_clock(answer.body.time));
        }
    }
    checks.push(match client.subscription().await {
        Err(failure) => Check::failed("subscription", failure.into()),
        Ok(answer) => {
            let status = answer.body;
            let detail = format!("{}, tier {}", status.customer_id, status.subscription_tier);
            match status.active {
                true => Check::passed("subscription", detail),
                false => Check::failed(
                    "subscription",
                    Failure::new(Kind::Unauthorized, format_args!("{detail}, is not active")),
                ),
            }
        }
    });
    checks
}

/// Tokens are judged by this machine's clock.
fn check_clock(server: Timestamp) -> Check {
    let ahead = Timestamp::now().as_second() - server.as_second();
    if ahead.abs() <= CLOCK_SKEW {
        return Check::passed("clock", "as the API's, to a minute");
    }
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    let detail = format!("this machine's clock is {} {which} the API's", minutes(ahead.abs()));
    Check::failed("clock", Failure::new(Kind::Failed, detail).help("set it: tokens are judged by it"))
}

async fn check_plugins(local: &Local, authority: &Arc<Authority>) -> Vec<Check> {
    let entries = match store::list(&local.home, &local.trust, &local.config) {
        Ok(entries) => entries,
        Err(failure) => return vec![Check::failed("plugins", failure)],
    };
    if entries.is_empty() {
        return vec![Check::warned("plugins", "none is installed")];
    }
    let mut checks = Vec::new();
    for entry in entries {
        let id = format!("plugin {}", entry.name);
        let health = status::ask(local, authority, &entry).await;
        checks.push(match health.error {
            None if health.authenticated => Check::passed(&id, "starts, and is authenticated"),
            None => Check::warned(&id, health.health),
            Some(error) => Check::failed(&id, Failure::new(Kind::Plugin, error)),
        });
    }
    checks
}
