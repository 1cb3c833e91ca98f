//! `km init`, `km auth`, `km doctor`: the API key, where it comes from and where it does not go.

use std::os::unix::fs::PermissionsExt as _;

use km_tests::{ApiServer, Finished, Socket, TestEnvironment, path};

fn error(finished: &Finished) -> (String, String) {
    let document = finished.json();
    let text = |key: &str| document["error"][key].as_str().unwrap_or_default().to_owned();
    (text("kind"), text("message"))
}

fn with_env(environment: &TestEnvironment, variables: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let mut command = environment.command("km");
    command.args(arguments).envs(variables.iter().copied()).stdin(std::process::Stdio::null());
    command.output().unwrap().into()
}

#[test]
fn init_tries_the_key_and_writes_it_where_only_its_owner_reads() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let (key, url) = (server.add("customer_123", "Pro"), server.url());
    let init = ["init", "--api-key", &key, "--endpoint", &url, "--json"];
    let document = environment.km(init).expect(0).json();
    assert_eq!((&document["action"], &document["customer"]), (&"written".into(), &"customer_123".into()));
    assert_eq!((&document["tier"], &document["active"]), (&"Pro".into(), &true.into()));
    let config = environment.home().join("config/config.toml");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    // Asked twice it says so; comments and keys of others stay.
    let text = std::fs::read_to_string(&config).unwrap() + "# mine\nother = 1\n";
    std::fs::write(&config, &text).unwrap();
    assert_eq!(environment.km(init).expect(0).json()["action"], "kept");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);

    let status = environment.km(["auth", "status", "--json"]).expect(0).json();
    assert_eq!((&status["tier"], &status["active"]), (&"Pro".into(), &true.into()), "{status}");
    assert_eq!(status["features"], serde_json::json!(["console_logging", "api_logging"]));
    assert!(!status.to_string().contains(&key) && status["api_key"].as_str().unwrap().starts_with("km_l…"));

    // Another key is not put in its place by the way.
    let other = server.add("other", "Free");
    let conflict = environment.km(["init", "--api-key", &other, "--json"]).expect(7);
    assert_eq!(error(&conflict).0, "conflict");
    let forced = environment.km(["init", "--api-key", &other, "--force", "--json"]).expect(0).json();
    assert_eq!(forced["customer"], "other");
    assert!(std::fs::read_to_string(&config).unwrap().contains("# mine"));
}

#[test]
fn a_key_that_the_api_rejects_is_not_written() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let key = server.add("customer_123", "Pro");
    let url = server.url();
    let unknown =
        environment.km(["init", "--api-key", "km_live_nobody_has_this", "--endpoint", &url, "--json"]);
    assert_eq!(error(&unknown.expect(4)).0, "unauthorized");
    server.customers(&["revoke-key", "customer_123"]).expect(0);
    let revoked = environment.km(["init", "--api-key", &key, "--endpoint", &url, "--json"]).expect(4);
    assert!(error(&revoked).1.contains("revoked"), "{revoked:?}");
    assert!(!environment.home().join("config/config.toml").exists());
}

#[test]
fn a_key_that_is_none_is_said_before_anybody_is_asked() {
    let environment = TestEnvironment::empty();
    for (key, what) in [
        ("km_live_0123 4567", "a space at position 13"),
        ("km_live_01234567\n", "a line end at position 17"),
        ("km_live_0123\t4567", "a tab"),
        ("“km_live_01234567”", "not printable ASCII"),
        ("", "empty"),
        ("short", "5 characters"),
    ] {
        let endpoint = ["--endpoint", "http://127.0.0.1:1", "--json"];
        let refused = environment.km(["init", "--api-key", key].into_iter().chain(endpoint)).expect(2);
        let (kind, message) = error(&refused);
        assert!(kind == "usage" && message.contains(what), "{key:?}: {message}");
        let sound = message.replace("km_live", "");
        assert!(key.len() < 6 || !sound.contains(&key[8..12]), "{message}");
    }
    // A line from stdin ends; that is no part of the key.
    let piped =
        environment.km_with_input(["auth", "login", "--api-key", "-", "--json"], b"km_live 01234567\n");
    assert!(error(&piped.expect(2)).1.contains("a space"));
    let nothing = environment.km(["auth", "login", "--json"]).expect(2);
    assert_eq!(error(&nothing).0, "usage");
    assert!(!environment.home().join("config/config.toml").exists());
}

