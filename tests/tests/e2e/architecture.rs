//! The floor plan of `docs/ARCHITECTURE.md`, held against the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use km_tests::workspace;

/// Who may depend on whom among our crates. Dev-dependencies are no arrows.
const ARROWS: [(&str, &[&str]); 11] = [
    ("km-proto", &[]),
    ("km-package", &[]),
    ("go-plugin", &[]),
    ("km-cli", &["km-package"]),
    ("km-api", &["km-package"]),
    ("km-plugin", &["km-proto", "go-plugin", "km-package", "km-api"]),
    ("km-plugin-console-logger", &["km-plugin"]),
    ("km-plugin-api-logger", &["km-plugin"]),
    ("km-pack", &["go-plugin", "km-api", "km-cli", "km-package", "km-proto"]),
    ("km", &["km-api", "km-cli", "km-package", "km-proto", "go-plugin"]),
    ("km-tests", &["go-plugin", "km-api", "km-pack", "km-package", "km-plugin", "km-proto"]),
];

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: Vec<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let mut found: Vec<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| dependency["name"].as_str().unwrap())
            .filter(|dependency| names.contains(dependency))
            .collect();
        let (_, drawn) =
            ARROWS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is not drawn"));
        let mut drawn = drawn.to_vec();
        found.sort_unstable();
        drawn.sort_unstable();
        assert_eq!(found, drawn, "{name}");
    }
}

#[test]
fn no_ring_and_one_tls_stack() {
    // What is compiled; the lock file also names what no feature turns on.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--prefix", "none", "--format", "{p}", "--edges", "all"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(has("rustls") && has("aws-lc-rs"), "{tree}");
    for banned in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(!has(banned), "{banned} is compiled in");
    }
}

