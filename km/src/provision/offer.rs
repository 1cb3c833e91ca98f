//! Asking what may be installed: the API, or where it cannot be reached the mirrors. Of what they say
//! only a signed index is believed.

use std::fmt;
use std::time::Duration;

use km_api::provision::{ALL, ProvisionAnswer, ProvisionRequest, ProvisionedPlugin};
use km_cli::Output;
use km_package::envelope::MAX_SIGNATURES;
use km_package::failure::{Failure, Kind};
use km_package::index::{IndexError, MAX_INDEX, UntrustedIndex, VerifiedIndex};
use km_package::name::{CustomerId, PluginName};
use km_package::platform::Platform;
use km_package::tier::Tier;
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;

use super::body::{Body, Broken};
use super::index::{Court, Judge};
use super::plan::Allowed;
use crate::api::{self, ApiFailure, Endpoint};
use crate::auth::Settings;
use crate::config::Config;

/// How long the API may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Before it is asked again.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// Who said what may be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    Api,
    Mirror,
    /// What was believed the last time.
    Last,
}

/// An index that is believed, and what was said beside it.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) source: Source,
    /// None where nothing was published for this customer.
    pub(super) index: Option<VerifiedIndex>,
    pub(super) subscription: Subscription,
}

/// What was said beside the index: it can leave something out, and never adds.
#[derive(Debug)]
pub(super) enum Subscription {
    /// The API says it.
    Known { tier: Tier, plugins: Vec<ProvisionedPlugin> },
    /// There is no API key: nobody says anything.
    Unused,
    /// The API should have been asked, and was not.
    Unknown,
}

impl Subscription {
    pub(super) fn allowed(&self) -> Allowed {
        match self {
            Self::Known { tier, plugins } => Allowed::These {
                tier: *tier,
                names: plugins.iter().map(|plugin| plugin.name.clone()).collect(),
            },
            Self::Unused => Allowed::All,
            Self::Unknown => Allowed::Unknown,
        }
    }

    /// What was said of one plugin.
    pub(super) fn plugin(&self, name: &PluginName) -> Option<&ProvisionedPlugin> {
        match self {
            Self::Known { plugins, .. } => plugins.iter().find(|plugin| plugin.name == *name),
            Self::Unused | Self::Unknown => None,
        }
    }
}

/// Asks what may be installed. Returns it with the judge who believed it, and who has kept it.
pub(super) async fn ask<'a>(
    settings: &Settings,
    config: &Config,
    platform: &Platform,
    court: Court<'a>,
    output: &Output,
) -> Result<(Offer, Judge<'a>), Failure> {
    let mirrors = Mirrors { mirrors: &config.mirrors, settings, patience: config.stall_timeout() };
    let customer = config.customer.as_ref();
    if settings.key.is_none() {
        let customer = customer.filter(|_| !mirrors.mirrors.is_empty()).ok_or_else(nobody_to_ask)?;
        return mirrors.offer(court.judge(customer.clone())?, Subscription::Unused).await;
    }
    let request = ProvisionRequest { platform: platform.clone(), plugins: vec![ALL.to_owned()] };
    match (ask_api(settings, &request).await?, customer) {
        (Ok(answer), _) => believe(answer, customer, settings, court, output),
        (Err(unreachable @ ApiFailure::Unreachable { .. }), Some(customer))
            if !mirrors.mirrors.is_empty() =>
        {
            output.note(format_args!("the mirrors are asked instead of the API: {unreachable}"));
            mirrors.offer(court.judge(customer.clone())?, Subscription::Unknown).await
        }
        (Err(failure), _) => Err(failure.into()),
    }
}

/// Asks the API. Whoever does not answer may do so in a moment: what is asked changes nothing, and can be
/// asked again.
async fn ask_api(
    settings: &Settings,
    request: &ProvisionRequest,
) -> Result<Result<ProvisionAnswer, ApiFailure>, Failure> {
    let client = settings.client(DEADLINE)?;
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = client.provision(request).await;
        let wait = match (&answer, pauses.next()) {
            (Err(ApiFailure::Unreachable { retry_after, .. }), Some(pause)) => retry_after.unwrap_or(pause),
            _ => return Ok(answer),
        };
        if tokio::time::Instant::now() + wait >= end {
            return Ok(answer);
        }
        tokio::time::sleep(wait).await;
    }
}

fn nobody_to_ask() -> Failure {
    Failure::new(Kind::Unauthorized, "there is no API key, and so nobody to ask what may be installed")
        .help("`km auth login` sets the key; without one, config.toml must name the `customer` and `mirrors`")
}

/// What was believed the last time, without asking anybody.
pub(super) fn remember<'a>(
    settings: &Settings,
    config: &Config,
    court: Court<'a>,
    output: &Output,
) -> Result<(Offer, Judge<'a>), Failure> {
    let unknown = |message: &str| {
        Failure::new(Kind::NotFound, message)
            .help("`km plugins refresh` without --offline asks what may be installed")
    };
    let customer =
        config.customer.clone().ok_or_else(|| unknown("it is not known whose plugins these are"))?;
    let judge = court.judge(customer)?;
    let last = judge.last.clone();
    let last = last.ok_or_else(|| unknown(&format!("no index of {} was seen here yet", judge.customer)))?;
    if last.index().expires <= judge.now {
        output.warn(format_args!("the last index expired at {}", last.index().expires));
    }
    let subscription = if settings.key.is_some() { Subscription::Unknown } else { Subscription::Unused };
    Ok((Offer { source: Source::Last, index: Some(last), subscription }, judge))
}

