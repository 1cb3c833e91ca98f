//! Who may run what, in live sessions: tokens, their renewal, tiers that change, keys that are revoked.

use std::time::Duration;

use km_tests::{ApiServer, Mode, TestEnvironment, binary, descendants, wait_until};

use crate::session::Session;

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Both plugins are installed, the API is configured.
fn ready(server: &ApiServer, tier: &str, more: &str) -> (TestEnvironment, String) {
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("customer_123", tier);
    environment.configure(&server.url(), &key, &format!("customer = \"customer_123\"\n{more}"));
    (environment, key)
}

/// A session whose plugins have seen the first message, or may not.
fn begin(environment: &TestEnvironment, arguments: &[&str]) -> Session {
    let mut session = Session::start(environment, &[arguments, &["--", "cat"]].concat());
    session.exchange(PING);
    session
}

fn wait_for_life(session: &Session, environment: &TestEnvironment, plugin: &str, life: &str) {
    wait_until(&format!("{plugin} is {life}"), || session.plugin(environment, plugin)["life"] == life);
}

#[test]
fn from_nothing_to_events_at_the_server() {
    let server = ApiServer::start(&[]);
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("customer_123", "Pro");
    environment.km(["init", "--api-key", &key, "--endpoint", &server.url()]).expect(0);
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    for plugin in status["plugins"].as_array().unwrap() {
        assert_eq!((&plugin["authenticated"], &plugin["error"]), (&true.into(), &().into()), "{plugin}");
        assert_eq!((&plugin["access"]["by"], &plugin["access"]["tier"]), (&"token".into(), &"Pro".into()));
    }
    let mut session = begin(&environment, &[]);
    for n in 2..=50 {
        session.exchange(&format!(
            r#"{{"jsonrpc":"2.0","id":{n},"method":"tools/call","params":{{"token":"secret"}}}}"#
        ));
    }
    wait_until("all is delivered", || session.plugin(&environment, "api-logger")["delivered"] == 100);
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("[console-logger] "), "{}", finished.stderr);
    let events = server.events("customer_123");
    let mut ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((events.len(), ids.len()), (100, 100), "{}", finished.stderr);
    assert!(events.iter().all(|event| !event.to_string().contains("secret")), "redacted before it left");
    let number =
        |event: &serde_json::Value| event["correlation_id"].as_str().unwrap().parse::<u64>().unwrap();
    let mut numbers: Vec<u64> = events.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

#[test]
fn access_is_renewed_again_and_again_and_none_is_missed() {
    let server = ApiServer::start(&[]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"200ms\"");
    let mut session = begin(&environment, &[]);
    let renewals = |name| session.plugin(&environment, name)["access"]["renewals"].as_u64().unwrap_or(0);
    wait_until("20 renewals of both", || renewals("api-logger") >= 20 && renewals("console-logger") >= 20);
    for name in ["api-logger", "console-logger"] {
        let plugin = session.plugin(&environment, name);
        assert_eq!((&plugin["life"], &plugin["restarts"]), (&"active".into(), &0.into()), "{plugin}");
        assert_eq!(plugin["access"]["trouble"], serde_json::Value::Null);
    }
    // Whatever was asked was answered.
    let log = server.log();
    let asked = log.lines().filter(|line| line.contains("/api/plugins/authenticate"));
    let answered = asked.clone().filter(|line| line.contains("\"status\":200"));
    assert!(asked.clone().count() >= 40 && asked.count() == answered.count(), "{log}");
    session.exchange(PING);
    session.finish().expect(0);
}

