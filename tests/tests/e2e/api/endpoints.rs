//! What each endpoint answers.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use km_tests::{ApiServer, path};
use serde_json::{Value, json};

use super::client::{AUTHENTICATE, Client, EVENTS, FEATURES, KEYS, SUBSCRIPTION, claims, part, plugin_of};

fn names(document: &Value) -> Vec<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn health_has_the_server_s_time_and_needs_no_key() {
    let server = ApiServer::start(&[]);
    let answer = Client::of(&server).open("/health");
    assert_eq!(names(answer.ok()), ["status", "time"]);
    assert_eq!(answer.body["status"], "healthy");
    let apart = time(&answer.body["time"]).duration_since(Timestamp::now()).abs();
    assert!(apart < SignedDuration::from_secs(10), "{apart:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-request-id").len(), 32);
}

#[test]
fn openssl_verifies_a_token_with_the_published_key() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let set = client.open(KEYS).ok().clone();
    let [key] = &set["keys"].as_array().unwrap()[..] else { panic!("{set}") };
    assert_eq!(names(key), ["alg", "crv", "kid", "kty", "use", "x"]);
    for (name, value) in [("kty", "OKP"), ("crv", "Ed25519"), ("alg", "EdDSA"), ("use", "sig")] {
        assert_eq!(key[name], value);
    }
    let token = client.token(&server.add("customer_123", "Pro"), "customer_123");
    assert_eq!(part(&token, 0), json!({"alg": "EdDSA", "kid": key["kid"], "typ": "JWT"}));
    assert_eq!(claims(&token)["iss"], set["issuer"]);

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("Debian's openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    // RFC 7638: the digest of the members that are required, in this order.
    let x = key["x"].as_str().unwrap();
    let members = file("members", format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
    let thumbprint = openssl(&["dgst", "-sha256", "-binary", path(&members)]);
    assert_eq!(key["kid"], URL_SAFE_NO_PAD.encode(thumbprint));
    // RFC 8410: the bits of the key in a SubjectPublicKeyInfo.
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let public = file("key.der", &[&head[..], &URL_SAFE_NO_PAD.decode(x).unwrap()].concat());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = file("signature", &URL_SAFE_NO_PAD.decode(signature).unwrap());
    let verify = |signed: &Path| {
        let what = ["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", path(&public)];
        let files = ["-sigfile", path(&signature), "-in", path(signed)];
        Command::new("openssl").args(what).args(files).output().unwrap().status.success()
    };
    assert!(verify(&file("signed", signed.as_bytes())));
    assert!(!verify(&file("changed", signed.replacen('e', "f", 1).as_bytes())));
}

#[test]
fn a_token_says_who_may_do_what_and_until_when() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    server.customers(&["set-features", "customer_123", "beta", "api_logging"]).expect(0);
    let before = Timestamp::now().as_second();
    let answer = client.authenticate(&key, "customer_123");
    let features = json!(["console_logging", "api_logging", "beta"]);
    let (token, expires_at) = (answer.body["token"].clone(), answer.body["expires_at"].clone());
    let expected = json!({
        "success": true, "authorized": true, "user_tier": "Pro", "features": features, "expires_at": expires_at,
        "customer_id": "customer_123", "plugin_id": "api-logger@1.2.3-beta.1", "token": token, "error": null
    });
    assert_eq!(answer.ok(), &expected);
    assert_eq!(answer.header("cache-control"), "no-store");

    let said = claims(token.as_str().unwrap());
    let wanted = ["aud", "customer_id", "exp", "features", "iat", "iss", "jti", "nbf", "sub", "tier"];
    assert_eq!(names(&said), wanted);
    let texts =
        [("sub", "customer_123"), ("customer_id", "customer_123"), ("aud", "api-logger"), ("tier", "Pro")];
    for (name, value) in texts {
        assert_eq!(said[name], value, "{name}");
    }
    assert_eq!(said["features"], features);
    let second = |name: &str| said[name].as_i64().unwrap();
    assert!((before..before + 10).contains(&second("iat")), "{said}");
    assert_eq!((second("nbf") - second("iat"), second("exp") - second("iat")), (0, 15 * 60));
    assert_eq!(second("exp"), time(&expires_at).as_second());
    let again = claims(&client.token(&key, "customer_123"));
    assert!(said["jti"].as_str().unwrap().len() >= 16 && said["jti"] != again["jti"], "{said} {again}");
    assert_eq!(said["iss"], again["iss"]);

    let free = client.authenticate(&server.add("free", "Free"), "free");
    assert_eq!(free.ok()["features"], json!(["console_logging"]));
    assert_eq!(claims(free.body["token"].as_str().unwrap())["tier"], "Free");
}

