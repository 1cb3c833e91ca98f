//! `km-pack customers`: who may use the API, as its operator says.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use km_tests::{ApiServer, Finished, TestEnvironment, binary, path};
use serde_json::{Value, json};

use super::client::{Client, FEATURES, SUBSCRIPTION};

/// A database of a test's own.
struct Customers {
    environment: TestEnvironment,
    database: String,
}

impl Customers {
    fn new() -> Self {
        let environment = TestEnvironment::empty();
        let database = format!("sqlite://{}", path(&environment.path("new/folder/km.db")));
        Self { environment, database }
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let all = ["customers"].into_iter().chain(arguments.iter().copied());
        self.environment.km_pack(all.chain(["--database", self.database.as_str()]))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).expect(0).json()
    }

    /// Asserts that it fails like this, as text and as JSON; gives the message.
    fn fails(&self, arguments: &[&str], code: i32, kind: &str) -> String {
        let text = self.run(arguments).expect(code);
        assert_eq!(text.text(), "");
        let document = self.run(&[arguments, &["--json"]].concat()).expect(code).json();
        assert_eq!(document["error"]["kind"], kind, "{document}");
        let message = document["error"]["message"].as_str().unwrap().to_owned();
        // The document has in one line what the text may have in several.
        let words = text.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        let first = message.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&first), "{}: {message}", text.stderr);
        message
    }

    fn list(&self) -> Vec<Value> {
        self.json(&["list"])["customers"].as_array().unwrap().clone()
    }
}

#[test]
fn a_key_is_printed_once_and_alone() {
    let customers = Customers::new();
    let added = customers.run(&["add", "customer_123", "--tier", "pRO"]).expect(0);
    let text = added.text();
    let key = text.strip_suffix('\n').unwrap();
    assert!(key.starts_with("km_live_") && key.len() > 40 && !key.contains(char::is_whitespace), "{text:?}");
    assert!(added.stderr.contains("shown this once") && !added.stderr.contains(key), "{}", added.stderr);
    let document = customers.json(&["add", "other", "--tier", "Free"]);
    let other = document["api_key"].as_str().unwrap();
    assert_eq!(document, json!({"customer": "other", "tier": "Free", "api_key": other}));
    let more = customers.json(&["new-key", "other"]);
    let another = more["api_key"].as_str().unwrap();
    assert_eq!(more, json!({"customer": "other", "tier": "Free", "api_key": another}));
    assert!(other.starts_with("km_live_") && other != another);

    for shown in [customers.run(&["list"]), customers.run(&["list", "--json", "-vvv"])] {
        let shown = shown.expect(0);
        for key in [key, other, another] {
            assert!(!shown.text().contains(key) && !shown.stderr.contains(key), "{shown:?}");
        }
        assert!(shown.text().contains("km_l…"), "{}", shown.text());
    }
    let server = ApiServer::on(&customers.database, &[]);
    let client = Client::of(&server);
    for (key, customer) in [(key, "customer_123"), (other, "other"), (another, "other")] {
        assert_eq!(client.get(SUBSCRIPTION, key).ok()["customer_id"], customer);
    }
}

#[test]
fn who_exists_is_not_added_again() {
    let customers = Customers::new();
    let add = ["add", "customer_123", "--tier", "Free", "--feature", "beta", "--expires", "2100-01-01"];
    let key = customers.json(&add)["api_key"].as_str().unwrap().to_owned();
    let before = customers.list();
    assert!(customers.fails(&["add", "customer_123", "--tier", "Pro"], 7, "conflict").contains("exists"));
    assert_eq!(customers.list(), before);
    let [customer] = &before[..] else { panic!("{before:?}") };
    let expected = [
        ("customer", json!("customer_123")),
        ("tier", json!("Free")),
        ("state", json!("active")),
        ("features", json!(["beta"])),
        ("expires_at", json!("2100-01-01T00:00:00Z")),
    ];
    for (name, value) in expected {
        assert_eq!(customer[name], value, "{customer}");
    }
    assert_eq!(customer["keys"].as_array().unwrap().len(), 1);
    let server = ApiServer::on(&customers.database, &[]);
    Client::of(&server).get(FEATURES, &key).ok();
}

