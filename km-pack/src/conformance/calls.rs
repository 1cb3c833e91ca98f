//! One session: health, identity, authentication, messages.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use go_plugin::Channel;
use go_plugin::handshake::RAW_OUTPUT_VARIABLE;
use go_plugin::host::{Grace, PluginProcess, StoppedBy, Trouble};
use km_package::name::PluginName;
use km_package::tier::Tier;
use km_proto::event::MessageTooLarge;
use km_proto::jsonrpc::Summary;
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient;
use km_proto::v1::{
    AuthenticateRequest, AuthenticateResponse, Empty, HandleErrorRequest, HandleMessageRequest,
    HandleStreamEventRequest, InitializeRequest, PluginConfig, ShutdownRequest, StreamEvent,
};
use km_proto::{Direction, MAX_V1_MESSAGE};
use tonic::{Response, Status};

use super::ground::{Changed, Ground};
use super::{Checks, Finding, Found, fine, tokens};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long the thousand messages may take before they are cut short.
const ENOUGH: Duration = Duration::from_secs(15);
const MIB: usize = 1 << 20;
const MESSAGES: usize = 1000;
const REQUEST: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
/// What passes between clients and servers that are not well, and nobody may die of.
const ODD: [&[u8]; 5] = [b"", b"hello", b"[{\"id\":1},{\"id\":2}]", b"\xff\xfe\0", b"{\"id\":1"];

/// A session with a plugin.
struct Talk<'a> {
    ground: &'a Ground,
    plugin: PluginProcess,
    client: KilometersPluginClient<Channel>,
    /// Why nothing more can be asked: it is gone, or does not answer.
    lost: Option<String>,
}

pub(super) async fn check(ground: &Ground, checks: &mut Checks<'_>) {
    // As a host in Go does it: raw output is thrown away there.
    let changes = vec![(RAW_OUTPUT_VARIABLE.into(), "".into())];
    let runner = |executable| Changed { executable, changes };
    let session = match ground.start_by(&ground.host(), runner).await {
        Ok(session) => session,
        Err(error) => {
            let started = async { Err(error.to_string()) };
            checks.make("session", "it starts for a session", started).await;
            return;
        }
    };
    let stdout = session.raw_stdout();
    let client = KilometersPluginClient::new(session.plugin.channel());
    let mut talk = Talk { ground, plugin: session.plugin, client, lost: None };
    talk.introduce(checks).await;
    if talk.authenticate(checks).await {
        talk.messages(checks).await;
    }
    let what = "asked to leave it leaves within two seconds, with exit status 0";
    match talk.lost.clone() {
        None => drop(checks.make("shutdown", what, talk.leave()).await),
        Some(why) => checks.skip("shutdown", what, &why),
    }
    let printed = stdout.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let quiet = async {
        if printed.is_empty() {
            return fine("");
        }
        let start = String::from_utf8_lossy(&printed).chars().take(80).collect::<String>();
        Err(format!("{} bytes are lost to hosts in Go: {start:?}", printed.len()))
    };
    checks.make("stdout", "its raw stdout carries the handshake and nothing else", quiet).await;
}

fn accepted(name: &str, success: bool, error: &str) -> Result<(), String> {
    if success { Ok(()) } else { Err(format!("{name} answered that it failed: {error}")) }
}