/// The lines of production code of some folders: no tests (in `mod tests` or `tests.rs`), no comments.
fn code(folders: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for folder in folders {
        collect(&workspace().join(folder), &mut files);
    }
    assert!(!files.is_empty());
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let production = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = production.lines().filter(|line| !line.trim_start().starts_with("//"));
            let relative = path.strip_prefix(workspace()).unwrap().to_path_buf();
            files.insert(relative, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The files that use one of these words.
fn users(folders: &[&str], words: &[&str]) -> Vec<String> {
    let uses = |text: &String| words.iter().any(|word| text.contains(word));
    code(folders)
        .into_iter()
        .filter(|(_, text)| uses(text))
        .map(|(path, _)| path.display().to_string())
        .collect()
}

#[test]
fn only_one_module_of_a_command_reads_the_environment() {
    let words = ["env::var", "env::args", "env::temp_dir", "env::current_dir", "std::env::{"];
    assert_eq!(users(&["km/src"], &words), ["km/src/environment.rs"]);
    assert_eq!(users(&["km-pack/src"], &words), ["km-pack/src/environment.rs"]);
    let leaves = ["proto/package/src", "proto/cli/src", "proto/wire/src", "proto/api/src"];
    assert_eq!(users(&leaves, &words), [""; 0]);
}

#[test]
fn processes_are_started_in_one_place_each() {
    let words = ["Command::new", "libc::fork", "process::Command"];
    assert_eq!(users(&["km/src"], &words), ["km/src/host/guard.rs"]);
    let tools_and_shells = ["km-pack/src/automate/keeper.rs", "km-pack/src/compile/tool.rs"];
    assert_eq!(users(&["km-pack/src"], &words), tools_and_shells);
    assert_eq!(users(&["proto/process/src"], &words), ["proto/process/src/host/process.rs"]);
    assert_eq!(
        users(
            &[
                "proto/package/src",
                "proto/cli/src",
                "proto/wire/src",
                "proto/api/src",
                "km-plugin-template",
                "plugins"
            ],
            &words
        ),
        [""; 0]
    );
}

#[test]
fn only_km_pack_reads_private_keys() {
    let words =
        ["SigningKey", "from_pkcs8_pem", "KeypairBytes", "DecodePrivateKey", "EncodingKey", "Ed25519KeyPair"];
    let elsewhere = [
        "km/src",
        "km-plugin-template",
        "plugins",
        "proto/api/src",
        "proto/package/src",
        "proto/process/src",
        "proto/wire/src",
        "proto/cli/src",
    ];
    assert_eq!(users(&elsewhere, &words), [""; 0]);
    let words = ["from_pkcs8_pem", "std::fs::read(path).map(Zeroizing::new)"];
    assert_eq!(users(&["km-pack/src"], &words), ["km-pack/src/sign.rs"]);
}

#[test]
fn tokens_are_checked_in_one_place_and_signed_in_one() {
    let all = ["km/src", "km-pack/src", "km-plugin-template", "plugins", "proto/api/src"];
    assert_eq!(users(&all, &["jsonwebtoken::decode::<"]), ["proto/api/src/token.rs"]);
    // The conformance suite forges besides.
    let signing = ["km-pack/src/conformance/tokens.rs", "km-pack/src/token.rs"];
    assert_eq!(users(&all, &["jsonwebtoken::encode("]), signing);
}

#[test]
fn keys_and_tokens_are_revealed_only_where_they_are_sent() {
    let customer = [
        // To the API, into the cache, to the plugin; and into config.toml.
        "km/src/api/client.rs",
        "km/src/auth/cache.rs",
        "km/src/commands/init.rs",
        "km/src/host/authenticate.rs",
    ];
    assert_eq!(users(&["km/src"], &[".reveal()"]), customer);
    assert_eq!(users(&["plugins"], &["token.reveal()"]), ["plugins/api-logger/src/api.rs"]);
}

#[test]
fn certificates_are_always_checked() {
    let all = ["km/src", "km-pack/src", "km-plugin-template", "plugins", "proto/api/src"];
    assert_eq!(users(&all, &["danger_accept", "tls_danger", "dangerous("]), [""; 0]);
}

#[test]
fn packages_are_verified_by_one_function() {
    // Cryptography is called in one place, on signature blocks in two: packages and identities.
    let all = ["km/src", "km-pack/src", "km-plugin-template", "proto/package/src"];
    assert_eq!(users(&all, &["verify_strict"]), ["proto/package/src/key.rs"]);
    assert_eq!(users(&all, &[".holds("]), ["proto/package/src/signature.rs"]);
    // Whoever opens something untrusted hands it to verify(); inspect shows it as unchecked.
    let opening = users(&["km/src", "km-pack/src"], &["UntrustedPackage::open(", "Untrusted::installed("]);
    let verifying = users(&["km/src", "km-pack/src"], &[" verify("]);
    let only_looking: Vec<_> = opening.iter().filter(|path| !verifying.contains(path)).collect();
    assert_eq!(only_looking, ["km-pack/src/commands/inspect.rs"]);
}

#[test]
fn the_package_crate_knows_no_clock_no_network_and_no_processes() {
    let words = ["SystemTime", "Instant::now", "Timestamp::now", "std::net", "std::process", "tokio"];
    assert_eq!(users(&["proto/package/src"], &words), [""; 0]);
}

#[test]
fn the_relay_waits_for_nothing_but_its_two_pipes() {
    let relay = &code(&["km/src/monitor"])[Path::new("km/src/monitor/relay.rs")];
    for word in ["lock(", "recv(", "await", "join(", "sleep", "File::", "mpsc"] {
        assert!(!relay.contains(word), "the relay uses {word}");
    }
}

#[test]
fn pages_name_tests_that_are_there() {
    for page in ["docs/attacks.md", "docs/lifecycle.md"] {
        let text = std::fs::read_to_string(workspace().join(page)).unwrap();
        let names: Vec<(&str, &str)> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|quoted| quoted.split_once("::"))
            .filter(|(_, test)| *test != "*")
            .collect();
        assert!(names.len() > 30, "{page}: {names:?}");
        for (module, test) in names {
            let file = |program| workspace().join(format!("tests/tests/{program}/{module}.rs"));
            let read = |program| std::fs::read_to_string(file(program));
            let text = read("e2e").or_else(|_| read("heavy")).unwrap_or_else(|e| panic!("{module}: {e}"));
            assert!(text.contains(&format!("fn {test}()")), "{page}: {module}::{test} is not there");
        }
    }
}
