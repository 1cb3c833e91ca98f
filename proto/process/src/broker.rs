//! Further connections between host and plugin, in either direction ("GRPCBroker", go-plugin
//! `grpc_broker.go`).
//!
//! Whoever wants to be called makes an [`Offer`]: a socket of its own, announced to the other side
//! over one stream that the host opened at the start. Its number goes to the other side in a message
//! of the application, and the other side [dials](Broker::dial) that number. Such connections are as
//! secure as the first one: the same certificates are pinned.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::channel::{self, CONNECTION_WINDOW, Channel, ConnectError, MAX_FRAME, STREAM_WINDOW};
use crate::handshake::Address;
use crate::peer::Peer;
use crate::services::ConnInfo;
use crate::services::grpc_broker_client::GrpcBrokerClient;
use crate::socket::{ListenError, Socket};
use crate::tls::Security;

/// How long who dials waits for the other side's announcement; the time is go-plugin's.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Announcements that wait: to be sent, and to be dialled.
const WAITING: usize = 256;

/// Why a further connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The connection between host and plugin has ended.
    #[error("the connection that further connections are announced over has ended")]
    Closed,
    /// The other side announces nothing, or too much is announced already.
    #[error("{WAITING} announcements wait for the other side already")]
    Full,
    /// No announcement of this number came, or nobody answers there.
    #[error("connection {0} was not announced within {DIAL_DEADLINE:?}")]
    NotAnnounced(u32),
    /// Somebody here waits for this number already.
    #[error("connection {0} is dialled already")]
    Dialled(u32),
    /// The announcement names no address.
    #[error("connection {0} was announced at an address that is none")]
    NoAddress(u32),
    /// It cannot be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It cannot be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server ended with an error.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Makes further connections. Clones share it.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Where sockets are made, and how their names begin.
    folder: PathBuf,
    prefix: &'static str,
    peer: Peer,
    security: Option<Security>,
    next_id: AtomicU32,
    announcing: mpsc::Sender<ConnInfo>,
    announced: Mutex<HashMap<u32, Announced>>,
    closed: watch::Sender<bool>,
}

/// What is known of a number of the other side.
#[derive(Debug)]
enum Announced {
    /// It can be dialled.
    At(ConnInfo),
    /// Somebody here waits for it.
    WaitedFor(oneshot::Sender<ConnInfo>),
}

/// Waits for an announcement; who gives up leaves nothing behind.
struct Waiting<'a> {
    broker: &'a Broker,
    id: u32,
    waiting: oneshot::Receiver<ConnInfo>,
}

impl Waiting<'_> {
    async fn announcement(mut self) -> Result<ConnInfo, BrokerError> {
        (&mut self.waiting).await.map_err(|_| BrokerError::Closed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiting.close();
        let mut announced = self.broker.announced();
        // One that arrived in the meantime is another's.
        if matches!(announced.get(&self.id), Some(Announced::WaitedFor(sender)) if sender.is_closed()) {
            announced.remove(&self.id);
        }
    }
}

/// Announcements on their way to the other side.
pub(crate) type Announcements = mpsc::Receiver<ConnInfo>;

impl Broker {
    pub(crate) fn new(
        folder: PathBuf,
        prefix: &'static str,
        peer: Peer,
        security: Option<Security>,
    ) -> (Self, Announcements) {
        let (announcing, announcements) = mpsc::channel(WAITING);
        let shared = Shared {
            folder,
            prefix,
            peer,
            security,
            next_id: AtomicU32::new(1),
            announcing,
            announced: Mutex::default(),
            closed: watch::Sender::new(false),
        };
        (Self(Arc::new(shared)), announcements)
    }

