//! nginx as a dumb file server of a store, and as the balancer in front of two servers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use km_tests::nginx::Nginx;
use km_tests::postgres::Postgres;
use km_tests::{ApiServer, Engineer, TestEnvironment, path, wait_until};
use libtest_mimic::Trial;

use crate::trial;

/// How many customers refresh, and how often a server is killed meanwhile.
const CUSTOMERS: usize = 120;
const KILLS: usize = 6;

pub(crate) fn trials(nginx: &Result<PathBuf, String>, postgres: &Result<PathBuf, String>) -> Vec<Trial> {
    let both = nginx.clone().and_then(|nginx| Ok((nginx, postgres.clone()?)));
    vec![
        trial("nginx_is_all_that_a_customer_needs", nginx, |nginx| from_nginx(nginx)),
        trial("one_of_two_servers_is_killed_under_load", &both, |(nginx, postgres)| killed(nginx, postgres)),
    ]
}

/// No server of ours: a folder, nginx, and signatures.
fn from_nginx(nginx: &Path) {
    let engineer = Engineer::new();
    for (name, customer) in [("logger", "c1"), ("sender", "c1"), ("logger", "c2")] {
        engineer.release(name, "1.0.0", customer, &[]);
    }
    let nginx = Nginx::serving(nginx, &engineer.store());
    let customer = TestEnvironment::empty();
    customer.km(["trust", "add", path(&engineer.public_key())]).expect(0);
    let folder = customer.home().join("config");
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = format!("customer = \"c1\"\nmirrors = [\"{}\"]\n", nginx.url());
    std::fs::write(folder.join("config.toml"), config).expect("written");

    let document = customer.km(["plugins", "refresh", "--json"]).expect(0).json();
    let actions: Vec<&str> =
        document["plugins"].as_array().expect("some").iter().filter_map(|p| p["action"].as_str()).collect();
    assert_eq!(actions, ["installed", "installed"], "{document}");
    let log = nginx.log();
    assert!(log.contains("GET /index/c1.toml") && log.contains("GET /frames/"), "{log}");
    assert!(!log.contains("/index/c2"), "{log}");
    // Both are the same program: the frame they share is asked for as often as is needed, and no more.
    let before = nginx.log().lines().count();
    customer.km(["plugins", "refresh"]).expect(0);
    let asked = nginx.log().lines().count() - before;
    assert_eq!(asked, 2, "{}", nginx.log());
}

/// Customers refresh through a balancer; in the midst of it the servers are killed, one at a time.
fn killed(nginx: &Path, postgres: &Path) {
    let postgres = Postgres::start(postgres);
    let engineer = Engineer::new();
    let ids: Vec<String> = (0..CUSTOMERS).map(|number| format!("customer-{number}")).collect();
    let rows: String = ids.iter().map(|id| format!("{id},Pro\n")).collect();
    std::fs::write(engineer.path("customers.csv"), format!("id,tier\n{rows}")).expect("written");
    let server = ApiServer::on(&postgres.url(), &[]);
    let other = server.beside(&[]);
    let mut servers = [server, other];
    let build = ["build", "--binary", "/bin/true", "--version", "1.0.0", "--customers", "customers.csv"];
    for name in ["logger", "sender"] {
        let more = ["--name", name, "--publish", "--store", servers[0].store()];
        engineer.run(&[&build[..], &more].concat()).expect(0);
    }
    let keys: Vec<String> = ids.iter().map(|id| servers[0].add(id, "Pro")).collect();
    let addresses: Vec<String> =
        servers.iter().map(|server| server.url().trim_start_matches("http://").to_owned()).collect();
    let balancer = Nginx::in_front_of(nginx, &addresses);

    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(key) = keys.get(at) else { return };
                    let machine = TestEnvironment::empty();
                    machine.km(["trust", "add", path(&engineer.public_key())]).expect(0);
                    machine.configure(&balancer.url(), key, "");
                    let document = machine.km(["plugins", "refresh", "--json"]).expect(0).json();
                    let installed = document["plugins"].as_array().expect("some");
                    assert!(installed.len() == 2 && installed.iter().all(|p| p["action"] == "installed"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // In turn, so that there always is one; each time with requests under way.
        for round in 1..=KILLS {
            wait_until("some have been served", || {
                done.load(Ordering::Relaxed) >= round * CUSTOMERS / (KILLS + 2)
            });
            servers[round % 2].kill();
            let before = done.load(Ordering::Relaxed);
            wait_until("the other one serves", || done.load(Ordering::Relaxed) > before + 2);
            servers[round % 2].run();
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), CUSTOMERS);
    // Both have worked.
    assert!(servers.iter().all(|server| server.log().contains("/api/plugins/provision")));
}
