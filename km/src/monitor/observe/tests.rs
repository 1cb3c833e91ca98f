//! Sessions of both eras, and what no session should have.

use std::time::Duration;

use km_proto::Direction::{self, Inbound, Outbound};

use super::*;
use crate::monitor::calls::CallReport;
use crate::monitor::tap::{Framing, Moment, PieceContent, StreamKind};

/// A session of one line a millisecond.
struct Session {
    observer: Observer,
    calls: Arc<Mutex<Calls>>,
    begun: Moment,
    sequence: u32,
}

impl Session {
    fn new() -> Self {
        let calls = Arc::default();
        let observer = Observer::new(1 << 20, Arc::clone(&calls));
        let mut session = Self { observer, calls, begun: Moment::now(), sequence: 0 };
        session.open("");
        session
    }

    /// Opens both streams of a channel.
    fn open(&mut self, channel: &str) {
        for direction in [Inbound, Outbound] {
            let channel = Some(channel).filter(|name| !name.is_empty()).map(Arc::from);
            let kind = StreamKind { direction, framing: Framing::Lines, channel };
            let none = self.give(stream(direction, kind.channel.as_deref()), PieceContent::Open(kind));
            assert!(none.is_none());
        }
    }

    fn give(&mut self, stream: u64, content: PieceContent) -> Option<Message> {
        let monotonic = self.begun.monotonic + Duration::from_millis(self.sequence.into());
        let received = Moment { monotonic, ..self.begun };
        let mut message = None;
        let framing = Framing::Lines;
        self.observer.take(Piece { stream, framing, received, content }, &mut |observed| match observed {
            Observed::Message(observed) => message = Some(observed),
            Observed::Lost { .. } => unreachable!("nothing is lost here"),
        });
        message
    }

    fn line(&mut self, direction: Direction, channel: Option<&str>, line: &str) -> Exchange {
        self.sequence += 1;
        let bytes = PieceContent::Bytes(format!("{line}\n").into());
        let message = self.give(stream(direction, channel), bytes).unwrap();
        assert_eq!(message.sequence, u64::from(self.sequence));
        message.exchange
    }

    /// From the client.
    fn client(&mut self, line: &str) -> Exchange {
        self.line(Inbound, None, line)
    }

    /// From the server.
    fn server(&mut self, line: &str) -> Exchange {
        self.line(Outbound, None, line)
    }

    fn calls(&self) -> Vec<CallReport> {
        lock(&self.calls).reports()
    }
}

fn stream(direction: Direction, channel: Option<&str>) -> u64 {
    let direction = u64::from(direction == Outbound);
    channel.map_or(0, |name| 2 * u64::from(name.as_bytes()[0])) + direction
}

fn answer(request: u64, method: &str, ms: u64) -> Exchange {
    Exchange {
        first: request,
        request: Some(request),
        method: Some(method.into()),
        latency: Some(Duration::from_millis(ms)),
        ..Exchange::default()
    }
}

fn belongs(request: u64) -> Exchange {
    Exchange { first: request, request: Some(request), ..Exchange::default() }
}

const ALONE: Exchange =
    Exchange { first: 0, request: None, method: None, latency: None, cancelled: false, retry_of: None };

