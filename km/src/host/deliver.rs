//! Messages on their way into a plugin: one by one (protocol 1), or in batches of which it says how far
//! it is (protocol 2).

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use bytes::Bytes;
use go_plugin::Channel;
use go_plugin::host::{PluginError, Trouble};
use km_proto::MAX_V1_MESSAGE;
use km_proto::event::MessageTooLarge;
use km_proto::v1::{HandleMessageRequest, HandleStreamEventRequest, StreamEvent};
use km_proto::v2;
use km_proto::v2::kilometers_plugin_client::KilometersPluginClient as Protocol2;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::PluginFailure;
use super::authenticate::{AuthenticatedPlugin, CALL_DEADLINE, answer, said};
use super::renew::Validity;
use crate::monitor::{Entry, PIECE, Reader};

/// How long a plugin may take for one message before it is held to be stuck.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(60);
/// A plugin that is busy gets its next messages when there are so many; an idle one gets each at once.
const FULL: u64 = 64;
/// Most messages that are taken at once.
const MOST: usize = 1024;
/// Most bytes of messages in one request.
const REQUEST: usize = 256 << 10;

/// What became of one message.
enum Outcome {
    Handled,
    /// The plugin answered that it failed.
    Failed(String),
}

/// How the messages of a session ended.
enum Stream {
    /// All were handled.
    Done,
    /// The plugin takes none this way.
    NotSpoken,
}

impl AuthenticatedPlugin {
    /// Delivers the messages of a session to their end, or that of the plugin.
    pub(crate) async fn feed(&mut self, reader: &Reader, validity: &Validity) -> Result<(), PluginFailure> {
        if let Some(client) = self.door.protocol2().filter(|_| self.takes_batches) {
            match self.feed_batches(client, reader, validity).await? {
                Stream::Done => return Ok(()),
                Stream::NotSpoken => self.takes_batches = false,
            }
        }
        self.feed_one_by_one(reader, validity).await
    }

    /// Whether a message that it did not acknowledge is sent again.
    pub(crate) fn is_resent_to(&self) -> bool {
        self.takes_batches
    }

    async fn feed_one_by_one(&mut self, reader: &Reader, validity: &Validity) -> Result<(), PluginFailure> {
        loop {
            let ready = tokio::select! {
                biased;
                // Before the next message: who is gone already loses none.
                failure = self.died() => return Err(failure),
                ready = reader.ready(1) => ready,
            };
            if !ready {
                return Ok(());
            }
            for entry in reader.take(MOST).await {
                let sequence = entry.message.sequence;
                // After the message has come: that may be hours after the last one.
                validity.wait().await;
                match self.hand_over(&entry).await {
                    Ok(Outcome::Handled) => {}
                    Ok(Outcome::Failed(why)) => {
                        reader.fail(sequence);
                        tracing::info!("{}: message {sequence} failed: {why}", reader.plugin());
                    }
                    Err(failure) => {
                        // It is not sent again: it may be what killed the plugin.
                        reader.fail_first();
                        return Err(failure);
                    }
                }
                reader.acknowledge(sequence);
            }
        }
    }

    /// Hands over one message and waits until it was handled.
    async fn hand_over(&mut self, entry: &Entry) -> Result<Outcome, PluginFailure> {
        let mut client = self.client.clone();
        let message = &entry.message;
        let (success, error) = if entry.size() <= MAX_V1_MESSAGE as u64 {
            // No more than fits into memory.
            let data = whole(entry).map_err(|e| PluginFailure::Crashed(e.to_string()))?;
            let request = HandleMessageRequest {
                data,
                direction: message.direction.as_str().to_owned(),
                correlation_id: message.number(),
            };
            let call = client.handle_message(request);
            match answer(&mut self.plugin, "HandleMessage", MESSAGE_DEADLINE, call).await {
                Ok(answer) => (answer.success, answer.error),
                Err(error) => (false, self.alive_after(error).await?),
            }
        } else {
            let event = too_large(entry).map_err(|e| PluginFailure::Crashed(e.to_string()))?;
            let call = client.handle_stream_event(HandleStreamEventRequest { event: Some(event) });
            match answer(&mut self.plugin, "HandleStreamEvent", MESSAGE_DEADLINE, call).await {
                Ok(answer) => (answer.success, answer.error),
                Err(error) => (false, self.alive_after(error).await?),
            }
        };
        Ok(if success { Outcome::Handled } else { Outcome::Failed(error) })
    }

