//! From a process to a plugin that may see messages: health, who it is, what it may do, and only then
//! `Initialize`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use go_plugin::Channel;
use go_plugin::host::{Grace, PluginError, Trouble};
use km_package::failure::Kind;
use km_package::tier::Tier;
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient as Protocol1;
use km_proto::v1::{AuthenticateRequest, Empty, InitializeRequest, PluginConfig, ShutdownRequest};
use km_proto::v2;
use km_proto::v2::kilometers_plugin_client::KilometersPluginClient as Protocol2;
use tonic::{Response, Status};

use super::{PluginFailure, SpawnedPlugin};
use crate::auth::{Authority, Authorization, Grant, NoToken};
use crate::environment::Proxy;
use crate::store::PackageIdentity;

/// How long each call before the first message may take.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Largest answer that is taken from a plugin, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// A plugin that may see messages.
#[derive(Debug)]
pub(crate) struct AuthenticatedPlugin {
    pub(super) plugin: SpawnedPlugin,
    pub(super) client: Protocol1<Channel>,
    /// What it may do, as of its authentication.
    pub(crate) access: Access,
    /// For showing it again what it may do.
    pub(crate) door: Door,
    /// Whether it wants in the next session what it could not be given in this.
    pub(crate) is_durable: bool,
    /// Most bytes of one message that it takes.
    pub(super) longest_message: u64,
    /// Whether it takes messages in batches.
    pub(super) takes_batches: bool,
}

/// What a plugin may do.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The lowest of the subscription's tier and the stamped one, as the plugin said it.
    pub(crate) tier: String,
    pub(crate) features: Vec<String>,
    /// The token that says so; none where the plugin's own identity does.
    pub(crate) grant: Option<Grant>,
    /// Why the token is an older one, or none.
    pub(crate) trouble: Option<NoToken>,
}

/// The way into one plugin process, for as long as that lives.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    voice: Voice,
    pub(crate) authority: Arc<Authority>,
    /// What its manifest says; none for an allowed binary.
    pub(crate) identity: Option<PackageIdentity>,
    /// The tier that it needs, by its manifest and its own word.
    pub(crate) required_tier: Tier,
}

/// How a plugin is authenticated.
#[derive(Debug, Clone)]
enum Voice {
    /// By the API key.
    One(Protocol1<Channel>),
    /// By a token.
    Two(Protocol2<Channel>),
}

/// What a plugin says of itself.
struct Introduction {
    voice: Voice,
    required_tier: Tier,
    is_durable: bool,
    longest_message: u64,
}

/// What came of talking to a plugin before its first message.
struct Conversation {
    door: Door,
    access: Access,
    is_durable: bool,
    longest_message: u64,
}

impl SpawnedPlugin {
    /// Whether the plugin says that it is well.
    pub(crate) async fn check_health(&self) -> Result<(), PluginFailure> {
        let health = self.process.check_health(CALL_DEADLINE).await;
        health.map_err(|e| PluginFailure::Crashed(e.to_string()))
    }

    /// Finds out who it is and what it may do, tells it, and begins its session.
    pub(crate) async fn authenticate(
        mut self,
        authority: &Arc<Authority>,
        debug: bool,
    ) -> Result<AuthenticatedPlugin, PluginFailure> {
        let mut client = Protocol1::new(self.process.channel()).max_decoding_message_size(MAX_ANSWER);
        match self.converse(&mut client, authority, debug).await {
            Ok(Conversation { door, access, is_durable, longest_message }) => Ok(AuthenticatedPlugin {
                plugin: self,
                client,
                access,
                takes_batches: door.protocol2().is_some(),
                door,
                is_durable,
                longest_message,
            }),
            Err(failure) => {
                self.stop(Grace { shutdown: Duration::from_millis(500), ..Grace::default() }).await;
                Err(failure)
            }
        }
    }

    async fn converse(
        &mut self,
        client: &mut Protocol1<Channel>,
        authority: &Arc<Authority>,
        debug: bool,
    ) -> Result<Conversation, PluginFailure> {
        self.check_health().await?;
        let speaks_tokens = self.process.version() >= 2;
        let Introduction { voice, required_tier: claimed, is_durable, longest_message } = match speaks_tokens
        {
            true => self.describe().await?,
            false => self.introduce(client).await?,
        };
        let door = Door {
            voice,
            authority: Arc::clone(authority),
            identity: self.identity.clone(),
            required_tier: claimed.max(self.required_tier),
        };
        let access = match door.ask().await {
            Ok((grant, trouble)) => door.present(grant, trouble).await,
            Err(failure) => Err(failure),
        }?;
        // A plugin that knows tokens needs no key.
        let api_key = authority.api_key().filter(|_| !speaks_tokens);
        let config = PluginConfig {
            debug,
            api_endpoint: authority.endpoint(),
            api_key: api_key.map(|key| key.reveal().to_owned()).unwrap_or_default(),
        };
        let request = InitializeRequest { config: Some(config) };
        let answer = self.call("Initialize", client.initialize(request)).await?;
        if !answer.success {
            return Err(PluginFailure::Refused(format!("it cannot work: {}", said(&answer.error))));
        }
        Ok(Conversation { door, access, is_durable, longest_message })
    }

