//! `km-pack build`: batches, binaries of any language, several targets, and what is refused before
//! anything is compiled or written.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use km_package::identity::{KEYS_LEN, SLOT_LEN, api_key_digest, empty_keys, empty_slot};
use km_tests::{Finished, TestEnvironment, binary, path, workspace};
use serde_json::Value;

/// A place with a key.
fn workshop() -> TestEnvironment {
    let environment = TestEnvironment::empty();
    environment.km_pack(["keygen"]).expect(0);
    environment
}

/// Runs `km-pack build` there. The compilers find what they need; their target folder is of that place.
fn build(environment: &TestEnvironment, arguments: &[&str]) -> Finished {
    let command = &mut Command::new(binary("km-pack"));
    command.arg("build").args(arguments).env("CARGO_TARGET_DIR", "target").env_remove("KM_SIGNING_KEY");
    command.current_dir(environment.path(".")).output().unwrap().into()
}

fn build_binary(environment: &TestEnvironment, file: &str, arguments: &[&str]) -> Finished {
    let what = ["--binary", file, "--name", "mine", "--version", "1.0.0"];
    build(environment, &[&what, arguments].concat())
}

/// A program that was not compiled by us.
fn program() -> Vec<u8> {
    std::fs::read("/bin/true").unwrap()
}

/// The same with room for an identity, as any language can have it: found by its mark.
fn with_slot() -> Vec<u8> {
    [&program()[..], &empty_keys()[..], b"between", &empty_slot()[..], &[b'x'; 5000]].concat()
}

fn customers(n: usize) -> String {
    let line = |n: usize| match n % 2 {
        0 => format!("customer_{n},Pro,{}\n", api_key(n)),
        _ => format!("customer_{n},Free,\n"),
    };
    "id,tier,api_key\n".to_owned() + &(0..n).map(line).collect::<String>()
}

fn api_key(n: usize) -> String {
    format!("km_live_{n:024}")
}

fn packages(finished: Finished) -> Vec<Value> {
    finished.expect(0).json()["packages"].as_array().unwrap().clone()
}

fn manifest(environment: &TestEnvironment, package: &Value) -> Value {
    let inspected = environment.km_pack(["inspect", package["path"].as_str().unwrap(), "--json"]);
    inspected.expect(0).json()["manifest"].clone()
}

/// Everything that lies in a place.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.path().display().to_string();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
            found.insert(name, Vec::new());
        } else {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn fifty_packages_share_all_but_the_identity() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), with_slot()).unwrap();
    std::fs::write(environment.path("customers.csv"), customers(50)).unwrap();
    let built = build_binary(&environment, "mine", &["--customers", "customers.csv", "--json"]);
    assert!(built.stderr.is_empty(), "{}", built.stderr);
    let built = packages(built);
    assert_eq!(built.len(), 50);
    let paths: Vec<&str> = built.iter().map(|package| package["path"].as_str().unwrap()).collect();
    environment.km_pack([&["verify", "--key", "keys/release.pub.pem"], &paths[..]].concat()).expect(0);
    let first = manifest(&environment, &built[0]);
    for (n, package) in built.iter().enumerate() {
        let manifest = manifest(&environment, package);
        assert_eq!(manifest["customer"]["id"], format!("customer_{n}"));
        let key = (n % 2 == 0).then(|| api_key_digest(&api_key(n)).to_string());
        assert_eq!(manifest["customer"]["api_key_sha256"].as_str(), key.as_deref());
        assert_eq!(manifest["build"], first["build"]);
        assert_eq!(manifest["identity"]["size"], 4096);
        let frames = |manifest: &Value| manifest["payload"]["frames"].as_array().unwrap().clone();
        let (own, shared) = (frames(&manifest), frames(&first));
        assert_eq!((own.len(), &own[0], &own[2]), (3, &shared[0], &shared[2]));
        assert_eq!(own[1] == shared[1], n == 0);
        check_with_standard_tools(&environment, package);
    }
}

