//! Protocol 2: `Deliver`, the stream of a session's messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use go_plugin::Channel;
use go_plugin::host::Grace;
use km_proto::v1::InitializeRequest;
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient as Protocol1;
use km_proto::v2::kilometers_plugin_client::KilometersPluginClient as Protocol2;
use km_proto::v2::{
    DeliverRequest, DeliverResponse, DescribeRequest, Direction, Failure, Message, SessionStart,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::ground::Ground;
use super::{Checks, Finding, Found, fine, tokens};

/// How long a plugin may take for its next response.
const RESPONSE: Duration = Duration::from_secs(5);
/// Most bytes of messages in one request: gRPC takes 4 MiB unless told otherwise.
const REQUEST: usize = 1 << 20;
const MIB: usize = 1 << 20;
const MANY: u64 = 10_000;
/// How long these may take before they are cut short.
const ENOUGH: Duration = Duration::from_secs(15);
/// Messages that are sent before the stream is cut, and after.
const CUT: u64 = 100;
const EARLY_END: &str = "it ended the stream before the host did";

const EARLY: &str = "Deliver is refused before authentication";
const ORDER: &str = "what is delivered is acknowledged, in order and up to the last";
const LARGE: &str = "messages of 3.9 and 20 MiB are taken, in pieces";
const SMALL: &str = "10,000 messages are delivered";
const RESUMED: &str = "a session goes on after its stream was cut";
const ENDED: &str = "when no more messages come, it handles the rest and ends the stream";

/// A plugin that may see messages, and the sessions that it is shown.
struct Talk {
    channel: Channel,
    sessions: u32,
}

pub(super) async fn check(ground: &Ground, checks: &mut Checks<'_>) {
    let session = match ground.start(&ground.host()).await {
        Ok(session) => session,
        Err(error) => return skip(checks, &error.to_string()),
    };
    let mut talk = Talk { channel: session.plugin.channel(), sessions: 0 };
    match session.plugin.version() {
        1 => skip(checks, "it speaks protocol 1"),
        _ => talk.check(ground, checks).await,
    }
    session.plugin.stop(Grace::default()).await;
}

fn skip(checks: &mut Checks<'_>, why: &str) {
    checks.skip("deliver-early", EARLY, why);
    skip_messages(checks, why);
}

fn skip_messages(checks: &mut Checks<'_>, why: &str) {
    checks.skip("deliver", ORDER, why);
    skip_more(checks, why);
}

fn skip_more(checks: &mut Checks<'_>, why: &str) {
    let all = [
        ("deliver-large", LARGE),
        ("deliver-many", SMALL),
        ("deliver-resumed", RESUMED),
        ("deliver-ended", ENDED),
    ];
    all.iter().for_each(|(id, what)| checks.skip(id, what, why));
}

impl Talk {
    async fn check(&mut self, ground: &Ground, checks: &mut Checks<'_>) {
        let refusal = self.early().await;
        if matches!(&refusal, Err(status) if status.code() == Code::Unimplemented) {
            let warning = async { Ok(Finding::Warning("messages come by protocol 1".to_owned())) };
            checks.make("deliver-early", EARLY, warning).await;
            return skip_messages(checks, "it has no Deliver");
        }
        checks.make("deliver-early", EARLY, async { refused(refusal) }).await;
        if let Err(why) = self.begin(ground).await {
            return skip_messages(checks, &why);
        }
        if !checks.make("deliver", ORDER, self.order()).await {
            return skip_more(checks, "it does not deliver");
        }
        checks.make("deliver-large", LARGE, self.large()).await;
        checks.make("deliver-many", SMALL, self.many()).await;
        checks.make("deliver-resumed", RESUMED, self.resumed()).await;
        checks.make("deliver-ended", ENDED, self.ended()).await;
    }

    /// The first response to a message from a host that has not authenticated the plugin.
    async fn early(&mut self) -> Result<Option<DeliverResponse>, Status> {
        let session = Some(self.next_session());
        let (requests, stream) = mpsc::channel(1);
        // There is room for one.
        let _ = requests.try_send(DeliverRequest { session, messages: vec![small(1)] });
        let mut client = Protocol2::new(self.channel.clone());
        let first = async { client.deliver(ReceiverStream::new(stream)).await?.into_inner().message().await };
        let late = |_| Err(Status::deadline_exceeded(format!("no answer within {RESPONSE:?}")));
        tokio::time::timeout(RESPONSE, first).await.unwrap_or_else(late)
    }

    async fn begin(&self, ground: &Ground) -> Result<(), String> {
        tokens::authorize(ground, self.channel.clone()).await?;
        let mut client = Protocol1::new(self.channel.clone());
        let call = tokio::time::timeout(RESPONSE, client.initialize(InitializeRequest::default()));
        let answer = call.await.map_err(|_| "Initialize: no answer".to_owned())?;
        let answer = answer.map_err(|e| format!("Initialize: {}", e.message()))?.into_inner();
        if answer.success { Ok(()) } else { Err(format!("Initialize: {}", answer.error)) }
    }

    fn next_session(&mut self) -> SessionStart {
        self.sessions += 1;
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let id = format!("check-{}-{since:x}-{}", std::process::id(), self.sessions);
        SessionStart { id, started: Some(now.into()) }
    }

    /// A session that the plugin cannot know.
    async fn open(&mut self) -> Result<Stream, String> {
        let session = self.next_session();
        let stream = Stream::open(self.channel.clone(), session).await?;
        match stream.acknowledged {
            0 => Ok(stream),
            number => Err(format!("of a session that is new to it it has {number} messages")),
        }
    }

    async fn order(&mut self) -> Found {
        let mut stream = self.open().await?;
        let window = stream.window;
        stream.send((1..=5).map(small)).await?;
        // What was lost on the way leaves a gap.
        stream.send((8..=10).map(small)).await?;
        match stream.finish().await? {
            Some(Failure { sequence, error }) => Err(format!("message {sequence} failed: {error}")),
            None => fine(format!("{} KiB at a time", window >> 10)),
        }
    }

    async fn large(&mut self) -> Found {
        let described = Protocol2::new(self.channel.clone()).describe(DescribeRequest {}).await;
        let limits = described.map_err(|e| format!("Describe: {}", e.message()))?.into_inner().limits;
        let most = limits.map_or(0, |limits| limits.max_message);
        let mut stream = self.open().await?;
        for (number, size) in [(1, MIB * 39 / 10), (2, 20 * MIB)] {
            if size as u64 > most {
                return Ok(Finding::Warning(format!("it takes at most {most} bytes; longer ones are cut")));
            }
            stream.send([small(2 * number - 1), large(2 * number, size)]).await?;
        }
        stream.finish().await?;
        fine("")
    }

    async fn many(&mut self) -> Found {
        let mut stream = self.open().await?;
        let begun = Instant::now();
        stream.send((1..=MANY).map(small)).await?;
        match tokio::time::timeout(ENOUGH, stream.wait_for(MANY)).await {
            Ok(handled) => handled?,
            Err(_) => {
                let handled = stream.acknowledged;
                let slow = format!("only {handled} of them in {ENOUGH:?}: messages will wait for it");
                return Ok(Finding::Warning(slow));
            }
        }
        stream.finish().await?;
        let rate = MANY as f64 / begun.elapsed().as_secs_f64();
        fine(format!("{rate:.0} messages per second"))
    }

    async fn resumed(&mut self) -> Found {
        let session = self.next_session();
        let mut stream = Stream::open(self.channel.clone(), session.clone()).await?;
        stream.send((1..=CUT).map(small)).await?;
        stream.wait_for(1).await?;
        let acknowledged = stream.acknowledged;
        drop(stream);
        let mut stream = Stream::open(self.channel.clone(), session).await?;
        let position = stream.acknowledged;
        if position > CUT {
            return Err(format!("of {CUT} messages it has {position}"));
        }
        stream.send((acknowledged.max(position) + 1..=2 * CUT).map(small)).await?;
        stream.finish().await?;
        fine(format!("of {CUT} {acknowledged} were acknowledged; then it had {position}"))
    }

    async fn ended(&mut self) -> Found {
        let mut stream = self.open().await?;
        stream.send((1..=100).map(small)).await?;
        stream.finish().await?;
        // And without any message.
        self.open().await?.finish().await?;
        fine("")
    }
}

fn refused(answer: Result<Option<DeliverResponse>, Status>) -> Found {
    match answer {
        Err(status) if status.code() == Code::DeadlineExceeded => Err(status.message().to_owned()),
        Err(status) => fine(status.message()),
        Ok(Some(_)) => Err("it takes messages from anybody".to_owned()),
        Ok(None) => Err("it ends the stream as if all were well".to_owned()),
    }
}

/// One open stream, as `km` uses it: never more on the way than the plugin allows.
struct Stream {
    requests: mpsc::Sender<DeliverRequest>,
    responses: Streaming<DeliverResponse>,
    window: u64,
    acknowledged: u64,
    /// What is on its way: sequence numbers and bytes; all the bytes.
    sent: VecDeque<(u64, u64)>,
    on_their_way: u64,
    last: u64,
    failure: Option<Failure>,
}

/// Messages that are sent together.
#[derive(Default)]
struct Request {
    messages: Vec<Message>,
    bytes: usize,
}

impl Stream {
    async fn open(channel: Channel, session: SessionStart) -> Result<Self, String> {
        let (requests, stream) = mpsc::channel(1);
        let first = DeliverRequest { session: Some(session), messages: Vec::new() };
        requests.send(first).await.map_err(|e| e.to_string())?;
        let mut client = Protocol2::new(channel);
        let call = tokio::time::timeout(RESPONSE, client.deliver(ReceiverStream::new(stream)));
        let answer = call.await.map_err(|_| "Deliver: no answer".to_owned())?;
        let responses = answer.map_err(|e| format!("Deliver: {}", e.message()))?.into_inner();
        let mut stream = Self {
            requests,
            responses,
            window: 0,
            acknowledged: 0,
            sent: VecDeque::new(),
            on_their_way: 0,
            last: 0,
            failure: None,
        };
        let first = stream.next().await?.ok_or("it ended before its first response")?;
        (stream.window, stream.acknowledged) = (first.window, first.acknowledged);
        if stream.window == 0 { Err("its first response gives no window".to_owned()) } else { Ok(stream) }
    }

    async fn next(&mut self) -> Result<Option<DeliverResponse>, String> {
        let response = tokio::time::timeout(RESPONSE, self.responses.message()).await;
        let response = response.map_err(|_| {
            format!("no response within {RESPONSE:?}; {} of {} acknowledged", self.acknowledged, self.last)
        })?;
        response.map_err(|e| format!("the stream ended: {}", e.message()))
    }

    /// Takes a response; false at the end of the stream.
    async fn hear(&mut self) -> Result<bool, String> {
        let Some(DeliverResponse { acknowledged, window, failures }) = self.next().await? else {
            return Ok(false);
        };
        // One that only changes the window may leave out what was acknowledged before.
        let backwards = acknowledged != 0 && acknowledged < self.acknowledged;
        if backwards || acknowledged > self.last {
            let (before, last) = (self.acknowledged, self.last);
            return Err(format!("it acknowledges {acknowledged} after {before}; {last} was sent last"));
        }
        self.acknowledged = self.acknowledged.max(acknowledged);
        if let Some(failure) = failures.iter().find(|failure| failure.sequence > self.acknowledged) {
            return Err(format!("message {} failed and is not acknowledged", failure.sequence));
        }
        self.failure = self.failure.take().or_else(|| failures.into_iter().next());
        if window > 0 {
            self.window = window;
        }
        while let Some((_, size)) = self.sent.pop_front_if(|(sequence, _)| *sequence <= self.acknowledged) {
            self.on_their_way -= size;
        }
        Ok(true)
    }

    /// Sends messages as there is room for them, many in a request.
    async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), String> {
        let mut request = Request::default();
        for message in messages {
            if !self.has_room_for(message.size) {
                self.push(&mut request).await?;
                self.make_room(message.size).await?;
            }
            self.last = message.sequence;
            self.sent.push_back((message.sequence, message.size));
            self.on_their_way += message.size;
            for piece in pieces(message) {
                if request.bytes + piece.data.len() > REQUEST {
                    self.push(&mut request).await?;
                }
                request.bytes += piece.data.len();
                request.messages.push(piece);
            }
        }
        self.push(&mut request).await
    }

    fn has_room_for(&self, size: u64) -> bool {
        self.sent.is_empty() || self.on_their_way + size <= self.window
    }

    async fn make_room(&mut self, size: u64) -> Result<(), String> {
        while !self.has_room_for(size) {
            if !self.hear().await? {
                return Err(EARLY_END.to_owned());
            }
        }
        Ok(())
    }

    async fn push(&mut self, request: &mut Request) -> Result<(), String> {
        let Request { messages, .. } = std::mem::take(request);
        if messages.is_empty() {
            return Ok(());
        }
        let request = DeliverRequest { session: None, messages };
        let sent = tokio::time::timeout(RESPONSE, self.requests.send(request)).await;
        sent.map_err(|_| format!("it reads nothing for {RESPONSE:?}"))?.map_err(|_| EARLY_END.to_owned())
    }

    async fn wait_for(&mut self, sequence: u64) -> Result<(), String> {
        while self.acknowledged < sequence {
            if !self.hear().await? {
                return Err(format!("it ended the stream with {} acknowledged", self.acknowledged));
            }
        }
        Ok(())
    }

    /// Closes the host's side, and reads to the end. Gives the first message that failed.
    async fn finish(mut self) -> Result<Option<Failure>, String> {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        while self.hear().await? {}
        match self.acknowledged {
            acknowledged if acknowledged == self.last => Ok(self.failure),
            acknowledged => Err(format!("{} was sent last, {acknowledged} acknowledged", self.last)),
        }
    }
}