#[test]
fn a_session_of_2025() {
    let mut s = Session::new();
    assert_eq!(s.client(r#"{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{}}"#), ALONE);
    assert_eq!(
        s.server(r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"Method not found"}}"#),
        answer(1, "server/discover", 1)
    );
    s.client(r#"{"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}},"jsonrpc":"2.0","id":0}"#);
    let result = r#"{"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}},"jsonrpc":"2.0","id":0}"#;
    assert_eq!(s.server(result), answer(3, "initialize", 1));
    assert_eq!(s.client(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), ALONE);
    assert_eq!(s.server(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#), ALONE);
    // The same ids in both directions: the server asks with the id of the call that it works on.
    s.client(r#"{"method":"tools/call","params":{"name":"ask","_meta":{"progressToken":1}},"jsonrpc":"2.0","id":1}"#);
    assert_eq!(s.server(r#"{"method":"sampling/createMessage","params":{"_meta":{"progressToken":1}},"jsonrpc":"2.0","id":1}"#), ALONE);
    let progress =
        r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":1},"jsonrpc":"2.0"}"#;
    assert_eq!((s.server(progress), s.client(progress)), (belongs(7), belongs(8)));
    assert_eq!(
        s.client(r#"{"jsonrpc":"2.0","id":1,"result":{"role":"assistant"}}"#),
        answer(8, "sampling/createMessage", 3)
    );
    assert_eq!(
        s.server(r#"{"result":{"content":[],"isError":true},"jsonrpc":"2.0","id":1}"#),
        answer(7, "tools/call", 5)
    );
    assert_eq!(s.server(progress), ALONE);

    let rows: Vec<_> = s
        .calls()
        .into_iter()
        .map(|r| {
            (
                r.from,
                [Some(r.method), r.tool].into_iter().flatten().collect::<Vec<_>>().join(" "),
                r.count,
                r.errors,
                r.unanswered,
            )
        })
        .collect();
    let row = |from, method: &str, errors| (from, method.to_owned(), 1, errors, 0);
    assert_eq!(
        rows,
        [
            row("client", "initialize", 0),
            row("client", "server/discover", 1),
            row("client", "tools/call", 1),
            row("client", "tools/call ask", 1),
            row("server", "sampling/createMessage", 0),
        ]
    );
    let call = &s.calls()[2];
    assert!(call.p50_ms == call.p99_ms && (4.9..5.1).contains(&call.p50_ms.unwrap()), "{call:?}");
}

#[test]
fn a_session_of_2026() {
    let mut s = Session::new();
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    s.client(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{{meta}}}}}"#));
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"ttlMs":0,"cacheScope":"private"}}"#;
    assert_eq!(s.server(result), answer(1, "server/discover", 1));
    // A subscription stays open among everything else.
    s.client(&format!(r#"{{"jsonrpc":"2.0","id":2,"method":"subscriptions/listen","params":{{{meta},"notifications":{{"toolsListChanged":true}}}}}}"#));
    let notice = |method| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":2}}}}}}"#
        )
    };
    assert_eq!(s.server(&notice("subscriptions/acknowledged")), belongs(3));
    // Twice more input is asked for.
    let call = |id, state: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{meta},"name":"book","inputResponses":{{}}{state}}}}}"#
        )
    };
    let asked = |id, state: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required","inputRequests":{{}},"requestState":{state}}}}}"#
        )
    };
    assert_eq!(s.client(&call(6, "")), ALONE);
    assert_eq!(s.server(&asked(6, r#""v1/\u00e9""#)), answer(5, "tools/call", 1));
    let retry = |retry_of| Exchange { first: 5, retry_of: Some(retry_of), ..ALONE };
    assert_eq!(s.client(&call(7, r#","requestState":"v1\/é""#)), retry(5));
    assert_eq!(s.server(&asked(7, "\"v2\"")), Exchange { first: 5, ..answer(7, "tools/call", 1) });
    assert_eq!(s.server(&notice("tools/list_changed")), belongs(3));
    assert_eq!(s.client(&call(8, r#","requestState":"v2""#)), retry(7));
    let complete = r#"{"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","content":[]}}"#;
    assert_eq!(s.server(complete), Exchange { first: 5, ..answer(10, "tools/call", 1) });
    // A state that nobody gave out, and one that no result asked to be brought back.
    assert_eq!(s.client(&call(9, r#","requestState":"v3""#)), ALONE);
    s.server(r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete","requestState":"v4"}}"#);
    assert_eq!(s.client(&call(10, r#","requestState":"v4""#)), ALONE);
    // The server ends the subscription.
    assert_eq!(
        s.server(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#),
        belongs(3)
    );
    let listen = s.calls().into_iter().find(|call| call.method == "subscriptions/listen").unwrap();
    assert_eq!((listen.cancelled, listen.unanswered), (1, 0));
}

#[test]
fn whoever_asked_cancels_and_late_answers_are_answers() {
    let mut s = Session::new();
    s.client(r#"{"id":"a","method":"tools/call","params":{"name":"slow"}}"#);
    s.server(r#"{"id":"a","method":"elicitation/create"}"#);
    let cancelled = r#"{"method":"notifications/cancelled","params":{"requestId":"\u0061"}}"#;
    assert_eq!(s.client(cancelled), belongs(1));
    assert_eq!(s.client(cancelled), belongs(1));
    assert_eq!(
        s.server(r#"{"id":"a","result":{}}"#),
        Exchange { cancelled: true, ..answer(1, "tools/call", 4) }
    );
    // Too late: this is not the server's request of the same id.
    assert_eq!(s.client(cancelled), ALONE);
    assert_eq!(s.client(r#"{"id":"a","result":{}}"#), answer(2, "elicitation/create", 5));
    let counts: Vec<_> = s.calls().iter().map(|call| (call.count, call.cancelled, call.unanswered)).collect();
    assert_eq!(counts, [(1, 1, 0), (1, 1, 0), (1, 0, 0)]);
}

#[test]
fn ids_are_used_again_used_twice_and_never_used() {
    let mut s = Session::new();
    let (request, result) = (r#"{"id":5,"method":"ping"}"#, r#"{"id":5,"result":{}}"#);
    assert_eq!(s.server(result), ALONE);
    s.client(request);
    assert_eq!(s.client(result), ALONE);
    assert_eq!(s.server(result), answer(2, "ping", 2));
    assert_eq!(s.server(result), ALONE);
    // Three at the same time: the newest is answered first.
    (0..3).for_each(|_| drop(s.client(request)));
    assert_eq!(s.server(result), answer(8, "ping", 1));
    s.client(request);
    assert_eq!(s.server(result), answer(10, "ping", 1));
    assert_eq!(s.server(result), answer(7, "ping", 5));
    assert_eq!(s.server(r#"{"id":5,"error":{"code":1}}"#), answer(6, "ping", 7));
    assert_eq!(s.server(result), ALONE);
    // A number is no string, and null is no id.
    s.client(r#"{"id":12345678901234567890123,"method":"ping"}"#);
    s.client(r#"{"id":null,"method":"ping"}"#);
    for line in [
        r#"{"id":12345678901234567890124,"result":{}}"#,
        r#"{"id":"12345678901234567890123","result":{}}"#,
        r#"{"id":null,"error":{"code":-32700}}"#,
        r#"{"error":{"code":-32700}}"#,
        r#"[{"id":12345678901234567890123,"result":{}}]"#,
        "no JSON",
    ] {
        assert_eq!(s.server(line), ALONE, "{line}");
    }
    assert_eq!(s.server(r#"{"id":12345678901234567890123,"result":{}}"#), answer(15, "ping", 8));
}

#[test]
fn each_channel_has_its_own_ids_and_states_belong_to_all() {
    let mut s = Session::new();
    s.open("a");
    s.open("b");
    let request = |state| format!(r#"{{"id":1,"method":"tools/call","params":{{"requestState":{state}}}}}"#);
    s.line(Inbound, Some("a"), &request("null"));
    s.line(Inbound, Some("b"), &request("null"));
    let asked = r#"{"id":1,"result":{"resultType":"input_required","requestState":"s"}}"#;
    assert_eq!(s.server(asked), ALONE);
    assert_eq!(s.line(Outbound, Some("a"), asked), answer(1, "tools/call", 3));
    assert_eq!(s.line(Inbound, Some("b"), &request("\"s\"")).retry_of, Some(1));
    assert_eq!(s.line(Outbound, Some("b"), r#"{"id":1,"result":{}}"#).request, Some(5));
    assert_eq!(s.line(Outbound, Some("b"), r#"{"id":1,"result":{}}"#).request, Some(2));
}

#[test]
fn of_requests_that_nobody_answers_the_oldest_are_forgotten() {
    let mut s = Session::new();
    let token = r#"{"method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#;
    s.client(r#"{"id":"first","method":"ping","params":{"_meta":{"progressToken":"t"}}}"#);
    s.client(r#"{"id":0,"method":"ping"}"#);
    assert_eq!(s.server(token), belongs(1));
    // Half of them have the same id.
    for n in 0..9_999 {
        s.client(&format!(r#"{{"id":{},"method":"ping"}}"#, n / 2 * (n % 2)));
    }
    assert_eq!(s.server(token), ALONE);
    assert_eq!(s.server(r#"{"id":"first","result":{}}"#), ALONE);
    assert_eq!(s.server(r#"{"id":4998,"result":{}}"#).method.as_deref(), Some("ping"));
    let with_one_id = (0..6_000).take_while(|_| s.server(r#"{"id":0,"result":{}}"#) != ALONE).count();
    assert_eq!(with_one_id, 5_002);
    assert_eq!(lock(&s.calls).reports()[0].count, 10_001);
}

#[test]
fn of_results_that_nobody_goes_on_with_the_oldest_are_forgotten() {
    let mut s = Session::new();
    for n in 0..10_001 {
        s.client(r#"{"id":1,"method":"tools/call"}"#);
        s.server(&format!(r#"{{"id":1,"result":{{"resultType":"input_required","requestState":"{n}"}}}}"#));
    }
    let mut retry = |state| {
        let line = format!(r#"{{"id":2,"method":"tools/call","params":{{"requestState":"{state}"}}}}"#);
        s.client(&line).retry_of
    };
    assert_eq!((retry(0), retry(1), retry(10_000)), (None, Some(3), Some(20_001)));
}

#[test]
fn of_a_message_that_was_cut_what_was_seen_counts() {
    let mut s = Session::new();
    s.observer = Observer::new(64, Arc::clone(&s.calls));
    s.open("");
    let long = "x".repeat(100);
    s.client(&format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"echo","text":"{long}"}}}}"#));
    assert_eq!(s.server(&format!(r#"{{"id":1,"result":{{"text":"{long}"}}}}"#)), answer(1, "tools/call", 1));
    // The id comes too late.
    s.client(&format!(r#"{{"method":"tools/call","params":{{"text":"{long}"}},"id":1}}"#));
    assert_eq!(s.server(&format!(r#"{{"result":{{"text":"{long}"}},"id":1}}"#)), ALONE);
}