/// `zstd` and `tar` read it, and find the digest of its manifest.
fn check_with_standard_tools(environment: &TestEnvironment, package: &Value) {
    let script = "zstd -qt \"$1\" && zstd -dc \"$1\" | sha256sum && tar --zstd -tvf \"$1\" && zstd -dc \"$1\" | tar xf -";
    let output = Command::new("sh")
        .args(["-euc", script, "sh", package["path"].as_str().unwrap()])
        .current_dir(environment.path("."))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains(package["tar_sha256"].as_str().unwrap()), "{text}");
    assert!(text.contains("-rwxr-xr-x 0/0") && text.contains("km-plugin-mine"), "{text}");
    let status = Command::new(environment.path("km-plugin-mine")).status().unwrap();
    assert!(status.success(), "the program is as it was");
}

#[test]
fn api_keys_are_in_no_output_and_packages_are_the_same_again() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), with_slot()).unwrap();
    std::fs::write(environment.path("customers.csv"), customers(4)).unwrap();
    let list = ["--customers", "customers.csv", "--json", "-vvv"];
    let built = build_binary(&environment, "mine", &list);
    let mut written = files(&environment.path("dist"));
    written.insert("stdout".to_owned(), built.stdout.clone());
    written.insert("stderr".to_owned(), built.stderr.clone().into_bytes());
    for n in [0, 2] {
        let found = written.iter().find(|(_, bytes)| contains(bytes, &api_key(n)));
        assert!(found.is_none(), "{}", found.unwrap().0);
    }
    let built = packages(built);
    let again = packages(build_binary(&environment, "mine", &list));
    assert_eq!(built, again);
    assert_eq!(files(&environment.path("dist")).len(), 4);
    // Another time is another archive, but not another binary.
    let command = &mut environment.command("km-pack");
    command.args(["build", "--binary", "mine", "--name", "mine", "--version", "1.0.0"]).args(list);
    let later: Finished = command.env("SOURCE_DATE_EPOCH", "1795305600").output().unwrap().into();
    let later = packages(later);
    for (one, other) in built.iter().zip(&later) {
        assert_ne!(one["tar_sha256"], other["tar_sha256"]);
        let files = [one, other].map(|package| manifest(&environment, package)["files"].clone());
        assert_eq!(files[0], files[1]);
    }
}

#[test]
fn one_compilation_serves_fifty_customers() {
    let environment = workshop();
    std::fs::write(environment.path("customers.csv"), customers(50)).unwrap();
    let target = binary("km").ancestors().nth(2).unwrap().to_path_buf();
    let built: Finished = Command::new(binary("km-pack"))
        .args(["build", "--plugin", path(&workspace().join("km-plugin-template")), "--debug"])
        .args(["--customers", "customers.csv", "--publish", "--store", "store"])
        .env("CARGO_TARGET_DIR", target)
        .env_remove("KM_SIGNING_KEY")
        .current_dir(environment.path("."))
        .output()
        .unwrap()
        .into();
    let built = built.expect(0);
    assert_eq!(built.stderr.matches("Finished").count(), 1, "{}", built.stderr);
    let count = |folder: &str| std::fs::read_dir(environment.path(folder)).unwrap().count();
    assert_eq!((count("store/manifests"), count("store/frames")), (50, 52));
}

#[test]
fn a_list_that_is_wrong_builds_nothing() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), program()).unwrap();
    let twice = "[[customers]]\nid = \"a\"\ntier = \"Pro\"\n".repeat(2);
    for (name, text, expected) in [
        ("twice.toml", &*twice, "a is named twice"),
        ("twice.csv", "id,tier\na,Pro\nb,Pro\na,Free\n", "a is named twice"),
        ("key.toml", "[[customers]]\nid = \"a\"\ntier = \"Pro\"\nkey = \"x\"\n", "line 4: unknown field"),
        ("empty.csv", "id,tier\n", "it names no customer"),
    ] {
        std::fs::write(environment.path(name), text).unwrap();
        let refused = build_binary(&environment, "mine", &["--customers", name]).expect(2);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    build_binary(&environment, "mine", &["--customers", "missing.csv"]).expect(6);
    assert!(!environment.path("dist").exists());
}

