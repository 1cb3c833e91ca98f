//! From an empty machine to exactly the right plugins: `km-pack serve`, a store, customers of each tier.

use std::collections::BTreeMap;

use km_tests::{ApiServer, Engineer, Finished, Mirror, TestEnvironment, Tiny, packages, path};

/// What a customer sees: plugin by plugin, the state.
type Plugins = BTreeMap<String, String>;

/// A shop with a plugin for each tier, customers who want them, and a server.
struct Shop {
    engineer: Engineer,
    server: ApiServer,
    keys: BTreeMap<&'static str, String>,
}

const CUSTOMERS: [(&str, &str); 3] = [("free", "Free"), ("pro", "Pro"), ("big", "Enterprise")];

impl Shop {
    /// `logger` for everybody, `sender` from Pro on, `auditor` for Enterprise.
    fn open() -> Self {
        let engineer = Engineer::new();
        let rows = CUSTOMERS.map(|(id, tier)| format!("{id},{tier}\n"));
        std::fs::write(engineer.path("customers.csv"), format!("id,tier\n{}", rows.concat())).unwrap();
        let shop_has = |name, tier, version| {
            engineer.run(&[
                "build",
                "--binary",
                "/bin/true",
                "--name",
                name,
                "--version",
                version,
                "--sequence",
                "1",
                "--required-tier",
                tier,
                "--customers",
                "customers.csv",
                "--publish",
            ])
        };
        for (name, tier) in [("logger", "Free"), ("sender", "Pro"), ("auditor", "Enterprise")] {
            shop_has(name, tier, "1.0.0").expect(0);
        }
        let server = ApiServer::with_store(path(&engineer.store()), &[], &[]);
        let keys = CUSTOMERS.map(|(id, tier)| (id, server.add(id, tier)));
        Self { engineer, server, keys: keys.into() }
    }

    /// An empty machine that trusts the release key.
    fn machine(&self) -> TestEnvironment {
        let machine = TestEnvironment::empty();
        machine.km(["trust", "add", path(&self.engineer.public_key())]).expect(0);
        machine
    }

    /// One on which `km init --auto-provision-plugins` has run.
    fn provisioned(&self, customer: &str) -> TestEnvironment {
        let machine = self.machine();
        self.init(&machine, customer, &[]).expect(0);
        machine
    }

    fn init(&self, machine: &TestEnvironment, customer: &str, more: &[&str]) -> Finished {
        let url = self.server.url();
        let arguments = ["init", "--api-key", "-", "--endpoint", &url, "--auto-provision-plugins"];
        machine.km_with_input([&arguments, more].concat(), self.keys[customer].as_bytes())
    }

    /// The tier at the server, and then in the packages.
    fn set_tier(&self, customer: &str, tier: &str) {
        self.server.customers(&["set-tier", customer, tier]).expect(0);
    }

    fn restamp(&self) {
        self.engineer.run(&["restamp", "--customers", self.server.database()]).expect(0);
    }
}

