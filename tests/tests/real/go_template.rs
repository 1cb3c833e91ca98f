//! The template of a plugin in Go, from its source to a session; and packages read by a zstd that is
//! not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use km_tests::{Finished, TestEnvironment, binary, packages, path, workspace};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial;

const API_KEY: &str = "km_live_0123456789abcdefghijkl";

pub(crate) fn trials(go: &Result<PathBuf, String>, tools: &Result<PathBuf, String>) -> Vec<Trial> {
    vec![
        trial("the_go_template_keeps_its_own_tests", go, |_| own_tests()),
        trial("a_go_plugin_goes_from_its_source_to_a_session", go, |_| whole_way()),
        trial("a_go_plugin_is_the_same_wherever_it_is_built", go, |_| reproducible()),
        trial("a_go_plugin_may_lie_deeper_in_its_module", go, |_| deeper()),
        trial("a_go_plugin_that_needs_a_tier_runs_for_its_key", go, |_| paid()),
        trial("a_go_plugin_knows_when_it_was_tampered_with", go, |_| tampered()),
        trial("python_reads_a_package_across_its_frames", tools, |tools| python(tools)),
    ]
}

/// A key that is trusted, and the template as an author has it: copied out of this repository.
struct Author(TestEnvironment);

impl Author {
    fn new() -> Self {
        let environment = TestEnvironment::empty();
        environment.km_pack(["keygen"]).expect(0);
        environment.km(["trust", "add", "keys/release.pub.pem"]).expect(0);
        copy_template(&environment.path("mine"));
        Self(environment)
    }

    /// The template says something else.
    fn says(&self, line: &str, instead: &str) {
        let file = self.0.path("mine/km-plugin.toml");
        let text = std::fs::read_to_string(&file).expect("the template's");
        assert!(text.contains(line), "{text}");
        std::fs::write(file, text.replace(line, instead)).expect("written");
    }

    fn build(&self, arguments: &[&str]) -> Vec<Value> {
        self.build_in("mine", arguments)
    }