#[test]
fn a_dry_run_compiles_and_writes_nothing() {
    let environment = workshop();
    std::fs::write(environment.path("customers.csv"), customers(3)).unwrap();
    let before = files(&environment.path("."));
    let template = workspace().join("km-plugin-template");
    let whom = ["--customers", "customers.csv", "--dry-run"];
    let planned = build(&environment, &[&["--plugin", path(&template), "--json"], &whom[..]].concat());
    let planned = planned.expect(0).json();
    assert_eq!((&planned["name"], &planned["out"]), (&"console-logger".into(), &"dist".into()));
    assert_eq!(planned["customers"][1], serde_json::json!({ "id": "customer_1", "tier": "Free" }));
    let said = build(&environment, &[&["--plugin", path(&template)], &whom[..]].concat()).expect(0).text();
    assert!(said.contains("3 customers: 1 Free, 2 Pro") && said.contains("into dist: 3 packages"), "{said}");
    assert_eq!(files(&environment.path(".")), before);
}

#[test]
fn a_tier_that_is_too_low_is_built_with_a_warning() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), program()).unwrap();
    std::fs::write(environment.path("customers.csv"), customers(4)).unwrap();
    let list = ["--customers", "customers.csv", "--json", "--required-tier", "pro"];
    let built = build_binary(&environment, "mine", &list);
    let warning = "mine needs tier Pro: stamped with Free for customer_1 and 1 more, who cannot install it";
    assert!(built.stderr.contains(warning), "{}", built.stderr);
    assert_eq!(packages(built).len(), 4);
}

#[test]
fn a_binary_without_a_slot_has_one_frame_and_its_manifest_says_whose_it_is() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), program()).unwrap();
    std::fs::write(environment.path("customers.csv"), customers(2)).unwrap();
    let list = ["--customers", "customers.csv", "--json", "--protocol", "1"];
    let built = build_binary(&environment, "mine", &list);
    assert!(built.stderr.contains("the manifest alone says whose it is"), "{}", built.stderr);
    let built = packages(built);
    let manifests = [0, 1].map(|n| manifest(&environment, &built[n]));
    assert_eq!(manifests[0]["payload"], manifests[1]["payload"]);
    for (manifest, package) in manifests.iter().zip(&built) {
        assert_eq!(manifest["payload"]["frames"].as_array().unwrap().len(), 1);
        assert!(manifest.get("identity").is_none_or(Value::is_null), "{manifest:#}");
        assert_eq!(manifest["files"][0]["sha256"], manifest["build"]["base_sha256"]);
        assert_eq!(manifest["protocol"]["versions"], serde_json::json!([1]));
        let verify = ["verify", "--key", "keys/release.pub.pem", package["path"].as_str().unwrap()];
        environment.km_pack(verify).expect(0);
        check_with_standard_tools(&environment, package);
    }
    let refused = build_binary(&environment, "mine", &["--customer", "c", "--protocol", "9"]).expect(2);
    assert!(refused.stderr.contains("none in common"), "{}", refused.stderr);
}

#[test]
fn version_is_the_plugin_s_in_this_command() {
    let environment = workshop();
    std::fs::write(environment.path("mine"), program()).unwrap();
    let built = build_binary(&environment, "mine", &["--customer", "c", "--json"]).expect(0).json();
    assert_eq!(built["packages"][0]["version"], "1.0.0");
    assert!(build(&environment, &["--version"]).expect(2).stderr.contains("a value is required"));
    build(&environment, &["--binary", "mine", "--name", "mine", "--customer", "c"]).expect(2);
    let half = ["--binary", "mine", "--name", "mine", "--version", "1", "--customer", "c"];
    build(&environment, &half).expect(2);
    build(&environment, &["--plugin", "x", "--version", "1.0.0", "--customer", "c"]).expect(2);
    assert!(environment.km_pack(["--version"]).expect(0).text().starts_with("km-pack "));
}

