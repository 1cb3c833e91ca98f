//! The API's server under load: `cargo bench -p km-tests --bench api`.
//!
//! `km-pack serve` answers requests for tokens over connections that stay open, each of one of its
//! customers at random, on SQLite and on PostgreSQL, with a hundred customers and with a hundred thousand.
//! All servers run at the same time and are asked in turn, round by round; `GET /health` of the same server
//! is the peer. The one who asks is this process, and takes its share of the same cores.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use km_pack::customers::{Address, Database};
use km_tests::ApiServer;
use km_tests::load::{self, Random, cpu};
use km_tests::postgres::{self, Postgres};
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 16;
/// Requests in each round.
const REQUESTS: usize = 6000;
const ROUNDS: usize = 5;
const FEW: usize = 100;
const MANY: usize = 100_000;
/// What is asked for.
const WANTED_RATE: f64 = 3000.0;
const WANTED_RATIO: f64 = 0.9;
const OPTIONS: [&str; 3] = ["--rate-limit", "1000000", "--no-access-log"];

#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Health,
    Authenticate,
}

/// A server, and what was measured of it.
struct Row {
    name: &'static str,
    ask: Ask,
    customers: usize,
    /// Of the row to compare with.
    peer: Option<usize>,
    server: usize,
    rates: Vec<f64>,
    times: Vec<Duration>,
    cpu: Duration,
}

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut servers, mut rows) = (Vec::new(), Vec::new());
    let mut add = |name, server: ApiServer, customers, asks: &[Ask], peer: Option<usize>| {
        servers.push(server);
        for &ask in asks {
            let (rates, times) = (Vec::new(), Vec::new());
            // That of health is the row before.
            let peer = peer.map(|peer| if ask == Ask::Health { peer - 1 } else { peer });
            rows.push(Row {
                name,
                ask,
                customers,
                peer,
                server: servers.len() - 1,
                rates,
                times,
                cpu: Duration::ZERO,
            });
        }
        rows.len() - 1
    };
    let both = [Ask::Health, Ask::Authenticate];
    let filled = |server: ApiServer, customers| {
        fill(&runtime, &server, customers);
        server
    };
    let few = add("SQLite", filled(ApiServer::start(&OPTIONS), FEW), FEW, &both, None);
    let many = filled(ApiServer::start(&OPTIONS), MANY);
    let file = many.database().to_owned();
    add("SQLite", many, MANY, &both, Some(few));
    add("SQLite, access log", ApiServer::on(&file, &OPTIONS[..2]), MANY, &both[1..], Some(few));
    let databases = match postgres::programs() {
        Ok(programs) => [(); 2].map(|()| Postgres::start(&programs)).into(),
        Err(why) => {
            println!("PostgreSQL is not measured: {why}");
            Vec::new()
        }
    };
    if let [small, large] = &databases[..] {
        let few = add("PostgreSQL", filled(ApiServer::on(&small.url(), &OPTIONS), FEW), FEW, &both, None);
        add("PostgreSQL", filled(ApiServer::on(&large.url(), &OPTIONS), MANY), MANY, &both, Some(few));
    }

    for round in 0..=ROUNDS {
        // There and back, so that none is always the first.
        let there = (0..rows.len()).collect::<Vec<_>>();
        let order = if round % 2 == 0 { there } else { there.into_iter().rev().collect() };
        for at in order {
            let row = &mut rows[at];
            let server = &servers[row.server];
            let before = cpu(server.pid());
            let (rate, times) = runtime.block_on(load(server, row.ask, row.customers));
            // The first round only warms up.
            if round > 0 {
                row.cpu += cpu(server.pid()) - before;
                row.rates.push(rate);
                row.times.extend(times);
            }
        }
    }
    report(&rows);
}

fn report(rows: &[Row]) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "\n{CONNECTIONS} connections, {ROUNDS} rounds of {REQUESTS} requests, {cores} cores shared with the one who asks"
    );
    println!(
        "{:<20} {:>9} {:<13} {:>10} {:>9} {:>9} {:>16} {:>13}",
        "", "customers", "", "requests/s", "p50", "p99", "us CPU/request", "to 100"
    );
    let rate = |row: &Row| median(row.rates.clone());
    // Round by round: what else the machine does comes and goes.
    let ratio = |row: &Row| {
        let peer = &rows[row.peer?];
        Some(median(row.rates.iter().zip(&peer.rates).map(|(one, other)| one / other).collect()))
    };
    for row in rows {
        let mut times = row.times.clone();
        times.sort_unstable();
        let quantile = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
        let cost = row.cpu.as_secs_f64() * 1e6 / (ROUNDS * REQUESTS) as f64;
        let ask = if row.ask == Ask::Health { "health" } else { "authenticate" };
        let ratio = ratio(row).map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<20} {:>9} {ask:<13} {:>10.0} {:>6.2} ms {:>6.2} ms {cost:>16.0} {ratio:>13}",
            row.name,
            row.customers,
            rate(row),
            quantile(50),
            quantile(99)
        );
    }
    println!();
    for row in rows.iter().filter(|row| row.ask == Ask::Authenticate) {
        let holds = |what: bool| if what { "holds" } else { "DOES NOT HOLD" };
        let name = format!("{}, {} customers", row.name, row.customers);
        if row.name.starts_with("SQLite") {
            println!("{name}: over {WANTED_RATE} requests/s: {}", holds(rate(row) > WANTED_RATE));
        }
        // With another setting, it says nothing of the number of customers.
        if let Some(ratio) = ratio(row).filter(|_| row.peer.is_some_and(|peer| rows[peer].name == row.name)) {
            println!(
                "{name}: at least {WANTED_RATIO} of the rate with {FEW}: {}",
                holds(ratio >= WANTED_RATIO)
            );
        }
    }
}

/// The API key of a customer.
fn key(customer: usize) -> String {
    format!("km_live_{customer:043}")
}

fn fill(runtime: &Runtime, server: &ApiServer, customers: usize) {
    runtime.block_on(async {
        let address = Address::parse(server.database(), Path::new("/")).expect("an address");
        let database = Database::open(&address).await.expect("it opens");
        let tier = "Pro".parse().expect("a tier");
        let customer = |n: usize| {
            (format!("customer_{n}").parse().expect("an id"), tier, key(n).parse().expect("a key"))
        };
        database.add_customers((0..customers).map(customer)).await.expect("they are added");
        database.close().await;
    });
}

/// One round: requests in a second, and the time of each.
async fn load(server: &ApiServer, ask: Ask, customers: usize) -> (f64, Vec<Duration>) {
    let url = server.url();
    let address: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
    let make = move |random: &mut Random| match ask {
        Ask::Health => "GET /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        Ask::Authenticate => authenticate(random.below(customers)),
    };
    load::load(address, CONNECTIONS, REQUESTS, Arc::new(make)).await
}

fn authenticate(customer: usize) -> String {
    let body = format!(
        "{{\"plugin_name\":\"api-logger\",\"plugin_version\":\"1.0.0\",\"customer_id\":\"customer_{customer}\",\
         \"binary_sha256\":\"{:064}\",\"timestamp\":\"2026-01-01T00:00:00Z\"}}",
        0
    );
    format!(
        "POST /api/plugins/authenticate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        key(customer),
        body.len()
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
