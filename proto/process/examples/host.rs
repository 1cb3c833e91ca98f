//! A complete host: starts a plugin (the example beside it, or the one given), calls it, stops it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use go_plugin::handshake::Cookie;
use go_plugin::host::{Executable, Grace, Host, PluginProcess};
use greeter::GreetRequest;
use greeter::greeter_client::GreeterClient;

/// Generated from `greeter.proto` by tonic-prost-build.
#[allow(unreachable_pub, dead_code)]
mod greeter {
    include!("greeter/greeter.rs");
}

/// Host and plugin agree on it.
const COOKIE: Cookie = Cookie { key: "GREETER_PLUGIN", value: "hello" };

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("plugin"),
    };
    // Plugins get nothing of this process's environment, and a private folder for their socket.
    let host = Host::new(COOKIE, [1], std::env::temp_dir());
    let lines = Arc::new(|source, line: &[u8]| {
        println!("[{source:?}] {}", String::from_utf8_lossy(line));
    });
    let mut plugin = PluginProcess::start(&host, Executable::open(&path)?, lines).await?;
    plugin.check_health(Duration::from_secs(1)).await?;
    println!("process {:?}, encrypted: {}", plugin.id(), plugin.is_encrypted());

    let mut greeter = GreeterClient::new(plugin.channel());
    match greeter.greet(GreetRequest { name: "world".to_owned() }).await {
        Ok(answer) => println!("{}", answer.into_inner().greeting),
        // Says whether the process died, and what it wrote last.
        Err(status) => return Err(plugin.explain(status.into()).await.into()),
    }
    let (stopped, status) = plugin.stop(Grace::default()).await;
    println!(
        "stopped by {stopped:?}: {}",
        status.map_or("no status".to_owned(), |status| status.to_string())
    );
    Ok(())
}