    /// Protocol 1: who it is, and the tier that it needs.
    async fn introduce(&mut self, client: &mut Protocol1<Channel>) -> Result<Introduction, PluginFailure> {
        let name = self.call("GetName", client.get_name(Empty {})).await?.value;
        self.check_name(&name)?;
        let tier = self.call("GetRequiredTier", client.get_required_tier(Empty {})).await?.value;
        let voice = Voice::One(client.clone());
        Ok(Introduction {
            voice,
            required_tier: parse_tier(&tier)?,
            is_durable: false,
            longest_message: u64::MAX,
        })
    }

    /// The same in protocol 2, and whether it is what its manifest says.
    async fn describe(&mut self) -> Result<Introduction, PluginFailure> {
        let mut client = Protocol2::new(self.process.channel()).max_decoding_message_size(MAX_ANSWER);
        let answer = self.call("Describe", client.describe(v2::DescribeRequest {})).await?;
        self.check_name(&answer.name)?;
        let said = answer.identity.as_ref().map(|stamp| (stamp.customer.as_str(), stamp.tier.as_str()));
        let whose = |stamp: Option<(&str, &str)>| {
            stamp.map_or("nobody".to_owned(), |(customer, tier)| format!("{customer} at {tier}"))
        };
        if let Some(expected) = &self.identity {
            let packed = Some((expected.customer.as_str(), expected.tier.as_str()));
            let is_packed = said == packed || (said.is_none() && !expected.is_stamped);
            if !is_packed || answer.version != expected.version {
                return Err(PluginFailure::Refused(format!(
                    "it says that it is {} for {}, its manifest says {} for {}",
                    answer.version,
                    whose(said),
                    expected.version,
                    whose(packed)
                )));
            }
        }
        let required_tier = parse_tier(&answer.required_tier)?;
        let limit = answer.limits.map(|limits| limits.max_message).filter(|limit| *limit > 0);
        Ok(Introduction {
            voice: Voice::Two(client),
            required_tier,
            is_durable: answer.durable,
            longest_message: limit.unwrap_or(u64::MAX),
        })
    }

    fn check_name(&self, name: &str) -> Result<(), PluginFailure> {
        if name == self.name.as_str() {
            return Ok(());
        }
        Err(PluginFailure::Refused(format!("it says that its name is {name:?}")))
    }

    async fn call<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, PluginFailure> {
        answer(self, name, CALL_DEADLINE, call).await.map_err(|e| PluginFailure::Crashed(e.to_string()))
    }
}

fn parse_tier(text: &str) -> Result<Tier, PluginFailure> {
    text.parse().map_err(|e| PluginFailure::Refused(format!("required tier: {e}")))
}

/// What a plugin says of itself, as part of a line.
pub(super) fn said(text: &str) -> String {
    km_cli::printable_line(text).chars().take(1000).collect()
}

impl Door {
    /// A client for protocol 2, if that is spoken.
    pub(super) fn protocol2(&self) -> Option<Protocol2<Channel>> {
        match &self.voice {
            Voice::One(_) => None,
            Voice::Two(client) => Some(client.clone()),
        }
    }

    /// Asks what the plugin may do, from the cache on.
    async fn ask(&self) -> Result<(Option<Grant>, Option<NoToken>), PluginFailure> {
        let answer = match &self.identity {
            Some(identity) => Some(self.authority.authorize(identity).await),
            None => None,
        };
        self.admit(answer)
    }

    pub(super) fn admit(
        &self,
        answer: Option<Authorization>,
    ) -> Result<(Option<Grant>, Option<NoToken>), PluginFailure> {
        admit(self.required_tier, self.identity.as_ref(), answer)
    }

