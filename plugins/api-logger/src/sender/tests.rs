//! The sender against a server on a real socket. Nothing here sleeps: tests wait for a request or a
//! line, and fail at a deadline.

mod server;

use std::net::TcpListener;

use km_plugin::{Api, Direction, Tier, Token, feature};

use super::*;
use server::{DEADLINE, Reply, Request, Server};

const HOUR: Duration = Duration::from_secs(3600);

/// A sender, and what it says.
struct Fixture {
    sender: Sender,
    lines: mpsc::Receiver<String>,
    next: u32,
}

/// Batches of so many events, however old they are.
fn batches_of(batch_events: usize) -> Bounds {
    Bounds {
        limits: Limits { batch_events, batch_age: HOUR, ..Limits::default() },
        stop: DEADLINE,
        ..Bounds::default()
    }
}

impl Fixture {
    fn new(bounds: Bounds, access: &Access) -> Self {
        let (say, lines) = mpsc::channel();
        let say = Arc::new(move |line: &str| {
            let _ = say.send(line.to_owned());
        });
        let sender = Sender::new(bounds, say).unwrap();
        sender.set_access(access);
        Self { sender, lines, next: 0 }
    }

    /// With the line about the beginning read.
    fn sending_to(server: &Server, bounds: Bounds) -> Self {
        let fixture = Self::new(bounds, &access(server, "token-1"));
        assert_eq!(fixture.line(), format!("sending events to http://{}", server.address));
        fixture
    }

    fn messages(&mut self, count: u32) {
        for _ in 0..count {
            self.next += 1;
            let data = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, self.next);
            let mut message = Message::new(Direction::Outbound, data);
            message.correlation_id = self.next.to_string();
            self.sender.message(&message).unwrap();
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line")
    }

    /// The last lines.
    fn stop(mut self) -> Vec<String> {
        self.sender.stop();
        self.lines.try_iter().collect()
    }
}

fn access(server: &Server, token: &str) -> Access {
    access_to(&format!("http://{}", server.address), token)
}

fn access_to(endpoint: &str, token: &str) -> Access {
    Access {
        tier: Tier::Pro,
        features: vec![feature::API_LOGGING.to_owned()],
        expires_at: None,
        api: Some(Api {
            endpoint: endpoint.to_owned(),
            token: Token::new(token.to_owned()),
            certificates: String::new(),
            proxy: String::new(),
            no_proxy: String::new(),
        }),
    }
}

fn answer(status: &'static str) -> Reply {
    Reply::Answer(status, String::new(), "")
}

#[test]
fn events_are_sent_in_batches() {
    let server = Server::script([]);
    let endpoint = format!("http://user:pass@{}/base/", server.address);
    let mut fixture = Fixture::new(batches_of(3), &access_to(&endpoint, "token-1"));
    assert_eq!(fixture.line(), format!("sending events to http://{}/base", server.address));
    fixture.messages(7);
    let first = server.request();
    assert!(first.head.starts_with("POST /base/api/events/batch HTTP/1.1\r\n"), "{}", first.head);
    assert!(first.has("authorization: Bearer token-1"), "{}", first.head);
    assert!(first.has("content-type: application/json"));
    assert_eq!(first.messages(), ["1", "2", "3"]);
    assert_eq!(server.request().messages(), ["4", "5", "6"]);
    // The rest goes at the end.
    assert_eq!(fixture.stop(), ["7 events sent"]);
    assert_eq!(server.request().messages(), ["7"]);
}

#[test]
fn a_batch_goes_when_it_is_old_enough() {
    let server = Server::script([]);
    let limits = Limits { batch_age: Duration::from_millis(50), ..Limits::default() };
    let mut fixture = Fixture::sending_to(&server, Bounds { limits, ..Bounds::default() });
    let before = Instant::now();
    fixture.messages(1);
    assert!(server.request().at - before >= Duration::from_millis(50));
}

#[test]
fn what_fails_is_sent_again_under_the_same_ids() {
    for (reply, line) in [
        (answer("500 No"), "the API cannot take events just now (500), 2 events wait"),
        (answer("503 No"), "the API cannot take events just now (503), 2 events wait"),
        (answer("408 No"), "the API cannot take events just now (408), 2 events wait"),
        (Reply::Cut, "the API cannot be reached, 2 events wait"),
        (Reply::Endless, "what answers is not the API, 2 events wait"),
        (Reply::Answer("200 OK", String::new(), "<html>"), "what answers is not the API, 2 events wait"),
        (Reply::Silence, "the API cannot be reached, 2 events wait"),
    ] {
        let server = Server::script([reply.clone(), reply]);
        let timeouts = Timeouts { request: Duration::from_millis(500), ..Timeouts::default() };
        let mut fixture = Fixture::sending_to(&server, Bounds { timeouts, ..batches_of(2) });
        fixture.messages(2);
        let ids = server.request().ids();
        assert_eq!(fixture.line(), line);
        assert_eq!([server.request().ids(), server.request().ids()], [ids.clone(), ids]);
        assert_eq!(fixture.line(), "sending again", "{line}");
        assert_eq!(fixture.stop(), ["2 events sent"]);
        assert_eq!(server.others().len(), 0);
    }
}

