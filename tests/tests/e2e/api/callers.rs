//! Who asks: keys that count and keys that do not, and what holds from the next request on.

use km_tests::ApiServer;
use serde_json::json;

use super::client::{AUTHENTICATE, Answer, Client, EVENTS, FEATURES, SUBSCRIPTION, UNKNOWN, plugin_of};

/// All endpoints that take an API key.
fn with_key(client: &Client, key: &str) -> [Answer; 3] {
    [client.authenticate(key, "customer_123"), client.get(SUBSCRIPTION, key), client.get(FEATURES, key)]
}

fn all_ok(client: &Client, key: &str) {
    for answer in with_key(client, key) {
        answer.ok();
    }
}

fn all_refused(client: &Client, key: &str, kind: &str) {
    for answer in with_key(client, key) {
        answer.refused(401, kind);
    }
}

#[test]
fn a_key_that_nobody_has_is_401_everywhere() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let almost = format!("{}x", &key[..key.len() - 1]);
    let (upper, twice) = (key.to_uppercase(), format!("{key} {key}"));
    let token = client.token(&key, "customer_123");
    let long = "k".repeat(5000);
    for bad in [UNKNOWN, &almost, &upper, &twice, &key[..20], "x", "", &long, &token, "' OR 1=1 --", "%00"] {
        all_refused(&client, bad, "invalid-key");
    }
    all_ok(&client, &key);
}

#[test]
fn a_header_that_is_none_or_malformed_is_401() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let ask = |header: Option<&[u8]>, path: &str| {
        client.send(|http, url| {
            let body = plugin_of("customer_123").to_string();
            let request = match path {
                AUTHENTICATE | EVENTS => http.post(format!("{url}{path}")).body(body),
                _ => http.get(format!("{url}{path}")),
            };
            match header {
                Some(value) => request.header("authorization", value),
                None => request,
            }
        })
    };
    let basic = format!("Basic {key}");
    let glued = format!("Bearer{key}");
    let comma = format!("Bearer {key},");
    let mut headers: Vec<Option<&[u8]>> = vec![None, Some(b"Bearer"), Some(b"Bearer \xff\xfe"), Some(b"")];
    headers.extend([basic.as_bytes(), glued.as_bytes(), comma.as_bytes(), key.as_bytes()].map(Some));
    for header in headers {
        for path in [AUTHENTICATE, SUBSCRIPTION, FEATURES] {
            ask(header, path).refused(401, "invalid-key");
        }
        ask(header, EVENTS).refused(401, "invalid-token");
    }
}

#[test]
fn a_revoked_key_is_401_and_says_so_while_others_go_on() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let old = server.add("customer_123", "Pro");
    let new = server.customers(&["new-key", "customer_123", "--json"]).expect(0).json();
    let new = new["api_key"].as_str().unwrap();
    server.customers(&["revoke-key", "customer_123", &old]).expect(0);
    for answer in with_key(&client, &old) {
        assert!(answer.refused(401, "revoked-key").contains("revoked"));
    }
    all_ok(&client, new);
    server.customers(&["revoke-key", "customer_123"]).expect(0);
    all_refused(&client, new, "revoked-key");
    server.customers(&["remove", "customer_123"]).expect(0);
    all_refused(&client, new, "invalid-key");
}

#[test]
fn a_known_key_without_the_right_is_403() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    server.add("other", "Enterprise");
    for other in ["other", "nobody", "customer_12", "CUSTOMER_123"] {
        client.authenticate(&key, other).refused(403, "wrong-customer");
    }
    let inactive = || {
        client.authenticate(&key, "customer_123").refused(403, "inactive");
        client.get(FEATURES, &key).refused(403, "inactive");
        // Why it does not work is told to whoever has the key.
        let status = json!({"subscription_tier": "Pro", "active": false, "customer_id": "customer_123"});
        assert_eq!(client.get(SUBSCRIPTION, &key).ok(), &status);
    };
    server.customers(&["suspend", "customer_123"]).expect(0);
    inactive();
    server.customers(&["resume", "customer_123"]).expect(0);
    client.token(&key, "customer_123");
    let over = server.customers(&["set-expiry", "customer_123", "2001-01-01"]).expect(0);
    assert!(over.stderr.contains("is over"), "{}", over.stderr);
    inactive();
    server.customers(&["set-expiry", "customer_123", "never"]).expect(0);
    client.token(&key, "customer_123");
}

#[test]
fn what_a_command_changes_holds_for_the_very_next_request() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Free");
    let now = || {
        let body = client.get(FEATURES, &key).ok().clone();
        (body["tier"].as_str().unwrap().to_owned(), body["features"].clone())
    };
    let (console, api) = ("console_logging", "api_logging");
    assert_eq!(now(), ("Free".to_owned(), json!([console])));
    for _ in 0..3 {
        server.customers(&["set-tier", "customer_123", "Pro"]).expect(0);
        assert_eq!(now(), ("Pro".to_owned(), json!([console, api])));
        assert_eq!(client.authenticate(&key, "customer_123").ok()["user_tier"], "Pro");
        server.customers(&["set-tier", "customer_123", "Free"]).expect(0);
        assert_eq!(now(), ("Free".to_owned(), json!([console])));
        assert_eq!(client.authenticate(&key, "customer_123").ok()["user_tier"], "Free");
    }
    server.customers(&["set-features", "customer_123", api, "x"]).expect(0);
    assert_eq!(now(), ("Free".to_owned(), json!([console, api, "x"])));
    // A customer that was removed and comes again is somebody new.
    server.customers(&["remove", "customer_123"]).expect(0);
    let again = server.add("customer_123", "Pro");
    client.get(FEATURES, &key).refused(401, "invalid-key");
    assert_eq!(client.get(FEATURES, &again).ok()["features"], json!([console, api]));
}
