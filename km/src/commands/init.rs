//! `km init`

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use km_api::api_key::ApiKey;
use km_api::subscription::SubscriptionStatus;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Local;
use crate::api::ApiFailure;
use crate::auth::{Found, Settings, Source, detect, parse_endpoint, parse_key};
use crate::config::{Change, ConfigChange};
use crate::environment::Secret;
use crate::provision::{Provision, Report, Request};

/// How long the API may take, with somebody waiting.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Write the configuration: the API key, and where the API is
///
/// The key is asked for on a terminal; elsewhere it comes from --api-key or KM_API_KEY. It is tried
/// before it is written: one that the API rejects is not.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km init --api-key - < key.txt\n  km init --endpoint https://plugins.example.com --auto-detect\n  km init --api-key - --auto-provision-plugins < key.txt"
)]
pub(super) struct Init {
    /// The API key; `-` reads it from stdin, so that it stands in no process list
    #[arg(short = 'k', long, value_name = "KEY")]
    api_key: Option<String>,
    /// The API's base URL
    #[arg(short, long, value_name = "URL", alias = "api-url")]
    endpoint: Option<String>,
    /// Certificates (PEM) that the API's own is checked with, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Take over what the older product has left: its variables, config.json, .env in this folder
    #[arg(long)]
    auto_detect: bool,
    /// Replace another API key or endpoint that is configured
    #[arg(long)]
    force: bool,
    /// Install what this customer may run, as `km plugins refresh` does
    #[arg(long)]
    auto_provision_plugins: bool,
}

/// What is configured now, for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    config: PathBuf,
    /// `written`, or `kept` where it was so already.
    action: &'static str,
    api_key: Option<String>,
    api_key_source: Option<String>,
    endpoint: String,
    customer: Option<CustomerId>,
    tier: Option<Tier>,
    active: Option<bool>,
}

/// What is configured now, and what became of plugins.
#[derive(Debug, Serialize)]
struct ProvisionedDocument {
    #[serde(flatten)]
    document: Document,
    #[serde(flatten)]
    report: Report,
}

impl Init {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<ExitCode, Failure> {
        let mut settings = Settings::load(&local.environment, &local.home, &local.config)?.with_flags(
            read_key(self.api_key.as_deref())?,
            self.endpoint.as_deref(),
            self.ca_cert.as_deref(),
        )?;
        if self.auto_detect {
            self.detect(local, &mut settings, output)?;
        }
        if settings.key.is_none() && std::io::stdin().is_terminal() {
            settings.key = ask_for_key()?;
        }
        if !self.force {
            refuse_to_replace(local, &settings)?;
        }
        let surroundings = Surroundings::Written { certificates: self.ca_cert.as_deref() };
        let document = sign_in(local, &settings, surroundings, output)?;
        if self.auto_provision_plugins {
            return Ok(provision(local, &settings, document, output));
        }
        let text = text(&document);
        output.result(&document, text);
        Ok(ExitCode::SUCCESS)
    }

