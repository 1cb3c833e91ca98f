//! What stands in the API's place on bad days, and tokens that do not hold: nothing unauthorized runs,
//! each has its own words and kind, and the traffic notices nothing.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use km_api::key_set::KeySet;
use km_api::token::Claims;
use km_pack::token::TokenSigner;
use km_tests::{HttpRequest, Socket, TestEnvironment, http_json, wait_until};
use serde_json::{Value, json};

use crate::session::Session;

const KEY: &str = "km_live_0123456789abcdef";

/// What `km plugins status` says of api-logger with this in the API's place; and that a session with it
/// passes everything and runs nothing that needs more than Free.
fn status_with(url: &str, more: &str) -> (String, String) {
    let environment = TestEnvironment::with_api_logger();
    environment.configure(url, KEY, more);
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    let plugins = status["plugins"].as_array().unwrap();
    let [logger, console] = ["api-logger", "console-logger"]
        .map(|name| plugins.iter().find(|plugin| plugin["name"] == name).unwrap());
    assert_eq!(logger["authenticated"], false, "{logger}");
    let said_no = logger["error_kind"] == "unauthorized";
    assert_eq!(console["authenticated"], !said_no, "{console}");

    let mut session = Session::start(&environment, &["--", "cat"]);
    session.exchange(r#"{"id":1}"#);
    wait_until("api-logger is suspended", || {
        session.plugin(&environment, "api-logger")["life"] == "suspended"
    });
    session.exchange(r#"{"id":2}"#);
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("km: plugin api-logger is suspended: "), "{}", finished.stderr);
    assert!(!finished.stderr.contains(KEY) && !finished.stderr.contains("eyJ"), "{}", finished.stderr);
    let text = |key: &str| logger[key].as_str().unwrap_or_default().to_owned();
    (text("error_kind"), text("error"))
}

#[test]
fn whoever_is_not_the_api_says_neither_yes_nor_no() {
    let yes = r#"{"success":true,"authorized":true,"user_tier":"Enterprise"}"#;
    let http = |status: &str, headers: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let html = "content-type: text/html\r\n";
    let cases = [
        ("500", http("500 Internal Server Error", "", "oops"), "failed (500)"),
        ("503 with words", http("503 Service Unavailable", html, "<h1>later</h1>"), "failed (503)"),
        (
            "HTML",
            http("200 OK", html, "<html>log in to the hotel</html>"),
            "is not the API: its answer is 32 bytes of text/html",
        ),
        ("a proxy's 403", http("403 Forbidden", html, "<h1>no</h1>"), "is not the API: it answers 403"),
        ("a lie in JSON", http("200 OK", "content-type: application/json\r\n", yes), "is not the API"),
        ("nothing", String::new(), "cannot be reached"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "cannot be reached"),
        ("cut short", "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_owned(), "cannot be reached"),
        (
            "429",
            http("429 Too Many Requests", "retry-after: 7\r\n", ""),
            "takes no more requests for 7 s (429)",
        ),
        ("404", http("404 Not Found", "", ""), "is not the API: it answers 404"),
    ];
    std::thread::scope(|scope| {
        for (name, answer, expected) in cases {
            scope.spawn(move || {
                let (kind, error) = status_with(&Socket::saying(answer).url(), "");
                assert!(kind == "unreachable" && error.contains(expected), "{name}: {kind}: {error}");
            });
        }
    });
}

#[test]
fn a_key_that_is_none_is_said_once_and_what_is_free_runs() {
    for key in ["km_live 0123456789", "km_live_0123456789\n", "short"] {
        let environment = TestEnvironment::with_api_logger();
        environment.configure("http://127.0.0.1:1", KEY, "");
        let mut session = Session::with(&environment, &["--", "cat"], |km| {
            km.env("KM_API_KEY", key);
        });
        session.exchange(r#"{"id":1}"#);
        wait_until("console-logger runs", || {
            session.plugin(&environment, "console-logger")["life"] == "active"
        });
        wait_until("api-logger does not", || session.plugin(&environment, "api-logger")["life"] == "error");
        let finished = session.finish().expect(0);
        let said =
            finished.stderr.matches("km: plugins run without an API key: KM_API_KEY in the environment: ");
        assert_eq!(said.count(), 1, "{}", finished.stderr);
        assert!(!finished.stderr.contains(key.trim()), "{}", finished.stderr);
    }
}

#[test]
fn a_body_without_end_is_not_read_to_its_end() {
    let endless = Socket::answering(|_, stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut written = stream.write_all(head);
        while written.is_ok() {
            written = stream.write_all(format!("1000\r\n{}\r\n", " ".repeat(0x1000)).as_bytes());
        }
    });
    let (kind, error) = status_with(&endless.url(), "");
    assert!(kind == "unreachable" && error.contains("longer than 65536 bytes"), "{kind}: {error}");
}

#[test]
fn the_key_does_not_follow_a_redirect() {
    let thief = Socket::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let to = format!("{}/api/plugins/authenticate", thief.url());
        let redirect =
            Socket::saying(format!("HTTP/1.1 {status}\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"));
        let (kind, error) = status_with(&redirect.url(), "");
        assert!(kind == "unreachable" && error.contains("which km does not follow"), "{kind}: {error}");
        let shown: Vec<HttpRequest> = redirect.requests();
        assert!(shown.iter().any(|request| request.headers.iter().any(|header| header.contains(KEY))));
    }
    assert!(thief.requests().is_empty(), "{:?}", thief.requests());
}

#[test]
fn the_api_s_no_stops_what_is_free_too() {
    for (status, kind, words) in [
        ("401 Unauthorized", "invalid-key", "nobody has this API key"),
        ("401 Unauthorized", "revoked-key", "this API key was revoked"),
        ("403 Forbidden", "inactive", "the subscription is over"),
        ("403 Forbidden", "a-kind-of-later", "for reasons of later versions"),
    ] {
        let answer = http_json(status, &json!({"error": {"kind": kind, "message": words}}));
        let (kind, error) = status_with(&Socket::saying(answer).url(), "");
        assert!(kind == "unauthorized" && error.contains(words), "{kind}: {error}");
    }
}

#[test]
fn a_no_is_a_no_in_whatever_shape_it_comes() {
    let cases = [
        ("200 OK", json!({"success": true, "authorized": false, "error": "not this one"}), "not this one"),
        ("200 OK", json!({"success": false, "authorized": false, "user_tier": "Free"}), "it gives no reason"),
        (
            "200 OK",
            json!({"success": true, "authorized": false, "token": null, "error": null}),
            "it gives no reason",
        ),
        ("401 Unauthorized", json!({"error": "invalid key"}), "invalid key"),
        ("403 Forbidden", json!({"success": false, "authorized": false, "error": "forbidden"}), "forbidden"),
        ("401 Unauthorized", json!({"error": {"message": "go away"}}), "go away"),
        ("401 Unauthorized", json!({"error": {"kind": "invalid-key"}}), ""),
    ];
    std::thread::scope(|scope| {
        for (status, body, words) in cases {
            scope.spawn(move || {
                let (kind, error) = status_with(&Socket::saying(http_json(status, &body)).url(), "");
                assert!(kind == "unauthorized" && error.contains(words), "{body}: {kind}: {error}");
            });
        }
    });
    // And it is repeated without the key, and not at any length.
    let words = format!("{KEY} is {}", "no ".repeat(10_000));
    let body = json!({"error": {"kind": "invalid-key", "message": words}});
    let (_, error) = status_with(&Socket::saying(http_json("401 Unauthorized", &body)).url(), "");
    assert!(error.contains("km_l…cdef is no no") && error.len() < 1000, "{error}");
}

#[test]
fn a_certificate_that_does_not_match_is_not_talked_to() {
    let server = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let paths = [&certificate, &key].map(|path| path.to_str().unwrap().to_owned());
        let options = ["--tls-cert", &paths[0], "--tls-key", &paths[1]];
        (km_tests::ApiServer::start(&options), paths[0].clone(), folder)
    };
    // Nobody vouches for it.
    let (unknown, certificate, _folder) = server(&["127.0.0.1"]);
    assert!(unknown.url().starts_with("https://"));
    let (kind, error) = status_with(&unknown.url(), "");
    assert!(
        kind == "unreachable" && error.contains("cannot be trusted, and is not asked"),
        "{kind}: {error}"
    );
    // Somebody does, for another name.
    let (other, other_certificate, _folder2) = server(&["api.example.com"]);
    let (kind, error) = status_with(&other.url(), &format!("api_certificates = {other_certificate:?}"));
    assert!(kind == "unreachable" && error.contains("cannot be trusted"), "{kind}: {error}");
    // And for this one: with it, all is well over TLS, also for what the plugin itself sends.
    let environment = TestEnvironment::with_api_logger();
    let key = unknown.add("customer_123", "Pro");
    let arguments = ["init", "--api-key", &key, "--endpoint", &unknown.url(), "--ca-cert", &certificate];
    environment.km(arguments).expect(0);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.exchange(r#"{"id":1}"#);
    wait_until("delivered", || session.plugin(&environment, "api-logger")["delivered"] == 2);
    let finished = session.finish().expect(0);
    assert_eq!(unknown.events("customer_123").len(), 2, "{}", finished.stderr);
}

/// An API that issues what a test wants.
struct Forger {
    signer: TokenSigner,
    stranger: TokenSigner,
    now: i64,
}

impl Forger {
    fn claims(&self) -> Claims {
        Claims {
            iss: "issuer".to_owned(),
            sub: "customer_123".parse().unwrap(),
            customer_id: "customer_123".parse().unwrap(),
            aud: "api-logger".parse().unwrap(),
            tier: km_package::tier::Tier::Pro,
            features: vec!["api_logging".to_owned()],
            iat: self.now,
            nbf: self.now,
            exp: self.now + 900,
            jti: "1".to_owned(),
        }
    }

    fn sign(&self, change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.signer.sign(&claims).unwrap().reveal().to_owned()
    }

    fn header(&self, algorithm: &str) -> String {
        URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": self.signer.public().id()}).to_string())
    }

    /// Serves this token to whoever asks, with the time that goes with it.
    fn serve(&self, token: String) -> Socket {
        let keys = KeySet { issuer: "issuer".to_owned(), keys: vec![self.signer.public().clone()] };
        self.serve_at(token, keys, "")
    }

    fn serve_at(&self, token: String, keys: KeySet, headers: &str) -> Socket {
        let headers = format!("HTTP/1.1 200 OK\r\n{headers}");
        issue(keys, move |_| {
            String::from_utf8(granted(&token)).unwrap().replace("HTTP/1.1 200 OK\r\n", &headers).into_bytes()
        })
    }
}

/// A yes with this token.
fn granted(token: &str) -> Vec<u8> {
    let body = json!({
        "success": true, "authorized": true, "user_tier": "Pro", "features": ["api_logging"],
        "expires_at": "2100-01-01T00:00:00Z", "customer_id": "customer_123",
        "plugin_id": "api-logger@1.0.0", "token": token, "error": null
    });
    http_json("200 OK", &body)
}

/// An API with these keys, whose answers are made by a function.
fn issue(keys: KeySet, answer: impl Fn(&HttpRequest) -> Vec<u8> + Send + Sync + 'static) -> Socket {
    let keys = serde_json::to_value(keys).unwrap();
    Socket::answering(move |request, stream| {
        let answer = match request.line.contains("jwks") {
            true => http_json("200 OK", &keys),
            false => answer(request),
        };
        let _ = stream.write_all(&answer);
    })
}

#[test]
fn tokens_that_do_not_hold_are_refused_whoever_sends_them() {
    let now = jiff::Timestamp::now().as_second();
    let forger =
        Forger { signer: TokenSigner::generate().unwrap(), stranger: TokenSigner::generate().unwrap(), now };
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&forger.claims()).unwrap());
    let public: Value = serde_json::to_value(forger.signer.public()).unwrap();
    let public = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap();
    let mut hs256 = Header::new(Algorithm::HS256);
    hs256.kid = Some(forger.signer.public().id().to_owned());
    let hs256 = jsonwebtoken::encode(&hs256, &forger.claims(), &EncodingKey::from_secret(&public)).unwrap();
    let cases = [
        ("alg none", format!("{}.{claims}.", forger.header("none")), "another algorithm than EdDSA"),
        ("HS256", hs256, "another algorithm than EdDSA"),
        (
            "other customer",
            forger.sign(|c| c.customer_id = "other".parse().unwrap()),
            "for another customer, other",
        ),
        (
            "other plugin",
            forger.sign(|c| c.aud = "console-logger".parse().unwrap()),
            "for another plugin, console-logger",
        ),
        ("other issuer", forger.sign(|c| c.iss = "other".to_owned()), "from another issuer, other"),
        (
            "other key",
            forger.stranger.sign(&forger.claims()).unwrap().reveal().to_owned(),
            "a signing key that the API does not have",
        ),
        ("expired", forger.sign(|c| c.exp = now - 120), "it expired 12"),
        // Forgiven to a clock, and no time to run in.
        ("over as it comes", forger.sign(|c| c.exp = now - 5), "it expired"),
        (
            "clock behind",
            forger.sign(|c| (c.iat, c.nbf, c.exp) = (now + 600, now + 600, now + 1500)),
            "it is not valid for another ",
        ),
        ("junk", "x.y.z".to_owned(), "the API sent a token that does not hold"),
    ];
    std::thread::scope(|scope| {
        for (name, token, expected) in cases {
            let forger = &forger;
            scope.spawn(move || {
                // What console-logger gets is for api-logger: it runs on its identity instead.
                let (kind, error) = status_with(&forger.serve(token).url(), "");
                assert!(kind == "untrusted" && error.contains(expected), "{name}: {kind}: {error}");
            });
        }
    });
    // Whose clock is wrong is said where the server's is known.
    let shifted = |by: i64| {
        let token = forger.sign(|c| (c.iat, c.nbf, c.exp) = (now + by, now + by, now + by + 900));
        let date = jiff::Timestamp::from_second(now + by).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let keys = KeySet { issuer: "issuer".to_owned(), keys: vec![forger.signer.public().clone()] };
        let socket = forger.serve_at(token, keys, &format!("date: {date}\r\n"));
        status_with(&socket.url(), "").1
    };
    let behind = shifted(655);
    assert!(behind.contains("this machine's clock is 10 minutes behind the server's"), "{behind}");
    let ahead = shifted(-1205);
    assert!(ahead.contains("this machine's clock is 20 minutes ahead of the server's"), "{ahead}");
    // And one that does hold, to see that the forger is good for anything.
    let environment = TestEnvironment::with_api_logger();
    environment.configure(&forger.serve(forger.sign(|_| {})).url(), KEY, "");
    let status = environment.km(["plugins", "status", "api-logger", "--json"]).expect(0).json();
    assert_eq!(status["plugins"][0]["authenticated"], true, "{status}");
}