impl Talk<'_> {
    async fn introduce(&mut self, checks: &mut Checks<'_>) {
        self.step(checks, "health", "it reports SERVING for \"plugin\"", Self::health).await;
        self.step(checks, "name", "GetName is the name it goes by", Self::name).await;
        self.step(checks, "version", "GetVersion is a semantic version", Self::version).await;
        self.step(checks, "required-tier", "GetRequiredTier is a tier", Self::required_tier).await;
        let what = "messages before authentication are refused";
        self.step(checks, "before-authentication", what, Self::before_authentication).await;
    }

    async fn authenticate(&mut self, checks: &mut Checks<'_>) -> bool {
        let what = "an API key that it was not built for is refused by what needs a tier";
        self.step(checks, "wrong-key", what, Self::wrong_key).await;
        let what = "Authenticate answers whether it may run";
        self.step(checks, "authenticate", what, Self::authorized).await
            && self.step(checks, "initialize", "Initialize succeeds", Self::initialize).await
    }

    async fn messages(&mut self, checks: &mut Checks<'_>) {
        self.step(checks, "message", "HandleMessage succeeds within five seconds", Self::small).await;
        let what = "what is no JSON-RPC is answered all the same";
        self.step(checks, "odd-messages", what, Self::odd).await;
        self.step(checks, "error", "HandleError succeeds", Self::error).await;
        let what = "HandleStreamEvent succeeds, also with an unknown type";
        self.step(checks, "stream-event", what, Self::event).await;
        let what = "a message of 1 MiB is handled";
        self.step(checks, "message-1-mib", what, async |talk| talk.large(MIB).await).await;
        let what = "a message of 3.9 MiB is handled";
        self.step(checks, "message-3.9-mib", what, async |talk| talk.large(MIB * 39 / 10).await).await;
        let what = "1,000 messages, one by one and in order, are all answered";
        self.step(checks, "thousand-messages", what, Self::thousand).await;
        let what = "it can be authenticated again in the middle of a session";
        self.step(checks, "again", what, Self::again).await;
    }

    /// Makes a check, unless the plugin is lost.
    async fn step(
        &mut self,
        checks: &mut Checks<'_>,
        id: &'static str,
        what: &'static str,
        check: impl AsyncFnOnce(&mut Self) -> Found,
    ) -> bool {
        match &self.lost {
            None => checks.make(id, what, check(self)).await,
            Some(why) => {
                checks.skip(id, what, why);
                false
            }
        }
    }

    /// The answer to a call within its deadline.
    async fn call<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, String> {
        let trouble = match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Trouble::from(status),
            Err(_) => Trouble::CallTimeout { call: name, deadline: CALL },
        };
        let error = self.plugin.explain(trouble).await;
        self.lost = match error.trouble {
            Trouble::Died(_) => Some("it is gone".to_owned()),
            Trouble::CallTimeout { .. } => Some("it does not answer".to_owned()),
            _ => None,
        };
        Err(format!("{name}: {error}"))
    }

    async fn health(&mut self) -> Found {
        self.plugin.check_health(CALL).await.map_err(|e| e.to_string())?;
        fine("")
    }

    async fn name(&mut self) -> Found {
        let name = self.call("GetName", self.client.clone().get_name(Empty {})).await?.value;
        match &self.ground.subject.name {
            Some(expected) if *expected.as_str() != *name => {
                Err(format!("it says {name:?}, and is called {expected}"))
            }
            Some(_) => fine(name),
            None => name.parse::<PluginName>().map_err(|e| e.to_string()).and_then(|_| fine(name)),
        }
    }

    async fn version(&mut self) -> Found {
        let text = self.call("GetVersion", self.client.clone().get_version(Empty {})).await?.value;
        let version: semver::Version = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
        match self.ground.subject.manifest.as_ref().map(|manifest| &manifest.plugin.version) {
            Some(packed) if *packed != version => Err(format!("it says {version}, its manifest {packed}")),
            _ => fine(text),
        }
    }

    async fn required_tier(&mut self) -> Found {
        let tier = self.tier().await?;
        match self.ground.subject.manifest.as_ref().map(|manifest| manifest.plugin.required_tier) {
            Some(packed) if packed != tier => Err(format!("it says {tier}, its manifest {packed}")),
            _ => fine(tier.to_string()),
        }
    }

    async fn tier(&mut self) -> Result<Tier, String> {
        let mut client = self.client.clone();
        let text = self.call("GetRequiredTier", client.get_required_tier(Empty {})).await?.value;
        text.parse().map_err(|e| format!("{text:?}: {e}"))
    }

    async fn before_authentication(&mut self) -> Found {
        // A refusal is an answer that it failed, or an error of the call.
        let request = message(REQUEST, Direction::Inbound, 0);
        let handled = self.client.clone().handle_message(request).await;
        if handled.is_ok_and(|answer| answer.get_ref().success) {
            return Err("HandleMessage succeeds before Authenticate".to_owned());
        }
        let request = HandleStreamEventRequest { event: Some(too_large()) };
        let handled = self.client.clone().handle_stream_event(request).await;
        if handled.is_ok_and(|answer| answer.get_ref().success) {
            return Err("HandleStreamEvent succeeds before Authenticate".to_owned());
        }
        self.health().await
    }

    async fn ask(&mut self, api_key: String) -> Result<AuthenticateResponse, String> {
        let mut client = self.client.clone();
        self.call("Authenticate", client.authenticate(AuthenticateRequest { api_key })).await
    }

    async fn wrong_key(&mut self) -> Found {
        if self.tier().await? == Tier::Free {
            return Ok(Finding::Inapplicable("it needs no more than Free".to_owned()));
        }
        let answer = self.ask("km_live_not_the_key_of_anybody".to_owned()).await?;
        if answer.success && answer.auth_response.unwrap_or_default().authorized {
            return Err("it authorizes any key".to_owned());
        }
        fine(answer.error)
    }

    async fn authorized(&mut self) -> Found {
        let keyless = self.ground.subject.api_key.is_empty() && self.tier().await? > Tier::Free;
        if keyless && self.plugin.version() >= 2 {
            return tokens::authorize(self.ground, self.plugin.channel()).await;
        }
        let answer = self.ask(self.ground.subject.api_key.clone()).await?;
        let AuthenticateResponse { success, error, auth_response } = answer;
        let response = auth_response.unwrap_or_default();
        if !(success && response.authorized) {
            let help =
                if keyless { "; it needs an API key: --api-key, or --api-key - for stdin" } else { "" };
            return Err(format!("not authorized: {error}{help}"));
        }
        match response.user_tier.parse::<Tier>() {
            Ok(tier) => fine(tier.to_string()),
            Err(e) => Ok(Finding::Warning(format!("user_tier: {e}"))),
        }
    }

    async fn initialize(&mut self) -> Found {
        let api_key = self.ground.subject.api_key.clone();
        let config = PluginConfig { api_key, ..PluginConfig::default() };
        let request = InitializeRequest { config: Some(config) };
        let answer = self.call("Initialize", self.client.clone().initialize(request)).await?;
        accepted("Initialize", answer.success, &answer.error)?;
        fine("")
    }

    async fn handle(&mut self, bytes: &[u8], direction: Direction, number: usize) -> Result<(), String> {
        let request = message(bytes, direction, number);
        let answer = self.call("HandleMessage", self.client.clone().handle_message(request)).await?;
        accepted("HandleMessage", answer.success, &answer.error)
    }

    async fn small(&mut self) -> Found {
        self.handle(REQUEST, Direction::Inbound, 1).await?;
        self.handle(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Direction::Outbound, 2).await?;
        fine("")
    }

    async fn odd(&mut self) -> Found {
        let mut refused = 0;
        for bytes in ODD {
            let request = message(bytes, Direction::Outbound, 3);
            let answer = self.call("HandleMessage", self.client.clone().handle_message(request)).await?;
            refused += usize::from(!answer.success);
        }
        fine(format!("{refused} of {} answered with success=false", ODD.len()))
    }

    async fn error(&mut self) -> Found {
        let request = HandleErrorRequest {
            error_message: "the server ended".to_owned(),
            error_type: "server_exit".to_owned(),
        };
        let answer = self.call("HandleError", self.client.clone().handle_error(request)).await?;
        accepted("HandleError", answer.success, &answer.error)?;
        fine("")
    }

    async fn event(&mut self) -> Found {
        let unknown = StreamEvent { r#type: "of_a_later_version".to_owned(), ..StreamEvent::default() };
        for event in [too_large(), unknown] {
            let request = HandleStreamEventRequest { event: Some(event) };
            let answer =
                self.call("HandleStreamEvent", self.client.clone().handle_stream_event(request)).await?;
            accepted("HandleStreamEvent", answer.success, &answer.error)?;
        }
        fine("")
    }

    async fn large(&mut self, size: usize) -> Found {
        debug_assert!(size <= MAX_V1_MESSAGE);
        let frame = br#"{"jsonrpc":"2.0","id":7,"result":"#;
        let filling = vec![b'x'; size - frame.len() - 3];
        self.handle(&[&frame[..], b"\"", &filling, b"\"}"].concat(), Direction::Outbound, 4).await?;
        fine(format!("{size} bytes"))
    }

    async fn thousand(&mut self) -> Found {
        let begun = Instant::now();
        for number in 0..MESSAGES {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"ping\"}}");
            self.handle(text.as_bytes(), Direction::Inbound, 10 + number)
                .await
                .map_err(|e| format!("message {number}: {e}"))?;
            if begun.elapsed() > ENOUGH {
                let slow = format!("only {number} of them in {ENOUGH:?}: messages will wait for it");
                return Ok(Finding::Warning(slow));
            }
        }
        let rate = MESSAGES as f64 / begun.elapsed().as_secs_f64();
        fine(format!("{rate:.0} messages per second"))
    }

    async fn again(&mut self) -> Found {
        self.authorized().await?;
        self.handle(REQUEST, Direction::Inbound, 2000).await?;
        fine("")
    }

    async fn leave(mut self) -> Found {
        let mut client = self.client.clone();
        let answer = self.call("Shutdown", client.shutdown(ShutdownRequest {})).await?;
        accepted("Shutdown", answer.success, &answer.error)?;
        let begun = Instant::now();
        match self.plugin.stop(Grace::default()).await {
            (StoppedBy::Request, Some(status)) if status.success() => {
                fine(format!("{} ms", begun.elapsed().as_millis()))
            }
            (StoppedBy::Request, Some(status)) => Err(format!("it ended with {status}")),
            (StoppedBy::Terminate, _) => Err("it had to be told by SIGTERM".to_owned()),
            (StoppedBy::Kill, _) | (StoppedBy::Request, None) => Err("it had to be killed".to_owned()),
        }
    }
}

fn message(bytes: &[u8], direction: Direction, number: usize) -> HandleMessageRequest {
    HandleMessageRequest {
        data: bytes.to_vec().into(),
        direction: direction.as_str().to_owned(),
        correlation_id: number.to_string(),
    }
}

fn too_large() -> StreamEvent {
    let event = MessageTooLarge {
        direction: Direction::Outbound,
        correlation_id: "5".to_owned(),
        size: 5 << 20,
        sha256: "0".repeat(64),
        summary: Summary::of(REQUEST),
    };
    StreamEvent { r#type: MessageTooLarge::TYPE.to_owned(), timestamp: None, data: event.to_data() }
}
