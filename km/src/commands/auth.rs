//! `km auth`

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Serialize;

use super::{Local, init};
use crate::auth::{Found, Settings, Source, TokenCache};
use crate::config::{Change, ConfigChange};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  km auth login --api-key - < key.txt")]
pub(super) enum Auth {
    Login(Login),
    Status(Status),
    Logout(Logout),
}

impl Auth {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Login(command) => command.run(local, output),
            Self::Status(command) => command.run(local, output),
            Self::Logout(command) => command.run(local, output),
        }
    }
}

/// Try an API key and keep it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km auth login --api-key - < key.txt")]
pub(super) struct Login {
    /// The API key; `-` reads it from stdin. Asked for on a terminal
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

impl Login {
    fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let key = match init::read_key(self.api_key.as_deref())? {
            Some(value) => Some(Found { value, source: Source::Flag }),
            None if std::io::stdin().is_terminal() => init::ask_for_key()?,
            None => None,
        };
        let settings = Settings::load(&local.environment, &local.home, &local.config)?;
        let settings = Settings { key: key.or(settings.key.filter(|_| self.api_key.is_none())), ..settings };
        if settings.key.is_none() {
            return Err(Failure::new(Kind::Usage, "no API key was given")
                .help("`km auth login --api-key -` reads it from stdin"));
        }
        let document = init::sign_in(local, &settings, init::Surroundings::Stay, output)?;
        let text = init::text(&document);
        output.result(&document, text);
        Ok(())
    }
}

/// Show which API key is used, and what it is good for
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km auth status --json")]
pub(super) struct Status {}

#[derive(Debug, Serialize)]
struct StatusDocument {
    api_key: String,
    api_key_source: String,
    endpoint: String,
    endpoint_source: String,
    customer: CustomerId,
    tier: Tier,
    active: bool,
    features: Vec<String>,
    /// The end of the subscription; none for one without an end.
    expires_at: Option<Timestamp>,
}

impl Status {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let settings = Settings::load(&local.environment, &local.home, &local.config)?;
        let Some(key) = &settings.key else {
            return Err(Failure::new(Kind::NotFound, "no API key is configured")
                .help("`km auth login` sets one; plugins that need no more than Free run without"));
        };
        let whose = format!("API key {} from {}", key.value.masked(), key.source);
        let progress = output.progress();
        progress.step("asking the API");
        let client = settings.client(init::DEADLINE)?;
        let answers = super::block_on(async {
            let subscription = client.subscription().await?.body;
            let features = client.features().await?.body;
            Ok((subscription, features))
        })?;
        drop(progress);
        let (subscription, features) =
            answers.map_err(|failure: crate::api::ApiFailure| Failure::from(failure).context(&whose))?;
        let document = StatusDocument {
            api_key: key.value.masked(),
            api_key_source: key.source.to_string(),
            endpoint: settings.endpoint.value.to_string(),
            endpoint_source: settings.endpoint.source.to_string(),
            customer: subscription.customer_id,
            tier: subscription.subscription_tier,
            active: subscription.active,
            features: features.features,
            expires_at: features.expires_at,
        };
        let text = text(&document);
        output.result(&document, text);
        Ok(())
    }
}

fn text(document: &StatusDocument) -> String {
    let active = match (document.active, document.expires_at) {
        (true, None) => "active".to_owned(),
        (true, Some(end)) => format!("active until {end}"),
        (false, _) => "not active".to_owned(),
    };
    format!(
        "API key:       {} ({})\nendpoint:      {} ({})\ncustomer:      {}\ntier:          {}\nfeatures:      {}\nsubscription:  {active}",
        document.api_key,
        document.api_key_source,
        document.endpoint,
        document.endpoint_source,
        document.customer,
        document.tier,
        if document.features.is_empty() { "none".to_owned() } else { document.features.join(", ") },
    )
}

/// Forget the API key and all tokens
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km auth logout")]
pub(super) struct Logout {}

#[derive(Debug, Serialize)]
struct LogoutDocument {
    /// `removed`, or `kept` where there was none.
    action: &'static str,
    /// How many cached tokens were removed.
    tokens: usize,
}

impl Logout {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let had_key = local.config.api_key().is_some();
        if had_key {
            let change =
                ConfigChange { api_key: Change::Remove, customer: Change::Remove, ..ConfigChange::default() };
            change.write(&local.home)?;
        }
        let folder = local.home.cache();
        let tokens = TokenCache::clear(&local.home).map_err(|e| Failure::file("empty", &folder, &e))?;
        if let Some(Found { source, .. }) =
            Settings::load(&local.environment, &local.home, &crate::config::Config::load(&local.home)?)
                .ok()
                .and_then(|settings| settings.key)
        {
            output.warn(format_args!("an API key is still found in {source}"));
        }
        let action = if had_key { "removed" } else { "kept" };
        let key = if had_key { "the API key is removed" } else { "there was no API key" };
        let text = format!("{key}; cached tokens removed: {tokens}");
        output.result(&LogoutDocument { action, tokens }, text);
        Ok(())
    }
}
