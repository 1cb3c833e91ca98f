//! Events: each once, with a token that holds, of a customer who may.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use km_api::token::Claims;
use km_pack::token::TokenSigner;
use km_tests::{ApiServer, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{
    AUTHENTICATE, Client, EVENTS, Serving, UNKNOWN, batch, claims, part, plugin_of, signal_to, token_keys,
};

/// A server, a client, and the key and the token of `customer_123` at Pro.
fn ready() -> (ApiServer, Client, String, String) {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    (server, client, key, token)
}

fn ids(server: &ApiServer, customer: &str) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = server.events(customer).iter().map(id).collect();
    ids.sort();
    ids
}

#[test]
fn an_event_is_kept_once_however_often_it_is_sent() {
    let (server, client, _, token) = ready();
    let accepted = |ids: &[&str]| client.events(&token, ids).ok().clone();
    assert_eq!(accepted(&["a", "b"]), json!({"success": true, "accepted": 2}));
    assert_eq!(accepted(&["a", "b"]), json!({"success": true, "accepted": 2}));
    // What is new among what is not, and one that is in a batch twice.
    assert_eq!(accepted(&["c", "b", "d", "d"])["accepted"], 4);
    assert_eq!(accepted(&[])["accepted"], 0);
    assert_eq!(ids(&server, "customer_123"), ["a", "b", "c", "d"]);
    // It stays as it came first, all of it.
    let odd =
        json!({"id": "é\u{1F980} '\"\\", "text": "\u{0}\n", "big": 1e300, "deep": {"list": [null, true]}});
    client.post(EVENTS, &token, &json!({"events": [odd]})).ok();
    client.post(EVENTS, &token, &json!({"events": [{"id": "a", "method": "changed"}]})).ok();
    let events = server.events("customer_123");
    assert!(events.contains(&odd) && events.contains(&batch(&["a"])["events"][0]), "{events:?}");
    // Ids are a customer's own.
    let other = client.token(&server.add("other", "Enterprise"), "other");
    client.events(&other, &["a"]).ok();
    assert_eq!((ids(&server, "other").len(), ids(&server, "customer_123").len()), (1, 5));
}

#[test]
fn the_same_events_sent_at_the_same_time_are_kept_once() {
    let (server, _, _, token) = ready();
    let names: Vec<String> = (0..200).map(|n| format!("event-{n:03}")).collect();
    std::thread::scope(|scope| {
        for sender in 0..6 {
            let (server, token, names) = (&server, &token, &names);
            scope.spawn(move || {
                let client = Client::of(server);
                // In another order each, so that two hold what the other waits for.
                let mut ids: Vec<&str> = names.iter().map(String::as_str).collect();
                ids.rotate_left(sender * 30);
                if sender % 2 == 1 {
                    ids.reverse();
                }
                for _ in 0..2 {
                    assert_eq!(client.events(token, &ids).ok()["accepted"], 200);
                }
            });
        }
    });
    assert_eq!(ids(&server, "customer_123"), names);
}