    /// Listens at a new socket and announces it to the other side, which should dial it within five
    /// seconds.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn offer(&self) -> Result<Offer, BrokerError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let socket = Socket::bind(&self.0.folder, self.0.prefix)?;
        let announcement = ConnInfo {
            service_id: id,
            network: "unix".to_owned(),
            address: socket.path().to_string_lossy().into_owned(),
            knock: None,
        };
        self.0.announcing.try_send(announcement).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => BrokerError::Full,
            mpsc::error::TrySendError::Closed(_) => BrokerError::Closed,
        })?;
        Ok(Offer { id, socket, broker: self.clone() })
    }

    /// Connects to what the other side offered under this number. It may still be on its way.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn dial(&self, id: u32) -> Result<Channel, BrokerError> {
        tokio::select! {
            dialled = tokio::time::timeout(DIAL_DEADLINE, self.connect(id)) => {
                dialled.unwrap_or(Err(BrokerError::NotAnnounced(id)))
            }
            () = self.closed() => Err(BrokerError::Closed),
        }
    }

    async fn connect(&self, id: u32) -> Result<Channel, BrokerError> {
        let ConnInfo { network, address, .. } = self.announcement(id).await?;
        let address = Address::parse(&network, &address).ok_or(BrokerError::NoAddress(id))?;
        let tls = self.0.security.as_ref().map(|security| Arc::clone(&security.client));
        Ok(channel::connect(&address, self.0.peer, tls).await?)
    }

    async fn announcement(&self, id: u32) -> Result<ConnInfo, BrokerError> {
        let waiting = {
            let mut announced = self.announced();
            match announced.remove(&id) {
                Some(Announced::At(info)) => return Ok(info),
                Some(Announced::WaitedFor(first)) if !first.is_closed() => {
                    announced.insert(id, Announced::WaitedFor(first));
                    return Err(BrokerError::Dialled(id));
                }
                // Nobody knows of it, or who waited has given up.
                _ => {}
            }
            if announced.len() >= WAITING {
                return Err(BrokerError::Full);
            }
            let (sender, waiting) = oneshot::channel();
            announced.insert(id, Announced::WaitedFor(sender));
            Waiting { broker: self, id, waiting }
        };
        waiting.announcement().await
    }

    /// Takes an announcement of the other side.
    fn take(&self, info: ConnInfo) {
        // A knock belongs to multiplexing, which nobody agreed on.
        if info.knock.is_some() {
            return;
        }
        let (id, mut announced) = (info.service_id, self.announced());
        let info = match announced.remove(&id) {
            Some(Announced::WaitedFor(sender)) => match sender.send(info) {
                Ok(()) => return,
                Err(info) => info,
            },
            _ => info,
        };
        if announced.len() >= WAITING {
            tracing::warn!("connection {id} is one too many");
        } else {
            announced.insert(id, Announced::At(info));
        }
    }

    fn announced(&self) -> MutexGuard<'_, HashMap<u32, Announced>> {
        self.0.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the other side's announcements until there are no more, or until the `end`.
    pub(crate) async fn listen(self, mut announcements: Streaming<ConnInfo>, end: impl Future<Output = ()>) {
        let listening = async {
            while let Ok(Some(info)) = announcements.message().await {
                self.take(info);
            }
        };
        tokio::select! {
            () = listening => {}
            () = end => {}
        }
        self.0.closed.send_replace(true);
    }

    /// The host's end: opens the stream. The call is answered with the first announcement, which
    /// may never come, so that nobody should wait for this.
    pub(crate) async fn open(self, channel: Channel, announcements: Announcements) {
        let mut client = GrpcBrokerClient::new(channel);
        match client.start_stream(ReceiverStream::new(announcements)).await {
            Ok(answer) => self.listen(answer.into_inner(), std::future::pending()).await,
            // Older plugins have no such service.
            Err(_) => drop(self.0.closed.send_replace(true)),
        }
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.0.closed.subscribe();
        async move {
            // The sender's end is the end, too.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }
}

/// A socket that the other side can dial by its number.
#[derive(Debug)]
pub struct Offer {
    id: u32,
    socket: Socket,
    broker: Broker,
}

impl Offer {
    /// The number, to be sent to the other side.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Serves whoever dials, until host and plugin part. Dropping the future ends it, too.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn serve(self, routes: Routes) -> Result<(), BrokerError> {
        let Shared { peer, security, .. } = &*self.broker.0;
        let tls = security.as_ref().map(|security| Arc::clone(&security.server));
        let incoming = self.socket.incoming(*peer, tls)?;
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, self.broker.closed());
        Ok(serving.await?)
    }
}
