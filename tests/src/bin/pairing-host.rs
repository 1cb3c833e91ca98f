//! The host of the pairings; `tests/go/pairing-host` is the same in Go.
//!
//! `pairing-host [-mtls] transcript <plugin>` prints a line for each step;
//! `pairing-host [-mtls] bench <calls> <plugin>` prints what it measured as JSON.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use go_plugin::Channel;
use go_plugin::host::{Executable, Grace, Host, PluginProcess, StoppedBy, Tls};
use km_tests::pairing::pairing_client::PairingClient;
use km_tests::pairing::partner_client::PartnerClient;
use km_tests::pairing::partner_server::PartnerServer;
use km_tests::pairing::{Bytes, COOKIE, Connection, Empty, MAX_MESSAGE, Side, Text};
use tonic::service::Routes;

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let tls = match arguments.first().map(String::as_str) {
        Some("-mtls") => {
            arguments.remove(0);
            Tls::Required
        }
        _ => Tls::Off,
    };
    let sockets = tempfile::tempdir()?;
    let host = Host { tls, broker: true, ..Host::new(COOKIE, [1], sockets.path()) };
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["transcript", plugin] => transcript(&host, plugin).await,
        ["bench", calls, plugin] => bench(&host, plugin, calls.parse()?).await,
        _ => Err("pairing-host [-mtls] transcript <plugin> | bench <calls> <plugin>".into()),
    }
}

fn client(plugin: &PluginProcess) -> PairingClient<Channel> {
    let client = PairingClient::new(plugin.channel());
    client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

async fn transcript(host: &Host, path: &str) -> Result<(), Error> {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&printed);
    let lines = Arc::new(move |_, line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    });
    let plugin = match PluginProcess::start(host, Executable::open(path)?, lines).await {
        Ok(plugin) => plugin,
        Err(error) => {
            println!("start failed: {error}");
            #[expect(clippy::disallowed_methods, reason = "there is nothing yet to be left")]
            std::process::exit(1);
        }
    };
    println!("start ok");
    step("ping", async { Ok(plugin.check_health(Duration::from_secs(10)).await.map(|()| " ok")?) }).await;
    let mut pairing = client(&plugin);
    for size in [1024, 3_900_000] {
        step(&format!("echo {size}"), async {
            let data = vec![b'x'; size];
            let answer = pairing.echo(Bytes { data: data.clone() }).await?.into_inner();
            if answer.data == data { Ok(" ok") } else { Err("other bytes came back".into()) }
        })
        .await;
    }
    pairing.print(Text { text: "hello 1".to_owned() }).await?;
    for (step_name, line) in [("stdout", "out hello 1"), ("stderr", "err hello 1")] {
        step(step_name, arrives(&printed, line)).await;
    }
    let broker = plugin.broker().ok_or("no broker")?;
    step("plugin calls host", async {
        let offer = broker.offer().await?;
        let id = offer.id();
        tokio::spawn(offer.serve(Routes::new(PartnerServer::new(Side("host")))));
        Ok(format!(": {}", pairing.call_host(Connection { id }).await?.into_inner().text))
    })
    .await;
    step("host calls plugin", async {
        let Connection { id } = pairing.offer(Empty {}).await?.into_inner();
        let mut partner = PartnerClient::new(broker.dial(id).await?);
        Ok(format!(": {}", partner.greet(Text { text: "host".to_owned() }).await?.into_inner().text))
    })
    .await;
    let (stopped, status) = plugin.stop(Grace::default()).await;
    println!("gone {}", stopped == StoppedBy::Request && status.is_some_and(|status| status.success()));
    Ok(())
}

async fn step<T: Display>(name: &str, work: impl Future<Output = Result<T, Error>>) {
    match tokio::time::timeout(Duration::from_secs(10), work).await {
        Ok(Ok(outcome)) => println!("{name}{outcome}"),
        Ok(Err(error)) => println!("{name} failed: {error}"),
        Err(_) => println!("{name} failed: not within 10 s"),
    }
}

async fn arrives(printed: &Mutex<Vec<String>>, line: &str) -> Result<&'static str, Error> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !printed.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|printed| printed == line) {
        if Instant::now() > deadline {
            return Err("it did not arrive".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(" ok")
}

async fn bench(host: &Host, path: &str, calls: u32) -> Result<(), Error> {
    let begun = Instant::now();
    let plugin = PluginProcess::start(host, Executable::open(path)?, Arc::new(|_, _: &[u8]| {})).await?;
    let mut pairing = client(&plugin);
    let request = Bytes { data: vec![b'x'; 1024] };
    pairing.take(request.clone()).await?;
    let start_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let begun = Instant::now();
    for _ in 0..calls {
        pairing.take(request.clone()).await?;
    }
    let calls_per_s = f64::from(calls) / begun.elapsed().as_secs_f64();
    plugin.stop(Grace::default()).await;
    println!("{}", serde_json::json!({ "start_ms": start_ms, "calls_per_s": calls_per_s }));
    Ok(())
}