#[test]
fn a_downgrade_stops_what_needs_more_and_an_upgrade_brings_it_back() {
    let server = ApiServer::start(&[]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"200ms\"");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "api-logger", "active");
    wait_for_life(&session, &environment, "console-logger", "active");
    let logger = session.plugin(&environment, "console-logger")["pid"].clone();

    server.customers(&["set-tier", "customer_123", "Free"]).expect(0);
    wait_for_life(&session, &environment, "api-logger", "suspended");
    let stopped = session.plugin(&environment, "api-logger");
    assert!(
        stopped["error"].as_str().unwrap().contains("it needs tier Pro, the subscription is Free"),
        "{stopped}"
    );
    assert_eq!(stopped["pid"], serde_json::Value::Null);
    // It took its leave at once: from the refusal to its end within a second.
    let events = stopped["events"].as_array().unwrap();
    let at = |life: &str| {
        let event = events.iter().rev().find(|event| event["life"] == life).unwrap();
        event["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    assert!(
        at("suspended").duration_since(at("shutting-down")) < jiff::SignedDuration::from_secs(1),
        "{stopped}"
    );
    // The other one goes on, the same process, at its lower tier.
    wait_until("console-logger hears of it", || {
        session.plugin(&environment, "console-logger")["access"]["tier"] == "Free"
    });
    assert_eq!(session.plugin(&environment, "console-logger")["pid"], logger);
    session.exchange(r#"{"missed":1}"#);

    server.customers(&["set-tier", "customer_123", "pro"]).expect(0);
    wait_for_life(&session, &environment, "api-logger", "active");
    session.exchange(r#"{"seen":1}"#);
    wait_until("it sees messages again", || session.plugin(&environment, "api-logger")["delivered"] == 4);
    let finished = session.finish().expect(0);
    let said = |what: &str| finished.stderr.matches(what).count();
    assert_eq!(said("km: plugin api-logger is suspended: it needs tier Pro"), 1, "{}", finished.stderr);
    assert_eq!(said("km: plugin api-logger may be used again"), 1, "{}", finished.stderr);
    // What passed while it might not see it was not kept for it.
    let events = server.events("customer_123");
    assert_eq!(events.iter().filter(|event| event.to_string().contains("missed")).count(), 0);
    assert_eq!(events.iter().filter(|event| event.to_string().contains("seen")).count(), 2);
}

#[test]
fn a_revoked_key_ends_its_plugins_at_the_next_renewal() {
    let server = ApiServer::start(&[]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"200ms\"");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "api-logger", "active");
    server.customers(&["revoke-key", "customer_123"]).expect(0);
    for name in ["api-logger", "console-logger"] {
        wait_for_life(&session, &environment, name, "suspended");
        let plugin = session.plugin(&environment, name);
        assert!(plugin["error"].as_str().unwrap().contains("revoked"), "{plugin}");
    }
    // From the server's no to the end of the process: less than a second.
    let log = server.log();
    let line = log.lines().find(|line| line.contains("\"status\":401")).unwrap();
    let said: serde_json::Value = serde_json::from_str(line).unwrap();
    let said = said["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for name in ["api-logger", "console-logger"] {
        let events = session.plugin(&environment, name)["events"].clone();
        let last =
            events.as_array().unwrap().iter().rev().find(|event| event["life"] == "suspended").unwrap();
        let gone = last["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        // Each asks for itself, at its own next renewal: at most 220 ms after the other.
        let took = gone.duration_since(said);
        assert!(took < jiff::SignedDuration::from_millis(1220), "{name}: {took}");
    }
    wait_until("no plugin process is left", || {
        let guard_and_server = 2;
        descendants(session.pid()).len() == guard_and_server
    });
    // The traffic has noticed nothing.
    session.exchange(PING);
    // Nor does a token wait on disk for the next session.
    assert_eq!(std::fs::read_dir(environment.home().join("cache")).unwrap().count(), 0);
    session.finish().expect(0);
}

#[test]
fn without_the_api_a_session_goes_on_until_its_tokens_end_and_then_with_what_is_free() {
    let mut server = ApiServer::start(&["--token-lifetime", "8s"]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"500ms\"");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "api-logger", "active");
    server.stop();
    wait_until("the trouble is seen", || {
        session.plugin(&environment, "api-logger")["access"]["trouble"].as_str().is_some()
    });
    // Nothing has changed yet, and whoever asks is told why and until when.
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    let live = status["sessions"][0]["plugins"].as_array().unwrap();
    let live = live.iter().find(|plugin| plugin["name"] == "api-logger").unwrap();
    assert_eq!(live["life"], "active", "{live}");
    assert!(live["access"]["expires_at"].as_str().is_some(), "{live}");
    assert!(live["access"]["trouble"].as_str().unwrap().contains("cannot be reached"), "{live}");
    let text = environment.km(["plugins", "status"]).expect(0).text();
    assert!(
        text.contains("console-logger active, Pro until 20") && text.contains("cannot be reached"),
        "{text}"
    );

    wait_for_life(&session, &environment, "api-logger", "suspended");
    let stopped = session.plugin(&environment, "api-logger");
    assert!(stopped["error"].as_str().unwrap().contains("its token has expired, and http://"), "{stopped}");
    wait_until("console-logger has only its identity", || {
        session.plugin(&environment, "console-logger")["access"]["by"] == "identity"
    });
    let console = session.plugin(&environment, "console-logger");
    assert_eq!(
        (&console["life"], &console["access"]["tier"]),
        (&"active".into(), &"Free".into()),
        "{console}"
    );
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    let plugin = &status["plugins"][0];
    assert_eq!(
        (&plugin["authenticated"], &plugin["error_kind"]),
        (&false.into(), &"unreachable".into()),
        "{plugin}"
    );

    session.exchange(PING);
    server.run();
    wait_for_life(&session, &environment, "api-logger", "active");
    wait_until("console-logger has a token again", || {
        session.plugin(&environment, "console-logger")["access"]["by"] == "token"
    });
    session.finish().expect(0);
}

#[test]
fn a_fresh_token_on_disk_is_enough_to_start_and_a_spoiled_one_is_none() {
    let mut server = ApiServer::start(&[]);
    let (environment, key) = ready(&server, "Pro", "");
    begin(&environment, &[]).finish().expect(0);
    let authenticated = |environment: &TestEnvironment| {
        let status = environment.km(["plugins", "status", "api-logger", "--json"]).expect(0).json();
        status["plugins"][0]["authenticated"] == true
    };
    server.stop();
    assert!(authenticated(&environment), "by the token of the session before");
    let cache = environment.home().join("cache");
    let file_of = |name: &str| {
        let files = std::fs::read_dir(&cache).unwrap().flatten().map(|entry| entry.path());
        files.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap()
    };
    let (own, other) = (file_of("api-logger"), file_of("console-logger"));
    let good = std::fs::read(&own).unwrap();
    let bad = [good[..good.len() / 2].to_vec(), Vec::new(), std::fs::read(&other).unwrap(), vec![7; 4096]];
    for spoiled in bad {
        std::fs::write(&own, &spoiled).unwrap();
        assert!(!authenticated(&environment), "{} bytes", spoiled.len());
    }
    std::fs::write(&own, &good).unwrap();
    assert!(authenticated(&environment));
    // Another key on this machine: the token is that of the key before.
    environment.configure(&server.url(), "km_live_another_key", "customer = \"customer_123\"");
    assert!(!authenticated(&environment));
    environment.configure(&server.url(), &key, "customer = \"customer_123\"");
    // With the API back all is as before, and the spoiled file is replaced.
    std::fs::write(&own, b"junk").unwrap();
    server.run();
    assert!(authenticated(&environment));
    assert_ne!(std::fs::read(&own).unwrap(), b"junk");
}

#[test]
fn plugins_of_another_customer_get_no_token() {
    let server = ApiServer::start(&[]);
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("somebody_else", "Enterprise");
    environment.configure(&server.url(), &key, "");
    let status = environment.km(["plugins", "status", "api-logger", "--json"]).expect(0).json();
    let plugin = &status["plugins"][0];
    assert_eq!(
        (&plugin["authenticated"], &plugin["error_kind"]),
        (&false.into(), &"unauthorized".into()),
        "{plugin}"
    );
    assert!(plugin["error"].as_str().unwrap().contains("built for another customer"), "{plugin}");
}

#[test]
fn no_key_and_no_token_is_found_anywhere() {
    let server = ApiServer::start(&[]);
    let environment = TestEnvironment::with_api_logger();
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), "km_live_unused_0123", "refresh_interval = \"200ms\"");
    let arguments = ["-vvv", "--", "cat"];
    let mut session = Session::with(&environment, &arguments, |km| {
        km.env("KM_API_KEY", &key).env("KM_LOG", "trace");
        km.stderr(std::fs::File::create(environment.path("stderr")).unwrap());
    });
    session.exchange(PING);
    wait_until("some renewals", || {
        session.plugin(&environment, "api-logger")["access"]["renewals"].as_u64() >= Some(3)
    });
    // Of every child and of km itself: the environment as the kernel shows it, and the arguments.
    let mut processes = descendants(session.pid());
    assert!(processes.len() >= 4, "guard, server, two plugins: {processes:?}");
    processes.push(session.pid());
    for pid in processes {
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!holds_secret(&bytes, &key), "/proc/{pid}/{file}");
        }
    }
    for (file, bytes) in environment.snapshot() {
        assert!(!holds_secret(&bytes, &key), "{}", file.display());
    }
    let reports = session.report(&environment).to_string();
    assert!(!holds_secret(reports.as_bytes(), &key), "{reports}");
    session.finish().expect(0);
    let log = std::fs::read_to_string(environment.path("stderr")).unwrap();
    assert!(log.len() > 10_000 && log.contains("Authenticating"), "it logs: {log}");
    assert!(!holds_secret(log.as_bytes(), &key), "{log}");
    assert!(!holds_secret(server.log().as_bytes(), &key), "{}", server.log());
    // From config.toml it is no different; that file itself has the key, and nobody else can read it.
    environment.configure(&server.url(), &key, "");
    begin(&environment, &["-vvv"]).finish().expect(0);
    for (file, bytes) in environment.snapshot() {
        assert!(file.ends_with("config.toml") || !holds_secret(&bytes, &key), "{}", file.display());
    }
}

