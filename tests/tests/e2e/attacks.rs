//! The attacks of `docs/attacks.md` on the way from the store to the customer: a hostile mirror or
//! server has everything but the release key.

use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use km_api::provision::{ProvisionAnswer, ProvisionedPlugin};
use km_pack::publish::Change;
use km_package::digest::Digest;
use km_package::index::IndexEntry;
use km_package::manifest::Time;
use km_package::signature::{Signature, SignatureBlock};
use km_package::tier::Tier;
use km_tests::engineer::now;
use km_tests::{Answer, Engineer, Finished, Mirror, TestEnvironment, Tiny, path, signed};

/// A published plugin `tiny` 1.0.0, a mirror of the store, and a customer who has nothing yet.
struct Scene {
    engineer: Engineer,
    mirror: Mirror,
    customer: TestEnvironment,
}

impl Scene {
    fn new() -> Self {
        let engineer = Engineer::new();
        engineer.release("tiny", "1.0.0", "c1", &["--sequence", "1"]);
        let mirror = Mirror::of(&engineer.store());
        let customer = TestEnvironment::empty();
        customer.km(["trust", "add", path(&engineer.public_key())]).expect(0);
        let scene = Self { engineer, mirror, customer };
        scene.mirrors(&[&scene.mirror]);
        scene
    }

    /// One where `tiny` is installed.
    fn provisioned() -> Self {
        let scene = Self::new();
        scene.refresh().expect(0);
        assert_eq!(scene.installed(), ["tiny 1.0.0"]);
        scene
    }

    fn mirrors(&self, mirrors: &[&Mirror]) {
        let urls: Vec<String> = mirrors.iter().map(|mirror| mirror.url()).collect();
        self.configure(&format!("mirrors = {urls:?}"));
    }

    fn configure(&self, more: &str) {
        let folder = self.customer.home().join("config");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("customer = \"c1\"\nstall_timeout = \"500ms\"\n{more}\n");
        std::fs::write(folder.join("config.toml"), text).unwrap();
    }

    fn refresh(&self) -> Finished {
        self.customer.km(["plugins", "refresh", "--json"])
    }

    /// Refreshes, and says what is said; nothing in the plugins' folder may have changed.
    fn refused(&self, code: i32) -> String {
        let before = self.plugins();
        let refused = self.refresh().expect(code);
        assert_eq!(self.plugins(), before);
        let document = refused.json();
        document["error"]["message"].as_str().unwrap_or_else(|| panic!("{document}")).to_owned()
    }

    fn installed(&self) -> Vec<String> {
        let listed = self.customer.km(["plugins", "list", "--json"]).expect(0).json();
        let plugins = listed["plugins"].as_array().unwrap();
        let text = |plugin: &serde_json::Value, key: &str| plugin[key].as_str().unwrap().to_owned();
        plugins
            .iter()
            .filter(|plugin| plugin["state"] == "installed")
            .map(|plugin| format!("{} {}", text(plugin, "name"), text(plugin, "version")))
            .collect()
    }

    /// Everything under `plugins/` but the last index that was seen.
    fn plugins(&self) -> Vec<std::path::PathBuf> {
        let plugins = self.customer.home().join("plugins");
        let index = plugins.join("index");
        let inside = |path: &std::path::PathBuf| {
            path.parent().is_some_and(|folder| folder.starts_with(&plugins)) && !path.starts_with(&index)
        };
        self.customer.snapshot().into_iter().map(|(path, _)| path).filter(inside).collect()
    }

    fn entry(&self) -> IndexEntry {
        self.engineer.index("c1").packages[0].clone()
    }

    /// Publishes these entries as they are, as somebody with the release key would by mistake.
    fn publish(&self, now: Time, lifetime: u64, entries: Vec<IndexEntry>) {
        let publisher = self.engineer.publisher_at(now, lifetime);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let customer = "c1".parse().unwrap();
        let added = runtime.block_on(publisher.change(&customer, &Change::Add(entries))).unwrap();
        if !added.changed {
            runtime.block_on(publisher.change(&customer, &Change::Renew)).unwrap();
        }
    }

    fn index_text(&self) -> String {
        std::fs::read_to_string(self.engineer.index_file("c1", "toml")).unwrap()
    }
}

fn later(time: Time, seconds: u64) -> Time {
    Time::from_unix(time.unix() + seconds).unwrap()
}