#[test]
fn what_is_set_twice_is_no_failure_and_says_so() {
    let customers = Customers::new();
    customers.json(&["add", "customer_123", "--tier", "Free"]);
    for (arguments, name, value) in [
        (&["set-tier", "customer_123", "ENTERPRISE"][..], "tier", json!("Enterprise")),
        (&["set-tier", "customer_123", "pro"], "tier", json!("Pro")),
        (&["set-features", "customer_123", "a.b", "c-d", "a.b"], "features", json!(["a.b", "c-d"])),
        (&["set-features", "customer_123"], "features", json!([])),
        (&["set-expiry", "customer_123", "2100-01-01"], "expires_at", json!("2100-01-01T00:00:00Z")),
        (
            &["set-expiry", "customer_123", "2100-01-01T02:00:00+01:00"],
            "expires_at",
            json!("2100-01-01T01:00:00Z"),
        ),
        (&["set-expiry", "customer_123", "never"], "expires_at", Value::Null),
        (&["suspend", "customer_123"], "state", json!("suspended")),
        (&["resume", "customer_123"], "state", json!("active")),
    ] {
        let document = customers.json(arguments);
        assert_eq!(document[name], value, "{document}");
        assert_eq!(customers.list(), [document], "{arguments:?}");
        let again = customers.run(arguments).expect(0);
        assert!(again.text().contains("already"), "{arguments:?}: {}", again.text());
    }
    let revoked = |arguments: &[&str]| customers.run(arguments).expect(0).text();
    assert!(
        revoked(&["revoke-key", "customer_123"]).starts_with("1 of the API keys of customer_123 revoked")
    );
    let at = customers.list()[0]["keys"][0]["revoked_at"].clone();
    assert!(revoked(&["revoke-key", "customer_123"]).contains("already"));
    assert!(at.is_string() && customers.list()[0]["keys"][0]["revoked_at"] == at);
}

#[test]
fn one_of_several_keys_is_revoked_by_name() {
    let customers = Customers::new();
    let first =
        customers.json(&["add", "customer_123", "--tier", "Pro"])["api_key"].as_str().unwrap().to_owned();
    let second = customers.json(&["new-key", "customer_123"])["api_key"].as_str().unwrap().to_owned();
    let keys = customers.list()[0]["keys"].as_array().unwrap().clone();
    let hint = format!("km_l…{}", &second[second.len() - 4..]);
    let digest = keys.iter().find(|key| key["hint"] == hint.as_str()).unwrap()["digest"].as_str().unwrap();
    let missing =
        customers.fails(&["revoke-key", "customer_123", "km_live_this_is_not_theirs"], 6, "not-found");
    assert!(!missing.contains("km_live"), "{missing}");
    customers.json(&["revoke-key", "customer_123", &digest[..12]]);
    let server = ApiServer::on(&customers.database, &[]);
    let client = Client::of(&server);
    client.get(SUBSCRIPTION, &second).refused(401, "revoked-key");
    client.get(SUBSCRIPTION, &first).ok();
}

