//! The API's server on PostgreSQL instead of SQLite.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use km_tests::postgres::Postgres;
use km_tests::{ApiServer, Finished, TestEnvironment, wait_until};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::trial;

pub(crate) fn trials(programs: &Result<PathBuf, String>) -> Vec<Trial> {
    vec![
        trial("postgres_customers_tokens_and_events", programs, |programs| flow(programs)),
        trial("postgres_two_servers_begin_at_once", programs, |programs| two_servers(programs)),
        trial("postgres_that_is_down_is_no_yes", programs, |programs| down(programs)),
        trial("postgres_customers_are_added_at_once", programs, |programs| at_once(programs)),
        trial("postgres_keeps_the_events_of_a_session", programs, |programs| session(programs)),
    ]
}

/// Who asks; each request on a connection of its own.
struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
}

impl Client {
    fn of(server: &ApiServer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { runtime, http, url: server.url() }
    }

    /// GET without a body, else POST; status and document.
    fn ask(&self, path: &str, secret: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let request = match body {
            Some(body) => self.http.post(url).body(body.to_string()),
            None => self.http.get(url),
        };
        self.runtime.block_on(async {
            let answer = request.bearer_auth(secret).send().await.expect("an answer");
            (answer.status().as_u16(), answer.json().await.expect("JSON"))
        })
    }

    fn authenticate(&self, key: &str, customer: &str) -> (u16, Value) {
        let body = json!({
            "plugin_name": "api-logger", "plugin_version": "1.0.0", "customer_id": customer,
            "binary_sha256": "ab".repeat(32), "timestamp": "2026-01-01T00:00:00Z"
        });
        self.ask("/api/plugins/authenticate", key, Some(&body))
    }

    fn token(&self, key: &str, customer: &str) -> String {
        let (status, answer) = self.authenticate(key, customer);
        assert_eq!((status, &answer["authorized"]), (200, &true.into()), "{answer}");
        answer["token"].as_str().expect("a token").to_owned()
    }

    fn events(&self, token: &str, ids: &[&str]) -> (u16, Value) {
        let events: Vec<Value> = ids.iter().map(|id| json!({"id": id, "text": "\u{0}é"})).collect();
        self.ask("/api/events/batch", token, Some(&json!({"events": events})))
    }

    fn keys(&self) -> Value {
        self.ask("/.well-known/jwks.json", "", None).1
    }
}

fn refused((status, body): (u16, Value)) -> (u16, String) {
    assert_eq!(body["success"], Value::Null, "{body}");
    (status, body["error"]["kind"].as_str().unwrap_or_default().to_owned())
}

fn refusal(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

fn flow(programs: &Path) {
    let postgres = Postgres::start(programs);
    let server = ApiServer::on(&postgres.url(), &[]);
    let client = Client::of(&server);
    let customers = |arguments: &[&str], code: i32| server.customers(arguments).expect(code);
    let key = server.add("customer_123", "Free");
    customers(&["add", "customer_123", "--tier", "Pro"], 7);
    let (status, answer) = client.authenticate(&key, "customer_123");
    assert_eq!(
        (status, &answer["user_tier"], &answer["features"]),
        (200, &"Free".into(), &json!(["console_logging"]))
    );
    assert_eq!(
        refused(client.events(&client.token(&key, "customer_123"), &["0"])),
        refusal(403, "missing-feature")
    );

    customers(&["set-tier", "customer_123", "pro"], 0);
    customers(&["set-features", "customer_123", "beta"], 0);
    customers(&["set-expiry", "customer_123", "2100-01-01"], 0);
    let (_, features) = client.ask("/api/user/features", &key, None);
    let expected = json!({
        "tier": "Pro", "features": ["console_logging", "api_logging", "beta"], "expires_at": "2100-01-01T00:00:00Z"
    });
    assert_eq!(features, expected);
    let token = client.token(&key, "customer_123");
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let (server, token) = (&server, &token);
            scope.spawn(move || {
                let client = Client::of(server);
                let mut ids: Vec<String> = (0..100).map(|n| format!("event-{n}")).collect();
                ids.rotate_left(sender * 25);
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                for _ in 0..3 {
                    let (status, answer) = client.events(token, &ids);
                    assert_eq!((status, &answer["accepted"]), (200, &100.into()), "{answer}");
                }
            });
        }
    });
    let events = server.events("customer_123");
    assert_eq!(events.len(), 100);
    assert!(events.iter().all(|event| event["text"] == "\u{0}é"));
    // What PostgreSQL cannot keep is refused, not tried again and again.
    assert_eq!(refused(client.events(&token, &["a\u{0}b"])), refusal(400, "bad-request"));
    let many: Vec<String> = (0..1000).map(|n| format!("{n:0128}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(client.events(&token, &many).0, 200);

    customers(&["set-tier", "customer_123", "Free"], 0);
    assert_eq!(refused(client.events(&token, &["1"])), refusal(403, "missing-feature"));
    customers(&["suspend", "customer_123"], 0);
    assert_eq!(refused(client.authenticate(&key, "customer_123")), refusal(403, "inactive"));
    customers(&["resume", "customer_123"], 0);
    assert_eq!(refused(client.authenticate(&key, "other")), refusal(403, "wrong-customer"));
    customers(&["revoke-key", "customer_123"], 0);
    assert_eq!(refused(client.authenticate(&key, "customer_123")), refusal(401, "revoked-key"));
    customers(&["remove", "customer_123"], 0);
    assert_eq!(refused(client.authenticate(&key, "customer_123")), refusal(401, "invalid-key"));
    customers(&["remove", "customer_123"], 6);
    assert!(server.events("customer_123").is_empty());
    // Rotated as on SQLite.
    let rotated = ApiServer::on(&postgres.url(), &["--rotate-token-key"]);
    let (before, after) = (client.keys(), Client::of(&rotated).keys());
    assert_eq!((&after["issuer"], &after["keys"][1]), (&before["issuer"], &before["keys"][0]));
}

fn two_servers(programs: &Path) {
    for _ in 0..3 {
        let postgres = Postgres::start(programs);
        let url = postgres.url();
        let servers: Vec<ApiServer> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..2).map(|_| scope.spawn(|| ApiServer::on(&url, &[]))).collect();
            starting.into_iter().map(|server| server.join().expect("it starts")).collect()
        });
        let clients: Vec<Client> = servers.iter().map(Client::of).collect();
        let keys = clients[0].keys();
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "{keys}");
        assert_eq!(keys, clients[1].keys());
        let key = servers[0].add("customer_123", "Pro");
        for (one, other) in [(0, 1), (1, 0)] {
            let token = clients[one].token(&key, "customer_123");
            assert_eq!(clients[other].events(&token, &["1"]).0, 200);
        }
        assert_eq!(servers[1].events("customer_123").len(), 1);
    }
}