fn earlier(time: Time, seconds: u64) -> Time {
    Time::from_unix(time.unix() - seconds).unwrap()
}

/// A signature by a key that nobody trusts, under the id of one that is trusted.
fn forged(scene: &Scene, text: &[u8]) -> Vec<u8> {
    let key_id = scene.engineer.key().public().id();
    let bytes = SigningKey::from_bytes(&[9; 32]).sign(text).to_bytes();
    SignatureBlock::new(vec![Signature { key_id, bytes }]).to_bytes()
}

#[test]
fn t1_what_another_key_signed_is_not_installed() {
    let scene = Scene::new();
    let text = scene.index_text();
    scene.mirror.on("/index/c1.sig", Answer::Bytes(forged(&scene, text.as_bytes())));
    assert!(scene.refused(3).contains("does not hold"));

    // A package of theirs, under the name of the one that the index names.
    scene.mirror.behave();
    let entry = scene.entry();
    let head =
        std::fs::read(scene.engineer.store().join(format!("manifests/{}", entry.head_sha256))).unwrap();
    let manifest = head[8..head.len() - 80].to_vec();
    let other = [&head[..head.len() - 72], &forged(&scene, &manifest)[..]].concat();
    assert_eq!(other.len(), head.len());
    scene.mirror.on("/manifests", Answer::Bytes(other));
    scene.refused(3);

    // The same as a file.
    let stranger = Engineer::new();
    let package = stranger.package("tiny", "9.0.0", "c1", &[]);
    scene.customer.km(["plugins", "install", path(&stranger.path(&package))]).expect(3);
    scene.mirror.behave();
    scene.refresh().expect(0);
}

#[test]
fn t2_data_without_end_is_cut_off() {
    for answer in [Answer::Endless, Answer::Longer] {
        for place in ["/index/c1.toml", "/index/c1.sig", "/manifests", "/frames"] {
            let scene = Scene::new();
            scene.mirror.on(place, answer.clone());
            let before = Instant::now();
            let refused = scene.refresh();
            assert!([3, 5].contains(&refused.code), "{place} {answer:?}: {refused:?}");
            assert!(before.elapsed() < Duration::from_secs(20), "{place}");
            assert!(scene.installed().is_empty());
            let kept: usize = scene.customer.snapshot().iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(kept < 1 << 20, "{kept} bytes are kept");
            // Nothing of it stands in the way of the next attempt.
            scene.mirror.behave();
            scene.refresh().expect(0);
            assert_eq!(scene.installed(), ["tiny 1.0.0"]);
        }
    }
}

#[test]
fn t3_a_package_brings_nothing_but_itself() {
    let customer = Tiny::trusting();
    let tiny = Tiny::new("1.0.0", 1);
    let text = tiny.manifest().to_text();
    let payload = tiny.bytes()[signed(&text, b"").len()..].to_vec();
    let text = text.replace("[plugin]\n", "[plugin]\ndependencies = [\"other\", \"../../other\"]\n");
    let file = customer.path("dependent.kmpkg");
    std::fs::write(&file, signed(&text, &payload)).unwrap();
    customer.km(["plugins", "install", path(&file)]).expect(0);
    let listed = customer.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"].as_array().unwrap().len(), 1);
}

#[test]
fn t4_a_counter_driven_up_by_a_revoked_key_does_not_count() {
    let scene = Scene::provisioned();
    let thief = Engineer::new();
    scene.customer.km(["trust", "add", path(&thief.public_key())]).expect(0);
    let good = scene.index_text();
    let counter = scene.engineer.index("c1").counter;
    let far = good.replace(&format!("counter = {counter}"), &format!("counter = {}", i64::MAX));
    std::fs::create_dir_all(thief.store().join("index")).unwrap();
    thief.sign_index("c1", &far);
    for extension in ["toml", "sig"] {
        let bytes = std::fs::read(thief.index_file("c1", extension)).unwrap();
        scene.mirror.on(&format!("/index/c1.{extension}"), Answer::Bytes(bytes));
    }
    scene.refresh().expect(0);
    scene.mirror.behave();
    assert!(scene.refused(7).contains("older"));

    let id = thief.key().public().id().to_string();
    scene.customer.km(["trust", "remove", &id]).expect(0);
    scene.refresh().expect(0);
    scene.engineer.release("tiny", "1.1.0", "c1", &["--sequence", "2"]);
    scene.refresh().expect(0);
    assert_eq!(scene.installed(), ["tiny 1.1.0"]);
}

