//! Many at once change one plugin: each comes to its end, and what is left is whole.

use km_tests::{Finished, TestEnvironment, Tiny, path};

use km_tests::versions::{active_executable, expect_tidy};

const ROUNDS: usize = 5;

fn older() -> Tiny {
    Tiny::new("1.0.0", 1)
}

fn newer() -> Tiny {
    Tiny::new("1.1.0", 2)
}

/// Runs these commands at the same time.
fn at_once(environment: &TestEnvironment, commands: &[Vec<&str>]) -> Vec<Finished> {
    std::thread::scope(|scope| {
        let running: Vec<_> =
            commands.iter().map(|command| scope.spawn(|| environment.km(command.iter().copied()))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// What is installed verifies in full: it is no program, but its start was tried.
fn expect_sound(environment: &TestEnvironment) {
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    for plugin in status["plugins"].as_array().unwrap() {
        let found = (&plugin["state"], &plugin["health"], &plugin["error_kind"]);
        assert_eq!(found, (&"installed".into(), &"failed".into(), &"plugin".into()), "{plugin}");
    }
    expect_tidy(environment, "");
}

#[test]
fn twenty_at_once_install_two_versions_and_the_higher_one_stays() {
    for round in 0..ROUNDS {
        let environment = Tiny::trusting();
        let packages = [older(), newer()].map(|tiny| tiny.write(&environment.path("")));
        let install = |n: usize| vec!["plugins", "install", path(&packages[n % 2]), "--json"];
        let commands: Vec<_> = (0..20).map(install).collect();
        for (n, finished) in at_once(&environment, &commands).into_iter().enumerate() {
            if finished.code == 0 {
                continue;
            }
            // Nobody gave up waiting for the lock: the older one came after the newer one.
            assert_eq!((finished.code, n % 2), (7, 0), "{finished:?}");
            assert_eq!(finished.json()["error"]["rule"], 10, "{finished:?}");
        }
        assert_eq!(active_executable(&environment), Some(newer().executable()), "round {round}");
        expect_sound(&environment);
    }
}

#[test]
fn installing_removing_and_rolling_back_at_once_leaves_something_whole() {
    for round in 0..ROUNDS {
        let environment = Tiny::trusting();
        let package = newer().write(&environment.path(""));
        older().install(&environment);
        newer().install(&environment);
        let kinds = [
            vec!["plugins", "install", path(&package), "--json"],
            vec!["plugins", "rollback", "tiny", "--json"],
            vec!["plugins", "remove", "tiny", "--yes", "--if-present", "--json"],
            vec!["plugins", "list", "--json"],
        ];
        // The first two until the middle, then also what takes away.
        let order = (0..20).map(|n| kinds[if n < 8 { n % 2 } else { n % 4 }].clone());
        let commands: Vec<_> = order.collect();
        for (command, finished) in commands.iter().zip(at_once(&environment, &commands)) {
            // Rolling back what is removed, or has nothing before it, finds nothing.
            let nothing = command[1] == "rollback" && finished.code == 6;
            assert!(finished.code == 0 || nothing, "round {round}: {command:?}: {finished:?}");
        }
        let active = active_executable(&environment);
        let versions = [None, Some(older().executable()), Some(newer().executable())];
        assert!(versions.contains(&active), "round {round}");
        expect_sound(&environment);
        environment.km(["plugins", "install", path(&package)]).expect(0);
        assert_eq!(active_executable(&environment), Some(newer().executable()));
        expect_sound(&environment);
    }
}
