//! The host of these tests: what a stream says, read with a deadline.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use go_plugin::Channel;
use go_plugin::handshake::Cookie;
use go_plugin::host::{Executable, Host, PluginProcess};
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient as Protocol1;
use km_proto::v1::{InitializeRequest, InitializeResponse};
use km_proto::v2::kilometers_plugin_client::KilometersPluginClient as Protocol2;
use km_proto::v2::{
    AuthenticateRequest, AuthenticateResponse, DeliverRequest, DeliverResponse, Direction, Message,
    SessionStart,
};
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::author::{DOOR, FOLDER, SEEN, WAY, Way};

/// A folder, and the plugins that are started in it.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let door = folder.path().join(DOOR);
        rustix::fs::mkfifoat(rustix::fs::CWD, &door, rustix::fs::Mode::RWXU).expect("a pipe");
        Self { folder }
    }

    /// A plugin that nobody has authenticated.
    pub(crate) async fn start(&self, way: Way) -> PluginProcess {
        let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
        let mut host = Host::new(cookie, km_proto::PROTOCOL_VERSIONS, self.folder.path());
        host.environment = vec![(WAY.into(), way.name().into()), (FOLDER.into(), self.folder.path().into())];
        let this = Executable::open(std::env::current_exe().expect("a path")).expect("it can be opened");
        let print = Arc::new(|_, line: &[u8]| eprintln!("plugin: {}", String::from_utf8_lossy(line)));
        PluginProcess::start(&host, this, print).await.expect("it starts")
    }

    /// A plugin that may see messages.
    pub(crate) async fn begin(&self, way: Way) -> PluginProcess {
        let plugin = self.start(way).await;
        assert!(authenticate(&plugin, "").await.authorized);
        assert!(initialize(&plugin).await.success);
        plugin
    }

    /// Lets the plugin go on that waits at the door.
    pub(crate) async fn open_the_door(&self) {
        let door = self.folder.path().join(DOOR);
        let open = move || OpenOptions::new().write(true).open(door)?.write_all(b"\n");
        tokio::task::spawn_blocking(open).await.expect("no panic").expect("it is opened");
    }

    /// The lines of what it has seen.
    pub(crate) fn seen(&self) -> Vec<String> {
        let seen: PathBuf = self.folder.path().join(SEEN);
        std::fs::read_to_string(seen).expect("a file").lines().map(str::to_owned).collect()
    }

    /// The numbers of the messages that it has seen of a session.
    pub(crate) fn numbers(&self, session: &str) -> Vec<u64> {
        let seen = self.seen();
        let words = seen.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        words.filter(|words| words[0] == session).map(|words| words[1].parse().expect("a number")).collect()
    }
}

pub(crate) async fn authenticate(plugin: &PluginProcess, token: &str) -> AuthenticateResponse {
    let request = AuthenticateRequest { token: token.to_owned(), ..AuthenticateRequest::default() };
    Protocol2::new(plugin.channel()).authenticate(request).await.expect("an answer").into_inner()
}

pub(crate) async fn initialize(plugin: &PluginProcess) -> InitializeResponse {
    let request = InitializeRequest::default();
    Protocol1::new(plugin.channel()).initialize(request).await.expect("an answer").into_inner()
}

/// An open stream of one session.
pub(crate) struct Stream {
    requests: Option<mpsc::Sender<DeliverRequest>>,
    responses: Streaming<DeliverResponse>,
    pub(crate) first: DeliverResponse,
    pub(crate) acknowledged: u64,
    /// Why which message failed.
    pub(crate) failures: BTreeMap<u64, String>,
}

impl Stream {
    pub(crate) async fn open(plugin: &PluginProcess, session: &str) -> Self {
        Self::try_open(plugin.channel(), session).await.expect("a stream")
    }

    pub(crate) async fn try_open(channel: Channel, session: &str) -> Result<Self, Status> {
        let start = SessionStart { id: session.to_owned(), started: None };
        Self::begin(channel, DeliverRequest { session: Some(start), messages: Vec::new() }).await
    }

    /// Opens a stream with this as its first request.
    pub(crate) async fn begin(channel: Channel, request: DeliverRequest) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(16);
        requests.send(request).await.expect("room");
        let answer = Protocol2::new(channel).deliver(ReceiverStream::new(stream)).await?;
        let mut responses = answer.into_inner();
        let first = responses.message().await?.ok_or_else(|| Status::unknown("it ended"))?;
        Ok(Self {
            requests: Some(requests),
            responses,
            acknowledged: first.acknowledged,
            first,
            failures: BTreeMap::new(),
        })
    }

    pub(crate) async fn send(&self, messages: Vec<Message>) {
        let request = DeliverRequest { session: None, messages };
        self.requests.as_ref().expect("an open half").send(request).await.expect("it is read");
    }

    /// Sends small messages of these numbers.
    pub(crate) async fn send_numbers(&self, numbers: impl IntoIterator<Item = u64>) {
        self.send(numbers.into_iter().map(|number| message(number, "{}")).collect()).await;
    }

    /// Reads responses until this number is acknowledged.
    pub(crate) async fn wait_for(&mut self, sequence: u64) {
        while self.acknowledged < sequence {
            let response = self.responses.message().await.expect("a response").expect("no end");
            self.note(response);
        }
        assert_eq!(self.acknowledged, sequence);
    }

    fn note(&mut self, response: DeliverResponse) {
        assert!(response.acknowledged > self.acknowledged, "{response:?} after {}", self.acknowledged);
        self.acknowledged = response.acknowledged;
        for failure in response.failures {
            assert!(failure.sequence <= self.acknowledged);
            assert_eq!(self.failures.insert(failure.sequence, failure.error), None);
        }
    }

    /// No more messages will come.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Reads to the end.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while let Some(response) = self.responses.message().await? {
            self.note(response);
        }
        Ok(())
    }
}

/// A request of the client.
pub(crate) fn message(sequence: u64, data: impl Into<Bytes>) -> Message {
    let data = data.into();
    Message {
        sequence,
        received: Some(Timestamp { seconds: 1_795_305_600, nanos: 0 }),
        direction: Direction::Inbound.into(),
        correlation_id: sequence.to_string(),
        kind: "other".to_owned(),
        size: data.len() as u64,
        data,
        ..Message::default()
    }
}

/// The same in pieces of so many bytes.
pub(crate) fn in_pieces(mut whole: Message, length: usize) -> Vec<Message> {
    let data = std::mem::take(&mut whole.data);
    let sequence = whole.sequence;
    let mut pieces: Vec<_> = (0..data.len())
        .step_by(length)
        .map(|at| data.slice(at..data.len().min(at + length)))
        .map(|data| Message { sequence, data, more: true, ..Message::default() })
        .collect();
    pieces[0] = Message { data: pieces[0].data.clone(), more: true, ..whole };
    pieces.last_mut().expect("a piece").more = false;
    pieces
}