#[test]
fn an_api_that_nobody_reaches_is_a_warning_to_init() {
    let environment = TestEnvironment::empty();
    let init = ["init", "--api-key", "km_live_0123456789", "--endpoint", "http://127.0.0.1:1", "--json"];
    let written = environment.km(init).expect(0);
    assert!(written.stderr.contains("could not be tried"), "{}", written.stderr);
    assert_eq!((&written.json()["action"], &written.json()["customer"]), (&"written".into(), &().into()));
    let text = std::fs::read_to_string(environment.home().join("config/config.toml")).unwrap();
    assert!(!text.contains("customer"), "{text}");
    let status = environment.km(["auth", "status", "--json"]).expect(5);
    assert_eq!(error(&status).0, "unreachable");
    // What was known of a customer stays as long as the key does.
    let server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    environment.km(["init", "--force", "--api-key", &key, "--endpoint", &server.url()]).expect(0);
    drop(server);
    environment.km(["init"]).expect(0);
    let text = std::fs::read_to_string(environment.home().join("config/config.toml")).unwrap();
    assert!(text.contains("customer = \"customer_123\""), "{text}");
}

#[test]
fn endpoints_are_https_or_on_this_machine() {
    let environment = TestEnvironment::empty();
    for url in ["http://api.example.com", "ftp://127.0.0.1", "nonsense", "https://u:p@example.com"] {
        let refused = environment
            .km(["init", "--api-key", "km_live_0123456789", "--endpoint", url, "--json"])
            .expect(2);
        assert_eq!(error(&refused).0, "usage", "{url}");
    }
}

#[test]
fn environment_comes_before_config_and_that_before_what_is_older() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let url = server.url();
    let [older, config, variable] = ["older", "config", "variable"].map(|name| server.add(name, "Free"));
    let folder = environment.path(".config/kilometers");
    std::fs::create_dir_all(&folder).unwrap();
    let document = serde_json::json!({"api_key": older, "api_endpoint": url});
    std::fs::write(folder.join("config.json"), document.to_string()).unwrap();
    let customer = |finished: Finished| finished.expect(0).json()["customer"].as_str().unwrap().to_owned();
    let status = ["auth", "status", "--json"];
    assert_eq!(customer(environment.km(status)), "older");
    environment.configure(&url, &config, "");
    assert_eq!(customer(environment.km(status)), "config");
    assert_eq!(customer(with_env(&environment, &[("KILOMETERS_API_KEY", &variable)], &status)), "variable");
    let both = [("KILOMETERS_API_KEY", config.as_str()), ("KM_API_KEY", &variable)];
    assert_eq!(customer(with_env(&environment, &both, &status)), "variable");
    let elsewhere = [("KM_API_ENDPOINT", "http://127.0.0.1:1")];
    with_env(&environment, &elsewhere, &status).expect(5);
    let spoiled = [("KM_API_KEY", "km_live_01234567\n")];
    let refused = with_env(&environment, &spoiled, &status).expect(2);
    assert!(error(&refused).1.contains("KM_API_KEY in the environment"), "{refused:?}");
}

#[test]
fn auto_detect_shows_what_it_found_and_where_and_takes_it_over() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let key = server.add("customer_123", "Pro");
    let text = format!("export KILOMETERS_API_KEY=\"{key}\"\nKILOMETERS_API_ENDPOINT={}\n", server.url());
    std::fs::write(environment.path(".env"), text).unwrap();
    let nothing = environment.km(["init", "--json"]).expect(0);
    assert_eq!(nothing.json()["api_key"], serde_json::Value::Null);
    let found = environment.km(["init", "--auto-detect", "--json"]).expect(0);
    assert_eq!(found.json()["customer"], "customer_123");
    assert!(
        found.stderr.contains("found the API key km_l…") && found.stderr.contains("/.env"),
        "{}",
        found.stderr
    );
    assert!(found.stderr.contains(&format!("found the endpoint {}", server.url())), "{}", found.stderr);
    assert!(!found.stderr.contains(&key));
    // What is configured stays, unless it may be replaced.
    let other = server.add("other", "Free");
    std::fs::write(environment.path(".env"), format!("KM_API_KEY={other}\n")).unwrap();
    let kept = environment.km(["init", "--auto-detect", "--json"]).expect(0).json();
    assert_eq!((&kept["customer"], &kept["action"]), (&"customer_123".into(), &"kept".into()));
    let forced = environment.km(["init", "--auto-detect", "--force", "--json"]).expect(0).json();
    assert_eq!(forced["customer"], "other");
}