fn listed(machine: &TestEnvironment) -> Plugins {
    let document = machine.km(["plugins", "list", "--json"]).expect(0).json();
    let plugins = document["plugins"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    plugins.iter().map(|plugin| (text(&plugin["name"]), text(&plugin["state"]))).collect()
}

fn plugins(plugins: &[(&str, &str)]) -> Plugins {
    plugins.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

/// What a refresh did: `(name, action)`, and what is not entitled.
fn refreshed(machine: &TestEnvironment) -> (Plugins, Vec<String>) {
    actions(&machine.km(["plugins", "refresh", "--json"]).expect(0).json())
}

fn actions(document: &serde_json::Value) -> (Plugins, Vec<String>) {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let done = document["plugins"].as_array().unwrap();
    let names = document["not_entitled"].as_array().unwrap();
    (
        done.iter().map(|plugin| (text(&plugin["name"]), text(&plugin["action"]))).collect(),
        names.iter().map(text).collect(),
    )
}

#[test]
fn each_tier_gets_exactly_its_plugins_by_one_command() {
    let shop = Shop::open();
    for (customer, names) in
        [("free", &["logger"][..]), ("pro", &["logger", "sender"]), ("big", &["auditor", "logger", "sender"])]
    {
        let machine = shop.machine();
        let document = shop.init(&machine, customer, &["--json"]).expect(0).json();
        assert_eq!(document["customer"], customer);
        let (done, not_entitled) = actions(&document);
        let installed: Vec<(&str, &str)> = names.iter().map(|name| (*name, "installed")).collect();
        assert_eq!(done, plugins(&installed), "{document}");
        assert_eq!(not_entitled.len(), 3 - names.len(), "{document}");
        assert_eq!(listed(&machine), plugins(&installed));
        // A second run does nothing, and says so.
        let before = machine.snapshot();
        let kept: Vec<(&str, &str)> = names.iter().map(|name| (*name, "kept")).collect();
        assert_eq!(refreshed(&machine), (plugins(&kept), not_entitled));
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn an_upgrade_brings_and_a_downgrade_takes() {
    let shop = Shop::open();
    let machine = shop.provisioned("pro");

    // The server's word alone widens nothing: what is stamped is the bound.
    shop.set_tier("pro", "Enterprise");
    assert_eq!(refreshed(&machine).1, ["auditor"]);
    shop.restamp();
    let (done, not_entitled) = refreshed(&machine);
    let expected = [("auditor", "installed"), ("logger", "updated"), ("sender", "updated")];
    assert_eq!((done, not_entitled), (plugins(&expected), Vec::new()));
    let document = machine.km(["plugins", "list", "--json"]).expect(0).json();
    assert!(document["plugins"].as_array().unwrap().iter().all(|plugin| plugin["tier"] == "Enterprise"));

    // It narrows at once, before anything is stamped.
    shop.set_tier("pro", "Free");
    let (done, not_entitled) = refreshed(&machine);
    assert_eq!(done, plugins(&[("auditor", "disabled"), ("logger", "kept"), ("sender", "disabled")]));
    assert_eq!(not_entitled, ["auditor", "sender"]);
    let states = [("auditor", "disabled"), ("logger", "installed"), ("sender", "disabled")];
    assert_eq!(listed(&machine), plugins(&states));
    // Only the run that disables says so.
    assert_eq!(
        refreshed(&machine),
        (plugins(&[("logger", "kept")]), vec!["auditor".into(), "sender".into()])
    );
    shop.restamp();
    assert_eq!(refreshed(&machine).0, plugins(&[("logger", "updated")]));

    // And back.
    shop.set_tier("pro", "Pro");
    shop.restamp();
    let (done, not_entitled) = refreshed(&machine);
    assert_eq!(done, plugins(&[("logger", "updated"), ("sender", "updated")]));
    assert_eq!(not_entitled, ["auditor"]);
    assert_eq!(listed(&machine)["sender"], "installed");
}

#[test]
fn what_is_withdrawn_is_removed_and_what_came_by_hand_stays() {
    let shop = Shop::open();
    let machine = shop.provisioned("free");
    Tiny::trust(&machine);
    let by_hand = Tiny { customer: "free".to_owned(), ..Tiny::new("1.0.0", 1) };
    by_hand.install(&machine);
    shop.engineer.run(&["withdraw", "logger", "--customer", "free"]).expect(0);
    let (done, _) = refreshed(&machine);
    assert_eq!(done, plugins(&[("logger", "removed"), ("tiny", "kept")]));
    assert_eq!(listed(&machine), plugins(&[("tiny", "installed")]));
}

#[test]
fn a_new_version_comes_and_a_rollback_is_respected() {
    let shop = Shop::open();
    let machine = shop.provisioned("free");
    let release = |version: &str, sequence: &str| {
        let more = ["--tier", "Free", "--sequence", sequence];
        let package = shop.engineer.package_of("/bin/false", "logger", version, "free", &more);
        shop.engineer.run(&["publish", &package]).expect(0);
    };
    release("1.1.0", "2");
    assert_eq!(refreshed(&machine).0, plugins(&[("logger", "updated")]));
    machine.km(["plugins", "rollback", "logger"]).expect(0);
    let document = machine.km(["plugins", "refresh", "--json"]).expect(0).json();
    assert_eq!(document["plugins"][0]["action"], "kept");
    assert_eq!(document["plugins"][0]["reason"], "rolled back");
    assert_eq!(document["plugins"][0]["version"], "1.0.0");
    release("1.2.0", "3");
    let document = machine.km(["plugins", "refresh", "--json"]).expect(0).json();
    assert_eq!(
        (&document["plugins"][0]["action"], &document["plugins"][0]["version"]),
        (&"updated".into(), &"1.2.0".into())
    );
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let shop = Shop::open();
    let entry = |name: &str| {
        let packages = shop.engineer.index("big").packages;
        packages.into_iter().find(|entry| entry.name.as_str() == name).unwrap()
    };
    let head = shop.engineer.store().join(format!("manifests/{}", entry("sender").head_sha256));
    let bytes = std::fs::read(&head).unwrap();
    std::fs::write(&head, b"damaged").unwrap();
    let machine = shop.machine();
    let failed = shop.init(&machine, "big", &["--json"]);
    assert_ne!(failed.code, 0);
    let document = failed.json();
    let (done, _) = actions(&document);
    assert_eq!((done["auditor"].as_str(), done["logger"].as_str()), ("installed", "installed"));
    assert_eq!(done.get("sender").map(String::as_str), Some("failed"), "{document}");
    assert!(document["error"]["message"].as_str().unwrap().contains("sender"), "{document}");
    assert_eq!(listed(&machine).len(), 2);
    std::fs::write(&head, bytes).unwrap();
    assert_eq!(refreshed(&machine).0["sender"], "installed");
}

#[test]
fn another_customers_key_brings_that_customers_plugins() {
    let shop = Shop::open();
    let machine = shop.provisioned("pro");
    machine.km_with_input(["auth", "login", "--api-key", "-"], shop.keys["free"].as_bytes()).expect(0);
    assert_eq!(listed(&machine), plugins(&[("logger", "disabled"), ("sender", "disabled")]));
    let (done, _) = refreshed(&machine);
    assert_eq!(done["logger"], "updated");
    assert_eq!(listed(&machine), plugins(&[("logger", "installed"), ("sender", "disabled")]));
}

#[test]
fn without_the_api_nothing_is_made_up() {
    let mut shop = Shop::open();
    let machine = shop.provisioned("pro");
    let before = machine.snapshot();
    shop.server.stop();
    let refused = machine.km(["plugins", "refresh", "--json"]).expect(5).json();
    assert_eq!(refused["error"]["kind"], "unreachable");
    assert_eq!(machine.snapshot(), before);

    // A new machine: configured, and told that nothing could be provisioned.
    let new = shop.machine();
    shop.init(&new, "pro", &[]).expect(5);
    assert!(new.home().join("config/config.toml").is_file());
    assert!(listed(&new).is_empty());

    // A mirror of the folder does.
    let mirror = Mirror::of(&shop.engineer.store());
    let config = machine.home().join("config/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("mirrors = [\"{}\"]\n{text}", mirror.url())).unwrap();
    machine.km(["plugins", "remove", "logger", "--yes"]).expect(0);
    assert_eq!(refreshed(&machine).0, plugins(&[("logger", "installed"), ("sender", "kept")]));

    shop.server.run();
    shop.server.customers(&["revoke-key", "pro"]).expect(0);
    machine.km(["plugins", "refresh"]).expect(4);
    assert_eq!(listed(&machine).len(), 2);
}

/// Runs `km` and gives what it did with sockets, too.
fn with_sockets(machine: &TestEnvironment, arguments: &[&str]) -> (Finished, String) {
    let log = machine.path("strace.log");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=socket,connect", "-o", path(&log)]).arg(km_tests::binary("km"));
    let output = strace.args(arguments).env("KM_HOME", machine.home()).output().unwrap();
    (output.into(), std::fs::read_to_string(&log).unwrap())
}

#[test]
fn offline_says_what_it_would_need_and_opens_no_socket() {
    let shop = Shop::open();
    let machine = shop.provisioned("pro");
    machine.km(["plugins", "remove", "sender", "--yes"]).expect(0);
    let (offline, sockets) = with_sockets(&machine, &["plugins", "refresh", "--offline", "--json"]);
    let document = offline.expect(0).json();
    assert_eq!(document["needs"][0]["name"], "sender", "{document}");
    assert_eq!(sockets, "");
    // What opens one is seen.
    let (online, sockets) = with_sockets(&machine, &["plugins", "refresh"]);
    online.expect(0);
    assert!(sockets.contains("connect("), "{sockets}");
}

#[test]
fn installing_a_file_opens_no_socket() {
    let machine = TestEnvironment::trusting();
    machine.configure("http://127.0.0.1:9", "km_live_0123456789abcdef", "mirrors = [\"http://127.0.0.1:9\"]");
    let (installed, sockets) = with_sockets(&machine, &["plugins", "install", path(&packages().package)]);
    installed.expect(0);
    assert_eq!(sockets, "");
}

#[test]
fn two_servers_with_one_store_are_one() {
    let shop = Shop::open();
    let other = shop.server.beside(&[]);
    let machine = shop.provisioned("pro");
    let config = machine.home().join("config/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&shop.server.url(), &other.url())).unwrap();
    machine.km(["plugins", "remove", "logger", "--yes"]).expect(0);
    assert_eq!(refreshed(&machine).0["logger"], "installed");
}

#[test]
fn a_store_that_went_away_is_not_an_empty_one() {
    let shop = Shop::open();
    let machine = shop.provisioned("pro");
    let store = shop.engineer.store();
    let away = store.with_extension("away");
    std::fs::rename(&store, &away).unwrap();
    machine.km(["plugins", "refresh"]).expect(5);
    shop.init(&shop.machine(), "pro", &[]).expect(5);
    assert_eq!(listed(&machine).len(), 2);
    std::fs::rename(&away, &store).unwrap();
    machine.km(["plugins", "refresh"]).expect(0);
}

#[test]
fn only_what_is_locked_passes_and_what_is_locked_stays() {
    let shop = Shop::open();
    let machine = shop.provisioned("free");
    machine.km(["plugins", "lock"]).expect(0);
    machine.km(["plugins", "refresh", "--locked"]).expect(0);
    let package = shop.engineer.package_of("/bin/false", "logger", "1.1.0", "free", &["--sequence", "2"]);
    shop.engineer.run(&["publish", &package]).expect(0);
    let document = machine.km(["plugins", "refresh", "--locked", "--json"]).expect(0).json();
    assert_eq!(document["plugins"][0]["reason"], "locked; 1.1.0 is published");
    assert_eq!(document["plugins"][0]["version"], "1.0.0");
    machine.km(["plugins", "refresh"]).expect(0);
    // What is installed now is not what is locked.
    let refused = machine.km(["plugins", "refresh", "--locked", "--json"]).expect(7).json();
    assert_eq!(refused["plugins"][0]["action"], "failed");
}