/// A forger, its keys, and the time.
fn forger() -> (Forger, KeySet) {
    let now = jiff::Timestamp::now().as_second();
    let forger =
        Forger { signer: TokenSigner::generate().unwrap(), stranger: TokenSigner::generate().unwrap(), now };
    let keys = KeySet { issuer: "issuer".to_owned(), keys: vec![forger.signer.public().clone()] };
    (forger, keys)
}

#[test]
fn tokens_that_end_at_once_are_not_asked_for_in_a_loop() {
    let (forger, keys) = forger();
    let api = issue(keys, move |_| {
        let now = jiff::Timestamp::now().as_second();
        granted(&forger.sign(|c| (c.iat, c.nbf, c.exp) = (now, now, now + 2)))
    });
    let environment = TestEnvironment::with_api_logger();
    environment.km(["plugins", "remove", "console-logger"]).expect(0);
    environment.configure(&api.url(), KEY, "");
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.exchange(r#"{"id":1}"#);
    let asked = || api.requests().iter().filter(|request| request.line.contains("authenticate")).count();
    wait_until("it was asked", || asked() > 0);
    let (begun, before) = (Instant::now(), asked());
    wait_until("it was asked four times more", || asked() >= before + 4);
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    session.finish().expect(0);
}

#[test]
fn an_api_that_puts_off_the_next_question_is_asked_all_the_same() {
    let (forger, keys) = forger();
    let token = forger.sign(|_| {});
    let mood = Arc::new(AtomicU8::new(0));
    let moods = Arc::clone(&mood);
    let api = issue(keys, move |_| match moods.load(Ordering::Relaxed) {
        0 => granted(&token),
        1 => b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => http_json("401 Unauthorized", &json!({"error": {"kind": "revoked-key", "message": "revoked"}})),
    });
    let environment = TestEnvironment::with_api_logger();
    environment.configure(&api.url(), KEY, "refresh_interval = \"300ms\"");
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.exchange(r#"{"id":1}"#);
    let plugin = || session.plugin(&environment, "api-logger");
    wait_until("it is active", || plugin()["life"] == "active");
    mood.store(1, Ordering::Relaxed);
    wait_until("it was put off", || plugin()["access"]["trouble"].to_string().contains("for 3600 s (429)"));
    mood.store(2, Ordering::Relaxed);
    wait_until("the key is known to be revoked", || plugin()["life"] == "suspended");
    session.finish().expect(0);
}

#[test]
fn a_limit_on_the_size_of_files_ends_nothing() {
    let server = km_tests::ApiServer::start(&[]);
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), &key, "");
    let km = environment.command("km");
    let variables = km.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -f 0; exec \"$0\" monitor --buffer-size 0 -- sh -c 'cat; exit 7'"]);
    shell.arg(km.get_program()).env_clear().envs(variables).current_dir(environment.path("."));
    shell.stdin(std::process::Stdio::piped());
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..200 {
        stdin.write_all(b"{\"id\":1}\n").unwrap();
    }
    let pid = child.id();
    let events = || server.log().contains("/api/plugins/authenticate");
    wait_until("it has a token that it cannot keep", events);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{pid}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 200 * 9);
}
