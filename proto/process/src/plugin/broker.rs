//! The plugin's end of the stream on which further connections are announced.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Leave;
use crate::broker::{Announcements, Broker};
use crate::services::ConnInfo;
use crate::services::grpc_broker_server::GrpcBroker;

/// The service. Its stream can be had once.
#[derive(Debug)]
pub(super) struct BrokerService {
    broker: Broker,
    announcements: Mutex<Option<Announcements>>,
    leave: Leave,
}

impl BrokerService {
    pub(super) fn new(broker: Broker, announcements: Announcements, leave: Leave) -> Self {
        Self { broker, announcements: Mutex::new(Some(announcements)), leave }
    }
}

#[tonic::async_trait]
impl GrpcBroker for BrokerService {
    type StartStreamStream = Pin<Box<dyn Stream<Item = Result<ConnInfo, Status>> + Send>>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let taken = self.announcements.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(announcements) = taken else {
            return Err(Status::failed_precondition("the broker's stream was opened already"));
        };
        let listening = self.broker.clone().listen(request.into_inner(), self.leave.asked());
        tokio::spawn(listening);
        Ok(Response::new(self.leave.until(announcements)))
    }
}