#[test]
fn t5_an_index_that_is_served_for_too_long_expires() {
    let scene = Scene::new();
    scene.publish(earlier(now(), 10_000), 5_000, vec![scene.entry()]);
    let expired = scene.engineer.index("c1");
    assert!(expired.expires < now());
    // The counter of the first is of the present; the customer has not seen it.
    assert!(scene.refused(3).contains("expired"));
    assert!(scene.installed().is_empty());
    scene.engineer.run(&["publish", "--renew"]).expect(0);
    scene.refresh().expect(0);
}

#[test]
fn t6_a_bad_mirror_does_not_keep_a_good_one_from_helping() {
    let garbage = || Answer::Bytes(vec![0x42; 40_000]);
    let answers = [
        Answer::Missing,
        Answer::Failing,
        Answer::Silence,
        Answer::Trickle,
        Answer::Endless,
        Answer::Longer,
        Answer::Cut(1000),
        garbage(),
        Answer::Redirect("http://192.0.2.1/".to_owned()),
        Answer::Redirect("file:///etc/passwd".to_owned()),
    ];
    let try_with = |answer: &Answer, place: &str| {
        let scene = Scene::new();
        let bad = Mirror::of(&scene.engineer.store());
        bad.on(place, answer.clone());
        scene.mirrors(&[&bad, &scene.mirror]);
        let refreshed = scene.refresh();
        assert_eq!(refreshed.code, 0, "{place} {answer:?}: {refreshed:?}");
        assert_eq!(scene.installed(), ["tiny 1.0.0"]);
        assert!(bad.asked(place) > 0, "{place} {answer:?}");
    };
    // Most of the time goes by waiting; three at once leave the others their share of the machine.
    std::thread::scope(|scope| {
        for place in ["/index", "/manifests", "/frames"] {
            let (answers, try_with) = (&answers, &try_with);
            scope.spawn(move || answers.iter().for_each(|answer| try_with(answer, place)));
        }
    });
}

#[test]
fn t7_documents_of_different_days_do_not_go_together() {
    let scene = Scene::new();
    let monday = (scene.index_text(), std::fs::read(scene.engineer.index_file("c1", "sig")).unwrap());
    let old = scene.entry();
    scene.engineer.release("tiny", "2.0.0", "c1", &["--sequence", "2"]);
    let new = scene.entry();

    scene.mirror.on("/index/c1.sig", Answer::Bytes(monday.1));
    scene.refused(3);
    scene.mirror.behave();
    scene.mirror.on("/index/c1.toml", Answer::Bytes(monday.0.into_bytes()));
    scene.refused(3);
    scene.mirror.behave();
    let old = std::fs::read(scene.engineer.store().join(format!("manifests/{}", old.head_sha256))).unwrap();
    scene.mirror.on(&format!("/manifests/{}", new.head_sha256), Answer::Bytes(old));
    scene.refused(3);
    assert!(scene.installed().is_empty());
}

#[test]
fn t8_nothing_older_comes_back() {
    let scene = Scene::provisioned();
    let old = (scene.index_text(), std::fs::read(scene.engineer.index_file("c1", "sig")).unwrap());
    let old_entry = scene.entry();
    scene.engineer.release("tiny", "2.0.0", "c1", &["--sequence", "2"]);
    scene.refresh().expect(0);
    assert_eq!(scene.installed(), ["tiny 2.0.0"]);

    // The index of before, as it was signed.
    scene.mirror.on("/index/c1.toml", Answer::Bytes(old.0.into_bytes()));
    scene.mirror.on("/index/c1.sig", Answer::Bytes(old.1));
    assert!(scene.refused(7).contains("older"));
    scene.customer.km(["plugins", "remove", "tiny", "--yes"]).expect(0);
    let _ = std::fs::remove_dir_all(scene.customer.home().join("cache"));
    assert!(scene.refused(7).contains("older"));

    // A new index that names what is older.
    scene.mirror.behave();
    scene.publish(later(now(), 1), 10_000, vec![old_entry]);
    assert!(scene.refused(7).contains("sequence"));
    assert!(scene.installed().is_empty());
    scene.customer.km(["plugins", "refresh", "--allow-downgrade"]).expect(0);
    assert_eq!(scene.installed(), ["tiny 1.0.0"]);
}