#[test]
fn what_is_no_executable_for_the_target_is_refused() {
    let environment = workshop();
    let put = |name: &str, bytes: &[u8]| std::fs::write(environment.path(name), bytes).unwrap();
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = program();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    put("text", b"hello\n");
    put("empty", b"");
    put("script", b"#!/bin/sh\nexit 0\n");
    put("cut", &program()[..100]);
    // Fields of the ELF header: type, machine, where it starts.
    put("object", &changed(16, &[1, 0]));
    put("riscv", &changed(18, &[0xf3, 0]));
    put("library", &changed(24, &[0; 8]));
    std::fs::create_dir(environment.path("folder")).unwrap();
    for (file, code, expected) in [
        ("text", 1, "text: this is not an executable"),
        ("empty", 1, "empty: this is not an executable"),
        ("script", 1, "script: this is a script"),
        ("cut", 1, "cut: this is not an executable"),
        ("object", 1, "object: this is a library or a piece of a program"),
        ("library", 1, "library: this is a library or a piece of a program"),
        ("riscv", 1, "riscv: packages are not made for Elf on Riscv64"),
        ("folder", 6, "folder is not a file"),
        ("missing", 6, "No such file"),
    ] {
        let refused = build_binary(&environment, file, &["--customer", "c"]).expect(code);
        assert!(refused.stderr.contains(expected), "{file}: {}", refused.stderr);
    }
    assert!(!environment.path("dist").exists());
}