    /// Shows what there is and where, and takes the first of each.
    fn detect(&self, local: &Local, settings: &mut Settings, output: &Output) -> Result<(), Failure> {
        let all = detect(&local.environment, &local.home);
        if all.is_empty() {
            output.note("nothing of the older product was found");
        }
        for older in &all {
            if let Some(key) = &older.api_key {
                let key = parse_key(&key.0, &older.source)?;
                output.note(format_args!("found the API key {} in {}", key.masked(), older.source));
            }
            if let Some(endpoint) = &older.endpoint {
                output.note(format_args!("found the endpoint {endpoint} in {}", older.source));
            }
        }
        if !all.is_empty() && !super::confirm("take this over?") {
            return Err(Failure::new(Kind::Failed, "nothing was written"));
        }
        // What was said here and now counts more, and what is configured unless it may be replaced.
        let configured = Source::File(local.home.config_file());
        let gives_way = |source: &Source| match source {
            Source::Flag | Source::Environment(_) => false,
            source => *source != configured || self.force,
        };
        let key = all.iter().find_map(|older| Some((older.api_key.as_ref()?, &older.source)));
        if let Some((key, source)) = key
            && settings.key.as_ref().is_none_or(|found| gives_way(&found.source))
        {
            settings.key = Some(Found { value: parse_key(&key.0, source)?, source: source.clone() });
        }
        let endpoint = all.iter().find_map(|older| Some((older.endpoint.as_ref()?, &older.source)));
        // A folder's `.env` says where its own key goes, and no other.
        let env_file = Source::File(local.environment.current_dir.join(".env"));
        let takes_key = |source: &Source| settings.key.as_ref().is_some_and(|key| key.source == *source);
        if let Some((endpoint, source)) = endpoint
            && (*source != env_file || takes_key(source))
            && gives_way(&settings.endpoint.source)
        {
            settings.endpoint = Found { value: parse_endpoint(endpoint, source)?, source: source.clone() };
        }
        Ok(())
    }
}

/// Installs what the customer may run, by the configuration that was just written. That one stays,
/// whatever becomes of the plugins.
fn provision(local: &Local, settings: &Settings, document: Document, output: &Output) -> ExitCode {
    let refresh = || {
        let local = Local::open(local.environment.clone())?;
        let Local { home, config, trust, .. } = &local;
        let provision = Provision { home, trust, config, settings, output };
        super::block_on(provision.refresh(&Request::default()))?
    };
    let report = refresh().unwrap_or_else(Report::failed);
    let text = format!("{}\n{}", text(&document), report.text());
    let document = ProvisionedDocument { document, report };
    output.result(&document, text);
    super::refresh::code(&document.report, output)
}

/// What is configured is not replaced by the way.
fn refuse_to_replace(local: &Local, settings: &Settings) -> Result<(), Failure> {
    let conflict = |what: String| {
        let path = local.home.config_file();
        Err(Failure::new(Kind::Conflict, format_args!("{} has {what} already", path.display()))
            .help("--force replaces it; `km auth login` replaces the key alone"))
    };
    let configured: Option<ApiKey> = local.config.api_key().and_then(|key| key.0.parse().ok());
    if let (Some(configured), Some(new)) = (&configured, &settings.key)
        && *configured != new.value
    {
        return conflict(format!("another API key, {}", configured.masked()));
    }
    match &local.config.api_endpoint {
        Some(configured) if configured.parse() != Ok(settings.endpoint.value.clone()) => {
            conflict(format!("another endpoint, {configured}"))
        }
        _ => Ok(()),
    }
}

/// What else than the key is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Surroundings<'a> {
    /// Nothing.
    Stay,
    /// Where the API is, and what its certificate is checked with.
    Written { certificates: Option<&'a std::path::Path> },
}