fn down(programs: &Path) {
    let mut postgres = Postgres::start(programs);
    let server = ApiServer::on(&postgres.url(), &[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    postgres.stop();
    for _ in 0..3 {
        let unavailable = refusal(503, "unavailable");
        assert_eq!(refused(client.authenticate(&key, "customer_123")), unavailable);
        // Nor is a no made up.
        assert_eq!(refused(client.authenticate("km_live_nobody_has_this", "customer_123")), unavailable);
        assert_eq!(refused(client.events(&token, &["1"])), unavailable);
        assert_eq!(refused(client.ask("/api/subscription/status", &key, None)), unavailable);
        assert_eq!(refused(client.ask("/health", "", None)), unavailable);
    }
    let alone = server.customers(&["list", "--json"]).expect(5).json();
    assert_eq!(alone["error"]["kind"], "unreachable", "{alone}");
    postgres.run();
    wait_until("it answers again", || client.authenticate(&key, "customer_123").0 == 200);
    assert_eq!(client.events(&token, &["1"]).0, 200);
    assert_eq!(client.ask("/health", "", None).0, 200);
    assert_eq!(server.events("customer_123").len(), 1);
}

fn at_once(programs: &Path) {
    let postgres = Postgres::start(programs);
    let environment = TestEnvironment::empty();
    let url = postgres.url();
    let running: Vec<_> = (0..8)
        .map(|n| {
            let mut command = environment.command("km-pack");
            command.args(["customers", "add", &format!("customer_{n}"), "--tier", "Pro", "--database", &url]);
            command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
            command.spawn().expect("km-pack starts")
        })
        .collect();
    for child in running {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let list = environment.km_pack(["customers", "list", "--json", "--database", &url]).expect(0).json();
    assert_eq!(list["customers"].as_array().map(Vec::len), Some(8), "{list}");
}

/// From the client's messages to rows in PostgreSQL, through both plugins.
fn session(programs: &Path) {
    let postgres = Postgres::start(programs);
    let server = ApiServer::on(&postgres.url(), &[]);
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), &key, "customer = \"customer_123\"");
    let lines: String =
        (1..=200).map(|n| format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"ping\"}}\n")).collect();
    let mut command = environment.command("km");
    command.args(["-v", "monitor", "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut km = command.spawn().expect("km starts");
    let mut stdin = km.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("it reads");
    // At the end there is less than a second for what waits, whatever else the machine does.
    wait_until("all events are there", || server.events("customer_123").len() == 400);
    drop(stdin);
    let finished = Finished::from(km.wait_with_output().expect("it ends")).expect(0);
    assert!(finished.stdout == lines.as_bytes(), "the traffic is as it was");
    for plugin in ["api-logger", "console-logger"] {
        let delivered = format!("km: plugin {plugin}: all 400 messages were delivered");
        assert!(finished.stderr.contains(&delivered), "{}", finished.stderr);
    }
    let events = server.events("customer_123");
    let mut ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((events.len(), ids.len()), (400, 400), "{}", finished.stderr);
}
