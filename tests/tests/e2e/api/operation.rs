//! What an operator sees: keys that rotate, several servers, the log, the counters, TLS.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use km_tests::{ApiServer, Finished, TestEnvironment, binary, path, wait_until};
use serde_json::Value;

use super::client::{
    AUTHENTICATE, Client, EVENTS, FEATURES, KEYS, Raw, SUBSCRIPTION, UNKNOWN, part, plugin_of,
};

/// The ids of the published keys, the current one first.
fn kids(client: &Client) -> Vec<String> {
    let set = client.open(KEYS).ok().clone();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_rotated_key_signs_and_the_one_before_still_counts() {
    let mut first = ApiServer::start(&[]);
    let key = first.add("customer_123", "Pro");
    let client = Client::of(&first);
    let (set, token) = (client.open(KEYS).ok().clone(), client.token(&key, "customer_123"));
    let one = kids(&client);
    assert_eq!((one.len(), kid(&token)), (1, one[0].clone()));
    // The same server again has the same key.
    first.stop();
    first.run();
    assert_eq!(Client::of(&first).open(KEYS).ok(), &set);

    let second = ApiServer::on(first.database(), &["--rotate-token-key"]);
    let client = Client::of(&second);
    let two = kids(&client);
    assert_eq!((two.len(), &two[1]), (2, &one[0]));
    assert_eq!(client.open(KEYS).body["issuer"], set["issuer"]);
    let newer = client.token(&key, "customer_123");
    assert_eq!(kid(&newer), two[0]);
    for token in [&token, &newer] {
        client.events(token, &["1"]).ok();
    }

    let third = ApiServer::on(first.database(), &["--rotate-token-key"]);
    let client = Client::of(&third);
    let three = kids(&client);
    assert_eq!((three.len(), &three[1]), (2, &two[0]));
    assert!(client.events(&token, &["2"]).refused(401, "invalid-token").contains("signing key"));
    client.events(&newer, &["2"]).ok();
    client.events(&client.token(&key, "customer_123"), &["3"]).ok();
    assert_eq!(third.events("customer_123").len(), 3);
}

#[test]
fn two_servers_on_one_file_serve_the_same_customers_and_keys() {
    let one = ApiServer::start(&[]);
    let two = ApiServer::on(one.database(), &[]);
    let (first, second) = (Client::of(&one), Client::of(&two));
    assert_eq!(first.open(KEYS).ok(), second.open(KEYS).ok());
    let key = one.add("customer_123", "Pro");
    let token = first.token(&key, "customer_123");
    second.events(&token, &["1", "2"]).ok();
    first.events(&second.token(&key, "customer_123"), &["2", "3"]).ok();
    assert_eq!(two.events("customer_123").len(), 3);
    two.customers(&["suspend", "customer_123"]).expect(0);
    first.authenticate(&key, "customer_123").refused(403, "inactive");
    second.authenticate(&key, "customer_123").refused(403, "inactive");
    two.customers(&["resume", "customer_123"]).expect(0);

    // A third one rotates: what it signs holds with the others soon, and they take it up by themselves.
    let third = ApiServer::on(one.database(), &["--rotate-token-key"]);
    let (client, began) = (Client::of(&third), Instant::now());
    let current = kids(&client)[0].clone();
    let token = client.token(&key, "customer_123");
    wait_until("its tokens hold", || first.events(&token, &["4"]).status == 200);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    wait_until("the others publish its key", || kids(&first)[0] == current && kids(&second)[0] == current);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(kid(&second.token(&key, "customer_123")), current);
}

/// Asks of everything something, well and badly; gives what nobody else may see.
fn ask_everything(server: &ApiServer) -> Vec<String> {
    let client = Client::of(server);
    let key = server.add("customer_123", "Pro");
    let token = client.token(&key, "customer_123");
    client.get(SUBSCRIPTION, &key).ok();
    client.send(|http, url| http.get(format!("{url}{FEATURES}")).header("x-api-key", &key)).ok();
    client.events(&token, &["1", "2"]).ok();
    client
        .post_text(AUTHENTICATE, &key, &format!("{{\"plugin_name\": \"{key}\"}}"))
        .refused(400, "bad-request");
    client.get(SUBSCRIPTION, &key.replace("km_live_", "km_live_x")).refused(401, "invalid-key");
    client.events(&key, &["1"]).refused(401, "invalid-token");
    client.events(&format!("{token}x"), &["1"]).refused(401, "invalid-token");
    client.authenticate(&key, "other").refused(403, "wrong-customer");
    for place in
        [format!("/{key}/x"), format!("/health/{token}"), format!("/nowhere?key={key}&token={token}")]
    {
        client.get(&place, &key).refused(404, "not-found");
    }
    let signature = token.rsplit('.').next().unwrap().to_owned();
    let secret = key.strip_prefix("km_live_").unwrap().to_owned();
    vec![secret, signature, token.split('.').nth(1).unwrap().to_owned()]
}

/// The database file and what SQLite keeps beside it.
fn files(server: &ApiServer) -> Vec<PathBuf> {
    let file = PathBuf::from(server.database().strip_prefix("sqlite://").unwrap());
    let folder = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let own = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("km.db");
    folder.map(|entry| entry.unwrap().path()).filter(own).collect()
}

#[test]
fn neither_the_log_nor_the_database_has_a_key_or_a_token() {
    for options in [&[][..], &["-vvv"]] {
        let mut server = ApiServer::start(options);
        let secrets = ask_everything(&server);
        let mut found = files(&server);
        assert!(found.len() >= 2, "{found:?}");
        server.stop();
        found.extend(files(&server));
        let mut texts: Vec<Vec<u8>> = found.iter().flat_map(std::fs::read).collect();
        texts.push(server.log().into_bytes());
        assert!(server.log().contains("customer_123"));
        for secret in secrets {
            let has = |text: &Vec<u8>| text.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!texts.iter().any(has), "{options:?}: {secret:.8}…: {}", server.log());
        }
    }
}

