//! The end of a server: what it has begun is finished, and nothing else holds it up.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use km_tests::{ApiServer, TestEnvironment, path, wait_until};
use rustix::process::Signal;

use super::client::{AUTHENTICATE, Client, EVENTS, Raw, SUBSCRIPTION, Serving, batch, plugin_of};

/// Waits for the end; gives the exit code and how long it took.
fn end(serving: &mut Serving) -> (Option<i32>, Duration) {
    let began = Instant::now();
    let mut status = None;
    wait_until("the server has left", || {
        status = serving.child.try_wait().unwrap();
        status.is_some()
    });
    (status.unwrap().code(), began.elapsed())
}

#[test]
fn a_request_in_flight_is_finished_and_then_the_server_leaves() {
    for signal in [Signal::TERM, Signal::INT] {
        let database = ApiServer::start(&[]);
        let key = database.add("customer_123", "Pro");
        let token = Client::of(&database).token(&key, "customer_123");
        let mut serving = Serving::start(database.database(), "", &[]);
        let bodies = [(AUTHENTICATE, &key, plugin_of("customer_123")), (EVENTS, &token, batch(&["1", "2"]))];
        let mut begun = Vec::new();
        for (path, secret, body) in bodies {
            let body = body.to_string();
            let mut raw = Raw::to(&serving.url);
            raw.head("POST", path, secret, &format!("content-length: {}\r\n", body.len()));
            let (half, rest) = body.split_at(body.len() / 2);
            raw.say(half);
            begun.push((raw, rest.to_owned()));
        }
        let client = Client::with(&serving.url, reqwest::Client::builder());
        wait_until("both are there", || client.open("/metrics").text.contains("km_connections 3\n"));
        serving.signal(signal);
        let address = serving.url.split_once("://").unwrap().1;
        wait_until("nobody else is let in", || TcpStream::connect(address).is_err());
        assert!(serving.child.try_wait().unwrap().is_none());
        for (raw, rest) in &mut begun {
            raw.say(rest);
            assert_eq!(raw.answer().0, 200);
            // Nothing more on this connection.
            assert_eq!(raw.rest(), "");
        }
        assert_eq!(end(&mut serving).0, Some(0));
        assert_eq!(database.events("customer_123").len(), 2);
    }
}

#[test]
fn connections_that_ask_nothing_do_not_hold_up_the_end() {
    let database = ApiServer::start(&[]);
    let key = database.add("customer_123", "Pro");
    let mut serving = Serving::start(database.database(), "", &[]);
    let silent = Raw::to(&serving.url);
    let mut slow = Raw::to(&serving.url);
    slow.say("GET /health HTTP/1.1\r\nho");
    let mut kept = Raw::to(&serving.url);
    kept.head("GET", SUBSCRIPTION, &key, "");
    assert_eq!(kept.answer().0, 200);
    let client = Client::with(&serving.url, reqwest::Client::builder());
    wait_until("all are there", || client.open("/metrics").text.contains("km_connections 4\n"));
    serving.signal(Signal::TERM);
    let (code, took) = end(&mut serving);
    assert!(code == Some(0) && took < Duration::from_secs(4), "{code:?} {took:?}");
    drop((silent, slow, kept));
}

#[test]
fn a_handshake_that_nobody_goes_on_with_does_not_hold_up_the_end() {
    let environment = TestEnvironment::empty();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (environment.path("cert.pem"), environment.path("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let database = format!("sqlite://{}", path(&environment.path("km.db")));
    let options = ["--tls-cert", path(&certificate), "--tls-key", path(&key)];
    let mut serving = Serving::start(&database, "", &options);
    let silent = Raw::to(&serving.url);
    let certificate = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let client = Client::with(&serving.url, reqwest::Client::builder().tls_certs_only([certificate]));
    wait_until("both are there", || client.open("/metrics").text.contains("km_connections 2\n"));
    serving.signal(Signal::TERM);
    let (code, took) = end(&mut serving);
    assert!(code == Some(0) && took < Duration::from_secs(4), "{code:?} {took:?}");
    drop(silent);
}