#[test]
fn a_binary_is_for_the_platform_that_it_was_compiled_for() {
    let environment = workshop();
    let mut other = with_slot();
    let x86 = [62, 0];
    let (machine, triple) = match other[18..20] == x86 {
        true => ([183, 0], "aarch64-unknown-linux-gnu"),
        false => (x86, "x86_64-unknown-linux-gnu"),
    };
    let own = if machine == x86 { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
    other[18..20].copy_from_slice(&machine);
    std::fs::write(environment.path("mine"), other).unwrap();
    let built = packages(build_binary(&environment, "mine", &["--customer", "c", "--json"]));
    let named =
        packages(build_binary(&environment, "mine", &["--customer", "c", "--json", "--target", triple]));
    assert_eq!(built[0]["tar_sha256"], named[0]["tar_sha256"]);
    assert_eq!(manifest(&environment, &named[0])["target"]["triple"], triple);
    let refuse = |targets: &[&str], code: i32, expected: &str| {
        let refused = build_binary(&environment, "mine", &[&["--customer", "c"], targets].concat());
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        refused.expect(code);
    };
    refuse(&["--target", own], 1, "this executable is for linux-");
    refuse(&["--target", triple, "--target", triple], 2, "more than one target is linux-");
    refuse(&["--target", "aarch64-apple-darwin"], 2, "packages are not made for darwin-arm64");
    refuse(&["--target", "nonsense"], 2, "is not a platform");
}

#[test]
fn a_slot_is_filled_only_where_there_is_one_whole_and_empty() {
    let environment = workshop();
    let (keys, slot) = (&empty_keys()[..], &empty_slot()[..]);
    let program = program();
    let with = |pieces: &[&[u8]]| [&[&program[..]], pieces].concat().concat();
    let put = |name: &str, bytes: &[u8]| std::fs::write(environment.path(name), bytes).unwrap();
    let changed = |section: &[u8], at: usize| {
        let mut bytes = section.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    put("twice", &with(&[keys, slot, slot]));
    put("mark", &with(&[keys, slot, &slot[..16]]));
    put("keyless", &with(&[slot]));
    put("slotless", &with(&[keys]));
    put("cut", &with(&[keys, &slot[..SLOT_LEN - 1]]));
    put("capacity", &with(&[keys, &changed(slot, 20)]));
    put("not-zero", &with(&[keys, &changed(slot, SLOT_LEN - 1)]));
    put("keys-not-zero", &with(&[&changed(keys, KEYS_LEN - 1), slot]));
    put("mine", &with(&[keys, slot]));
    let built = packages(build_binary(&environment, "mine", &["--customer", "c", "--json"]));
    // It leaves km-plugin-mine behind.
    check_with_standard_tools(&environment, &built[0]);
    for (file, expected) in [
        ("twice", "the mark of .kmstamp is 2 times in the file"),
        ("mark", "the mark of .kmstamp is 2 times in the file"),
        ("keyless", "it has only one of the two"),
        ("slotless", "it has only one of the two"),
        ("cut", "its section .kmstamp is not 4096 bytes in the file"),
        ("capacity", "this is no .kmstamp section of a known layout"),
        ("not-zero", "the .kmstamp section is not zero after its used part"),
        ("keys-not-zero", "the .kmkeys section is not zero after its used part"),
        ("km-plugin-mine", "its identity slot is already filled"),
    ] {
        let refused = build_binary(&environment, file, &["--customer", "c"]).expect(1);
        assert!(refused.stderr.contains("cannot be stamped"), "{}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{file}: {}", refused.stderr);
    }
}

#[test]
fn a_target_that_is_not_installed_is_named_before_anything_is_compiled() {
    let environment = workshop();
    let template = workspace().join("km-plugin-template");
    let missing = "aarch64-unknown-linux-ohos";
    let targets = ["--target", "x86_64-unknown-linux-gnu", "--target", missing];
    let what = ["--plugin", path(&template), "--customer", "c", "--json"];
    let refused = build(&environment, &[&what[..], &targets].concat()).expect(6).json();
    assert_eq!(refused["error"]["help"], format!("rustup target add {missing}"));
    assert!(!environment.path("target").exists() && !environment.path("dist").exists());
}

#[test]
fn a_go_module_says_what_it_is_in_a_file_of_its_own() {
    let environment = workshop();
    let folder = environment.path("mine");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("go.mod"), "module mine\n").unwrap();
    let what = ["--plugin", "mine", "--customer", "c"];
    let missing = build(&environment, &what).expect(6);
    assert!(missing.stderr.contains("km-plugin.toml") && missing.stderr.contains("help: "), "{missing:?}");
    let text = "name = \"mine\"\nversion = \"1.0.0\"\ntier = \"Free\"\n";
    std::fs::write(folder.join("km-plugin.toml"), text).unwrap();
    let unknown = build(&environment, &what).expect(1);
    assert!(unknown.stderr.contains("km-plugin.toml, line 3: unknown field `tier`"), "{unknown:?}");
    std::fs::write(folder.join("km-plugin.toml"), "name = \"mine\"\nversion = \"1.0.0\"\n").unwrap();
    std::fs::create_dir(environment.path("other")).unwrap();
    std::fs::copy(folder.join("km-plugin.toml"), environment.path("other/km-plugin.toml")).unwrap();
    let no_module = build(&environment, &["--plugin", "other", "--customer", "c"]).expect(6);
    assert!(no_module.stderr.contains("other is in no Go module"), "{no_module:?}");
    let mut command = environment.command("km-pack");
    let without: Finished = command.arg("build").args(what).env("PATH", "/nowhere").output().unwrap().into();
    assert!(without.expect(6).stderr.contains("help: install Go: https://go.dev/dl"));
}

#[test]
fn compilers_see_no_secrets() {
    let environment = workshop();
    let put = |name: &str, text: &str| {
        let path = environment.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("mine/go.mod", "module mine\n");
    put("mine/km-plugin.toml", "name = \"mine\"\nversion = \"1.0.0\"\n");
    put("bin/go", "#!/bin/sh\nenv >> ../seen\nexit 1\n");
    let go = environment.path("bin/go");
    std::fs::set_permissions(go, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let key = std::fs::read_to_string(environment.path("keys/release.key.pem")).unwrap();
    let mut command = environment.command("km-pack");
    command.args(["build", "--plugin", "mine", "--customer", "c"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", path(&environment.path("bin"))));
    for (name, secret) in [
        ("KM_SIGNING_KEY", &*key),
        ("KM_API_KEY", "km_live_secret"),
        ("KILOMETERS_API_KEY", "km_live_secret"),
        ("KM_DATABASE", "postgres://secret@localhost/km"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "secret"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", "secret"),
    ] {
        command.env(name, secret);
    }
    let failed: Finished = command.output().unwrap().into();
    assert!(failed.expect(1).stderr.contains("go failed (exit status: 1)"));
    let seen = std::fs::read_to_string(environment.path("seen")).unwrap();
    assert!(seen.contains("GOWORK=off") && !seen.contains("secret"), "{seen}");
    assert!(!seen.contains("PRIVATE KEY"), "{seen}");
}