/// Takes what the API says, as far as the index in it is believed.
fn believe<'a>(
    answer: ProvisionAnswer,
    configured: Option<&CustomerId>,
    settings: &Settings,
    court: Court<'a>,
    output: &Output,
) -> Result<(Offer, Judge<'a>), Failure> {
    let customer = &answer.customer_id;
    if let Some(configured) = configured.filter(|configured| *configured != customer) {
        let message = format!("the API key is that of {customer}, and this is {configured}");
        return Err(Failure::new(Kind::Unauthorized, message)
            .help("`km auth login` takes over the key's customer; KM_API_KEY may be another one's"));
    }
    let judge = court.judge(customer.clone())?;
    let endpoint = &settings.endpoint.value;
    let failed = |e: IndexError| Failure::from(e).context(endpoint);
    let index = match (answer.index.is_some(), answer.untrusted_index()) {
        (true, Some(index)) => Some(judge.verify(index).map_err(failed)?),
        (true, None) => {
            return Err(Failure::new(
                Kind::Untrusted,
                format_args!("{endpoint}: the index has no signature"),
            ));
        }
        (false, _) => nothing_published(&judge, output).map_err(failed)?,
    };
    if let Some(index) = &index {
        judge.keep(index)?;
    }
    let subscription = Subscription::Known { tier: answer.subscription_tier, plugins: answer.plugins };
    Ok((Offer { source: Source::Api, index, subscription }, judge))
}

/// Whoever withholds an index can do so for as long as the last one is believed, and no longer.
fn nothing_published(judge: &Judge<'_>, output: &Output) -> Result<Option<VerifiedIndex>, IndexError> {
    match judge.verify_last() {
        None => output.note(format_args!("nothing is published for {} yet", judge.customer)),
        Some(last) => {
            let counter = last?.index().counter;
            output
                .warn(format_args!("the API has no index any more; the one with counter {counter} was seen"));
        }
    }
    Ok(None)
}

/// Published stores on file servers.
struct Mirrors<'a> {
    mirrors: &'a [Endpoint],
    settings: &'a Settings,
    patience: Duration,
}

impl Mirrors<'_> {
    /// Takes the index from the first mirror that has one to be believed.
    async fn offer<'a>(
        &self,
        judge: Judge<'a>,
        subscription: Subscription,
    ) -> Result<(Offer, Judge<'a>), Failure> {
        let client = api::download_client(&self.settings.certificates, &self.settings.proxy)?;
        let mut tried = Vec::new();
        for mirror in self.mirrors {
            match self.index(&client, mirror, &judge).await {
                Ok(index) => {
                    judge.keep(&index)?;
                    return Ok((Offer { source: Source::Mirror, index: Some(index), subscription }, judge));
                }
                Err(failure) => tried.push(failure.context(mirror)),
            }
        }
        Err(all_failed(&tried))
    }

    /// Reads the index of one mirror. Whoever publishes may be between its two files: one more look.
    async fn index(
        &self,
        client: &Client,
        mirror: &Endpoint,
        judge: &Judge<'_>,
    ) -> Result<VerifiedIndex, Failure> {
        match judge.verify(self.read(client, mirror, &judge.customer).await?) {
            Err(IndexError::Signature(_)) => {
                Ok(judge.verify(self.read(client, mirror, &judge.customer).await?)?)
            }
            other => Ok(other?),
        }
    }

    async fn read(
        &self,
        client: &Client,
        mirror: &Endpoint,
        customer: &CustomerId,
    ) -> Result<UntrustedIndex, Failure> {
        let text = self.get(client, mirror.at(&format!("/index/{customer}.toml")), MAX_INDEX).await?;
        let signatures =
            self.get(client, mirror.at(&format!("/index/{customer}.sig")), MAX_SIGNATURES as usize).await?;
        Ok(UntrustedIndex { text, signatures })
    }

    async fn get(&self, client: &Client, url: Url, most: usize) -> Result<Vec<u8>, Failure> {
        let unreachable = |why: &dyn fmt::Display| Failure::new(Kind::Unreachable, why);
        let path = url.path().to_owned();
        let failed = |broken: Broken| unreachable(&format_args!("{path}: {}", broken.why));
        let body = Body::open(client.get(url), self.patience).await.map_err(failed)?;
        if body.status() == StatusCode::NOT_FOUND {
            return Err(Failure::new(Kind::NotFound, format_args!("{path} is not there"))
                .help("is `customer` in config.toml right, and was anything published for it?"));
        }
        if !body.status().is_success() {
            return Err(unreachable(&format_args!("{path}: {}", body.status())));
        }
        body.read(most).await.map_err(failed)
    }
}

/// What every mirror said. An index that is refused weighs more than a mirror that is away.
fn all_failed(tried: &[Failure]) -> Failure {
    let worst = tried.iter().find(|failure| failure.kind != Kind::Unreachable).or(tried.first());
    let all = tried.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("; ");
    let help = "`mirrors` in config.toml names them";
    match worst {
        Some(worst) => Failure { message: all, ..worst.clone() }.help(worst.help.as_deref().unwrap_or(help)),
        None => Failure::new(Kind::Unreachable, "there are no mirrors").help(help),
    }
}