    /// Why a call failed, if the plugin is well all the same: an error of the call is an answer, too.
    async fn alive_after(&self, error: PluginError) -> Result<String, PluginFailure> {
        let answered = matches!(error.trouble, Trouble::Call(_));
        if answered && self.plugin.process.check_health(CALL_DEADLINE).await.is_ok() {
            return Ok(error.trouble.to_string());
        }
        Err(PluginFailure::Crashed(error.to_string()))
    }

    async fn feed_batches(
        &mut self,
        client: Protocol2<Channel>,
        reader: &Reader,
        validity: &Validity,
    ) -> Result<Stream, PluginFailure> {
        let trouble = match Batches::open(client, self.longest_message, reader).await {
            Ok(mut batches) => match batches.run(reader, validity).await {
                Ok(()) => return Ok(Stream::Done),
                Err(trouble) => trouble,
            },
            Err(Opening::NotSpoken) => return Ok(Stream::NotSpoken),
            Err(Opening::Trouble(trouble)) => trouble,
        };
        let error = self.plugin.process.explain(trouble).await;
        Err(match error.trouble {
            Trouble::Died(status) if status.signal() == Some(libc::SIGKILL) => {
                PluginFailure::Killed(error.to_string())
            }
            _ => PluginFailure::Crashed(error.to_string()),
        })
    }
}

fn whole(entry: &Entry) -> std::io::Result<Bytes> {
    let first = entry.piece(0)?;
    if first.len() as u64 == entry.length() {
        return Ok(first);
    }
    let mut all = first.to_vec();
    while (all.len() as u64) < entry.length() {
        all.extend_from_slice(&entry.piece(all.len() as u64)?);
    }
    Ok(all.into())
}

/// What protocol 1 is told of a message that it cannot carry.
fn too_large(entry: &Entry) -> std::io::Result<StreamEvent> {
    let message = &entry.message;
    let event = MessageTooLarge {
        direction: message.direction,
        correlation_id: message.number(),
        size: entry.size(),
        sha256: entry.sha256()?.to_string(),
        summary: message.summary.clone(),
    };
    Ok(StreamEvent {
        r#type: MessageTooLarge::TYPE.to_owned(),
        timestamp: Some(message.received.into()),
        data: event.to_data(),
    })
}

/// The stream of one session's messages into a plugin.
struct Batches {
    /// None when no more messages come.
    requests: Option<mpsc::Sender<v2::DeliverRequest>>,
    answers: Streaming<v2::DeliverResponse>,
    /// Most bytes that may be on their way.
    window: usize,
    /// Most bytes of one message that the plugin takes.
    longest: u64,
    /// When the plugin was last seen to get on.
    progress: Instant,
}

enum Opening {
    NotSpoken,
    Trouble(Trouble),
}

impl Batches {
    async fn open(mut client: Protocol2<Channel>, longest: u64, reader: &Reader) -> Result<Self, Opening> {
        let (requests, outgoing) = mpsc::channel(1);
        let session = reader.journal().session();
        let start = v2::SessionStart {
            id: session.to_string(),
            started: session.time().map(|time| std::time::SystemTime::from(time).into()),
        };
        // The channel is empty, and its other end is here.
        let _ = requests.try_send(v2::DeliverRequest { session: Some(start), messages: Vec::new() });
        let opened = timeout(CALL_DEADLINE, async {
            let mut answers = client.deliver(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, Status>((answers, first.unwrap_or_default()))
        });
        let (answers, first) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Err(Opening::NotSpoken),
            Ok(Err(status)) => return Err(Opening::Trouble(refused(&status))),
            Err(_) => {
                let trouble = Trouble::CallTimeout { call: "Deliver", deadline: CALL_DEADLINE };
                return Err(Opening::Trouble(trouble));
            }
        };
        reader.skip_to(first.acknowledged);
        let window = usize::try_from(first.window).unwrap_or(usize::MAX);
        Ok(Self { requests: Some(requests), answers, window, longest, progress: Instant::now() })
    }

