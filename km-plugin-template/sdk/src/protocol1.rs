//! Protocol 1 on top of a [`Plugin`](crate::Plugin).

use std::sync::Mutex;

use km_package::identity::api_key_digest;
use km_package::tier::Tier;
use km_proto::event::MessageTooLarge;
use km_proto::v1::kilometers_plugin_server::{KilometersPlugin, KilometersPluginServer};
use km_proto::v1::{
    AuthResponse, AuthenticateRequest, AuthenticateResponse, Empty, HandleErrorRequest, HandleErrorResponse,
    HandleMessageRequest, HandleMessageResponse, HandleStreamEventRequest, HandleStreamEventResponse,
    InitializeRequest, InitializeResponse, ShutdownRequest, ShutdownResponse, StringResponse,
};
use tonic::{Request, Response, Status};

use crate::identity::Stamp;
use crate::message::Message;
use crate::worker::Worker;
use crate::{About, Result, Session};

/// Largest request that is taken, in bytes.
const MAX_REQUEST: usize = 64 << 20;

pub(crate) struct Protocol1 {
    about: About,
    stamp: Stamp,
    worker: Worker,
    /// The tier of the last successful authentication.
    authenticated: Mutex<Option<Tier>>,
}

impl Protocol1 {
    pub(crate) fn new(about: About, stamp: Stamp, worker: Worker) -> Self {
        Self { about, stamp, worker, authenticated: Mutex::new(None) }
    }

    pub(crate) fn into_server(self) -> KilometersPluginServer<Self> {
        KilometersPluginServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// The tier this binary may run at, for who holds this API key (empty: nobody in particular).
    ///
    /// A plugin that needs no more than Free runs on its stamp alone. One that needs more runs for
    /// the holder of the key it was built for.
    fn judge(&self, api_key: &str) -> std::result::Result<Tier, String> {
        let required = self.about.required_tier;
        let (tier, key_digest) = match &self.stamp {
            Stamp::Wrong(error) => return Err(error.to_string()),
            Stamp::None => (Tier::Free, None),
            Stamp::Signed { identity, .. } => (identity.tier, identity.api_key_sha256),
        };
        if tier < required {
            return Err(format!("needs tier {required}, stamped is {tier}"));
        }
        let own_key = !api_key.is_empty() && key_digest == Some(api_key_digest(api_key));
        if required > Tier::Free && !own_key {
            return Err(format!("needs tier {required}: the API key it was built for is needed"));
        }
        Ok(tier)
    }

    fn tier(&self) -> Result<Tier> {
        let tier = *self.authenticated.lock().map_err(|_| "poisoned")?;
        tier.ok_or_else(|| "not authenticated".into())
    }

    async fn message(&self, message: Message) -> Result {
        self.tier()?;
        self.worker.run(move |plugin| plugin.message(&message)).await
    }
}

/// What every call of protocol 1 answers with.
fn verdict(outcome: Result) -> (bool, String) {
    match outcome {
        Ok(()) => (true, String::new()),
        Err(error) => (false, error.to_string()),
    }
}

fn text(value: impl ToString) -> std::result::Result<Response<StringResponse>, Status> {
    Ok(Response::new(StringResponse { value: value.to_string() }))
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl KilometersPlugin for Protocol1 {
    async fn get_name(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.about.name())
    }

    async fn get_version(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.about.version)
    }

    async fn get_required_tier(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.about.required_tier)
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        let judged = self.judge(&request.into_inner().api_key);
        if let Ok(mut authenticated) = self.authenticated.lock() {
            *authenticated = judged.as_ref().ok().copied();
        }
        Ok(Response::new(match judged {
            Ok(tier) => AuthenticateResponse {
                success: true,
                error: String::new(),
                auth_response: Some(AuthResponse {
                    authorized: true,
                    user_tier: tier.to_string(),
                    ..AuthResponse::default()
                }),
            },
            Err(error) => {
                AuthenticateResponse { success: false, error, auth_response: Some(AuthResponse::default()) }
            }
        }))
    }

    async fn initialize(&self, request: Request<InitializeRequest>) -> Answer<InitializeResponse> {
        let config = request.into_inner().config.unwrap_or_default();
        let started = match self.tier() {
            Ok(tier) => {
                let session = Session { tier, api_endpoint: config.api_endpoint, debug: config.debug };
                self.worker.run(move |plugin| plugin.start(&session)).await
            }
            Err(error) => Err(error),
        };
        let (success, error) = verdict(started);
        Ok(Response::new(InitializeResponse { success, error }))
    }

    /// The host announces the end of the session; the plugin stops when it is told to leave.
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        // Answers after everything before it was handled.
        let (success, error) = verdict(self.worker.run(|_| Ok(())).await);
        Ok(Response::new(ShutdownResponse { success, error }))
    }

    async fn handle_message(&self, request: Request<HandleMessageRequest>) -> Answer<HandleMessageResponse> {
        let handled = match Message::try_from(request.into_inner()) {
            Ok(message) => self.message(message).await,
            Err(error) => Err(error.into()),
        };
        let (success, error) = verdict(handled);
        Ok(Response::new(HandleMessageResponse { success, error }))
    }

    async fn handle_error(&self, request: Request<HandleErrorRequest>) -> Answer<HandleErrorResponse> {
        let HandleErrorRequest { error_message, error_type } = request.into_inner();
        let handled = match self.tier() {
            Ok(_) => self.worker.run(move |plugin| plugin.error(&error_message, &error_type)).await,
            Err(error) => Err(error),
        };
        let (success, error) = verdict(handled);
        Ok(Response::new(HandleErrorResponse { success, error }))
    }

    async fn handle_stream_event(
        &self,
        request: Request<HandleStreamEventRequest>,
    ) -> Answer<HandleStreamEventResponse> {
        let event = request.into_inner().event.unwrap_or_default();
        let handled = match MessageTooLarge::from_data(&event.data) {
            Some(large) if event.r#type == MessageTooLarge::TYPE => self.message(large.into()).await,
            // Events of later hosts say nothing to an older plugin.
            _ => Ok(()),
        };
        let (success, error) = verdict(handled);
        Ok(Response::new(HandleStreamEventResponse { success, error }))
    }
}