#[test]
fn the_log_has_a_line_of_json_for_each_request() {
    let mut server = ApiServer::start(&[]);
    let client = Client::of(&server);
    let key = server.add("customer_123", "Pro");
    let ask = |path: &str, id: &str| {
        let answer = client
            .send(|http, url| http.get(format!("{url}{path}")).bearer_auth(&key).header("x-request-id", id));
        (answer.status, answer.header("x-request-id").to_owned())
    };
    assert_eq!(ask(SUBSCRIPTION, "mine-1.2_3"), (200, "mine-1.2_3".to_owned()));
    assert_eq!(ask("/nowhere?secret=1", "mine-4"), (404, "mine-4".to_owned()));
    let (status, made) = ask("/health", "not one\"}{");
    assert!(status == 200 && made.len() == 32, "{made}");
    client.get(SUBSCRIPTION, UNKNOWN).refused(401, "invalid-key");
    client.authenticate(&key, "other").refused(403, "wrong-customer");
    // One that goes away before it has its answer.
    let mut raw = Raw::to(&server.url());
    raw.head("POST", AUTHENTICATE, &key, "x-request-id: gone\r\ncontent-length: 10\r\n");
    wait_until("it is being answered", || client.open("/metrics").text.contains("km_connections 2"));
    drop(raw);
    wait_until("it is logged", || server.log().contains("\"gone\""));
    server.stop();

    let log = server.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        let names: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["customer", "id", "method", "ms", "path", "peer", "status", "time"]);
        let time: Timestamp = line["time"].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(time) < jiff::SignedDuration::from_mins(5));
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!((0.0..30_000.0).contains(&line["ms"].as_f64().unwrap()), "{line}");
    }
    let of = |id: &str| {
        let line = lines.iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("{id}: {log}"));
        ["method", "path", "status", "customer"].map(|name| line[name].to_string().replace('"', ""))
    };
    assert_eq!(of("mine-1.2_3"), ["GET", SUBSCRIPTION, "200", "customer_123"]);
    assert_eq!(of("mine-4"), ["GET", "/nowhere", "404", "null"]);
    assert_eq!(of(&made), ["GET", "/health", "200", "null"]);
    let gone = of("gone");
    assert!(gone[2] == "null" || gone[2] == "400", "{gone:?}");
    let refused = |status: u64| lines.iter().find(|line| line["status"] == status).unwrap();
    assert_eq!(
        (&refused(401)["customer"], &refused(403)["customer"]),
        (&Value::Null, &"customer_123".into())
    );

    let silent = ApiServer::start(&["--no-access-log"]);
    Client::of(&silent).open("/health").ok();
    assert_eq!(silent.log(), "");
}

#[test]
fn metrics_count_what_was_asked() {
    let server = ApiServer::start(&[]);
    ask_everything(&server);
    let client = Client::of(&server);
    client
        .send(|http, url| http.request("BREW".parse().unwrap(), format!("{url}/pot")))
        .refused(404, "not-found");
    let answer = client.open("/metrics");
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    let requests = |endpoint: &str, method: &str, status: u16, count: u64| {
        let labels = format!("endpoint=\"{endpoint}\",method=\"{method}\",status=\"{status}\"");
        has(&format!("km_requests_total{{{labels}}} {count}"));
    };
    requests(AUTHENTICATE, "POST", 200, 1);
    requests(AUTHENTICATE, "POST", 400, 1);
    requests(AUTHENTICATE, "POST", 403, 1);
    requests(EVENTS, "POST", 200, 1);
    requests(EVENTS, "POST", 401, 2);
    requests(SUBSCRIPTION, "GET", 401, 1);
    requests("other", "GET", 404, 3);
    requests("other", "other", 404, 1);
    has("km_tokens_issued_total 1");
    has("km_events_accepted_total 2");
    has("km_refused_total{reason=\"invalid-key\"} 1");
    has("km_refused_total{reason=\"invalid-token\"} 2");
    has("km_access_log_lost_total 0");
    has(&format!("km_request_duration_seconds_count{{endpoint=\"{AUTHENTICATE}\"}} 3"));
    // No label says what a client chose.
    for chosen in ["BREW", "pot", "nowhere", "customer_123", "km_live", "eyJ"] {
        assert!(!text.contains(chosen), "{chosen}: {text}");
    }
}