#[test]
fn t9_a_byte_now_and_then_is_not_waited_for() {
    for place in ["/index/c1.toml", "/manifests", "/frames"] {
        let scene = Scene::new();
        scene.mirror.on(place, Answer::Trickle);
        let message = scene.refused(5);
        assert!(message.contains("slow") || message.contains("time") || message.contains("KiB"), "{message}");
    }
}

#[test]
fn t10_signatures_count_by_key() {
    let scene = Scene::new();
    let good = std::fs::read(scene.engineer.index_file("c1", "sig")).unwrap();
    let stranger = Engineer::new().key().sign(scene.index_text().as_bytes());
    let stranger = SignatureBlock::new(vec![stranger]).to_bytes();
    for bad in [Vec::new(), good[..71].to_vec(), stranger.clone()] {
        scene.mirror.on("/index/c1.sig", Answer::Bytes(bad));
        scene.refused(3);
    }
    // Beside a good one, those of strangers and the same once more change nothing.
    for fine in [[&stranger[..], &good].concat(), [&good[..], &good].concat()] {
        scene.mirror.on("/index/c1.sig", Answer::Bytes(fine));
        scene.refresh().expect(0);
    }
}

#[test]
fn t11_another_package_than_the_one_that_is_named_is_refused() {
    let scene = Scene::new();
    scene.engineer.release("other", "3.0.0", "c1", &["--sequence", "9"]);
    let other = scene.engineer.index("c1").packages[0].clone();
    assert_eq!(other.name.as_str(), "other");
    let named = |entry: IndexEntry| IndexEntry { name: "tiny".parse().unwrap(), ..entry };
    scene.publish(later(now(), 1), 10_000, vec![named(other.clone())]);
    let refused = scene.refresh().expect(3).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("tiny"), "{refused}");
    assert_eq!(scene.installed(), ["other 3.0.0"]);

    // For another platform, called ours.
    let arm = Tiny { platform: "linux-arm64".parse().unwrap(), ..Tiny::new("1.0.0", 1) };
    let customer = Tiny::trusting();
    customer.km(["plugins", "install", path(&arm.write(&customer.path("")))]).expect(3);
}

#[test]
fn t12_a_clock_that_was_set_back_is_noticed() {
    let scene = Scene::new();
    scene.publish(later(now(), 86_400), 10_000, vec![scene.entry()]);
    assert!(scene.refused(3).contains("clock"));
    assert!(scene.installed().is_empty());
}

#[test]
fn t13_what_a_revoked_key_signed_is_neither_installed_nor_run() {
    let scene = Scene::provisioned();
    let id = scene.engineer.key().public().id().to_string();
    scene.customer.km(["trust", "remove", &id]).expect(0);
    scene.refused(3);
    assert!(scene.installed().is_empty());
    let listed = scene.customer.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["state"], "untrusted");
}

#[test]
fn t14_nothing_is_parsed_before_its_signature_holds() {
    let scene = Scene::new();
    let nested = format!("format = \"kmindex/1\"\nx = {}\n", "[".repeat(500_000));
    for hostile in [nested.into_bytes(), vec![0xff; 900_000], b"{\"signed\": 1}".to_vec(), Vec::new()] {
        scene.mirror.on("/index/c1.toml", Answer::Bytes(hostile));
        let message = scene.refused(3);
        assert!(message.contains("sign"), "{message}");
    }
    // Signed, it is refused for what it is.
    let deep = format!("format = \"kmindex/1\"\nx = {}\n", "[".repeat(500_000));
    scene.mirror.behave();
    scene.engineer.sign_index("c1", &deep);
    assert!(scene.refused(3).contains("cannot be read"));
}

#[test]
fn t15_names_are_never_paths() {
    let scene = Scene::new();
    let text = scene.index_text();
    for (from, to) in [
        ("name = \"tiny\"", "name = \"../../../tmp/x\""),
        ("name = \"tiny\"", "name = \"CON:\""),
        ("name = \"tiny\"", "name = \"\""),
        ("version = \"1.0.0\"", "version = \"../../x\""),
        ("platform = \"linux-amd64\"", "platform = \"../linux\""),
    ] {
        assert!(text.contains(from));
        scene.engineer.sign_index("c1", &text.replace(from, to));
        assert!(scene.refused(3).contains("cannot be read"), "{to}");
    }
    let config = scene.customer.home().join("config/config.toml");
    std::fs::write(config, "customer = \"../other\"\n").unwrap();
    scene.refresh().expect(1);
}