#[test]
fn the_lifetime_of_tokens_is_an_option_and_ends_with_the_subscription() {
    let server = ApiServer::start(&["--token-lifetime", "1h"]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let until = |end: &str| {
        server.customers(&["set-expiry", "customer_123", end]).expect(0);
        let answer = client.authenticate(&key, "customer_123");
        let said = claims(answer.ok()["token"].as_str().unwrap());
        assert_eq!(said["exp"], time(&answer.body["expires_at"]).as_second());
        (said["exp"].as_i64().unwrap(), said["iat"].as_i64().unwrap())
    };
    let (exp, iat) = until("never");
    assert_eq!(exp - iat, 3600);
    let end = Timestamp::from_second(Timestamp::now().as_second() + 300).unwrap();
    assert_eq!(until(&end.to_string()).0, end.as_second());
    assert_eq!(time(&client.get(FEATURES, &key).ok()["expires_at"]), end);
    let (exp, iat) = until("2100-01-01");
    assert_eq!(exp - iat, 3600);
}

#[test]
fn subscription_and_features_are_told_to_whoever_has_the_key() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Enterprise");
    let subscription =
        json!({"subscription_tier": "Enterprise", "active": true, "customer_id": "customer_123"});
    assert_eq!(client.get(SUBSCRIPTION, &key).ok(), &subscription);
    let features =
        json!({"tier": "Enterprise", "features": ["console_logging", "api_logging"], "expires_at": null});
    assert_eq!(client.get(FEATURES, &key).ok(), &features);
    let named = |path: &str, name: &str, value: &str| {
        client.send(|http, url| http.get(format!("{url}{path}")).header(name, value))
    };
    assert_eq!(named(FEATURES, "x-api-key", &key).ok(), &features);
    assert_eq!(named(FEATURES, "authorization", &format!("bearer {key}")).ok(), &features);
    // Only where it is documented.
    named(SUBSCRIPTION, "x-api-key", &key).refused(401, "invalid-key");
    server.customers(&["revoke-key", "customer_123"]).expect(0);
    named(FEATURES, "x-api-key", &key).refused(401, "revoked-key");
}

#[test]
fn a_request_that_is_not_understood_is_400_and_says_why() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let with = |name: &str, value: Value| {
        let mut body = plugin_of("customer_123");
        body[name] = value;
        body.to_string()
    };
    let mut without = plugin_of("customer_123");
    without.as_object_mut().unwrap().remove("binary_sha256");
    let deep = "[".repeat(10_000);
    for (body, word) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("nonsense", "expected"),
        ("[]", "invalid length"),
        ("null", "null"),
        ("\u{feff}{}", "expected value"),
        (deep.as_str(), ""),
        (&with("plugin_name", json!("Api Logger")), "plugin name"),
        (&with("plugin_name", json!("../../etc/passwd")), "plugin name"),
        (&with("plugin_name", json!("a".repeat(49))), "plugin name"),
        (&with("plugin_name", json!(7)), "invalid type"),
        (&with("customer_id", json!("-x")), "customer id"),
        (&with("plugin_version", json!("latest")), "plugin_version"),
        (&with("binary_sha256", json!("AB".repeat(32))), "SHA-256"),
        (&with("timestamp", json!("yesterday")), "invalid digit"),
        (&without.to_string(), "missing field `binary_sha256`"),
    ] {
        let answer = client.post_text(AUTHENTICATE, &key, body);
        let message = answer.refused(400, "bad-request");
        assert!(message.contains(word) && message.len() < 400, "{body:.80}: {message}");
    }
    let bytes = client.send(|http, url| {
        http.post(format!("{url}{AUTHENTICATE}")).bearer_auth(&key).body(vec![0xff, 0xfe, 0])
    });
    bytes.refused(400, "bad-request");
    // What later versions send besides is no error, nor is a clock that is wrong.
    let later = json!({"plugin_name": "api-logger", "plugin_version": "1.0.0", "customer_id": "customer_123",
        "binary_sha256": "00".repeat(32), "timestamp": "1999-01-01T00:00:00Z", "more": [1]});
    client.post(AUTHENTICATE, &key, &later).ok();
}

#[test]
fn where_there_is_no_endpoint_and_with_another_method() {
    let server = ApiServer::start(&[]);
    let client = Client::of(&server);
    for path in
        ["/", "/api", "/api/plugins", "/api/plugins/authenticate/", "/health/../metrics/x", "//health"]
    {
        client.open(path).refused(404, "not-found");
    }
    let ask = |method: reqwest::Method, path: &str| {
        client.send(|http, url| http.request(method, format!("{url}{path}")))
    };
    use reqwest::Method;
    for (method, path, allowed) in [
        (Method::GET, AUTHENTICATE, "POST"),
        (Method::GET, EVENTS, "POST"),
        (Method::POST, SUBSCRIPTION, "GET,HEAD"),
        (Method::DELETE, FEATURES, "GET,HEAD"),
        (Method::PUT, KEYS, "GET,HEAD"),
        (Method::OPTIONS, "/health", "GET,HEAD"),
    ] {
        let answer = ask(method, path);
        answer.refused(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
    let head = ask(Method::HEAD, "/health");
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}