fn small(sequence: u64) -> Message {
    let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{sequence},\"method\":\"ping\"}}");
    Message {
        method: "ping".to_owned(),
        id: sequence.to_string(),
        ..message(sequence, Direction::Inbound, "request", text.into())
    }
}

fn large(sequence: u64, size: usize) -> Message {
    let frame = br#"{"jsonrpc":"2.0","id":7,"result":""#;
    let filling = vec![b'x'; size - frame.len() - 2];
    let data = [&frame[..], &filling, b"\"}"].concat().into();
    Message { id: "7".to_owned(), ..message(sequence, Direction::Outbound, "result", data) }
}

fn message(sequence: u64, direction: Direction, kind: &str, data: Bytes) -> Message {
    Message {
        sequence,
        received: Some(SystemTime::now().into()),
        monotonic_ns: sequence,
        direction: direction.into(),
        correlation_id: sequence.to_string(),
        kind: kind.to_owned(),
        size: data.len() as u64,
        data,
        ..Message::default()
    }
}

/// The same message, no piece longer than a request may be.
fn pieces(mut message: Message) -> Vec<Message> {
    let mut rest = std::mem::take(&mut message.data);
    let sequence = message.sequence;
    let mut pieces = Vec::new();
    while rest.len() > REQUEST {
        let data = rest.split_to(REQUEST);
        pieces.push(Message { sequence, data, more: true, ..std::mem::take(&mut message) });
    }
    pieces.push(Message { sequence, data: rest, ..message });
    pieces
}