#[test]
fn retry_after_is_kept() {
    let later =
        |seconds: u32| Reply::Answer("429 Too Many Requests", format!("Retry-After: {seconds}\r\n"), "");
    let server = Server::script([later(1), later(3000)]);
    let mut fixture = Fixture::sending_to(&server, batches_of(1));
    fixture.messages(1);
    let (first, second) = (server.request(), server.request());
    assert!(second.at - first.at >= Duration::from_secs(1));
    assert_eq!(fixture.line(), "the API cannot take events just now (429), 1 events wait");
    let start = Instant::now();
    assert_eq!(
        fixture.stop(),
        ["0 events sent", "1 events could not be sent (1 still waited, 0 dropped, 0 refused)"]
    );
    assert!(start.elapsed() < DEADLINE, "a long pause is not waited for at the end");
    assert_eq!(server.others().len(), 0);
}

#[test]
fn what_is_too_much_at_once_is_sent_by_halves() {
    for status in ["413 No", "400 No"] {
        let server = Server::start(move |request| match request.messages().len() {
            0..3 => Reply::Yes,
            _ => answer(status),
        });
        let mut fixture = Fixture::sending_to(&server, batches_of(8));
        fixture.messages(8);
        assert_eq!(server.request().messages().len(), 8);
        assert_eq!(server.request().messages(), ["1", "2", "3", "4"]);
        assert_eq!(server.request().messages(), ["1", "2"]);
        assert_eq!(fixture.stop(), ["8 events sent"]);
    }
}

#[test]
fn one_event_that_is_refused_is_given_up_and_no_other() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&taken);
    let server = Server::start(move |request: &Request| {
        if request.messages().iter().any(|id| id == "6") {
            return answer("400 Bad Request");
        }
        seen.lock().unwrap().extend(request.messages());
        Reply::Yes
    });
    let mut fixture = Fixture::sending_to(&server, batches_of(8));
    fixture.messages(10);
    assert_eq!(
        fixture.stop(),
        ["9 events sent", "1 events could not be sent (0 still waited, 0 dropped, 1 refused)"]
    );
    assert_eq!(*taken.lock().unwrap(), ["1", "2", "3", "4", "5", "7", "8", "9", "10"]);
}

#[test]
fn a_refused_token_is_not_used_again() {
    let server = Server::start(|request| match request.has("authorization: Bearer token-1") {
        true => answer("401 Unauthorized"),
        false => Reply::Yes,
    });
    let mut fixture = Fixture::sending_to(&server, batches_of(1));
    fixture.messages(1);
    let ids = server.request().ids();
    assert_eq!(fixture.line(), "the API does not take the token, 1 events wait for the next one");
    fixture.messages(1);
    // Renewed, but with the same token.
    let same_token = Access { expires_at: Some(1), ..access(&server, "token-1") };
    fixture.sender.set_access(&same_token);
    fixture.sender.set_access(&access(&server, "token-2"));
    let again = server.request();
    assert!(again.has("authorization: Bearer token-2"), "{}", again.head);
    assert_eq!(again.ids(), ids);
    assert_eq!(fixture.line(), "sending again");
    assert_eq!(fixture.stop(), ["2 events sent"]);
}

#[test]
fn the_latest_token_is_used() {
    let server = Server::script([]);
    let mut fixture = Fixture::sending_to(&server, batches_of(1));
    for token in ["token-1", "token-2", "token-3"] {
        fixture.sender.set_access(&access(&server, token));
        fixture.messages(1);
        assert!(server.request().has(&format!("authorization: Bearer {token}")));
    }
    // Nothing is said of a renewal.
    assert_eq!(fixture.stop(), ["3 events sent"]);
}

#[test]
fn a_token_that_is_no_header_is_not_sent() {
    let server = Server::script([]);
    let mut fixture = Fixture::new(batches_of(1), &access(&server, "a\r\nX: y"));
    fixture.line();
    fixture.messages(1);
    assert_eq!(fixture.line(), "the API does not take the token, 1 events wait for the next one");
    assert_eq!(fixture.stop().len(), 2);
    assert_eq!(server.others().len(), 0);
}

#[test]
fn where_it_is_forbidden_it_counts_until_that_changes() {
    let server = Server::script([answer("403 Forbidden")]);
    let mut fixture = Fixture::sending_to(&server, batches_of(1));
    fixture.messages(1);
    let ids = server.request().ids();
    assert_eq!(fixture.line(), "only counting: the API takes no events from here, 1 wait");
    fixture.messages(2);
    fixture.sender.set_access(&access(&server, "token-1"));
    fixture.messages(1);
    assert_eq!(server.others().len(), 0);
    fixture.sender.set_access(&access(&server, "token-2"));
    assert_eq!(server.request().ids(), ids);
    assert_eq!(fixture.line(), "sending again");
    fixture.messages(1);
    assert_eq!(server.request().messages(), ["5"]);
    assert_eq!(fixture.stop(), ["2 events sent", "3 events only counted"]);
}