#[test]
fn a_batch_that_cannot_be_taken_is_not_taken_in_part() {
    let (server, client, _, token) = ready();
    let longest = "i".repeat(128);
    let many: Vec<String> = (0..=1000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let too_long = "i".repeat(129);
    // 128 characters that are more bytes.
    let too_wide = "é".repeat(65);
    for (body, word) in [
        (batch(&many), "over 1000 events"),
        (batch(&["good", &too_long]), "1 to 128 bytes"),
        (batch(&["good", &too_wide]), "1 to 128 bytes"),
        (batch(&["good", ""]), "1 to 128 bytes"),
        // PostgreSQL could not keep it.
        (batch(&["good", "nul\u{0}"]), "NUL"),
        (json!({"events": [{"id": "good"}, {"method": "x"}]}), "missing field `id`"),
        (json!({"events": [{"id": 7}]}), "invalid type"),
        (json!({"events": {"id": "good"}}), "invalid type"),
        (json!({"events": [["good"]]}), "an event is an object"),
        (json!({}), "missing field `events`"),
    ] {
        let answer = client.post(EVENTS, &token, &body);
        let message = answer.refused(400, "bad-request");
        assert!(message.contains(word), "{message}");
    }
    assert!(server.events("customer_123").is_empty());
    assert_eq!(client.events(&token, &many[..1000]).ok()["accepted"], 1000);
    client.events(&token, &[&longest]).ok();
    assert_eq!(server.events("customer_123").len(), 1001);
}

#[test]
fn only_a_token_that_holds_is_a_token() {
    let (server, client, key, token) = ready();
    let stranger = ApiServer::start(&[]);
    let strange = Client::of(&stranger).token(&stranger.add("customer_123", "Pro"), "customer_123");
    let keys = token_keys(&server);
    let now = jiff::Timestamp::now().as_second();
    let made: Claims = serde_json::from_value(claims(&token)).unwrap();
    let forge = |signer: &TokenSigner, change: &dyn Fn(&mut Claims)| {
        let mut claims = made.clone();
        change(&mut claims);
        signer.sign(&claims).unwrap().reveal().to_owned()
    };
    let shift = |by: i64| {
        forge(&keys.current, &|claims| {
            (claims.iat, claims.nbf, claims.exp) = (now + by - 900, now + by - 900, now + by)
        })
    };
    let (head, rest) = token.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": part(&token, 0)["kid"]}).to_string());
    let mut hs256 = Header::new(Algorithm::HS256);
    hs256.kid = Some(keys.current.public().id().to_owned());
    let public = serde_json::to_value(keys.current.public()).unwrap();
    let public = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap();
    let hs256 = jsonwebtoken::encode(&hs256, &made, &EncodingKey::from_secret(&public)).unwrap();
    for (name, bad, word) in [
        ("an API key", key.as_str(), "not a token"),
        ("no token", UNKNOWN, ""),
        ("of another server", &strange, "signing key"),
        ("signed by nobody", &forge(&TokenSigner::generate().unwrap(), &|_| {}), "signing key"),
        ("expired", &shift(-61), "expired 6"),
        ("not yet", &shift(900 + 70), "not valid for another"),
        (
            "of another issuer",
            &forge(&keys.current, &|claims| claims.iss = "km-pack:other".to_owned()),
            "issuer",
        ),
        ("alg none", &format!("{none}.{body}."), "EdDSA"),
        ("alg none, signed", &format!("{none}.{body}.{signature}"), "EdDSA"),
        ("HS256", &hs256, "EdDSA"),
        ("without signature", &format!("{head}.{body}."), ""),
        (
            "with another's claims",
            &format!("{head}.{}.{signature}", strange.split('.').nth(1).unwrap()),
            "signature",
        ),
        ("two parts", &format!("{head}.{body}"), ""),
        ("a long one", &format!("{head}.{}.{signature}", "A".repeat(20_000)), "too many"),
    ] {
        let answer = client.events(bad, &["never"]);
        let message = answer.refused(401, "invalid-token");
        assert!(message.contains(word), "{name}: {message}");
    }
    // The clocks of two machines may be a minute apart.
    client.events(&shift(-30), &["a"]).ok();
    client.events(&shift(900 + 30), &["b"]).ok();
    // And a token is no API key.
    client.post(AUTHENTICATE, &token, &plugin_of("customer_123")).refused(401, "invalid-key");
    assert_eq!(ids(&server, "customer_123"), ["a", "b"]);
}

#[test]
fn a_token_from_before_a_change_gives_no_more_than_the_customer_has_now() {
    let (server, client, key, token) = ready();
    let refused = |kind: &str| client.events(&token, &["never"]).refused(403, kind).to_owned();
    let customers = |arguments: &[&str]| {
        server.customers(arguments).expect(0);
    };
    customers(&["set-tier", "customer_123", "Free"]);
    assert!(refused("missing-feature").contains("api_logging"));
    // A token of the time in which they had not: neither does it come to give more.
    let free = client.token(&key, "customer_123");
    customers(&["set-features", "customer_123", "api_logging"]);
    client.events(&token, &["1"]).ok();
    client.events(&free, &["never"]).refused(403, "missing-feature");
    client.events(&client.token(&key, "customer_123"), &["2"]).ok();

    customers(&["suspend", "customer_123"]);
    refused("inactive");
    customers(&["resume", "customer_123"]);
    customers(&["set-expiry", "customer_123", "2001-01-01"]);
    refused("inactive");
    customers(&["set-expiry", "customer_123", "never"]);
    client.events(&token, &["3"]).ok();
    // The key that a token was had with is needed for the next one only.
    customers(&["revoke-key", "customer_123"]);
    client.events(&token, &["4"]).ok();
    assert_eq!(ids(&server, "customer_123"), ["1", "2", "3", "4"]);
    customers(&["remove", "customer_123"]);
    refused("inactive");
}

#[test]
fn what_was_accepted_is_there_after_a_kill() {
    let (mut server, _, _, token) = ready();
    let (accepted, stop) = (Mutex::new(Vec::<String>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for sender in 0..3 {
            let (url, token, accepted, stop) = (server.url(), &token, &accepted, &stop);
            scope.spawn(move || {
                let client = Client::with(&url, reqwest::Client::builder());
                for n in 0.. {
                    let ids: Vec<String> = (0..20).map(|event| format!("{sender}-{n}-{event}")).collect();
                    let body = batch(&ids.iter().map(String::as_str).collect::<Vec<_>>()).to_string();
                    let send = || {
                        client.try_send(|http, url| {
                            http.post(format!("{url}{EVENTS}")).bearer_auth(token).body(body.clone())
                        })
                    };
                    let answer = send();
                    if stop.load(Ordering::SeqCst) && answer.is_err() {
                        return;
                    }
                    let answer = answer.expect("an answer");
                    if answer.status == 429 {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        continue;
                    }
                    assert_eq!(answer.ok()["accepted"], 20);
                    accepted.lock().unwrap().extend(ids);
                }
            });
        }
        wait_until("some are accepted", || accepted.lock().unwrap().len() >= 600);
        stop.store(true, Ordering::SeqCst);
        signal_to(server.pid(), Signal::KILL);
    });
    // Only its parent has not heard of its end.
    server.stop();
    server.run();
    let accepted = accepted.into_inner().unwrap();
    let kept = ids(&server, "customer_123");
    let lost: Vec<_> = accepted.iter().filter(|id| kept.binary_search(id).is_err()).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), accepted.len());
    let mut once = kept.clone();
    once.dedup();
    assert_eq!(once.len(), kept.len());
    // A batch is there as a whole or not at all, and the token from before still holds.
    assert_eq!(kept.len() % 20, 0);
    let client = Client::of(&server);
    let again: Vec<&str> = accepted.iter().rev().take(20).map(String::as_str).collect();
    assert_eq!(client.events(&token, &again).ok()["accepted"], 20);
    assert_eq!(ids(&server, "customer_123"), kept);
}

