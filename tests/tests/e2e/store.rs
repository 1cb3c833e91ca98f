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
        environment.km(["plugins", "remove", "console-logger", "--if-present"]).expect(0);
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