    /// Packages of a copy. Go finds its caches where it has them for everybody.
    fn build_in(&self, folder: &str, arguments: &[&str]) -> Vec<Value> {
        let output = Command::new(binary("km-pack"))
            .args(["build", "--plugin", folder, "--json"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", "target")
            .env("SOURCE_DATE_EPOCH", "1795305600")
            .env_remove("KM_SIGNING_KEY")
            .current_dir(self.0.path("."))
            .output()
            .expect("km-pack runs");
        Finished::from(output).expect(0).json()["packages"].as_array().expect("packages").clone()
    }

    fn manifest(&self, package: &Value) -> Value {
        self.0.km_pack(["inspect", file_of(package), "--json"]).expect(0).json()["manifest"].clone()
    }

    /// What `km-pack test` has not passed.
    fn not_passed(&self, package: &Value, more: &[&str]) -> Vec<String> {
        let test = ["test", file_of(package), "--key", "keys/release.pub.pem", "--json"];
        let document = self.0.km_pack([&test[..], more].concat()).expect(0).json();
        let checks = document["checks"].as_array().expect("checks").iter();
        let not_passed = checks.filter(|check| check["outcome"] != "passed");
        not_passed.map(|check| check["id"].as_str().expect("a name").to_owned()).collect()
    }

    /// The installed program.
    fn program(&self) -> PathBuf {
        self.0.home().join("plugins/km-plugin-go-logger")
    }
}

fn copy_template(to: &Path) {
    let template = workspace().join("km-plugin-template/go");
    let copied = Command::new("cp").args(["-r", path(&template), path(to)]).status();
    assert!(copied.expect("cp runs").success());
}

fn file_of(package: &Value) -> &str {
    package["path"].as_str().expect("a path")
}

fn run(program: &Path, argument: &str) -> (Option<i32>, String) {
    let output = Command::new(program).arg(argument).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn own_tests() {
    let template = workspace().join("km-plugin-template/go");
    for arguments in [&["vet", "./..."][..], &["test", "./..."]] {
        let output = Command::new("go").args(arguments).current_dir(&template).output().expect("go runs");
        assert!(output.status.success(), "{output:?}");
    }
}

fn whole_way() {
    let author = Author::new();
    let package = &author.build(&["--customer", "customer_123", "--tier", "Pro"])[0];
    let manifest = author.manifest(package);
    assert_eq!(manifest["protocol"]["versions"], serde_json::json!([1]));
    let toolchain = manifest["build"]["toolchain"].as_str().expect("a toolchain");
    assert!(toolchain.starts_with("go 1."), "{toolchain}");
    assert_eq!(manifest["payload"]["frames"].as_array().map(Vec::len), Some(3), "{manifest:#}");
    // What customers do not share is little.
    let after = manifest["files"][0]["size"].as_u64().unwrap_or_default()
        - manifest["identity"]["offset"].as_u64().unwrap_or_default();
    assert!(after < 1 << 20, "{after} bytes from the identity to the end");
    // Nothing of this machine is in it, and nothing is left where it was compiled.
    let left = std::fs::read_dir(author.0.path("target/km-pack/go")).expect("a folder").count();
    assert_eq!(left, 0);

    let expected = [
        "wrong-key",
        "describe",
        "token",
        "tokens-refused",
        "token-renewed",
        "deliver-early",
        "deliver",
        "deliver-large",
        "deliver-many",
        "deliver-resumed",
        "deliver-ended",
        // What the library of Go plugins leaves undone.
        "sigterm",
        "host-gone",
    ];
    assert_eq!(author.not_passed(package, &[]), expected);
    author.0.km(["plugins", "install", file_of(package)]).expect(0);
    let (code, version) = run(&author.program(), "--version");
    let base = manifest["build"]["base_sha256"].as_str().expect("a digest");
    let key = author.0.km_pack(["inspect", file_of(package), "--json"]).json()["key_ids"][0].clone();
    let key = key.as_str().expect("an id");
    let lines = format!("customer: customer_123\ntier: Pro\nsigned by: {key}\nbase sha256: {base}\n");
    assert_eq!((code, version), (Some(0), format!("km-plugin-go-logger 1.0.0\n{lines}")));
    let input = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\"}\n";
    let session = author.0.km_with_input(["monitor", "--", "cat"], input).expect(0);
    for direction in ["inbound ", "outbound"] {
        let line = format!("{direction} tools/call id=7 46 B");
        let shown = session.stderr.lines().any(|l| l.starts_with("[go-logger] ") && l.ends_with(&line));
        assert!(shown, "{line}: {}", session.stderr);
    }
}

/// For two customers and two platforms at once, and again in another folder.
fn reproducible() {
    let author = Author::new();
    copy_template(&author.0.path("another"));
    std::fs::write(author.0.path("customers.csv"), "id,tier\na,Free\nb,Pro\n").expect("written");
    let targets = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
    let list = ["--customers", "customers.csv", "--debug", "--target", targets[0], "--target", targets[1]];
    let [built, again] = ["mine", "another"].map(|folder| author.build_in(folder, &list));
    assert_eq!(built.len(), 4);
    assert_eq!(built, again);
    let manifests = built.iter().map(|package| author.manifest(package)).collect::<Vec<_>>();
    let base = |n: usize| &manifests[n]["build"]["base_sha256"];
    assert_eq!([0, 2].map(|n| &built[n]["platform"]), ["linux-amd64", "linux-arm64"]);
    assert!(base(0) == base(1) && base(2) == base(3) && base(0) != base(2), "{manifests:#?}");
}

/// One program of several in a module, which uses another by its folder.
fn deeper() {
    let author = Author::new();
    let script = "cd mine && mkdir -p cmd/logger && mv *.go km-plugin.toml cmd/logger/ && \
                  mv kilometersplugin ../shared && cd ../shared && printf 'module shared\n\ngo 1.26.0\n' > go.mod && \
                  cd ../mine && go mod edit -require=shared@v0.0.0 -replace=shared=../shared && \
                  sed -i 's#kilometers.example/plugin/kilometersplugin#shared#' cmd/logger/server.go";
    let moved = Command::new("sh").args(["-euc", script]).current_dir(author.0.path(".")).output();
    let moved = moved.expect("sh runs");
    assert!(moved.status.success(), "{moved:?}");
    let source = |author: &Author| {
        let package = author.build_in("mine/cmd/logger", &["--customer", "c", "--debug"]).remove(0);
        author.manifest(&package)["build"]["source_sha256"].clone()
    };
    let before = source(&author);
    assert_eq!(before, source(&author));
    // The other module is part of the source.
    std::fs::write(author.0.path("shared/more.go"), "package kilometersplugin\n").expect("written");
    assert_ne!(before, source(&author));
}

fn paid() {
    let author = Author::new();
    author.says("required_tier = \"Free\"", "required_tier = \"Pro\"");
    let whom = ["--customer", "customer_123", "--tier", "Pro", "--api-key", API_KEY, "--debug"];
    let package = &author.build(&whom)[0];
    // `wrong-key` is not skipped any more.
    let not_passed = author.not_passed(package, &["--api-key", API_KEY]);
    let expected = [
        "describe",
        "token",
        "tokens-refused",
        "token-renewed",
        "deliver-early",
        "deliver",
        "deliver-large",
        "deliver-many",
        "deliver-resumed",
        "deliver-ended",
        "sigterm",
        "host-gone",
    ];
    assert_eq!(not_passed, expected.map(str::to_owned));
    let test = ["test", file_of(package), "--key", "keys/release.pub.pem", "--api-key", "another"];
    let refused = author.0.km_pack(test).expect(8).text();
    assert!(refused.contains("the API key it was built for is needed"), "{refused}");
}

fn tampered() {
    let author = Author::new();
    let package = &author.build(&["--customer", "customer_123", "--debug"])[0];
    author.0.km(["plugins", "install", file_of(package)]).expect(0);
    let whole = std::fs::read(author.program()).expect("the program");
    let identity = b"customer = \"customer_123\"";
    let at = whole.windows(identity.len()).position(|window| window == identity).expect("its identity");
    let copy = author.0.path("copy");
    for (place, expected) in [
        (at + identity.len() - 2, "does not hold"),
        // The first of the identity's own key id: 72 bytes before the text, of which the tag comes first.
        (at - "format = \"kmid/1\"\nplugin = \"go-logger\"\nversion = \"1.0.0\"\n".len() - 72, "none of"),
    ] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        std::fs::write(&copy, changed).expect("written");
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("changed");
        let (code, said) = run(&copy, "--version");
        assert!(code == Some(1) && said.contains("customer: unknown\n") && said.contains(expected), "{said}");
    }
}

/// Frames in front that are skipped, then one or three that belong together.
fn python(tools: &Path) {
    let package = packages();
    let script = "import hashlib, sys, zstandard\n\
                  with open(sys.argv[1], 'rb') as file:\n    \
                      whole = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()\n\
                  print(hashlib.sha256(whole).hexdigest())";
    let output = Command::new(tools.join("python/bin/python"))
        .args(["-c", script, path(&package.package)])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(said, package.document["tar_sha256"].as_str().expect("a digest"), "{output:?}");
}
