//! One connection of a client, and the one to the upstream that belongs to it.
//!
//! Requests and responses each have a pump of their own, so that neither waits for the other. Whatever
//! ends or breaks on one side ends or breaks on the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::body::Body;
use super::exchange::{Exchange, Observation};
use super::head::{RequestHead, ResponseHead};
use super::incoming::{Cut, Incoming, NoHead};
use super::listen::Listen;
use super::refusal::Refusal;
use super::unreachable::Unreachable;
use super::upstream::Upstream;

/// How long a head may take from its first byte on, and the first one from the connection on.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take to take what was said last.
const LINGER: Duration = Duration::from_secs(1);
/// Most requests that wait for a response on one connection; more are read later.
const PIPELINED: usize = 16;

/// What all connections of a session share.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) listen: Listen,
    pub(super) upstream: Upstream,
    pub(super) unreachable: Unreachable,
    pub(super) observation: Observation,
    /// Turns true when the session ends: connections without a request end then, too.
    pub(super) ending: watch::Receiver<bool>,
}

impl Proxy {
    /// Waits for the end of the session.
    async fn ends(&self) {
        let mut ending = self.ending.clone();
        let _ = ending.wait_for(|ending| *ending).await;
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With all that was to be said.
    Closed,
    /// In the middle of something: nobody may take it for whole.
    Broken,
}

/// What the client is told next.
#[derive(Debug)]
enum Expected {
    Response(Exchange),
    /// Something of `km`'s own, and then nothing more.
    Refusal(Refusal),
}

/// Serves one connection to its end.
pub(super) async fn serve(mut client: TcpStream, proxy: Arc<Proxy>) {
    match exchange_all(&mut client, &proxy).await {
        End::Closed => linger(client).await,
        // Not the orderly end that a body without a length ends with.
        End::Broken => drop(client.set_zero_linger()),
    }
}

/// Answers a connection that is one too many.
pub(super) async fn turn_away(mut client: TcpStream) {
    let (reader, mut writer) = client.split();
    let _ = timeout(LINGER, Incoming::new(reader).head()).await;
    say(&mut writer, &Refusal::TooManyConnections).await;
    linger(client).await;
}

/// Closes so that what was written last arrives: a connection that is closed with something unread in it
/// is reset.
async fn linger(mut client: TcpStream) {
    let _ = client.shutdown().await;
    let mut rest = [0; 4096];
    let _ = timeout(LINGER, async { while let Ok(1..) = client.read(&mut rest).await {} }).await;
}

async fn say(to: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) {
    let _ = timeout(LINGER, to.write_all(&refusal.write())).await;
}

async fn exchange_all(client: &mut TcpStream, proxy: &Proxy) -> End {
    let (reader, mut writer) = client.split();
    let mut incoming = Incoming::new(reader);
    let first = tokio::select! {
        first = timeout(HEAD, next_request(&mut incoming, proxy)) => first,
        () = proxy.ends() => return End::Closed,
    };
    let first = match first {
        Ok(Next::Request(head, body)) => (head, body),
        // A connection that nothing was asked on needs no answer.
        Ok(Next::Ended) | Err(_) => return End::Closed,
        Ok(Next::Broken) => return End::Broken,
        Ok(Next::Refused(refusal)) => {
            say(&mut writer, &refusal).await;
            return End::Closed;
        }
    };
    let upstream = match proxy.upstream.connect().await {
        Ok(upstream) => upstream,
        Err(why) => {
            proxy.unreachable.say(&why);
            say(&mut writer, &Refusal::BadGateway(why)).await;
            return End::Closed;
        }
    };
    proxy.unreachable.forget();
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let (expect, expected) = mpsc::channel(PIPELINED);
    let responses = responses(Incoming::new(from_upstream), writer, expected, proxy);
    let requests = requests(first, incoming, to_upstream, expect, proxy);
    tokio::pin!(responses);
    tokio::select! {
        end = &mut responses => return end,
        end = requests => if end == End::Broken { return end },
    }
    responses.await
}

/// What comes next of a client.
enum Next {
    /// As the upstream gets it, and where its body ends.
    Request(RequestHead, Body),
    Refused(Refusal),
    Ended,
    Broken,
}

async fn next_request(incoming: &mut Incoming<impl AsyncRead + Unpin>, proxy: &Proxy) -> Next {
    let bytes = match incoming.head().await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Next::Ended,
        Err(NoHead::Broken) => return Next::Broken,
        Err(NoHead::TooLarge) => return Next::Refused(Refusal::HeadTooLarge),
        Err(NoHead::NotHttp) => {
            return Next::Refused(Refusal::BadRequest("it is no HTTP/1".to_owned()));
        }
    };
    let parsed = RequestHead::parse(&bytes).map_err(|e| Refusal::BadRequest(e.to_string()));
    match parsed.and_then(|head| prepare(head, proxy)) {
        Ok((head, body)) => Next::Request(head, body),
        Err(refusal) => Next::Refused(refusal),
    }
}

