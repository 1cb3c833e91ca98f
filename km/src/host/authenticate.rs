//! From a process to a plugin that may see messages: health, name, tier, `Authenticate`, and only
//! then `Initialize`.

use std::future::Future;
use std::time::Duration;

use go_plugin::Channel;
use go_plugin::host::{Grace, PluginError, Trouble};
use km_package::tier::Tier;
use km_proto::event::MessageTooLarge;
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient;
use km_proto::v1::{
    AuthenticateRequest, Empty, HandleMessageRequest, HandleStreamEventRequest, InitializeRequest,
    PluginConfig, ShutdownRequest, StreamEvent,
};
use tonic::{Response, Status};

use super::{PluginFailure, SpawnedPlugin};
use crate::monitor::{Content, Message};

/// How long each call before the first message may take.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a plugin may take for one message before it is held to be stuck.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(60);
/// Largest answer that is taken from a plugin, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// A plugin that may see messages.
#[derive(Debug)]
pub(crate) struct AuthenticatedPlugin {
    plugin: SpawnedPlugin,
    client: KilometersPluginClient<Channel>,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Handled.
    Handled,
    /// The plugin answered that it failed.
    Failed(String),
}

impl SpawnedPlugin {
    /// Whether the plugin says that it is well.
    pub(crate) async fn check_health(&self) -> Result<(), PluginFailure> {
        let health = self.process.check_health(CALL_DEADLINE).await;
        health.map_err(|e| PluginFailure::Crashed(e.to_string()))
    }

    /// Authenticates by the rule for "no API key": what needs no more than Free runs on its stamped
    /// identity.
    pub(crate) async fn authenticate(mut self, debug: bool) -> Result<AuthenticatedPlugin, PluginFailure> {
        let mut client =
            KilometersPluginClient::new(self.process.channel()).max_decoding_message_size(MAX_ANSWER);
        match self.converse(&mut client, debug).await {
            Ok(()) => Ok(AuthenticatedPlugin { plugin: self, client }),
            Err(failure) => {
                self.stop(Grace { shutdown: Duration::from_millis(500), ..Grace::default() }).await;
                Err(failure)
            }
        }
    }

    async fn converse(
        &mut self,
        client: &mut KilometersPluginClient<Channel>,
        debug: bool,
    ) -> Result<(), PluginFailure> {
        self.check_health().await?;
        let name = self.call("GetName", client.get_name(Empty {})).await?.value;
        if name != self.name.as_str() {
            return Err(PluginFailure::Refused(format!("it says that its name is {name:?}")));
        }
        let tier = self.call("GetRequiredTier", client.get_required_tier(Empty {})).await?.value;
        let claimed: Tier =
            tier.parse().map_err(|e| PluginFailure::Refused(format!("required tier: {e}")))?;
        let required = claimed.max(self.required_tier);
        if required > Tier::Free {
            return Err(PluginFailure::Refused(format!(
                "it needs tier {required}, and no API key is configured"
            )));
        }
        let request = AuthenticateRequest { api_key: String::new() };
        let answer = self.call("Authenticate", client.authenticate(request)).await?;
        if !(answer.success && answer.auth_response.unwrap_or_default().authorized) {
            return Err(PluginFailure::Refused(format!(
                "it refused authentication: {}",
                said(&answer.error)
            )));
        }
        let config = PluginConfig { debug, ..PluginConfig::default() };
        let answer =
            self.call("Initialize", client.initialize(InitializeRequest { config: Some(config) })).await?;
        if !answer.success {
            return Err(PluginFailure::Refused(format!("it cannot work: {}", said(&answer.error))));
        }
        Ok(())
    }

    async fn call<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, PluginFailure> {
        answer(self, name, CALL_DEADLINE, call).await.map_err(|e| PluginFailure::Crashed(e.to_string()))
    }
}

/// What a plugin says of itself, as part of a line.
fn said(text: &str) -> String {
    km_cli::printable_line(text).chars().take(1000).collect()
}

/// The answer to a call within its deadline, or what became of the plugin.
async fn answer<T>(
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

    /// Hands over one message and waits until it was handled.
    pub(crate) async fn deliver(&mut self, message: &Message) -> Result<Delivery, PluginFailure> {
        let mut client = self.client.clone();
        let direction = message.direction;
        let (success, error) = match &message.content {
            Content::Whole(bytes) => {
                let request = HandleMessageRequest {
                    data: bytes.clone(),
                    direction: direction.as_str().to_owned(),
                    correlation_id: message.correlation_id(),
                };
                let call = client.handle_message(request);
                let answer = answer(&mut self.plugin, "HandleMessage", MESSAGE_DEADLINE, call).await;
                match answer {
                    Ok(answer) => (answer.success, answer.error),
                    Err(error) => (false, self.alive_after(error).await?),
                }
            }
            Content::TooLarge { size, sha256, summary } => {
                let event = MessageTooLarge {
                    direction,
                    correlation_id: message.correlation_id(),
                    size: *size,
                    sha256: sha256.to_string(),
                    summary: summary.clone(),
                };
                let event = StreamEvent {
                    r#type: MessageTooLarge::TYPE.to_owned(),
                    timestamp: Some(message.received.into()),
                    data: event.to_data(),
                };
                let call = client.handle_stream_event(HandleStreamEventRequest { event: Some(event) });
                let answer = answer(&mut self.plugin, "HandleStreamEvent", MESSAGE_DEADLINE, call).await;
                match answer {
                    Ok(answer) => (answer.success, answer.error),
                    Err(error) => (false, self.alive_after(error).await?),
                }
            }
        };
        Ok(if success { Delivery::Handled } else { Delivery::Failed(error) })
    }

    /// Why a call failed, if the plugin is well all the same: an error of the call is an answer, too.
    async fn alive_after(&self, error: PluginError) -> Result<String, PluginFailure> {
        let answered = matches!(error.trouble, Trouble::Call(_));
        if answered && self.plugin.process.check_health(CALL_DEADLINE).await.is_ok() {
            return Ok(error.trouble.to_string());
        }
        Err(PluginFailure::Crashed(error.to_string()))
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
