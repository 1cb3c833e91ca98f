//! `Deliver`: from the host's stream to the author's thread, in batches, and back as acknowledgements.

mod intake;

use std::sync::Arc;
use std::time::Duration;

use go_plugin::plugin::Leave;
use km_proto::v2::{DeliverRequest, DeliverResponse};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::batch::{Batch, Progress};
use crate::gate::Gate;
use crate::message::SessionId;
use crate::worker::Worker;
use intake::Intake;

/// Bytes of messages that the host may have on their way.
const WINDOW: usize = 4 << 20;
/// How often a host hears of messages that are handled while their batch is in work.
const PROGRESS: Duration = Duration::from_millis(20);
/// How long it may take to notice that the stream before has ended.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// The plugin's half of a stream.
pub(crate) type Responses = ReceiverStream<Result<DeliverResponse, Status>>;

/// Opens one stream after the other.
pub(crate) struct Delivery {
    gate: Arc<Gate>,
    worker: Worker,
    leave: Leave,
    /// What the last stream came to; locked by the one that is open.
    last: Arc<Mutex<Option<Last>>>,
}

struct Last {
    session: SessionId,
    progress: Arc<Progress>,
}

impl Delivery {
    pub(crate) fn new(gate: Arc<Gate>, worker: Worker, leave: Leave) -> Self {
        Self { gate, worker, leave, last: Arc::default() }
    }

    /// Serves a stream from now on.
    pub(crate) async fn open(&self, requests: Streaming<DeliverRequest>) -> Result<Responses, Status> {
        self.gate.is_open().map_err(Status::unauthenticated)?;
        if !self.worker.has_begun() {
            return Err(Status::failed_precondition("Initialize comes before Deliver"));
        }
        let last = timeout(TAKE_OVER, Arc::clone(&self.last).lock_owned()).await;
        let last = last.map_err(|_| Status::already_exists("messages are being delivered already"))?;
        let (responses, stream) = mpsc::channel(1);
        let gate = Arc::clone(&self.gate);
        let delivering = Delivering { gate, worker: self.worker.clone(), requests, responses };
        tokio::spawn(delivering.run(last, self.leave.asked()));
        Ok(ReceiverStream::new(stream))
    }
}

/// One open stream.
struct Delivering {
    gate: Arc<Gate>,
    worker: Worker,
    requests: Streaming<DeliverRequest>,
    responses: mpsc::Sender<Result<DeliverResponse, Status>>,
}

impl Delivering {
    async fn run(mut self, mut last: OwnedMutexGuard<Option<Last>>, leave: impl Future<Output = ()>) {
        let responses = self.responses.clone();
        let served = tokio::select! {
            served = self.serve(&mut last, leave) => served,
            () = responses.closed() => Err(Status::cancelled("the host is gone")),
        };
        if let Some(last) = &*last {
            last.progress.halt();
        }
        if let Err(status) = served {
            // Nobody may be listening any more.
            let _ = responses.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        last: &mut Option<Last>,
        leave: impl Future<Output = ()>,
    ) -> Result<(), Status> {
        let Some(DeliverRequest { session: Some(start), messages }) = self.requests.message().await? else {
            return Err(Status::invalid_argument("the first request names no session"));
        };
        let session = SessionId::from(&*start.id);
        let progress = self.resume(&session, last).await?;
        let position = progress.handled().unwrap_or_default();
        *last = Some(Last { session: session.clone(), progress: Arc::clone(&progress) });
        self.respond(DeliverResponse { acknowledged: position, window: WINDOW as u64, failures: Vec::new() })
            .await;
        let mut intake = Intake::new(session, position);
        intake.take(messages)?;
        self.deliver(intake, &progress, leave).await
    }

    /// Where the plugin is in a session: what it kept of it, or what it has seen of it in this process.
    async fn resume(&self, session: &SessionId, last: &Option<Last>) -> Result<Arc<Progress>, Status> {
        let asked = session.clone();
        // Behind what an earlier stream left in work.
        let kept = self.worker.run(move |plugin| plugin.position(&asked)).await.map_err(stopped)?;
        let seen = last.as_ref().filter(|last| last.session == *session);
        let seen = seen.and_then(|last| last.progress.handled());
        Ok(Arc::new(Progress::new(Arc::clone(&self.gate), kept.max(seen))))
    }

    /// Reads while the batch before is in work: what has come until then is the next one.
    async fn deliver(
        &mut self,
        mut intake: Intake,
        progress: &Arc<Progress>,
        leave: impl Future<Output = ()>,
    ) -> Result<(), Status> {
        let mut work = None;
        let (mut reading, mut leaving) = (true, false);
        let mut look = interval(PROGRESS);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(leave);
        loop {
            if work.is_none() {
                if leaving {
                    return Err(Status::unavailable("the plugin was asked to leave"));
                }
                self.gate.is_open().map_err(Status::unauthenticated)?;
                match intake.next_batch() {
                    Some(messages) => work = Some(self.hand_over(messages, progress)?),
                    None if reading => {}
                    None => return intake.finish(),
                }
            }
            tokio::select! {
                request = self.requests.message(), if reading && intake.has_room() => match request? {
                    Some(DeliverRequest { session: None, messages }) => intake.take(messages)?,
                    Some(_) => return Err(Status::invalid_argument("a stream has one session")),
                    None => reading = false,
                },
                () = done(&mut work) => {
                    work = None;
                    self.report(progress).await;
                }
                _ = look.tick(), if work.is_some() => self.report(progress).await,
                () = &mut leave, if !leaving => {
                    (reading, leaving) = (false, true);
                    progress.halt();
                }
            }
        }
    }

    fn hand_over(
        &self,
        messages: Vec<crate::Message>,
        progress: &Arc<Progress>,
    ) -> Result<oneshot::Receiver<()>, Status> {
        let batch = Batch::new(messages, Arc::clone(progress));
        self.worker.queue(move |plugin| batch.hand_to(plugin)).map_err(stopped)
    }

    async fn report(&self, progress: &Progress) {
        for response in progress.news() {
            self.respond(response).await;
        }
    }

    async fn respond(&self, response: DeliverResponse) {
        // A host that is gone is noticed in `run`.
        let _ = self.responses.send(Ok(response)).await;
    }
}

/// Waits for the end of the batch in work; for ever, if there is none.
async fn done(work: &mut Option<oneshot::Receiver<()>>) {
    match work {
        // A thread that has ended will not do more either.
        Some(outcome) => drop(outcome.await),
        None => std::future::pending().await,
    }
}

fn stopped(error: crate::Error) -> Status {
    Status::unavailable(error.to_string())
}