    /// Shows the plugin what it may do. What counts for `km` is the plugin's answer.
    pub(crate) async fn present(
        &self,
        grant: Option<Grant>,
        trouble: Option<NoToken>,
    ) -> Result<Access, PluginFailure> {
        let (authorized, error, tier, features) = match &self.voice {
            Voice::One(client) => {
                let mut client = client.clone();
                let key = self.authority.api_key();
                let api_key = key.map(|key| key.reveal().to_owned()).unwrap_or_default();
                let answer = in_time(client.authenticate(AuthenticateRequest { api_key })).await?;
                let access = answer.auth_response.unwrap_or_default();
                let authorized = answer.success && access.authorized;
                (authorized, answer.error, access.user_tier, access.features)
            }
            Voice::Two(client) => {
                let mut client = client.clone();
                let answer = in_time(client.authenticate(self.credentials(grant.as_ref()))).await?;
                (answer.authorized, answer.error, answer.tier, answer.features)
            }
        };
        if !authorized {
            let why = format!("it refused authentication: {}", said(&error));
            return Err(match grant {
                // Another token, or another clock, may do.
                Some(_) => PluginFailure::Unauthorized { kind: Kind::Plugin, why },
                None => PluginFailure::Refused(why),
            });
        }
        Ok(Access { tier, features, grant, trouble })
    }

    fn credentials(&self, grant: Option<&Grant>) -> v2::AuthenticateRequest {
        let Some(grant) = grant else { return v2::AuthenticateRequest::default() };
        let Proxy { url: api_proxy, except: api_no_proxy } = self.authority.proxy();
        v2::AuthenticateRequest {
            api_proxy,
            api_no_proxy,
            token: grant.token.reveal().to_owned(),
            key_set: serde_json::to_string(&grant.key_set).unwrap_or_default(),
            api_endpoint: self.authority.endpoint(),
            api_certificates: self.authority.certificates(),
        }
    }
}

/// Required tier, stamped tier, tier of the subscription: the lowest of the last two must reach the
/// first. Gives the token to show, if there is one.
pub(super) fn admit(
    required: Tier,
    identity: Option<&PackageIdentity>,
    answer: Option<Authorization>,
) -> Result<(Option<Grant>, Option<NoToken>), PluginFailure> {
    let unauthorized = |kind, why| PluginFailure::Unauthorized { kind, why };
    let Some((identity, answer)) = identity.zip(answer) else {
        return match required {
            Tier::Free => Ok((None, None)),
            _ => Err(PluginFailure::Refused(format!(
                "it needs tier {required}; a binary that was allowed runs at Free"
            ))),
        };
    };
    if identity.tier < required {
        return Err(PluginFailure::Refused(format!(
            "it needs tier {required}, and was built for tier {}",
            identity.tier
        )));
    }
    match answer {
        Authorization::Granted(grant, trouble) if grant.claims.tier >= required => {
            Ok((Some(*grant), trouble))
        }
        Authorization::Granted(grant, _) => Err(unauthorized(
            Kind::Unauthorized,
            format!("it needs tier {required}, the subscription is {}", grant.claims.tier),
        )),
        Authorization::Refused(why) => Err(unauthorized(Kind::Unauthorized, why)),
        Authorization::NoToken(trouble) if required == Tier::Free => Ok((None, Some(trouble))),
        Authorization::NoToken(NoToken { kind, why, .. }) => {
            let why = format!("it needs tier {required}, and {why}");
            Err(if kind == Kind::NotFound { PluginFailure::Refused(why) } else { unauthorized(kind, why) })
        }
    }
}

/// The answer to `Authenticate`, which may be asked while messages are handled.
async fn in_time<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, PluginFailure> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(PluginFailure::Crashed(format!("Authenticate: {}", said(status.message())))),
        Err(_) => Err(PluginFailure::Crashed(format!("no answer to Authenticate within {CALL_DEADLINE:?}"))),
    }
}

/// The answer to a call within its deadline, or what became of the plugin.
pub(super) async fn answer<T>(
    plugin: &mut SpawnedPlugin,
    name: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, PluginError> {
    let trouble = match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => return Ok(answer.into_inner()),
        Ok(Err(status)) => Trouble::Call(format!("{name}: {}", status.message())),
        Err(_) => Trouble::CallTimeout { call: name, deadline },
    };
    Err(plugin.process.explain(trouble).await)
}

impl AuthenticatedPlugin {
    /// The process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.plugin.id()
    }

    /// From the order to start until the connection stood.
    pub(crate) fn start_time(&self) -> Duration {
        self.plugin.start_time
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn died(&mut self) -> PluginFailure {
        let status = self.plugin.process.wait().await;
        PluginFailure::Crashed(self.plugin.process.explain(Trouble::Died(status)).await.to_string())
    }

    /// Announces the end of the session, then asks the process to leave, then makes it.
    pub(crate) async fn stop(self, grace: Grace) {
        let mut client = self.client.clone();
        let _ = tokio::time::timeout(grace.shutdown, client.shutdown(ShutdownRequest {})).await;
        self.plugin.stop(grace).await;
    }
}