/// The key, or any token: long base64url of a JSON object, and a dot.
fn holds_secret(bytes: &[u8], key: &str) -> bool {
    let starts = |part: &'static [u8]| bytes.windows(3).enumerate().filter(move |(_, w)| *w == part);
    let token = starts(b"eyJ").any(|(at, _)| {
        let rest = &bytes[at..];
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)).count();
        length > 20 && rest.get(length) == Some(&b'.')
    });
    token || bytes.windows(key.len()).any(|window| window == key.as_bytes())
}

#[test]
fn an_allowed_plugin_is_asked_about_nobody() {
    let server = ApiServer::start(&[]);
    let environment = TestEnvironment::empty();
    environment.allow(&binary("km-plugin-console-logger"), "console-logger");
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), &key, "");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "console-logger", "active");
    assert_eq!(session.plugin(&environment, "console-logger")["access"]["by"], "identity");
    session.exchange(PING);
    session.finish().expect(0);
    assert!(!server.log().contains("authenticate"), "{}", server.log());
}

#[test]
fn a_plugin_that_knows_no_tokens_gets_the_key_as_before() {
    let environment = TestEnvironment::empty();
    let mode = Mode::AcceptsAnyone;
    environment.allow(&binary("misbehaving"), mode.name());
    environment.configure("http://127.0.0.1:1", "km_live_0123456789", "");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, mode.name(), "active");
    session.exchange(PING);
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("an API key of 18 characters"), "{}", finished.stderr);
}

