//! How much and how often: bodies, heads, requests in a second.

use std::io::Write as _;
use std::time::{Duration, Instant};

use km_tests::{ApiServer, wait_until};
use serde_json::json;

use super::client::{AUTHENTICATE, Client, EVENTS, Raw, SUBSCRIPTION, UNKNOWN, plugin_of};

/// Answered without waiting for what a client announced.
fn at_once(began: Instant) {
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_key_is_checked_before_a_byte_of_the_body_is_read() {
    let server = ApiServer::start(&[]);
    for (path, kind) in [(AUTHENTICATE, "invalid-key"), (EVENTS, "invalid-token")] {
        for length in ["content-length: 1000000000\r\n", "transfer-encoding: chunked\r\n"] {
            let began = Instant::now();
            let mut raw = Raw::to(&server.url());
            raw.head("POST", path, UNKNOWN, length);
            let (status, body) = raw.answer();
            assert_eq!((status, &body["error"]["kind"]), (401, &kind.into()), "{body}");
            // Nor is the rest waited for, nor another request taken.
            assert_eq!(raw.rest(), "");
            at_once(began);
        }
    }
}

#[test]
fn a_body_that_is_announced_too_large_is_not_waited_for() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    for (path, secret, limit) in [(AUTHENTICATE, &key, 64 * 1024), (EVENTS, &token, 4 << 20)] {
        let began = Instant::now();
        let mut raw = Raw::to(&server.url());
        raw.head("POST", path, secret, &format!("content-length: {}\r\n", limit + 1));
        let (status, body) = raw.answer();
        assert_eq!((status, &body["error"]["kind"]), (413, &"too-large".into()), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(&limit.to_string()), "{body}");
        at_once(began);
        // A client that sends it all the same reads the answer, too.
        for more in [1, limit / 2, 4 * limit] {
            let refused = client.post_text(path, secret, &" ".repeat(limit + more));
            refused.refused(413, "too-large");
            assert_eq!(refused.header("connection"), "close");
            // Also one that listens only once all is sent.
            let mut raw = Raw::to(&server.url());
            raw.head("POST", path, secret, &format!("content-length: {}\r\n", limit + more));
            raw.say(" ".repeat(limit + more));
            assert_eq!(raw.answer().0, 413);
        }
        // What is as long as it may be is read.
        client.post_text(path, secret, &" ".repeat(limit)).refused(400, "bad-request");
    }
}

#[test]
fn a_body_without_a_length_is_cut_off_at_the_limit() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    for (path, secret, limit) in [(AUTHENTICATE, &key, 64 * 1024), (EVENTS, &token, 4 << 20)] {
        let mut raw = Raw::to(&server.url());
        raw.head("POST", path, secret, "transfer-encoding: chunked\r\n");
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        for _ in 0..limit / 0x1000 {
            raw.say(&chunk);
        }
        // There is no end in sight.
        raw.say(&chunk);
        let (status, body) = raw.answer();
        assert_eq!((status, &body["error"]["kind"]), (413, &"too-large".into()), "{body}");
        // The server goes on reading for a moment only, and then is gone.
        let began = Instant::now();
        while raw.0.write_all(chunk.as_bytes()).is_ok() {
            at_once(began);
        }
    }
    // In pieces it is the same as whole.
    let mut raw = Raw::to(&server.url());
    raw.head("POST", AUTHENTICATE, &key, "transfer-encoding: chunked\r\n");
    for piece in plugin_of("customer_123").to_string().as_bytes().chunks(7) {
        raw.say(format!("{:x}\r\n{}\r\n", piece.len(), str::from_utf8(piece).unwrap()));
    }
    raw.say("0\r\n\r\n");
    assert_eq!(raw.answer().1["authorized"], true);
}

#[test]
fn a_body_that_ends_early_changes_nothing() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let token = client.token(&server.add("customer_123", "Pro"), "customer_123");
    let mut raw = Raw::to(&server.url());
    raw.head("POST", EVENTS, &token, "content-length: 1000\r\n");
    raw.say(r#"{"events":[{"id":"half"}]}"#);
    raw.done();
    assert!(!raw.rest().contains("200 OK"));
    assert!(server.events("customer_123").is_empty());
    client.events(&token, &["whole"]).ok();
}

#[test]
fn what_is_no_request_is_ended_and_harms_nobody() {
    let server = ApiServer::start(&[]);
    let header = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-long: {}", "x".repeat(300_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(2000));
    let two_lengths = format!(
        "POST {AUTHENTICATE} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"
    );
    for bytes in
        ["nonsense\r\n\r\n", "\r\n\r\n\0\0\0\0", "GET / HTTP/9.9\r\n\r\n", &header, &many, &two_lengths]
    {
        let mut raw = Raw::to(&server.url());
        // The server may have hung up before all is sent.
        let _ = raw.0.write_all(bytes.as_bytes());
        let _ = raw.0.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut raw.0, &mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{bytes:.40}: {answer}");
    }
    Client::of(&server).open("/health").ok();
}

#[test]
fn a_connection_that_says_nothing_is_closed_in_the_end() {
    let server = ApiServer::start(&[]);
    let began = Instant::now();
    let mut silent = Raw::to(&server.url());
    let mut slow = Raw::to(&server.url());
    slow.say("GET /health HTTP/1.1\r\nhost: ");
    assert_eq!(silent.rest(), "");
    let said = slow.rest();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    let took = began.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(18)).contains(&took), "{took:?}");
}

#[test]
fn too_many_requests_of_one_key_are_429_and_nobody_else_notices() {
    let server = ApiServer::start(&["--rate-limit", "1"]);
    let client = Client::of(&server);
    let [key, other] = ["customer_123", "other"].map(|customer| server.add(customer, "Pro"));
    let token = client.token(&key, "customer_123");
    let limited = || {
        let mut answers = (0..30).map(|_| client.get(SUBSCRIPTION, &key));
        answers.find(|answer| answer.status != 200).expect("a limit")
    };
    let refused = limited();
    assert!(refused.refused(429, "rate-limited").contains("later"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // Their other endpoints, but not other customers, nor what the plugin sends with its token.
    client.authenticate(&key, "customer_123").refused(429, "rate-limited");
    client.get(SUBSCRIPTION, &other).ok();
    client.events(&token, &["1"]).ok();
    wait_until("the limit is over", || client.get(SUBSCRIPTION, &key).status == 200);

    let events = (0..30).map(|_| client.events(&token, &["1"])).find(|answer| answer.status != 200).unwrap();
    events.refused(429, "rate-limited");
    let others = client.token(&other, "other");
    client.events(&others, &["1"]).ok();
    assert_eq!((server.events("customer_123").len(), server.events("other").len()), (1, 1));
}

#[test]
fn bad_keys_are_slowed_down_and_lock_no_good_one_out() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    let refused: Vec<_> = (0..140).map(|n| client.get(SUBSCRIPTION, &format!("km_live_guess_{n}"))).collect();
    let limited = refused.iter().filter(|answer| answer.status == 429).count();
    assert!(limited > 0 && refused[..90].iter().all(|answer| answer.status == 401), "{limited}");
    for answer in refused {
        match answer.status {
            401 => answer.refused(401, "invalid-key"),
            _ => answer.refused(429, "rate-limited"),
        };
    }
    // From the same address.
    assert_eq!(client.get(SUBSCRIPTION, &key).ok()["active"], json!(true));
    client.authenticate(&key, "customer_123").ok();
    client.events(&token, &["1"]).ok();
}
