//! `km-pack new`: projects that build and are tested as they are, inside the checkout and anywhere else.
//! Those in Go, and the pages of projects, are in `tests/real`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use km_tests::{Finished, TestEnvironment, binary, copy_checkout, packages, path, workspace};
use serde_json::Value;

/// Where an author works. Libraries are compiled as in the checkout, so that what was compiled for its
/// plugins is there already.
fn author() -> TestEnvironment {
    let environment = TestEnvironment::trusting();
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let (_, dev) = manifest.split_once("[profile.dev]").unwrap();
    let (dev, _) = dev.split_once("\n# Small").unwrap();
    std::fs::create_dir(environment.path(".cargo")).unwrap();
    std::fs::write(environment.path(".cargo/config.toml"), format!("[profile.dev]{dev}")).unwrap();
    environment
}

fn target() -> PathBuf {
    binary("km").ancestors().nth(2).unwrap().to_path_buf()
}

/// A command as developers have it, in a folder; without network.
fn developer(program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", target());
    for name in ["KM_SIGNING_KEY", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

fn finished(mut command: Command) -> Finished {
    Finished::from(command.output().unwrap()).expect(0)
}

/// Runs cargo with the flags of `km-pack build`, where that compiles.
fn cargo(folder: &Path, arguments: &[&str]) -> Finished {
    let mut command = developer(env!("CARGO"), folder);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let flags = format!("target.'cfg(all())'.rustflags=[\"--remap-path-prefix={}=/cargo\"]", path(&home));
    command.args(arguments).args(["--config", &flags]).env("CARGO_TARGET_DIR", target().join("km-pack"));
    command.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    finished(command)
}

/// Builds a package of the plugin in a folder, and gives what is said of it.
fn build(folder: &Path, plugin: &str, out: &Path, more: &[&str]) -> Value {
    let mut command = developer(binary("km-pack"), folder);
    command.args(["build", "--json", "--debug", "--plugin", plugin, "--customer", "c", "--out", path(out)]);
    command.args(["--key", path(&packages().private_key)]).args(more);
    command.env("SOURCE_DATE_EPOCH", "1795305600");
    finished(command).json()["packages"][0].clone()
}

/// A package passes `km-pack test`, is installed, and prints its line in a session.
fn tested_and_seen(environment: &TestEnvironment, package: &Value, name: &str) {
    let package = package["path"].as_str().unwrap();
    let public_key = path(&packages().public_key);
    let tested = environment.km_pack(["test", package, "--key", public_key, "--json"]).expect(0).json();
    assert_eq!(tested["ok"], true, "{tested:#}");
    environment.km(["plugins", "install", package]).expect(0);
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{\"method\":\"hi\"}\n").expect(0);
    let seen = |line: &str| line.starts_with(&format!("[{name}] ")) && line.contains(" hi ");
    assert!(session.stderr.lines().any(seen), "{}", session.stderr);
}

/// All files of a folder, with their contents.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => open.push(path),
                path => {
                    found.push((path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap()))
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_new_plugin_is_built_anywhere_tested_and_seen() {
    let environment = author();
    // As customers get it: debug information names the folder it was compiled in.
    let config = environment.path(".cargo/config.toml");
    let with_it = std::fs::read_to_string(&config).unwrap();
    let without = with_it.replace("debug = \"line-tables-only\"", "debug = false");
    assert_ne!(without, with_it);
    std::fs::write(config, without).unwrap();
    let document = environment.km_pack(["new", "mine", "--json"]).expect(0).json();
    let told = ["path", "name", "language"].map(|key| document[key].as_str().unwrap());
    assert_eq!(told, ["mine", "mine", "rust"]);
    let project = environment.path("mine");
    let listed: Vec<PathBuf> = serde_json::from_value(document["files"].clone()).unwrap();
    assert_eq!(listed, files(&project).into_iter().map(|(path, _)| path).collect::<Vec<_>>());
    // Its own tests, at the versions of its lock file.
    let tests = cargo(&project, &["test", "--locked"]);
    assert!(tests.text().contains("line::tests::a_line_says_what_passed ... ok"), "{}", tests.text());
    finished({
        let mut format = developer(env!("CARGO"), &project);
        format.args(["fmt", "--check"]);
        format
    });
    let package = build(&project, ".", &environment.path("one"), &[]);
    tested_and_seen(&environment, &package, "mine");
    // Built again, and elsewhere: the same bytes.
    let again = build(&project, ".", &environment.path("two"), &[]);
    std::fs::create_dir(environment.path("else")).unwrap();
    let moved = environment.path("else/where");
    std::fs::rename(&project, &moved).unwrap();
    for (file, _) in
        files(&moved).iter().filter(|(file, _)| file.ends_with("lib.rs") || file.ends_with("main.rs"))
    {
        // cargo compiles it anew.
        let file = std::fs::File::options().append(true).open(moved.join(file)).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
    }
    let elsewhere = build(&environment.path("."), path(&moved), &environment.path("three"), &[]);
    for other in [again, elsewhere] {
        assert_eq!(other["tar_sha256"], package["tar_sha256"]);
    }
}

#[test]
fn a_plugin_that_needs_a_tier_says_so_wherever_it_is_read() {
    let environment = author();
    environment.km_pack(["new", "paid", "--tier", "pro", "--description", "It's \"paid\""]).expect(0);
    let package = build(&environment.path("paid"), ".", &environment.path("dist"), &["--tier", "Pro"]);
    let package = package["path"].as_str().unwrap();
    let manifest = environment.km_pack(["inspect", package, "--json"]).expect(0).json()["manifest"].clone();
    let plugin = &manifest["plugin"];
    assert_eq!((&plugin["required_tier"], &plugin["description"]), (&"Pro".into(), &"It's \"paid\"".into()));
    // What it says itself is compared there.
    let public_key = path(&packages().public_key);
    let tested = environment.km_pack(["test", package, "--key", public_key, "--json"]).expect(0).json();
    let said = |id: &str| {
        let checks = tested["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["detail"].clone()
    };
    assert_eq!((said("required-tier"), said("authenticate")), ("Pro".into(), "Pro, by a token".into()));
}

#[test]
fn a_new_plugin_in_the_checkout_is_a_member_and_nothing_else_is_edited() {
    let environment = author();
    let checkout = environment.path("checkout");
    copy_checkout(&checkout);
    let before = files(&checkout);
    // From anywhere inside.
    let mut new = environment.command("km-pack");
    new.args(["new", "mine", "--json"]).current_dir(checkout.join("docs"));
    let document = finished(new).json();
    let folder = checkout.join("plugins/mine").canonicalize().unwrap();
    assert_eq!(document["path"], path(&folder));
    let after = files(&checkout);
    let changed: Vec<&PathBuf> =
        after.iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
    let expected = ["Cargo.toml", "README.md", "src/line.rs", "src/main.rs"];
    assert_eq!(changed, expected.map(|file| Path::new("plugins/mine").join(file)).iter().collect::<Vec<_>>());

    cargo(&checkout, &["test", "-p", "km-plugin-mine"]);
    let package = build(&checkout, "mine", &environment.path("dist"), &[]);
    tested_and_seen(&environment, &package, "mine");

    // Names that are taken: by a plugin, and by the model, which lies elsewhere.
    let before = files(&checkout);
    for name in ["mine", "api-logger", "console-logger"] {
        let mut new = environment.command("km-pack");
        new.args(["new", name, "--json"]).current_dir(&checkout);
        let refused = Finished::from(new.output().unwrap()).expect(7).json();
        assert!(
            refused["error"]["message"].as_str().unwrap().contains("already the package in"),
            "{refused}"
        );
    }
    // Cargo would take a folder in Go for a package.
    let mut new = environment.command("km-pack");
    new.args(["new", "in-go", "--lang", "go"]).current_dir(checkout.join("plugins"));
    let refused = Finished::from(new.output().unwrap()).expect(2);
    assert!(refused.stderr.contains("--path"), "{}", refused.stderr);
    assert!(files(&checkout) == before);
}

#[test]
fn what_is_there_already_is_not_touched() {
    let environment = TestEnvironment::empty();
    std::fs::create_dir(environment.path("mine")).unwrap();
    std::fs::write(environment.path("mine/file"), "x").unwrap();
    std::fs::write(environment.path("file"), "x").unwrap();
    let before = files(&environment.path("."));
    for arguments in [&["new", "mine"][..], &["new", "file", "--lang", "go"], &["new", "b", "--path", "mine"]]
    {
        let refused = environment.km_pack(arguments.iter().copied()).expect(7);
        assert!(
            refused.stderr.contains("is there already") && refused.stderr.contains("help: "),
            "{refused:?}"
        );
    }
    environment.km_pack(["new", "b", "--path", "nowhere/b"]).expect(6);
    environment.km_pack(["new", "b", "--path", ".."]).expect(2);
    assert_eq!(files(&environment.path(".")), before);
}

#[test]
fn a_folder_that_takes_no_file_is_left_as_it_was() {
    let environment = TestEnvironment::empty();
    let mut new = environment.command("km-pack");
    // Files may have 8 KiB: the lock file has more.
    let script = format!("ulimit -f 16; trap '' XFSZ; exec \"{}\" new mine", path(&binary("km-pack")));
    new = {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(new.get_current_dir().unwrap());
        shell
    };
    let refused = Finished::from(new.output().unwrap()).expect(9);
    assert!(refused.stderr.contains("cannot write"), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(environment.path(".")).unwrap().count(), 0);
}

#[test]
fn names_are_those_of_plugins() {
    let environment = TestEnvironment::empty();
    for name in ["", "Mine", "1st", "-a", "my_plugin", "../up", "a b", "é", &"a".repeat(49)] {
        environment.km_pack(["new", "--", name]).expect(2);
    }
    for description in ["", "two\nlines"] {
        environment.km_pack(["new", "mine", "--description", description]).expect(2);
    }
    for arguments in [&["new"][..], &["new", "mine", "--update"], &["new", "mine", "--lang", "c"]] {
        environment.km_pack(arguments.iter().copied()).expect(2);
    }
    assert_eq!(std::fs::read_dir(environment.path(".")).unwrap().count(), 0);
}

/// What no Rust name may be is a plugin's name all the same.
#[test]
fn any_plugin_s_name_is_one_that_cargo_takes() {
    let environment = TestEnvironment::empty();
    for name in ["self", "fn", "test", "core", "a-", "a--b", &"a".repeat(48)] {
        environment.km_pack(["new", name]).expect(0);
        let mut metadata = developer(env!("CARGO"), &environment.path(name));
        metadata.args(["metadata", "--locked", "--format-version", "1"]);
        let metadata = finished(metadata).json();
        let packages = metadata["packages"].as_array().unwrap();
        assert!(packages.iter().any(|package| package["name"] == format!("km-plugin-{name}")));
    }
}

#[test]
fn the_lock_file_of_new_projects_is_that_of_the_checkout() {
    let environment = TestEnvironment::empty();
    environment.km_pack(["new", "mine"]).expect(0);
    let own = environment.path("mine/Cargo.lock");
    let project = std::fs::read_to_string(&own).unwrap();
    // cargo keeps of the checkout's what the project needs.
    std::fs::copy(workspace().join("Cargo.lock"), &own).unwrap();
    let mut metadata = developer(env!("CARGO"), &environment.path("mine"));
    metadata.args(["metadata", "--format-version", "1"]);
    finished(metadata);
    let fresh =
        std::fs::read_to_string(&own).unwrap().replace("\"km-plugin-mine\"", "\"km-plugin-{{name}}\"");
    let model = workspace().join("km-plugin-template/project/rust/Cargo.lock");
    if std::env::var_os("KM_REGENERATE").is_some() {
        std::fs::write(&model, &fresh).unwrap();
    }
    assert!(
        std::fs::read_to_string(&model).unwrap() == fresh,
        "{} has other versions than the checkout: KM_REGENERATE=1 cargo test -p km-tests --test e2e lock_file",
        model.display()
    );
    assert_eq!(fresh.replace("{{name}}", "mine"), project);
}

#[test]
fn update_brings_the_sdk_of_this_km_pack_and_nothing_else() {
    let environment = TestEnvironment::empty();
    environment.km_pack(["new", "mine"]).expect(0);
    let new = files(&environment.path("mine"));
    let update = |arguments: &[&str]| {
        environment.km_pack([&["new", "--update", "--path", "mine", "--json"], arguments].concat())
    };
    assert_eq!(update(&[]).expect(0).json()["action"], "kept");
    // An older SDK: with other files, without some, and with some that are gone today.
    std::fs::write(environment.path("mine/src/main.rs"), "fn main() {}").unwrap();
    let sdk = environment.path("mine/vendor/kilometers");
    std::fs::write(sdk.join("km-plugin/src/lib.rs"), "").unwrap();
    std::fs::remove_dir_all(sdk.join("km-api")).unwrap();
    std::fs::write(sdk.join("km-plugin/src/old.rs"), "").unwrap();
    let said = update(&[]).expect(0).json();
    assert_eq!((&said["action"], &said["path"]), (&"updated".into(), &"mine/vendor/kilometers".into()));
    let mut expected = new;
    for (path, bytes) in &mut expected {
        if path == Path::new("src/main.rs") {
            *bytes = b"fn main() {}".to_vec();
        }
    }
    assert!(files(&environment.path("mine")) == expected);
    // Where there is none.
    environment.km_pack(["new", "--update"]).expect(6);
    environment.km_pack(["new", "in-go", "--lang", "go"]).expect(0);
    environment.km_pack(["new", "--update", "--path", "in-go"]).expect(6);
}

#[test]
fn success_says_where_and_what_next() {
    let environment = TestEnvironment::empty();
    let mut expected = String::new();
    for (name, more, next) in [
        ("in-rust", &[][..], ["cargo build", "km-pack test target/debug/km-plugin-in-rust"]),
        ("in-go", &["--lang", "go"], ["go build -o km-plugin-in-go .", "km-pack test km-plugin-in-go"]),
        (
            "paid",
            &["--tier", "Pro"],
            ["km-pack keygen", "km-pack build --plugin . --customer customer_123 --tier Pro"],
        ),
    ] {
        let said = environment.km_pack([&["new", name], more].concat()).expect(0);
        assert_eq!(said.text(), format!("{name}\n"));
        expected.clear();
        write!(expected, "note: next:\n  cd {name}\n  {}\n  {}\n", next[0], next[1]).unwrap();
        assert_eq!(said.stderr, expected);
    }
}
