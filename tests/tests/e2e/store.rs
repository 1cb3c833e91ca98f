//! The store: what a crash leaves, what lies in its way, many at once.

use std::os::unix::fs::symlink;

use km_tests::{TestEnvironment, Tiny, packages, path, signed};

use km_tests::versions::{active_executable, active_path, link};

#[test]
fn links_in_the_place_of_folders_are_not_followed() {
    let precious = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(precious.path().join("folder")).unwrap();
    std::fs::write(precious.path().join("folder/file"), "precious").unwrap();
    for place in ["plugins/.staging", "plugins/store/console-logger"] {
        let environment = TestEnvironment::trusting();
        let place = environment.home().join(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        symlink(precious.path(), &place).unwrap();
        environment.km(["plugins", "install", path(&packages().package)]).expect(9);
        environment.km(["plugins", "remove", "console-logger", "--if-present"]);
        assert_eq!(std::fs::read_to_string(precious.path().join("folder/file")).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(precious.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_a_crash_left_is_swept_and_nothing_else() {
    let environment = TestEnvironment::trusting();
    let plugins = environment.home().join("plugins");
    let versions = plugins.join("store/console-logger");
    for folder in
        [plugins.join(".staging/unpacking-crashed"), versions.join("0.9.0-01234567"), versions.join("mine")]
    {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
    }
    environment.km(["plugins", "install", path(&packages().package)]).expect(0);
    assert!(!plugins.join(".staging").exists());
    assert!(!versions.join("0.9.0-01234567").exists());
    assert!(versions.join("mine/file").exists());
}

#[test]
fn installing_again_repairs_what_was_damaged() {
    let environment = TestEnvironment::with_console_logger();
    let executable =
        std::fs::canonicalize(environment.home().join("plugins/km-plugin-console-logger")).unwrap();
    let version = executable.parent().unwrap();
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("km-plugin-console-logger", |file| std::fs::remove_file(file).unwrap()),
        ("km-plugin-console-logger", |file| std::fs::write(file, "other").unwrap()),
        (".signatures", |file| std::fs::write(file, [0; 72]).unwrap()),
        (".manifest.toml", |file| std::fs::write(file, "other").unwrap()),
    ];
    for (file, damage) in damages {
        damage(&version.join(file));
        let state = |document: serde_json::Value| document["plugins"][0]["health"].clone();
        assert_eq!(state(environment.km(["plugins", "status", "--json"]).json()), "not started", "{file}");
        environment.km(["plugins", "install", path(&packages().package)]).expect(0);
        assert_eq!(state(environment.km(["plugins", "status", "--json"]).json()), "serving", "{file}");
    }
}

#[test]
fn a_fifo_in_the_place_of_a_file_stops_nothing() {
    let environment = TestEnvironment::with_console_logger();
    let executable =
        std::fs::canonicalize(environment.home().join("plugins/km-plugin-console-logger")).unwrap();
    let version = executable.parent().unwrap().to_path_buf();
    let home = environment.home();
    for (file, code) in [
        (home.join("trust/x.pub.pem"), 0),
        (version.join(".receipt.toml"), 0),
        (version.join(".manifest.toml"), 0),
        (version.join(".signatures"), 0),
        (home.join("trust/allowed.toml"), 9),
        (home.join("config/config.toml"), 9),
    ] {
        let before = std::fs::read(&file).ok();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&file);
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        environment.km(["plugins", "list"]).expect(code);
        let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
        assert_eq!(session.text(), "{}\n");
        std::fs::remove_file(&file).unwrap();
        if let Some(bytes) = before {
            std::fs::write(&file, bytes).unwrap();
        }
    }
    environment.km(["trust", "add", "/dev/zero"]).expect(9);
}

#[test]
fn a_folder_in_the_place_of_the_link_is_refused_before_anything_is_written() {
    let environment = TestEnvironment::trusting();
    std::fs::create_dir_all(environment.home().join("plugins/km-plugin-console-logger/x")).unwrap();
    let before = environment.snapshot();
    environment.km(["plugins", "install", path(&packages().package)]).expect(9);
    assert_eq!(environment.snapshot(), before);
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let environment = TestEnvironment::with_console_logger();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = environment.command("km").args(["plugins", "list", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(9));
}

#[test]
fn twenty_at_once_install_one_plugin() {
    let environment = TestEnvironment::trusting();
    let actions: Vec<String> = std::thread::scope(|scope| {
        let install = || {
            let done =
                environment.km(["plugins", "install", path(&packages().package), "--json"]).expect(0).json();
            done["plugins"][0]["action"].as_str().unwrap().to_owned()
        };
        let running: Vec<_> = (0..20).map(|_| scope.spawn(install)).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(actions.iter().filter(|action| *action == "installed").count(), 1, "{actions:?}");
    assert_eq!(actions.iter().filter(|action| *action == "kept").count(), 19, "{actions:?}");
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["state"], "installed");
    assert!(!environment.home().join("plugins/.staging").exists());
}

#[test]
fn what_was_put_in_the_place_of_the_executable_is_not_run() {
    let original = Tiny::new("1.0.0", 1);
    type Swap = fn(&std::path::Path, &std::path::Path);
    let swaps: [(&str, Swap); 5] = [
        ("other bytes of the same length", |place, _| {
            let length = std::fs::metadata(place).unwrap().len();
            std::fs::write(place, vec![b'x'; length as usize]).unwrap();
        }),
        ("another file", |place, other| std::fs::rename(other, place).unwrap()),
        ("a hard link to another file", |place, other| {
            std::fs::remove_file(place).unwrap();
            std::fs::hard_link(other, place).unwrap();
        }),
        ("a link to the very bytes", |place, other| {
            std::fs::rename(place, other).unwrap();
            symlink(other, place).unwrap();
        }),
        ("a folder", |place, _| {
            std::fs::remove_file(place).unwrap();
            std::fs::create_dir(place).unwrap();
        }),
    ];
    for (what, swap) in swaps {
        let environment = Tiny::trusting();
        original.install(&environment);
        let other = environment.path("other");
        std::fs::write(&other, Tiny::new("6.6.6", 666).executable()).unwrap();
        swap(&active_path(&environment), &other);
        let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
        let plugin = &status["plugins"][0];
        let found = (&plugin["health"], &plugin["error_kind"]);
        assert_eq!(found, (&"not started".into(), &"untrusted".into()), "{what}: {plugin}");
    }
}

#[test]
fn folders_that_anybody_can_write_to_let_nobody_run_anything() {
    use std::os::unix::fs::PermissionsExt as _;
    let environment = Tiny::trusting();
    let plugins = environment.home().join("plugins");
    std::fs::create_dir_all(plugins.join("store/tiny")).unwrap();
    for folder in ["plugins", "plugins/store", "plugins/store/tiny"] {
        let folder = environment.home().join(folder);
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    Tiny::new("1.0.0", 1).install(&environment);
    let state =
        || environment.km(["plugins", "list", "--json"]).expect(0).json()["plugins"][0]["state"].clone();
    assert_eq!(state(), "installed");
    // Somebody else's version, which nobody signed, and a link to it.
    let version = active_path(&environment).parent().unwrap().to_path_buf();
    let forged = version.with_file_name("6.6.6-66666666");
    std::fs::create_dir(&forged).unwrap();
    for entry in std::fs::read_dir(&version).unwrap().flatten() {
        std::fs::copy(entry.path(), forged.join(entry.file_name())).unwrap();
    }
    std::fs::write(forged.join("km-plugin-tiny"), "#!/bin/sh\n").unwrap();
    for target in [
        "store/tiny/6.6.6-66666666/km-plugin-tiny",
        "store/tiny/../tiny/6.6.6-66666666/km-plugin-tiny",
        "/bin/true",
    ] {
        std::fs::remove_file(link(&environment)).unwrap();
        symlink(target, link(&environment)).unwrap();
        assert!(["untrusted", "unsigned"].contains(&state().as_str().unwrap()), "{target}: {}", state());
    }
    // Installing is all that it takes to be right again.
    Tiny::new("1.0.0", 1).install(&environment);
    assert_eq!(active_executable(&environment), Some(Tiny::new("1.0.0", 1).executable()));
    assert!(!forged.exists());
}

#[test]
fn what_a_signed_manifest_says_is_no_path_and_no_command() {
    let environment = Tiny::trusting();
    let original = Tiny::new("1.0.0", 1);
    let package = original.bytes();
    let head = km_package::envelope::Head::read(&mut &package[..]).unwrap();
    let payload = &package[head.to_bytes().len()..];
    let manifest = String::from_utf8(head.manifest).unwrap();
    let file = environment.path("candidate.kmpkg");
    let before = environment.snapshot();
    for (key, value, bad) in [
        (
            "version",
            "1.0.0",
            &["../1.0.0", "1.0.0/../../..", "/1.0.0", "1.0.0+../x", "1.0.0-$(id)", "1.0.0\\n", ""][..],
        ),
        ("name", "tiny", &["../tiny", "tiny/..", ".", "-tiny", "tiny\\u001b[2J", "$(id)", "tiny\\u0000"]),
        ("id", "customer_123", &["../other", "a/b", "", "\\n", "$(id)"]),
        ("path", "notes.txt", &["../notes.txt", "/etc/passwd", ".manifest.toml", "notes.txt\\n"]),
        ("platform", &original.platform.to_string(), &["../linux", "linux/amd64"]),
    ] {
        for bad in bad {
            let [from, to] = [value, bad].map(|text| format!("\n{key} = \"{text}\"\n"));
            assert!(manifest.contains(&from), "{from}");
            std::fs::write(&file, signed(&manifest.replacen(&from, &to, 1), payload)).unwrap();
            let refused = environment.km(["plugins", "install", path(&file), "--json"]).expect(3);
            assert_eq!(refused.json()["error"]["rule"], 4, "{to}: {refused:?}");
            assert_eq!(environment.snapshot(), before, "{to}");
        }
    }
}