    /// Until all messages were handled.
    async fn run(&mut self, reader: &Reader, validity: &Validity) -> Result<(), Trouble> {
        loop {
            let busy = reader.is_busy();
            let may_send = !busy || (!reader.is_careful() && reader.in_flight() < self.window);
            let wanted = if busy { FULL } else { 1 };
            let more = async {
                let Some(requests) = &self.requests else { return std::future::pending().await };
                validity.wait().await;
                reader.ready(wanted).await.then_some(requests)
            };
            tokio::select! {
                biased;
                answer = self.answers.message() => match answer {
                    Ok(Some(answer)) => self.progress = note(answer, reader, &mut self.window),
                    Ok(None) if self.requests.is_none() && !busy => return Ok(()),
                    Ok(None) => return Err(Trouble::Call("Deliver: it takes no more messages".to_owned())),
                    Err(status) => return Err(refused(&status)),
                },
                requests = more, if may_send => match requests {
                    Some(requests) => {
                        if !busy {
                            self.progress = Instant::now();
                        }
                        send(requests, reader.take(MOST).await, self.longest).await?;
                    }
                    // The plugin may take its time for what it has.
                    None => self.requests = None,
                },
                () = sleep_until(self.progress + MESSAGE_DEADLINE), if busy => {
                    return Err(Trouble::CallTimeout { call: "Deliver", deadline: MESSAGE_DEADLINE });
                }
            }
        }
    }
}

/// Notes how far the plugin is.
fn note(answer: v2::DeliverResponse, reader: &Reader, window: &mut usize) -> Instant {
    for failure in answer.failures {
        reader.fail(failure.sequence);
        let why = said(&failure.error);
        tracing::info!("{}: message {} failed: {why}", reader.plugin(), failure.sequence);
    }
    reader.acknowledge(answer.acknowledged);
    if answer.window > 0 {
        *window = usize::try_from(answer.window).unwrap_or(usize::MAX);
    }
    Instant::now()
}

fn refused(status: &Status) -> Trouble {
    Trouble::Call(format!("Deliver: {}", said(status.message())))
}

async fn send(
    requests: &mpsc::Sender<v2::DeliverRequest>,
    entries: Vec<Entry>,
    longest: u64,
) -> Result<(), Trouble> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let all = entry.length().min(longest);
        let mut head = entry.message.head();
        head.size = entry.size();
        if all < entry.length() {
            head.sha256 = Bytes::copy_from_slice(entry.sha256().map_err(unreadable)?.as_bytes());
        }
        head.data = piece(&entry, 0, all)?;
        let mut sent = head.data.len() as u64;
        head.more = sent < all;
        bytes += head.data.len();
        messages.push(head);
        while sent < all {
            hand_on(requests, std::mem::take(&mut messages)).await?;
            let data = piece(&entry, sent, all)?;
            sent += data.len() as u64;
            let sequence = entry.message.sequence;
            messages.push(v2::Message { sequence, data, more: sent < all, ..v2::Message::default() });
        }
        if bytes >= REQUEST || sent > PIECE as u64 {
            hand_on(requests, std::mem::take(&mut messages)).await?;
            bytes = 0;
        }
    }
    if messages.is_empty() { Ok(()) } else { hand_on(requests, messages).await }
}

/// The data from an offset on, a piece at most, and nothing past an end.
fn piece(entry: &Entry, offset: u64, end: u64) -> Result<Bytes, Trouble> {
    let mut data = entry.piece(offset).map_err(unreadable)?;
    data.truncate(usize::try_from(end - offset).unwrap_or(usize::MAX));
    Ok(data)
}

fn unreadable(error: std::io::Error) -> Trouble {
    Trouble::Call(format!("a message cannot be read back: {error}"))
}

async fn hand_on(
    requests: &mpsc::Sender<v2::DeliverRequest>,
    messages: Vec<v2::Message>,
) -> Result<(), Trouble> {
    let request = v2::DeliverRequest { session: None, messages };
    match timeout(MESSAGE_DEADLINE, requests.send(request)).await {
        // When nobody takes it the answers say why.
        Ok(_) => Ok(()),
        Err(_) => Err(Trouble::CallTimeout { call: "Deliver", deadline: MESSAGE_DEADLINE }),
    }
}