/// A certificate for this machine and its key, in a folder of their own.
fn certificate(environment: &TestEnvironment, name: &str) -> [PathBuf; 2] {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let [certificate, key] = ["cert", "key"].map(|what| environment.path(&format!("{name}.{what}.pem")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    [certificate, key]
}

#[test]
fn over_tls_everything_is_as_without_and_nothing_is_said_in_clear() {
    let environment = TestEnvironment::empty();
    let [certificate, key] = certificate(&environment, "a");
    let server = ApiServer::start(&["--tls-cert", path(&certificate), "--tls-key", path(&key)]);
    let certificate = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let client = Client::with(&server.url(), reqwest::Client::builder().tls_certs_only([certificate]));
    let api_key = server.add("customer_123", "Pro");
    let token = client.token(&api_key, "customer_123");
    client.events(&token, &["1"]).ok();
    client.get(SUBSCRIPTION, UNKNOWN).refused(401, "invalid-key");
    // Whoever does not know the certificate asks nothing.
    let stranger = Client::with(&server.url(), reqwest::Client::builder());
    assert!(stranger.try_send(|http, url| http.get(url)).is_err());

    let began = Instant::now();
    let mut plain = Raw::to(&server.url());
    plain.head("POST", AUTHENTICATE, &api_key, "content-length: 2\r\n");
    plain.say("{}");
    let said = plain.rest();
    assert!(!said.contains("HTTP") && said.len() < 64, "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    client.open("/health").ok();
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let environment = TestEnvironment::empty();
    let [certificate, key] = certificate(&environment, "a");
    let [_, other] = self::certificate(&environment, "b");
    let database = format!("sqlite://{}", path(&environment.path("km.db")));
    let serve = |arguments: &[&str]| -> Finished {
        let common = ["serve", "--json", "--database", &database, "--listen", "127.0.0.1:0"];
        Command::new(binary("km-pack")).args(common).args(arguments).output().unwrap().into()
    };
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let document = serve(arguments).expect(code).json();
        let text = document["error"].to_string();
        assert!(text.contains(word) && !text.contains("PRIVATE"), "{arguments:?}: {text}");
    };
    let tls = |certificate, key| ["--tls-cert", certificate, "--tls-key", key];
    let (certificate, key, other) = (path(&certificate), path(&key), path(&other));
    refused(&tls(certificate, other), 1, "b.key.pem");
    refused(&tls(certificate, certificate), 1, "a.cert.pem has nothing in PEM that is the key");
    refused(&tls(key, key), 1, "a.key.pem has nothing in PEM that is the certificates");
    refused(&tls(path(&environment.path("none.pem")), key), 6, "none.pem");
    refused(&["--tls-cert", certificate], 2, "usage");
    for bad in ["0s", "25h", "soon"] {
        refused(&["--token-lifetime", bad], 2, "--token-lifetime");
    }
    refused(&["--rate-limit", "0"], 2, "--rate-limit");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let database = format!("sqlite://{}", path(&environment.path("other.db")));
    let mut command = Command::new(binary("km-pack"));
    command.args(["serve", "--json", "--database", &database, "--listen", &address]);
    let finished: Finished = command.output().unwrap().into();
    let document = finished.expect(9).json();
    assert!(document["error"]["message"].as_str().unwrap().contains(&address), "{document}");
}

#[test]
fn nothing_of_plugins_is_read_that_is_not_asked_for() {
    // A pipelined second request is answered after the first, on the same connection.
    let server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    let mut raw = Raw::to(&server.url());
    let body = plugin_of("customer_123").to_string();
    raw.head("POST", AUTHENTICATE, &key, &format!("content-length: {}\r\n", body.len()));
    raw.say(&body);
    assert_eq!(raw.answer().0, 200);
    raw.head("GET", SUBSCRIPTION, UNKNOWN, "");
    assert_eq!(raw.answer().0, 401);
    raw.head("GET", SUBSCRIPTION, &key, "connection: close\r\n");
    assert!(raw.rest().starts_with("HTTP/1.1 200 OK\r\n"));
}
