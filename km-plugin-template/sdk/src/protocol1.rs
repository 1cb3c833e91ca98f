//! Protocol 1 on top of a [`Plugin`](crate::Plugin).

use std::sync::Arc;

use km_proto::event::MessageTooLarge;
use km_proto::v1::kilometers_plugin_server::{KilometersPlugin, KilometersPluginServer};
use km_proto::v1::{
    AuthResponse, AuthenticateRequest, AuthenticateResponse, Empty, HandleErrorRequest, HandleErrorResponse,
    HandleMessageRequest, HandleMessageResponse, HandleStreamEventRequest, HandleStreamEventResponse,
    InitializeRequest, InitializeResponse, ShutdownRequest, ShutdownResponse, StringResponse,
};
use tonic::{Request, Response, Status};

use crate::batch::{Batch, Progress};
use crate::gate::Gate;
use crate::message::Message;
use crate::worker::Worker;
use crate::{Result, Session};

/// Largest request that is taken, in bytes.
pub(crate) const MAX_REQUEST: usize = 64 << 20;

pub(crate) struct Protocol1 {
    gate: Arc<Gate>,
    worker: Worker,
}

impl Protocol1 {
    pub(crate) fn new(gate: Arc<Gate>, worker: Worker) -> Self {
        Self { gate, worker }
    }

    pub(crate) fn into_server(self) -> KilometersPluginServer<Self> {
        KilometersPluginServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    async fn message(&self, message: Message) -> Result {
        self.gate.is_open()?;
        let progress = Arc::new(Progress::new(Arc::clone(&self.gate), None));
        let batch = Batch::new(vec![message], Arc::clone(&progress));
        self.worker.run(move |plugin| batch.hand_to(plugin)).await?;
        progress.verdict()
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
        text(self.gate.about().name())
    }

    async fn get_version(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.gate.about().version)
    }

    async fn get_required_tier(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.gate.about().required_tier)
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        Ok(Response::new(match self.gate.admit_key(&request.into_inner().api_key) {
            Ok(access) => AuthenticateResponse {
                success: true,
                error: String::new(),
                auth_response: Some(AuthResponse {
                    authorized: true,
                    user_tier: access.tier.to_string(),
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
        let started = match self.gate.access() {
            Ok(access) => {
                let session = Session { access, api_endpoint: config.api_endpoint, debug: config.debug };
                self.worker.begin(move |plugin| plugin.start(&session)).await
            }
            Err(error) => Err(error.into()),
        };
        let (success, error) = verdict(started);
        Ok(Response::new(InitializeResponse { success, error }))
    }

    /// The host announces the end of the session; the plugin stops when it is told to leave.
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        // Answers after everything before it was handled.
        let (success, error) = verdict(self.worker.run(|_| ()).await);
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
        let handled = match self.gate.is_open() {
            Ok(()) => {
                self.worker.run(move |plugin| plugin.error(&error_message, &error_type)).await.flatten()
            }
            Err(error) => Err(error.into()),
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