/// Runs `km` on a terminal of its own, and types.
fn on_a_terminal(environment: &TestEnvironment, arguments: &str, typed: &str) -> (i32, String) {
    let mut script = std::process::Command::new("script");
    let km = environment.command("km");
    script.args(["-qec", &format!("{} {arguments}", path(std::path::Path::new(km.get_program())))]);
    script.arg("/dev/null").current_dir(environment.path(".")).env_clear().env("TERM", "dumb");
    for (name, value) in km.get_envs() {
        script.env(name, value.unwrap());
    }
    script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = script.spawn().expect("script is installed");
    // What is typed waits in the terminal until it is asked for; its end would be that of the session.
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, typed.as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    drop(stdin);
    (code, text)
}

#[test]
fn on_a_terminal_it_asks_and_elsewhere_never() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let key = server.add("customer_123", "Pro");
    let init = format!("init --endpoint {}", server.url());
    let (code, text) = on_a_terminal(&environment, &init, &format!("{key}\n"));
    assert!(code == 0 && text.contains("API key (nothing for none): "), "{text}");
    assert!(text.contains("customer_123, tier Pro"), "{text}");
    std::fs::write(environment.path(".env"), "KM_API_KEY=km_live_0123456789\n").unwrap();
    let (code, text) = on_a_terminal(&environment, "init --auto-detect --force", "n\n");
    assert!(
        code == 1 && text.contains("take this over? [y/N]") && text.contains("nothing was written"),
        "{text}"
    );
    assert_eq!(environment.km(["auth", "status", "--json"]).expect(0).json()["customer"], "customer_123");
}

