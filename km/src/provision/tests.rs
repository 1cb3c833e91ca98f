//! Provisioning against a server and mirrors that answer as they like.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use km_api::provision::{ProvisionAnswer, ProvisionedPlugin};
use km_package::archive::{self, ArchiveFile};
use km_package::digest::Digest;
use km_package::envelope::Head;
use km_package::index::UntrustedIndex;
use km_package::key::PublicKey;
use km_package::manifest::{
    self, Build, FileEntry, Frame, Manifest, Payload, Permissions, Protocol, Target, Time,
};
use km_package::name::CustomerId;
use km_package::signature::{Signature, SignatureBlock};
use km_package::tier::Tier;
use zeroize::Zeroizing;

use super::server::{Server, send, write};
use super::*;
use crate::environment::{Environment, Secret, Variable};

const CREATED: u64 = 1_795_305_600;
const KEY: &str = "km_live_0123456789abcdef";

fn time(seconds: u64) -> Time {
    Time::from_unix(seconds).unwrap()
}

fn now() -> u64 {
    store::now().unwrap().unix()
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public_key() -> PublicKey {
    PublicKey::from_bytes(&signing_key().verifying_key().to_bytes()).unwrap()
}

fn sign(document: &str) -> SignatureBlock {
    let bytes = signing_key().sign(document.as_bytes()).to_bytes();
    SignatureBlock::new(vec![Signature { key_id: public_key().id(), bytes }])
}

/// A package in two pieces, and what an index says of it.
#[derive(Clone)]
struct Package {
    head: Vec<u8>,
    frame: Vec<u8>,
    entry: IndexEntry,
}

impl Package {
    fn new(name: &str, sequence: u64) -> Self {
        Self::of(name, sequence, Tier::Free, "customer_123")
    }

    fn of(name: &str, sequence: u64, required_tier: Tier, customer: &str) -> Self {
        let name: PluginName = name.parse().unwrap();
        let executable = format!("#!{name} {sequence} {customer}").into_bytes();
        let path = name.executable();
        let files = [ArchiveFile { path: &path, bytes: &executable, executable: true }];
        let tar = archive::write(&files, time(CREATED)).unwrap();
        let frame = archive::compress(&tar, 1).unwrap();
        let sha256 = Digest::of(&executable);
        let file = FileEntry { path, size: executable.len() as u64, sha256, executable: true };
        let manifest = Manifest::new(
            manifest::Plugin {
                name,
                version: semver::Version::new(sequence, 0, 0),
                sequence,
                description: String::new(),
                required_tier,
                expires: None,
            },
            manifest::Customer {
                id: customer.parse().unwrap(),
                tier: Tier::Enterprise,
                api_key_sha256: None,
            },
            Target { platform: Platform::current().unwrap(), triple: "x86_64-unknown-linux-gnu".to_owned() },
            Protocol { versions: vec![1, 2] },
            Build { created: time(CREATED), source_sha256: None, base_sha256: sha256, toolchain: None },
            None,
            Permissions::default(),
            Payload {
                size: frame.len() as u64,
                tar_size: tar.len() as u64,
                tar_sha256: Digest::of(&tar),
                frames: vec![Frame { size: frame.len() as u64, sha256: Digest::of(&frame) }],
            },
            vec![file],
        );
        let text = manifest.to_text();
        let head = Head::new(&text, &sign(&text));
        Self { entry: IndexEntry::of(&manifest, &head), head: head.to_bytes(), frame }
    }

    /// What the API says of it.
    fn offered(&self, server: &Server) -> ProvisionedPlugin {
        let bytes = [&self.head[..], &self.frame].concat();
        ProvisionedPlugin {
            name: self.entry.name.clone(),
            version: self.entry.version.clone(),
            required_tier: self.entry.required_tier,
            download_url: server.url(&format!("/download/{}?signature=secret", self.entry.file_name())),
            sha256: Digest::of(&bytes),
            size: bytes.len() as u64,
            expires_at: jiff::Timestamp::UNIX_EPOCH,
            parts: Vec::new(),
        }
    }
}

/// What a server has, by path.
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A server that is a mirror and an API at the same time.
struct Source {
    server: Server,
    objects: Objects,
}

impl Source {
    fn new() -> Self {
        let objects = Objects::default();
        let shared = Arc::clone(&objects);
        let server = Server::start(move |asked, connection| {
            let path = asked.path.split('?').next().unwrap();
            let found = shared.lock().unwrap().get(path).cloned();
            match found {
                Some(bytes) => send(asked, connection, &bytes),
                None => drop(write(&connection, "404 Not Found\r\nContent-Length: 0", b"")),
            }
        });
        Self { server, objects }
    }

    fn put(&self, path: String, bytes: &[u8]) {
        self.objects.lock().unwrap().insert(path, bytes.to_vec());
    }

    /// Publishes packages, and the index that names them.
    fn publish(&self, counter: u64, packages: &[Package]) -> String {
        for Package { head, frame, entry } in packages {
            self.put(format!("/manifests/{}", entry.head_sha256), head);
            self.put(format!("/frames/{}", Digest::of(frame)), frame);
            self.put(format!("/download/{}", entry.file_name()), &[&head[..], frame].concat());
        }
        self.publish_index(counter, packages.iter().map(|package| package.entry.clone()).collect())
    }

    fn publish_index(&self, counter: u64, entries: Vec<IndexEntry>) -> String {
        self.publish_index_of("customer_123", counter, entries)
    }

    fn publish_index_of(&self, customer: &str, counter: u64, entries: Vec<IndexEntry>) -> String {
        let (created, expires) = (time(now() - 10), time(now() + 1000));
        let text = Index::new(customer.parse().unwrap(), counter, created, expires, entries).to_text();
        self.put(format!("/index/{customer}.toml"), text.as_bytes());
        self.put(format!("/index/{customer}.sig"), &sign(&text).to_bytes());
        text
    }

    /// Publishes packages, and lets the API answer with the index and those of them that it allows.
    fn answer(&self, counter: u64, packages: &[Package], tier: Tier, allowed: &[&Package]) {
        let index = self.publish(counter, packages);
        let answer = ProvisionAnswer {
            customer_id: "customer_123".parse().unwrap(),
            subscription_tier: tier,
            plugins: allowed.iter().map(|package| package.offered(&self.server)).collect(),
            index_signature: Some(ProvisionAnswer::encode_signature(&sign(&index).to_bytes())),
            index: Some(index),
            root: None,
        };
        self.put(km_api::path::PROVISION.to_owned(), &serde_json::to_vec(&answer).unwrap());
    }

    /// The paths that were asked for since the last look, from a number of requests on.
    fn asked_since(&self, before: usize) -> Vec<String> {
        self.server.asked().split_off(before).into_iter().map(|asked| asked.path).collect()
    }
}

/// A customer's machine.
struct Machine {
    _folder: tempfile::TempDir,
    environment: Environment,
    home: Home,
}

impl Machine {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("km");
        let environment = Environment { km_home: Some(root.clone()), ..Environment::default() };
        let home = Home::find(&environment).unwrap();
        Trust::load(&home).unwrap().add(&home, &public_key()).unwrap();
        std::fs::create_dir_all(root.join("config")).unwrap();
        std::fs::write(home.config_file(), config).unwrap();
        Self { _folder: folder, environment, home }
    }

    /// One that knows its customer, and these mirrors.
    fn with_mirrors(mirrors: &[&Source]) -> Self {
        let urls: Vec<String> = mirrors.iter().map(|mirror| mirror.server.url("")).collect();
        Self::new(&format!("customer = 'customer_123'\nmirrors = {urls:?}\nstall_timeout = '500ms'\n"))
    }

    /// One that asks this API, and these mirrors.
    fn with_api(api: &str, mirrors: &[&Source]) -> Self {
        let mut machine = Self::with_mirrors(mirrors);
        machine.environment.api_endpoint = Some(Variable { name: "KM_API_ENDPOINT", value: api.to_owned() });
        let value = Secret(Zeroizing::new(KEY.to_owned()));
        machine.environment.api_key = Some(Variable { name: "KM_API_KEY", value });
        machine
    }

    fn refresh(&self) -> Result<serde_json::Value, Failure> {
        self.refresh_as(&Request::default())
    }

    fn refresh_as(&self, request: &Request) -> Result<serde_json::Value, Failure> {
        let (home, output) = (&self.home, &Output::default());
        let (trust, config) = (&Trust::load(home)?, &Config::load(home)?);
        let settings = &Settings::load(&self.environment, home, config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report =
            runtime.block_on(Provision { home, trust, config, settings, output }.refresh(request))?;
        Ok(serde_json::to_value(&report).unwrap())
    }

    /// What a refresh does: `name: action`.
    fn actions(&self) -> Vec<String> {
        actions(&self.refresh().unwrap())
    }

    fn installed(&self, name: &str) -> Option<u64> {
        Some(store::installed(&self.home, &name.parse().unwrap())?.sequence)
    }
}

fn actions(report: &serde_json::Value) -> Vec<String> {
    let plugins = report["plugins"].as_array().unwrap().iter();
    let action = |plugin: &serde_json::Value| {
        format!("{}: {}", plugin["name"].as_str().unwrap(), plugin["action"].as_str().unwrap())
    };
    plugins.map(action).collect()
}

#[test]
fn what_a_mirror_publishes_is_installed_kept_updated_and_removed() {
    let mirror = Source::new();
    let machine = Machine::with_mirrors(&[&mirror]);
    mirror.publish(1, &[Package::new("a", 1), Package::new("b", 1)]);
    let report = machine.refresh().unwrap();
    assert_eq!(actions(&report), ["a: installed", "b: installed"]);
    assert_eq!((&report["index"]["counter"], &report["index"]["source"]), (&1.into(), &"mirror".into()));
    assert!(!machine.home.downloads().exists());
    let before = mirror.server.asked().len();
    assert_eq!(machine.actions(), ["a: kept", "b: kept"]);
    assert_eq!(mirror.asked_since(before), ["/index/customer_123.toml", "/index/customer_123.sig"]);
    mirror.publish(2, &[Package::new("a", 2)]);
    assert_eq!(machine.actions(), ["a: updated", "b: removed"]);
    assert_eq!((machine.installed("a"), machine.installed("b")), (Some(2), None));
    // What is damaged is installed again.
    std::fs::write(machine.home.plugin(&"a".parse().unwrap()), "x").unwrap();
    assert_eq!(machine.actions(), ["a: updated"]);
}

#[test]
fn the_api_narrows_what_the_index_says_and_gets_the_key_alone() {
    let api = Source::new();
    let machine = Machine::with_api(&api.server.url(""), &[]);
    let (a, b) = (Package::new("a", 1), Package::of("b", 1, Tier::Pro, "customer_123"));
    let both = [a.clone(), b.clone()];
    api.answer(1, &both, Tier::Pro, &[&a, &b]);
    assert_eq!(machine.actions(), ["a: installed", "b: installed"]);
    let with_key = api.server.asked().into_iter().filter(|asked| asked.head.contains("km_live"));
    let paths: Vec<String> = with_key.map(|asked| asked.path).collect();
    assert_eq!(paths, [km_api::path::PROVISION]);

    api.answer(2, &both, Tier::Free, &[&a]);
    let report = machine.refresh().unwrap();
    assert_eq!(actions(&report), ["a: kept", "b: disabled"]);
    assert_eq!(report["plugins"][1]["reason"], "needs Pro, customer_123 has Free");
    let report = machine.refresh().unwrap();
    assert_eq!((actions(&report), &report["not_entitled"]), (vec!["a: kept".to_owned()], &vec!["b"].into()));
    api.answer(3, &both, Tier::Pro, &[&a, &b]);
    let report = machine.refresh().unwrap();
    assert_eq!(
        (actions(&report)[1].as_str(), &report["not_entitled"]),
        ("b: updated", &Vec::<u8>::new().into())
    );
    assert_eq!(report["plugins"][1]["reason"], "enabled again");
}

#[test]
fn what_the_tier_does_not_reach_is_not_installed() {
    let api = Source::new();
    let machine = Machine::with_api(&api.server.url(""), &[]);
    let (a, b) = (Package::new("a", 1), Package::of("b", 1, Tier::Pro, "customer_123"));
    api.answer(1, &[a.clone(), b], Tier::Free, &[&a]);
    let report = machine.refresh().unwrap();
    assert_eq!(
        (actions(&report), &report["not_entitled"]),
        (vec!["a: installed".to_owned()], &vec!["b"].into())
    );
    assert_eq!(machine.installed("b"), None);
}

#[test]
fn mirrors_stand_in_for_an_api_that_is_away_and_not_for_one_that_says_no() {
    let mirror = Source::new();
    mirror.publish(1, &[Package::new("a", 1)]);
    let away = Machine::with_api("http://127.0.0.1:1", &[&mirror]);
    assert_eq!(away.actions(), ["a: installed"]);
    let alone = Machine::with_api("http://127.0.0.1:1", &[]);
    assert_eq!(alone.refresh().unwrap_err().kind, Kind::Unreachable);

    let no = Server::start(|_, connection| {
        let body = br#"{"error":{"kind":"invalid-key","message":"nobody has this key"}}"#;
        write(&connection, "401 Unauthorized", body);
    });
    let refused = Machine::with_api(&no.url(""), &[&mirror]);
    assert_eq!(refused.refresh().unwrap_err().kind, Kind::Unauthorized);
    assert_eq!(refused.installed("a"), None);
    let nobody = Machine::new("");
    assert_eq!(nobody.refresh().unwrap_err().kind, Kind::Unauthorized);
}

#[test]
fn an_answer_for_another_customer_is_refused() {
    let api = Source::new();
    api.answer(1, &[], Tier::Pro, &[]);
    let machine = Machine::with_api(&api.server.url(""), &[]);
    std::fs::write(machine.home.config_file(), "customer = 'other'\n").unwrap();
    let failure = machine.refresh().unwrap_err();
    assert_eq!(failure.kind, Kind::Unauthorized);
    assert!(failure.help.unwrap().contains("km auth login"));
}

#[test]
fn an_older_index_is_refused_and_the_next_mirror_asked() {
    let (old, new) = (Source::new(), Source::new());
    let machine = Machine::with_mirrors(&[&old, &new]);
    old.publish(5, &[Package::new("a", 5)]);
    assert_eq!(machine.actions(), ["a: installed"]);
    old.publish(4, &[Package::new("a", 4)]);
    let failure = machine.refresh().unwrap_err();
    assert_eq!(failure.kind, Kind::Conflict, "{failure}");
    assert_eq!(machine.installed("a"), Some(5));
    new.publish(6, &[Package::new("a", 6)]);
    assert_eq!(machine.actions(), ["a: updated"]);
}

#[test]
fn two_files_that_do_not_match_are_read_once_more() {
    let source = Source::new();
    source.publish(1, &[Package::new("a", 1)]);
    let objects = Arc::clone(&source.objects);
    let between = Server::start(move |asked, connection| {
        let bytes = objects.lock().unwrap().get(&asked.path).cloned().unwrap_or_default();
        let stale = sign("the index before").to_bytes();
        send(asked, connection, if asked.number == 1 { &stale } else { &bytes });
    });
    let mirror = Source { server: between, objects: Objects::default() };
    let machine = Machine::with_mirrors(&[&mirror]);
    assert_eq!(machine.actions(), ["a: installed"]);
    assert_eq!(
        mirror.asked_since(0)[..4],
        [
            "/index/customer_123.toml",
            "/index/customer_123.sig",
            "/index/customer_123.toml",
            "/index/customer_123.sig"
        ]
    );
}

#[test]
fn a_signed_package_that_the_index_does_not_describe_costs_its_head() {
    let mirror = Source::new();
    let machine = Machine::with_mirrors(&[&mirror]);
    let (a, b) = (Package::new("a", 1), Package::new("b", 1));
    mirror.publish(1, &[a.clone(), b.clone()]);
    // The name of one, everything else of the other.
    let swapped = IndexEntry { name: "c".parse().unwrap(), ..b.entry };
    mirror.publish_index(2, vec![a.entry, swapped]);
    let before = mirror.server.asked().len();
    let report = machine.refresh().unwrap();
    assert_eq!(actions(&report), ["a: installed", "c: failed"]);
    assert_eq!(report["error"]["kind"], "untrusted");
    let frame = format!("/frames/{}", Digest::of(&b.frame));
    assert!(!mirror.asked_since(before).contains(&frame));
}

#[test]
fn one_that_cannot_be_downloaded_does_not_stop_the_others_and_is_continued() {
    let mirror = Source::new();
    let machine = Machine::with_mirrors(&[&mirror]);
    let (a, b) = (Package::new("a", 1), Package::new("b", 1));
    mirror.publish(1, &[a, b.clone()]);
    let frame = format!("/frames/{}", Digest::of(&b.frame));
    mirror.objects.lock().unwrap().remove(&frame);
    let report = machine.refresh().unwrap();
    assert_eq!(actions(&report), ["a: installed", "b: failed"]);
    assert_eq!(report["error"]["kind"], "unreachable");
    assert!(report["plugins"][1]["reason"].as_str().unwrap().contains("404"), "{report}");

    mirror.put(frame.clone(), &b.frame);
    let before = mirror.server.asked().len();
    assert_eq!(machine.actions(), ["a: kept", "b: installed"]);
    assert_eq!(mirror.asked_since(before)[2..], [frame], "the head was there already");
    assert!(!machine.home.downloads().exists());
}

#[test]
fn offline_opens_no_connection_and_says_what_is_needed() {
    let mirror = Source::new();
    let machine = Machine::with_mirrors(&[&mirror]);
    let offline = Request { offline: true, ..Request::default() };
    assert_eq!(machine.refresh_as(&offline).unwrap_err().kind, Kind::NotFound);
    let (a, b) = (Package::new("a", 1), Package::new("b", 1));
    mirror.publish(1, &[a, b.clone()]);
    machine.refresh().unwrap();
    store::remove(&machine.home, &"b".parse().unwrap()).unwrap();
    let before = mirror.server.asked().len();
    let report = machine.refresh_as(&offline).unwrap();
    assert_eq!((actions(&report), &report["index"]["source"]), (vec!["a: kept".to_owned()], &"last".into()));
    assert_eq!(report["needs"][0]["name"], "b");
    assert_eq!(report["needs"][0]["size"], b.entry.size());
    assert_eq!(mirror.server.asked().len(), before);
}

#[test]
fn nothing_published_changes_nothing_until_the_last_index_expires() {
    let api = Source::new();
    let machine = Machine::with_api(&api.server.url(""), &[]);
    let answer = serde_json::json!({"customer_id": "customer_123", "subscription_tier": "Pro", "plugins": [],
        "index": null, "index_signature": null});
    let nothing = || api.put(km_api::path::PROVISION.to_owned(), answer.to_string().as_bytes());
    nothing();
    assert_eq!(machine.actions(), [""; 0]);
    let a = Package::new("a", 1);
    api.answer(1, std::slice::from_ref(&a), Tier::Pro, &[&a]);
    machine.refresh().unwrap();
    nothing();
    assert_eq!(machine.actions(), ["a: kept"]);

    let customer: CustomerId = "customer_123".parse().unwrap();
    let expired = Index::new(customer.clone(), 1, time(now() - 10), time(now() - 5), Vec::new()).to_text();
    let signatures = sign(&expired).to_bytes();
    let expired = UntrustedIndex { text: expired.into_bytes(), signatures };
    std::fs::write(machine.home.last_index(&customer), expired.to_bytes()).unwrap();
    let failure = machine.refresh().unwrap_err();
    assert!(failure.kind == Kind::Untrusted && failure.message.contains("expired"), "{failure}");
    assert_eq!(machine.installed("a"), Some(1));
}

#[test]
fn a_package_of_another_customer_is_replaced_and_none_is_installed() {
    let mirror = Source::new();
    let machine = Machine::with_mirrors(&[&mirror]);
    let theirs = Package::of("a", 5, Tier::Free, "other");
    mirror.publish(1, std::slice::from_ref(&theirs));
    // Published by mistake: its head says whose it is.
    let report = machine.refresh().unwrap();
    assert_eq!((actions(&report), &report["error"]["rule"]), (vec!["a: failed".to_owned()], &6.into()));

    mirror.publish_index_of("other", 1, vec![theirs.entry]);
    let config = std::fs::read_to_string(machine.home.config_file()).unwrap();
    std::fs::write(machine.home.config_file(), config.replace("customer_123", "other")).unwrap();
    assert_eq!(machine.actions(), ["a: installed"]);
    std::fs::write(machine.home.config_file(), config).unwrap();
    mirror.publish(2, &[]);
    assert_eq!(machine.actions(), ["a: kept"], "that index says nothing of it");
    mirror.publish(3, &[Package::new("a", 1)]);
    assert_eq!(machine.actions(), ["a: updated"]);
    assert_eq!(machine.installed("a"), Some(1));
}

#[test]
fn a_mirror_that_stalls_is_left_for_the_next() {
    let (slow, good) = (Server::start(|_, _| std::thread::sleep(Duration::from_secs(10))), Source::new());
    let slow = Source { server: slow, objects: Objects::default() };
    good.publish(1, &[Package::new("a", 1)]);
    assert_eq!(Machine::with_mirrors(&[&slow, &good]).actions(), ["a: installed"]);
}
