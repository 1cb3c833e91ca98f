//! Protocol 2 on top of a [`Plugin`](crate::Plugin): who it is, authentication by token, messages.

use std::sync::Arc;

use go_plugin::plugin::Leave;
use km_proto::v2::kilometers_plugin_server::{KilometersPlugin, KilometersPluginServer};
use km_proto::v2::{
    AuthenticateRequest, AuthenticateResponse, DeliverRequest, DescribeRequest, DescribeResponse, Identity,
    Limits, Permissions,
};
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Access, Api, Token};
use crate::deliver::{Delivery, Responses};
use crate::gate::{Credentials, Gate};
use crate::identity::Stamp;
use crate::worker::Worker;

/// Longest message that is taken, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Largest request: such a message need not come in pieces.
const MAX_REQUEST: usize = MAX_MESSAGE + (1 << 20);

pub(crate) struct Protocol2 {
    gate: Arc<Gate>,
    worker: Worker,
    delivery: Delivery,
}

impl Protocol2 {
    pub(crate) fn new(gate: Arc<Gate>, worker: Worker, leave: Leave) -> Self {
        let delivery = Delivery::new(Arc::clone(&gate), worker.clone(), leave);
        Self { gate, worker, delivery }
    }

    pub(crate) fn into_server(self) -> KilometersPluginServer<Self> {
        KilometersPluginServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KilometersPlugin for Protocol2 {
    type DeliverStream = Responses;

    async fn deliver(&self, request: Request<Streaming<DeliverRequest>>) -> Answer<Responses> {
        Ok(Response::new(self.delivery.open(request.into_inner()).await?))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Answer<DescribeResponse> {
        let about = self.gate.about();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let identity = match self.gate.stamp() {
            Stamp::Signed { identity, key_id } => Some(Identity {
                customer: identity.customer.to_string(),
                tier: identity.tier.to_string(),
                key_id: key_id.to_string(),
            }),
            Stamp::None | Stamp::Wrong(_) => None,
        };
        Ok(Response::new(DescribeResponse {
            name: about.name().to_owned(),
            version: about.version.to_owned(),
            required_tier: about.required_tier.to_string(),
            features: texts(about.features),
            permissions: Some(Permissions {
                network: texts(about.permissions.network),
                read: texts(about.permissions.read),
                write: texts(about.permissions.write),
            }),
            identity,
            limits: Some(Limits { max_message: MAX_MESSAGE as u64 }),
            durable: about.durable,
        }))
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        let request = request.into_inner();
        let api = Api {
            token: Token::new(request.token),
            endpoint: request.api_endpoint,
            certificates: request.api_certificates,
            proxy: request.api_proxy,
            no_proxy: request.api_no_proxy,
        };
        let shown = !api.token.reveal().is_empty();
        let credentials = shown.then_some(Credentials { api, key_set: &request.key_set });
        Ok(Response::new(match self.gate.admit_token(credentials) {
            Ok(access) => {
                let answer = granted(&access);
                self.worker.tell(move |plugin| plugin.access(&access));
                answer
            }
            Err(error) => AuthenticateResponse { error, ..AuthenticateResponse::default() },
        }))
    }
}

fn granted(access: &Access) -> AuthenticateResponse {
    let timestamp = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
    AuthenticateResponse {
        authorized: true,
        error: String::new(),
        tier: access.tier.to_string(),
        features: access.features.clone(),
        expires_at: access.expires_at.map(timestamp),
    }
}