#[test]
fn logging_out_forgets_the_key_and_its_tokens() {
    let server = ApiServer::start(&[]);
    let environment = TestEnvironment::with_console_logger();
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), &key, "customer = \"customer_123\"");
    environment.km(["plugins", "status"]).expect(0);
    let cache = environment.home().join("cache");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
    let document = environment.km(["auth", "logout", "--json"]).expect(0).json();
    assert_eq!((&document["action"], &document["tokens"]), (&"removed".into(), &1.into()));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
    assert!(environment.snapshot().iter().all(|(_, bytes)| !contains(bytes, key.as_bytes())));
    assert_eq!(environment.km(["auth", "logout", "--json"]).expect(0).json()["action"], "kept");
    environment.km(["auth", "status"]).expect(6);
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let mut server = ApiServer::start(&[]);
    let environment = TestEnvironment::with_console_logger();
    let key = server.add("customer_123", "Pro");
    environment.km(["init", "--api-key", &key, "--endpoint", &server.url()]).expect(0);
    let well = environment.km(["doctor", "--json"]).expect(0).json();
    let ids: Vec<&str> =
        well["checks"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    let expected = [
        "home",
        "configuration",
        "release keys",
        "api-key",
        "api",
        "clock",
        "subscription",
        "plugin console-logger",
    ];
    assert_eq!(ids, expected);
    assert_eq!(well["ok"], true);

    let failed = |environment: &TestEnvironment| {
        let document = environment.km(["doctor", "--json"]).expect(1).json();
        assert_eq!((&document["ok"], &document["error"]["kind"]), (&false.into(), &"failed".into()));
        let checks = document["checks"].as_array().unwrap().clone();
        let failed = checks.into_iter().filter(|check| check["outcome"] == "failed");
        failed.map(|check| check["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let config = environment.home().join("config/config.toml");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(failed(&environment), ["configuration"]);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    server.customers(&["suspend", "customer_123"]).expect(0);
    // The token of the first run still holds for some minutes, as in a session.
    assert_eq!(failed(&environment)[0], "subscription");
    server.stop();
    assert_eq!(failed(&environment)[0], "api");
    std::fs::write(&config, "api_key = 7\n").unwrap();
    assert_eq!(failed(&environment)[0], "configuration");
    let text = environment.km(["doctor"]).expect(1).text();
    assert!(text.contains("FAIL  configuration") && text.contains("help: "), "{text}");
}

#[test]
fn what_is_not_the_api_is_said_to_be_not_the_api() {
    let environment = TestEnvironment::empty();
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    let html = Socket::saying(page);
    environment.configure(&html.url(), "km_live_0123456789", "");
    let refused = environment.km(["auth", "status", "--json"]).expect(5);
    assert!(error(&refused).1.contains("is not the API: its answer is 6 bytes of text/html"), "{refused:?}");
    let wrote = environment.km(["auth", "login", "--api-key", "km_live_9876543210", "--json"]).expect(0);
    assert!(wrote.stderr.contains("could not be tried"), "{}", wrote.stderr);
    let home = environment.home();
    assert!(!std::fs::read_to_string(home.join("config/config.toml")).unwrap().contains("0123456789"));
    assert!(path(&home).starts_with('/'));
}

#[test]
fn a_key_or_a_password_in_the_wrong_place_is_not_repeated() {
    let environment = TestEnvironment::empty();
    let key = "km_live_0123456789abcdef";
    let quiet = |finished: &Finished| {
        let text = format!("{}{}", finished.text(), finished.stderr);
        for secret in [key, "0123456789abcdef", "hunter2pw", "1234567890123"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    };
    for endpoint in
        [key, "https://user:hunter2pw@example.com", &format!("https://example.com/?api_key={key}")]
    {
        quiet(&with_env(&environment, &[("KM_API_ENDPOINT", endpoint)], &["auth", "status"]).expect(2));
        quiet(
            &with_env(&environment, &[("KM_API_ENDPOINT", endpoint)], &["auth", "status", "--json"])
                .expect(2),
        );
        quiet(&environment.km(["init", "--api-key", "km_live_x1", "--endpoint", endpoint]).expect(2));
        quiet(
            &with_env(&environment, &[("KM_API_ENDPOINT", endpoint)], &["monitor", "--", "true"]).expect(0),
        );
    }
    for arguments in
        [&["init", key][..], &["auth", "login", key, "--json"], &[key], &["--color", key, "version"]]
    {
        quiet(&environment.km(arguments.iter().copied()).expect(2));
    }
    quiet(&environment.km_pack(["customers", "revoke-key", "c", "k1", key]).expect(2));
    quiet(&environment.km_pack(["customers", "list", "postgres://user:hunter2pw@h/db"]).expect(2));
    let folder = environment.home().join("config");
    std::fs::create_dir_all(&folder).unwrap();
    for text in [
        "api_key = 1234567890123",
        &format!("customer = \"{key} \"\n"),
        &format!("refresh_interval = \"{key}\""),
    ] {
        std::fs::write(folder.join("config.toml"), text).unwrap();
        let refused = environment.km(["auth", "status"]).expect(1);
        quiet(&refused);
        assert!(refused.stderr.contains("config.toml, line 1: "), "{}", refused.stderr);
    }
}

#[test]
fn the_env_file_of_a_folder_gets_no_key_but_its_own() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let key = server.add("customer_123", "Pro");
    let thief = Socket::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    std::fs::write(environment.path(".env"), format!("KM_API_ENDPOINT={}\n", thief.url())).unwrap();
    environment.configure(&server.url(), &key, "");
    let detect = ["init", "--auto-detect", "--force", "--json"];
    assert_eq!(environment.km(detect).expect(0).json()["endpoint"], server.url());
    // With a key of its own, but another one that counts more.
    let text = format!("KM_API_ENDPOINT={}\nKM_API_KEY=km_live_0123456789\n", thief.url());
    std::fs::write(environment.path(".env"), text).unwrap();
    let with_key = with_env(&environment, &[("KM_API_KEY", &key)], &detect).expect(0).json();
    assert_eq!(with_key["endpoint"], server.url());
    assert!(thief.requests().is_empty(), "{:?}", thief.requests());
}

#[test]
fn what_is_no_file_of_certificates_holds_up_nothing() {
    let environment = TestEnvironment::empty();
    let pipe = environment.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    environment.configure(
        "https://127.0.0.1:1",
        "km_live_0123456789",
        &format!("api_certificates = {pipe:?}"),
    );
    let refused = environment.km(["auth", "status", "--json"]).expect(9);
    assert!(error(&refused).1.contains("not a regular file"), "{refused:?}");
    environment.km(["monitor", "--", "true"]).expect(0);
}

#[test]
fn login_replaces_the_key_alone() {
    let (server, environment) = (ApiServer::start(&[]), TestEnvironment::empty());
    let key = server.add("customer_123", "Pro");
    environment.configure(&server.url(), "km_live_0123456789", "");
    let elsewhere = [("KM_API_ENDPOINT", "http://127.0.0.1:1")];
    with_env(&environment, &elsewhere, &["auth", "login", "--api-key", &key]).expect(0);
    assert_eq!(environment.km(["auth", "status", "--json"]).expect(0).json()["endpoint"], server.url());
}