#[test]
fn a_full_disk_is_a_503_and_never_a_made_up_yes() {
    let (server, _, key, token) = ready();
    // No file of this process grows over a megabyte; the signal that says so is ignored, the error is not.
    let full = Serving::start(server.database(), "trap '' XFSZ; ulimit -f 2048", &["--no-access-log"]);
    let client = Client::with(&full.url, reqwest::Client::builder());
    let mut accepted = Vec::new();
    let refused = (0..60).find_map(|n| {
        let ids = [format!("{n}-a"), format!("{n}-b")];
        let event = |id: &String| json!({"id": id, "text": "x".repeat(50_000)});
        let body = json!({"events": ids.iter().map(event).collect::<Vec<_>>()});
        let answer = client.post(EVENTS, &token, &body);
        if answer.status == 200 {
            accepted.extend(ids);
            return None;
        }
        Some(answer)
    });
    refused.expect("the limit").refused(503, "unavailable");
    assert!(!accepted.is_empty());
    // Who may what is only read.
    client.authenticate(&key, "customer_123").ok();
    client.authenticate(UNKNOWN, "customer_123").refused(401, "invalid-key");
    accepted.sort();
    assert_eq!(ids(&server, "customer_123"), accepted);
    drop(full);
    // With room again, all is as it was.
    Client::of(&server).events(&token, &["later"]).ok();
    assert_eq!(ids(&server, "customer_123").len(), accepted.len() + 1);
}

#[test]
fn a_body_full_of_small_things_takes_no_more_room_than_one_full_of_text() {
    let (server, client, _, token) = ready();
    // As a tree it takes a hundred times its length.
    let many = vec![r#"{"":0}"#; 500_000].join(",");
    let body = format!(r#"{{"events":[{{"id":"a","d":[{many}]}}]}}"#);
    assert!(body.len() > 3 << 20);
    let send = |http: &reqwest::Client, url: &str| {
        http.post(format!("{url}{EVENTS}")).bearer_auth(&token).body(body.clone())
    };
    assert_eq!(client.try_send(send).unwrap().status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 150 << 10, "{peak} kB");
}