#[test]
fn a_redirect_is_not_followed() {
    for status in ["301 Moved", "307 Elsewhere", "308 Elsewhere"] {
        let other = Server::script([]);
        let location = format!("Location: http://{}/api/events/batch\r\n", other.address);
        let server = Server::script([Reply::Answer(status, location, "")]);
        let mut fixture = Fixture::sending_to(&server, batches_of(1));
        fixture.messages(1);
        assert_eq!(fixture.line(), "the API refuses events; they are dropped");
        fixture.messages(1);
        assert_eq!(fixture.line(), "sending again");
        assert_eq!(
            fixture.stop(),
            ["1 events sent", "1 events could not be sent (0 still waited, 0 dropped, 1 refused)"]
        );
        assert_eq!(other.others().len(), 0);
    }
}

#[test]
fn while_nobody_answers_events_wait_and_the_oldest_give_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let limits = Limits { waiting_bytes: 4096, ..batches_of(1).limits };
    let mut fixture =
        Fixture::new(Bounds { limits, ..batches_of(1) }, &access_to(&format!("http://{address}"), "t"));
    fixture.line();
    fixture.messages(1);
    assert_eq!(fixture.line(), "the API cannot be reached, 1 events wait");
    fixture.messages(100);
    let (waiting, dropped) = fixture.sender.shared.lock().waiting();
    assert!(waiting < 30 && dropped + waiting == 101, "{waiting} {dropped}");
    // It comes up at the same address.
    let _server = Server::on(TcpListener::bind(address).unwrap(), None, |_| Reply::Yes);
    assert_eq!(fixture.line(), "sending again");
    assert_eq!(
        fixture.stop(),
        [
            format!("{waiting} events sent"),
            format!("{dropped} events could not be sent (0 still waited, {dropped} dropped, 0 refused)"),
        ]
    );
}

#[test]
fn the_end_does_not_wait_for_who_does_not_answer() {
    let server = Server::script([Reply::Silence]);
    let bounds = Bounds { stop: Duration::from_millis(100), ..batches_of(1) };
    let mut fixture = Fixture::sending_to(&server, bounds);
    fixture.messages(3);
    server.request();
    let start = Instant::now();
    assert_eq!(
        fixture.stop(),
        ["0 events sent", "3 events could not be sent (3 still waited, 0 dropped, 0 refused)"]
    );
    // The request itself would have taken 10 s.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn without_the_feature_it_only_counts() {
    let server = Server::script([]);
    let free = Access { features: Vec::new(), ..access(&server, "token-1") };
    let mut fixture = Fixture::new(batches_of(1), &free);
    assert_eq!(fixture.line(), "only counting: the subscription does not include api_logging");
    fixture.messages(2);
    assert!(fixture.sender.thread.is_none());
    // Upgraded, and back.
    fixture.sender.set_access(&access(&server, "token-2"));
    assert_eq!(fixture.line(), format!("sending events to http://{}", server.address));
    fixture.messages(1);
    assert_eq!(server.request().messages(), ["3"]);
    fixture.sender.set_access(&free);
    assert_eq!(fixture.line(), "only counting: the subscription does not include api_logging");
    fixture.messages(1);
    assert_eq!(fixture.stop(), ["1 events sent", "3 events only counted"]);
    assert_eq!(server.others().len(), 0);
}

#[test]
fn without_an_api_it_only_counts() {
    let offline = Access { api: None, ..access_to("https://x", "t") };
    let mut fixture = Fixture::new(batches_of(1), &offline);
    assert_eq!(fixture.line(), "only counting: there is no token for the API");
    fixture.messages(1);
    assert_eq!(fixture.stop(), ["0 events sent", "1 events only counted"]);

    let fixture = Fixture::new(batches_of(1), &access_to("http://api.example.com", "t"));
    assert_eq!(fixture.line(), "only counting: the API's endpoint is neither https:// nor on this machine");
    assert_eq!(fixture.stop(), ["0 events sent"]);
}

#[test]
fn certificates_of_the_access_are_trusted_and_no_others() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::on(listener, Some(Arc::new(tls)), |_| Reply::Yes);

    let endpoint = format!("https://localhost:{}", server.address.port());
    let access = |certificates: String| {
        let mut access = access_to(&endpoint, "token-1");
        access.api.as_mut().unwrap().certificates = certificates;
        access
    };
    let mut fixture = Fixture::new(batches_of(1), &access(other.cert.pem()));
    fixture.line();
    fixture.messages(1);
    assert_eq!(fixture.line(), "the API cannot be reached, 1 events wait");
    fixture
        .sender
        .set_access(&access("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----".to_owned()));
    fixture.sender.set_access(&access(other.cert.pem() + &own.cert.pem()));
    assert_eq!(fixture.line(), "sending again");
    assert_eq!(server.request().messages(), ["1"]);
    assert_eq!(fixture.stop(), ["1 events sent"]);
}