/// An API that says what it likes.
fn lying_api(scene: &Scene, change: impl FnOnce(&mut ProvisionAnswer)) -> Mirror {
    let entry = scene.entry();
    let url = format!("{}/{}", scene.mirror.url(), "whole.kmpkg");
    let mut answer = ProvisionAnswer {
        customer_id: "c1".parse().unwrap(),
        subscription_tier: Tier::Enterprise,
        plugins: vec![ProvisionedPlugin {
            name: entry.name.clone(),
            version: entry.version.clone(),
            required_tier: Tier::Free,
            download_url: url,
            sha256: Digest::of(b""),
            size: entry.size(),
            expires_at: jiff::Timestamp::now(),
            parts: Vec::new(),
        }],
        index: Some(scene.index_text()),
        index_signature: Some(ProvisionAnswer::encode_signature(
            &std::fs::read(scene.engineer.index_file("c1", "sig")).unwrap(),
        )),
        root: None,
    };
    change(&mut answer);
    let api = Mirror::of(&scene.engineer.store());
    api.on("/api/plugins/provision", Answer::Bytes(serde_json::to_vec(&answer).unwrap()));
    let config = format!("api_endpoint = \"{}\"\napi_key = \"km_live_0123456789abcdef\"", api.url());
    scene.configure(&config);
    api
}

/// Puts the package into the store's folder as one file.
fn whole(scene: &Scene) {
    let out = scene.engineer.path("whole");
    scene.engineer.run(&["fetch", "--customer", "c1", "--out", path(&out)]).expect(0);
    let file = std::fs::read_dir(out).unwrap().flatten().next().unwrap().path();
    std::fs::copy(file, scene.engineer.store().join("whole.kmpkg")).unwrap();
}

#[test]
fn i12_a_server_cannot_give_what_the_index_does_not_name() {
    // More than is published.
    let scene = Scene::new();
    whole(&scene);
    lying_api(&scene, |answer| {
        let more = ProvisionedPlugin { name: "other".parse().unwrap(), ..answer.plugins[0].clone() };
        answer.plugins.push(more);
    });
    scene.refresh().expect(0);
    assert_eq!(scene.installed(), ["tiny 1.0.0"]);

    // Somebody else's index.
    let scene = Scene::new();
    scene.engineer.release("tiny", "1.0.0", "c2", &["--sequence", "1"]);
    let read = |extension| std::fs::read(scene.engineer.index_file("c2", extension)).unwrap();
    let (text, signatures) = (read("toml"), read("sig"));
    lying_api(&scene, |answer| {
        answer.index = Some(String::from_utf8(text).unwrap());
        answer.index_signature = Some(ProvisionAnswer::encode_signature(&signatures));
    });
    assert!(scene.refused(4).contains("c2"));

    // An index that says more than was signed.
    let scene = Scene::new();
    lying_api(&scene, |answer| {
        answer.index = answer.index.take().map(|text| text.replace("Free", "Pro"));
    });
    scene.refused(3);
    assert!(scene.installed().is_empty());
}

#[test]
fn i12_the_api_key_goes_to_the_api_and_nowhere_else() {
    // The package lies elsewhere, and there it redirects to a third place.
    let scene = Scene::new();
    whole(&scene);
    let third = Mirror::of(&scene.engineer.store());
    scene.mirror.on("/whole.kmpkg", Answer::Redirect(format!("{}/whole.kmpkg", third.url())));
    let api = lying_api(&scene, |_| {});
    scene.refresh().expect(0);
    assert_eq!(scene.installed(), ["tiny 1.0.0"]);
    let carries_key = |mirror: &Mirror| {
        let seen = mirror.seen();
        assert!(!seen.is_empty());
        seen.iter().any(|seen| {
            let header = |line: &String| line.to_ascii_lowercase().starts_with("authorization:");
            seen.headers.iter().any(|line| header(line) || line.contains("km_live_"))
                || seen.path.contains("km_live_")
        })
    };
    assert!(carries_key(&api));
    assert!(!carries_key(&scene.mirror) && !carries_key(&third));

    // The API itself redirects: that is not followed.
    let scene = Scene::new();
    let other = Mirror::of(&scene.engineer.store());
    let api = lying_api(&scene, |_| {});
    api.on("/api/plugins/provision", Answer::Redirect(format!("{}/api/plugins/provision", other.url())));
    scene.refused(5);
    assert!(other.seen().is_empty());
}