/// Makes of a request what the upstream gets.
fn prepare(mut head: RequestHead, proxy: &Proxy) -> Result<(RequestHead, Body), Refusal> {
    proxy.listen.check(&head)?;
    let body = Body::of_request(&head).map_err(|e| Refusal::BadRequest(e.0.to_owned()))?;
    let target = proxy.upstream.target(&head.target);
    head.target = target.ok_or_else(|| Refusal::BadRequest("it asks for no path".to_owned()))?;
    head.headers.remove_hop_by_hop();
    head.headers.set("Host", &proxy.upstream.host);
    Ok((head, body))
}

/// Passes requests on until the client sends no more.
async fn requests(
    first: (RequestHead, Body),
    mut from: Incoming<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    expect: mpsc::Sender<Expected>,
    proxy: &Proxy,
) -> End {
    let mut next = Next::Request(first.0, first.1);
    loop {
        match next {
            Next::Request(head, body) => match pass_on(&head, body, &mut from, &mut to, &expect, proxy).await
            {
                Ok(()) => {}
                // Its response may be there already, or it ends the connection.
                Err(Cut::Refused) => return End::Closed,
                Err(Cut::Broken) => return End::Broken,
                Err(Cut::Ended) => break,
            },
            Next::Refused(refusal) => {
                // After the responses to what came before.
                let _ = expect.send(Expected::Refusal(refusal)).await;
                return End::Closed;
            }
            Next::Ended => break,
            Next::Broken => return End::Broken,
        }
        next = match from.begins().await {
            Ok(true) => timeout(HEAD, next_request(&mut from, proxy))
                .await
                .unwrap_or(Next::Refused(Refusal::HeadTooLate)),
            Ok(false) => Next::Ended,
            Err(_) => Next::Broken,
        };
    }
    // The client's end is the upstream's, at once: it may be how the client cancels.
    let _ = to.shutdown().await;
    End::Closed
}

async fn pass_on(
    head: &RequestHead,
    body: Body,
    from: &mut Incoming<impl AsyncRead + Unpin>,
    to: &mut (impl AsyncWrite + Unpin),
    expect: &mpsc::Sender<Expected>,
    proxy: &Proxy,
) -> Result<(), Cut> {
    let (exchange, tap) = proxy.observation.request(head);
    // Before it is sent: no response comes to what is not expected.
    if expect.send(Expected::Response(exchange)).await.is_err() {
        return Err(Cut::Refused);
    }
    from.forward(head.write(), body, tap, to).await
}

/// Passes responses on until there will be no more.
async fn responses(
    mut from: Incoming<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    mut expected: mpsc::Receiver<Expected>,
    proxy: &Proxy,
) -> End {
    loop {
        let next = tokio::select! {
            biased;
            next = expected.recv() => next,
            more = from.fill() => return match more {
                Ok(1..) => unasked(&from.take(), &mut to).await,
                _ => End::Closed,
            },
            () = proxy.ends() => return End::Closed,
        };
        match next {
            Some(Expected::Response(exchange)) => {
                if let Err(end) = answer(&exchange, &mut from, &mut to, proxy).await {
                    return end;
                }
            }
            Some(Expected::Refusal(refusal)) => {
                say(&mut to, &refusal).await;
                return End::Closed;
            }
            None => return End::Closed,
        }
    }
}

/// What an upstream says before it closes a connection that nothing was asked on.
async fn unasked(bytes: &Bytes, to: &mut (impl AsyncWrite + Unpin)) -> End {
    let _ = timeout(LINGER, to.write_all(bytes)).await;
    End::Closed
}

/// Passes the response to one request on, with those that only announce it (1xx).
async fn answer(
    exchange: &Exchange,
    from: &mut Incoming<impl AsyncRead + Unpin>,
    to: &mut (impl AsyncWrite + Unpin),
    proxy: &Proxy,
) -> Result<(), End> {
    loop {
        let bytes = match from.head().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(End::Closed),
            Err(NoHead::Broken) => return Err(End::Broken),
            Err(NoHead::TooLarge) => return refuse("it is larger than km reads", to).await,
            Err(NoHead::NotHttp) => return refuse("it is no HTTP/1", to).await,
        };
        let mut head = match ResponseHead::parse(&bytes) {
            Ok(head) => head,
            Err(e) => return refuse(&e.to_string(), to).await,
        };
        // Nobody asked for another protocol: that request is not passed on.
        if head.status == 101 {
            return refuse("it changes the protocol", to).await;
        }
        let body = match Body::of_response(&mut head, exchange.is_head) {
            Ok(body) => body,
            Err(e) => return refuse(e.0, to).await,
        };
        head.headers.remove_hop_by_hop();
        let is_final = head.status >= 200;
        let tap = if is_final { proxy.observation.response(exchange, &head) } else { None };
        match from.forward(head.write(), body, tap, to).await {
            Ok(()) if is_final => return Ok(()),
            Ok(()) => {}
            Err(Cut::Ended) => return Err(End::Closed),
            Err(Cut::Broken | Cut::Refused) => return Err(End::Broken),
        }
    }
}

async fn refuse(why: &str, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), End> {
    let why = format!("the head of the MCP server's response cannot be passed on: {why}");
    say(to, &Refusal::BadGateway(why)).await;
    Err(End::Closed)
}