#[test]
fn a_slow_api_holds_up_neither_traffic_nor_the_end() {
    // It takes the connection and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let environment = TestEnvironment::with_api_logger();
    let url = format!("http://{}", silent.local_addr().unwrap());
    environment.configure(&url, "km_live_0123456789", "");
    let begun = std::time::Instant::now();
    let mut session = begin(&environment, &[]);
    for _ in 0..100 {
        session.exchange(PING);
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    // What needs no more than Free is authenticated by its identity after two seconds.
    wait_for_life(&session, &environment, "console-logger", "active");
    assert_eq!(session.plugin(&environment, "console-logger")["access"]["by"], "identity");
    wait_for_life(&session, &environment, "api-logger", "suspended");
    let error = session.plugin(&environment, "api-logger")["error"].clone();
    assert!(error.as_str().unwrap().contains("no answer in time"), "{error}");
    wait_until("all is delivered", || session.plugin(&environment, "console-logger")["delivered"] == 202);
    session.finish().expect(0);
}

#[test]
fn a_machine_that_slept_past_a_token_s_end_loses_nothing() {
    let server = ApiServer::start(&["--token-lifetime", "3s"]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"500ms\"");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "api-logger", "active");
    let before = session.plugin(&environment, "api-logger");
    let pid = rustix::process::Pid::from_raw(session.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // The longest that the token can last.
    let end = jiff::Timestamp::now().as_second() + 4;
    wait_until("its token has ended", || jiff::Timestamp::now().as_second() > end);
    session.send(format!("{PING}\n").as_bytes());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(session.line(), format!("{PING}\n"));
    for _ in 0..100 {
        session.exchange(PING);
    }
    wait_until("all is delivered", || session.plugin(&environment, "api-logger")["delivered"] == 204);
    let after = session.plugin(&environment, "api-logger");
    assert_eq!((&after["pid"], &after["dropped"], &after["failed"]), (&before["pid"], &0.into(), &0.into()));
    session.finish().expect(0);
}

#[test]
fn logging_out_ends_the_access_of_live_sessions_at_the_next_renewal() {
    let server = ApiServer::start(&[]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"200ms\"");
    let mut session = begin(&environment, &[]);
    wait_for_life(&session, &environment, "api-logger", "active");
    environment.km(["auth", "logout"]).expect(0);
    for name in ["api-logger", "console-logger"] {
        wait_for_life(&session, &environment, name, "suspended");
        let error = session.plugin(&environment, name)["error"].clone();
        assert!(error.as_str().unwrap().contains("the API key was removed"), "{error}");
    }
    assert_eq!(std::fs::read_dir(environment.home().join("cache")).unwrap().count(), 0);
    session.exchange(PING);
    session.finish().expect(0);
}

#[test]
fn every_message_is_accounted_for_across_downgrades() {
    let server = ApiServer::start(&[]);
    let (environment, _) = ready(&server, "Pro", "refresh_interval = \"100ms\"");
    let mut session = begin(&environment, &[]);
    let mut sent = 1;
    for (tier, life) in [("Free", "suspended"), ("Pro", "active"), ("Free", "suspended"), ("Pro", "active")] {
        server.customers(&["set-tier", "customer_123", tier]).expect(0);
        while session.plugin(&environment, "api-logger")["life"] != life {
            session.exchange(PING);
            sent += 1;
        }
    }
    let counted = || {
        let plugin = session.plugin(&environment, "api-logger");
        let count = |name: &str| plugin[name].as_u64().unwrap();
        count("delivered") + count("failed") + count("dropped")
    };
    wait_until("all is counted", || counted() == 2 * sent);
    session.finish().expect(0);
}
