//! The plugin of the pairings; `tests/go/pairing-plugin` is the same in Go.

use std::pin::Pin;
use std::process::ExitCode;

use go_plugin::Broker;
use km_tests::pairing::pairing_server::{Pairing, PairingServer};
use km_tests::pairing::partner_client::PartnerClient;
use km_tests::pairing::partner_server::PartnerServer;
use km_tests::pairing::{Bytes, COOKIE, Connection, Empty, MAX_MESSAGE, Side, Text};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

struct Plugin {
    broker: Broker,
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Pairing for Plugin {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn echo(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn take(&self, _: Request<Bytes>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn stream(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }

    async fn print(&self, request: Request<Text>) -> Result<Response<Empty>, Status> {
        let text = request.into_inner().text;
        println!("out {text}");
        eprintln!("err {text}");
        Ok(Response::new(Empty {}))
    }

    async fn call_host(&self, request: Request<Connection>) -> Result<Response<Text>, Status> {
        let channel = self.broker.dial(request.into_inner().id).await.map_err(internal)?;
        PartnerClient::new(channel).greet(Text { text: "plugin".to_owned() }).await
    }

    async fn offer(&self, _: Request<Empty>) -> Result<Response<Connection>, Status> {
        let offer = self.broker.offer().await.map_err(internal)?;
        let id = offer.id();
        tokio::spawn(offer.serve(Routes::new(PartnerServer::new(Side("plugin")))));
        Ok(Response::new(Connection { id }))
    }
}

fn main() -> ExitCode {
    let served = go_plugin::plugin::serve(COOKIE, &[1], |startup, routes| {
        let plugin = Plugin { broker: startup.broker().clone() };
        let server = PairingServer::new(plugin);
        routes.add_service(
            server.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
        );
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
