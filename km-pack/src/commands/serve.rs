//! `km-pack serve`

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::DatabaseArgs;
use crate::environment::Environment;
use crate::serve::{Server, Settings, public_url};
use crate::store::{self, Store};

/// Serve the plugin API: who may run what, what was published for them, and the events of plugins
///
/// Any number of servers may share a store and a database. Stops at SIGTERM or SIGINT once what it has begun is finished. GET /metrics is for Prometheus.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km-pack customers add customer_123 --tier Pro\n  km-pack serve --store dist/store --listen 127.0.0.1:5194"
)]
pub(super) struct Serve {
    #[command(flatten)]
    database: DatabaseArgs,
    /// What was published: a folder, which is made when missing, file://, s3://, gs:// or az://
    #[arg(long, value_name = "STORE", default_value = store::DEFAULT)]
    store: String,
    /// Where clients reach this server, in download URLs; else as each request came to it
    #[arg(long, value_name = "URL", value_parser = public_url)]
    public_url: Option<String>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5194", value_parser = socket)]
    listen: SocketAddr,
    /// The server's certificate and those that vouch for it, in PEM
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Sign with a new token key from now on; tokens of the one before stay good
    #[arg(long)]
    rotate_token_key: bool,
    /// How long a token is good, 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = lifetime)]
    token_lifetime: SignedDuration,
    /// How long a download URL is good, 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    url_lifetime: SignedDuration,
    /// Requests in a second for each API key; four times as many at once
    #[arg(long, value_name = "REQUESTS", default_value = "50")]
    rate_limit: NonZeroU32,
    /// Do not write a line on stderr for each request
    #[arg(long)]
    no_access_log: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    listening: String,
}

impl Serve {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Kind::Local, e))?;
        let served = runtime.block_on(self.serve(environment, output));
        // What is left has had its time.
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    }

    async fn serve(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let stop = stop_signal()?;
        let database = self.database.open(environment).await?;
        if self.rotate_token_key {
            database.rotate_token_key().await?;
        }
        let settings = self.settings(environment);
        let server = Server::bind(&settings, database, Store::open(&self.store, environment)?).await?;
        let url = server.url();
        if settings.tls.is_none() && !settings.listen.ip().is_loopback() {
            output.warn(
                "API keys come over this address in the clear, and km takes http:// only for loopback \
                 addresses: give --tls-cert and --tls-key, or put a TLS proxy in front",
            );
        }
        if output.is_json() {
            output.result(&Document { listening: url }, "");
        } else {
            output.note(format_args!("listening on {url}"));
        }
        server.run(stop).await;
        Ok(())
    }

    fn settings(&self, environment: &Environment) -> Settings {
        let path = |path: &PathBuf| environment.current_dir.join(path);
        Settings {
            listen: self.listen,
            tls: self.tls_cert.as_ref().map(path).zip(self.tls_key.as_ref().map(path)),
            public_url: self.public_url.clone(),
            token_lifetime: self.token_lifetime,
            url_lifetime: self.url_lifetime,
            rate_limit: self.rate_limit,
            access_log: !self.no_access_log,
        }
    }
}

/// Done at SIGTERM or SIGINT. Both are taken over from the moment of the call.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let unable = |e| Failure::new(Kind::Local, format_args!("cannot wait for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unable)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("not HOST:PORT: {e}"))?;
    found.next().ok_or_else(|| "this host has no address".to_owned())
}

fn lifetime(text: &str) -> Result<SignedDuration, String> {
    let time: SignedDuration = text.parse().map_err(|_| "not a time such as 15m or 1h30m".to_owned())?;
    if (SignedDuration::from_secs(1)..=SignedDuration::from_hours(24)).contains(&time) {
        Ok(time)
    } else {
        Err("1s to 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_second_to_a_day() {
        assert_eq!(lifetime("15m"), Ok(SignedDuration::from_mins(15)));
        assert_eq!(lifetime("1h30m"), Ok(SignedDuration::from_mins(90)));
        for bad in ["", "15", "0s", "-5m", "25h", "1 fortnight"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_is_an_address_or_a_name() {
        assert_eq!(socket("127.0.0.1:0").unwrap().port(), 0);
        assert!(socket("localhost:5194").unwrap().ip().is_loopback());
        assert!(socket("127.0.0.1").is_err());
    }
}