/// Tries the key and writes the configuration: for `init` and `auth login`.
pub(super) fn sign_in(
    local: &Local,
    settings: &Settings,
    surroundings: Surroundings<'_>,
    output: &Output,
) -> Result<Document, Failure> {
    let status = match &settings.key {
        Some(_) => try_key(settings, output)?,
        None => {
            output.note("no API key: plugins that need no more than Free run without one");
            None
        }
    };
    let customer = match (&status, &settings.key) {
        (Some(status), _) => Change::Set(status.customer_id.to_string()),
        // Another key may be another customer's.
        (None, Some(key)) if local.config.api_key().is_none_or(|old| *old.0 != *key.value.reveal()) => {
            Change::Remove
        }
        (None, _) => Change::Keep,
    };
    let secret = |key: &ApiKey| Secret(Zeroizing::new(key.reveal().to_owned()));
    let change = ConfigChange {
        customer,
        api_key: settings.key.as_ref().map_or(Change::Keep, |key| Change::Set(secret(&key.value))),
        api_endpoint: match (surroundings, &settings.endpoint.source) {
            // The default may be another one in a later version.
            (Surroundings::Stay, _) | (_, Source::Default) => Change::Keep,
            (Surroundings::Written { .. }, _) => Change::Set(settings.endpoint.value.to_string()),
        },
        api_certificates: match surroundings {
            Surroundings::Written { certificates: Some(path) } => Change::Set(absolute(path)?),
            _ => Change::Keep,
        },
    };
    let written = change.write(&local.home)?;
    let (status, customer) = match status {
        Some(status) => (Some((status.subscription_tier, status.active)), Some(status.customer_id)),
        None => (None, None),
    };
    Ok(Document {
        config: local.home.config_file(),
        action: if written { "written" } else { "kept" },
        api_key: settings.key.as_ref().map(|key| key.value.masked()),
        api_key_source: settings.key.as_ref().map(|key| key.source.to_string()),
        endpoint: settings.endpoint.value.to_string(),
        customer,
        tier: status.map(|(tier, _)| tier),
        active: status.map(|(_, active)| active),
    })
}

/// Whose the key is; none where nobody could be asked. A key that is rejected is an error.
fn try_key(settings: &Settings, output: &Output) -> Result<Option<SubscriptionStatus>, Failure> {
    let progress = output.progress();
    progress.step("asking the API");
    let client = settings.client(DEADLINE)?;
    let answer = super::block_on(client.subscription())?;
    drop(progress);
    match answer {
        Ok(answer) => {
            if !answer.body.active {
                output.warn("the subscription is not active: plugins that it pays for do not run");
            }
            Ok(Some(answer.body))
        }
        Err(refused @ ApiFailure::Refused(_)) => {
            Err(Failure::from(refused).context("nothing was written").help("check the API key"))
        }
        Err(unreachable @ ApiFailure::Unreachable { .. }) => {
            output.warn(format_args!("the API key could not be tried: {unreachable}"));
            Ok(None)
        }
    }
}

fn absolute(path: &std::path::Path) -> Result<String, Failure> {
    let path = std::path::absolute(path).map_err(|e| Failure::file("find", path, &e))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(Kind::Usage, format_args!("{} is not UTF-8", path.display())))
}

/// The key of a flag; `-` is the first line of stdin.
pub(super) fn read_key(given: Option<&str>) -> Result<Option<ApiKey>, Failure> {
    let text = match given {
        None => return Ok(None),
        Some("-") => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().take(64 * 1024).read_to_string(&mut text).map_err(|e| {
                Failure::new(Kind::Local, format_args!("cannot read the API key from stdin: {e}"))
            })?;
            // A line ends; that is no part of it.
            Zeroizing::new(text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned())
        }
        Some(text) => Zeroizing::new(text.to_owned()),
    };
    parse_key(&text, &Source::Flag).map(Some)
}

/// Asks for a key without showing it. None if nothing is typed.
pub(super) fn ask_for_key() -> Result<Option<Found<ApiKey>>, Failure> {
    let typed = rpassword::prompt_password("API key (nothing for none): ").map(Zeroizing::new);
    let typed =
        typed.map_err(|e| Failure::new(Kind::Local, format_args!("cannot read from the terminal: {e}")))?;
    match typed.trim() {
        "" => Ok(None),
        text => Ok(Some(Found { value: parse_key(text, &Source::Flag)?, source: Source::Flag })),
    }
}

pub(super) fn text(document: &Document) -> String {
    let Document { config, action, api_key, endpoint, customer, tier, .. } = document;
    let whose = match (customer, tier) {
        (Some(customer), Some(tier)) => format!(": {customer}, tier {tier}"),
        _ => String::new(),
    };
    let key = api_key.as_deref().map_or("no API key".to_owned(), |key| format!("API key {key}"));
    format!("{} {action}: {key} at {endpoint}{whose}", config.display())
}
