//! The store: what a crash leaves, what lies in its way, many at once.

use std::os::unix::fs::symlink;

use km_tests::{TestEnvironment, packages, path};

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