#[test]
fn who_is_not_there_is_exit_6_and_what_is_malformed_exit_2() {
    let customers = Customers::new();
    for arguments in [
        &["new-key", "nobody"][..],
        &["set-tier", "nobody", "Pro"],
        &["set-features", "nobody", "x"],
        &["set-expiry", "nobody", "never"],
        &["suspend", "nobody"],
        &["resume", "nobody"],
        &["revoke-key", "nobody"],
        &["remove", "nobody"],
    ] {
        assert!(customers.fails(arguments, 6, "not-found").contains("nobody"), "{arguments:?}");
    }
    for arguments in [
        &["add", "customer_123"][..],
        &["add", "-x", "--tier", "Pro"],
        &["add", "a b", "--tier", "Pro"],
        &["add", "", "--tier", "Pro"],
        &["add", "a", "--tier", "Gold"],
        &["add", "a", "--tier", "Pro", "--feature", "Not A Word"],
        &["add", "a", "--tier", "Pro", "--expires", "tomorrow"],
        &["set-tier", "nobody", "Gold"],
        &["set-expiry", "nobody", "2027-13-01"],
        &["set-features", "nobody", "a,b"],
        &["frobnicate"],
    ] {
        customers.fails(arguments, 2, "usage");
    }
    assert!(customers.list().is_empty());
    let removed = customers.json(&["remove", "nobody", "--if-present"]);
    assert_eq!(removed, json!({"customer": "nobody", "removed": false}));
    customers.json(&["add", "somebody", "--tier", "Pro"]);
    let removed = customers.json(&["remove", "somebody", "--if-present"]);
    assert_eq!(removed, json!({"customer": "somebody", "removed": true}));
    customers.fails(&["remove", "somebody"], 6, "not-found");
    assert!(customers.list().is_empty());
}

#[test]
fn the_database_is_for_its_owner_only() {
    let customers = Customers::new();
    customers.json(&["list"]);
    // Where a server is running, its side files are there too.
    let _server = ApiServer::on(&customers.database, &[]);
    customers.json(&["add", "customer_123", "--tier", "Pro"]);
    let folder = std::fs::read_dir(customers.environment.path("new/folder")).unwrap();
    let files: Vec<_> = folder.map(Result::unwrap).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn databases_are_named_by_option_environment_or_default() {
    let environment = TestEnvironment::empty();
    let add = |customer: &str, named: &[&str], variable: Option<&str>| -> Finished {
        let mut command = environment.command("km-pack");
        command.args(["customers", "add", customer, "--tier", "Pro"]).args(named);
        command.envs(variable.map(|value| ("KM_DATABASE", value)));
        command.output().unwrap().into()
    };
    add("one", &[], None).expect(0);
    add("two", &[], Some("sqlite://two.db")).expect(0);
    add("three", &["--database", "sqlite://a b/100%?.db"], Some("sqlite://two.db")).expect(2);
    add("three", &["--database", "sqlite://a b/100%.db"], Some("sqlite://two.db")).expect(0);
    for file in ["dist/km.db", "two.db", "a b/100%.db"] {
        assert!(environment.path(file).is_file(), "{file}");
    }
    std::fs::write(environment.path("junk.db"), "no database".repeat(1000)).unwrap();
    std::fs::create_dir(environment.path("folder.db")).unwrap();
    for (url, code) in [
        ("mysql://km:s3cret@127.0.0.1/km", 2),
        ("km.db", 2),
        ("sqlite://junk.db", 9),
        ("sqlite://folder.db", 9),
        ("sqlite://junk.db/km.db", 9),
        ("postgres://km:s3cret@127.0.0.1:1/km", 5),
    ] {
        let refused = add("four", &["--database", url, "-vvv"], None).expect(code);
        assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
    }
    // As it was.
    let junk = std::fs::read(environment.path("junk.db")).unwrap();
    assert_eq!(junk, "no database".repeat(1000).into_bytes());
}

#[test]
fn ten_at_once_on_an_empty_database_are_all_added() {
    let customers = Customers::new();
    let add = |n: usize| {
        let mut command = Command::new(binary("km-pack"));
        command.args(["customers", "add", &format!("customer_{n}"), "--tier", "Pro"]);
        command.args(["--json", "--database", &customers.database]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..10).map(add).collect();
    let mut keys = Vec::new();
    for child in running {
        let finished: Finished = child.wait_with_output().unwrap().into();
        keys.push(finished.expect(0).json()["api_key"].as_str().unwrap().to_owned());
    }
    assert_eq!(customers.list().len(), 10);
    let server = ApiServer::on(&customers.database, &[]);
    let client = Client::of(&server);
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(client.get(SUBSCRIPTION, key).ok()["customer_id"], format!("customer_{n}"));
    }
}
