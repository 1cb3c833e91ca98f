//! From the order to start to the connection.

use std::time::Duration;

use go_plugin::handshake::CLIENT_CERTIFICATE_VARIABLE;
use go_plugin::host::{Grace, Host, PluginError, Runner as _, Running, Tls, Trouble};
use km_proto::PROTOCOL_VERSIONS;
use tokio::io::AsyncReadExt as _;

use super::ground::{Changed, Ground};
use super::{Checks, Finding, Found, fine};

/// Tells whether the plugin starts at all.
pub(super) async fn check(ground: &Ground, checks: &mut Checks<'_>) -> bool {
    let starts = checks.make("handshake", "it shakes hands within ten seconds", handshake(ground)).await;
    checks.make("by-hand", "started by hand it says that it is a plugin, and fails", by_hand(ground)).await;
    if !starts {
        return false;
    }
    checks.make("versions", "it takes the highest version in common", common_version(ground)).await;
    checks.make("versions-none", "with no version in common it reports its lowest", no_version(ground)).await;
    checks.make("plaintext", "a host without TLS is spoken to in plaintext", plaintext(ground)).await;
    let mutual = "a host with TLS is spoken to in mutual TLS";
    let stranger = "a host with another certificate than announced is refused";
    if checks.make("tls", mutual, tls(ground)).await {
        checks.make("tls-stranger", stranger, tls_stranger(ground)).await;
    } else {
        checks.skip("tls-stranger", stranger, "it has no TLS");
    }
    true
}

fn words(error: PluginError) -> String {
    error.to_string()
}

async fn handshake(ground: &Ground) -> Found {
    let begun = std::time::Instant::now();
    let session = ground.start(&ground.host()).await.map_err(words)?;
    let time = begun.elapsed();
    let encrypted = if session.plugin.is_encrypted() { "mutual TLS" } else { "plaintext" };
    session.plugin.stop(Grace::default()).await;
    fine(format!("{:.1} ms, {encrypted}", time.as_secs_f64() * 1000.0))
}

/// Without the cookie.
async fn by_hand(ground: &Ground) -> Found {
    let executable = ground.executable().map_err(|e| e.to_string())?;
    let environment = ground.host().environment;
    let running = executable.start(environment).await.map_err(|e| e.to_string())?;
    let Running { mut stdout, mut stderr, instance } = running;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut exit = instance.exit();
    let ended = async {
        let (status, ..) = tokio::join!(
            exit.wait_for(Option::is_some),
            stdout.read_to_end(&mut out),
            stderr.read_to_end(&mut err)
        );
        status.map(|status| *status)
    };
    let Ok(Ok(Some(status))) = tokio::time::timeout(Duration::from_secs(5), ended).await else {
        return Err("it still runs after five seconds".to_owned());
    };
    if out.starts_with(b"1|") {
        return Err("it shakes hands without the cookie".to_owned());
    }
    if status.success() {
        return Ok(Finding::Warning("it exits with 0, as if all were well".to_owned()));
    }
    if err.is_empty() && out.is_empty() {
        return Ok(Finding::Warning("it says nothing".to_owned()));
    }
    fine(status.to_string())
}

async fn common_version(ground: &Ground) -> Found {
    // Hosts in Go offer them in any order.
    for versions in [vec![1], vec![1, 99], vec![99, 1]] {
        let host = Host { versions: versions.clone(), ..ground.host() };
        let session = ground.start(&host).await.map_err(words)?;
        let taken = session.plugin.version();
        session.plugin.stop(Grace::default()).await;
        if !PROTOCOL_VERSIONS.contains(&taken) {
            return Err(format!("offered {versions:?}, it took {taken}"));
        }
    }
    fine("protocol 1")
}

async fn no_version(ground: &Ground) -> Found {
    let host = Host { versions: vec![99], ..ground.host() };
    match ground.start(&host).await {
        Ok(_) => Err("it claims to speak protocol 99".to_owned()),
        Err(PluginError { trouble: Trouble::Version { plugin, .. }, .. }) => {
            let lowest = PROTOCOL_VERSIONS.contains(&plugin);
            if lowest { fine(format!("protocol {plugin}")) } else { Err(format!("it reports {plugin}")) }
        }
        Err(error) => Ok(Finding::Warning(format!("the host cannot tell which versions it speaks: {error}"))),
    }
}

async fn plaintext(ground: &Ground) -> Found {
    let session = ground.start(&ground.with_tls(Tls::Off)).await.map_err(words)?;
    session.plugin.check_health(Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
    session.plugin.stop(Grace::default()).await;
    fine("")
}

async fn tls(ground: &Ground) -> Found {
    let session = match ground.start(&ground.with_tls(Tls::Required)).await {
        Ok(session) => session,
        Err(PluginError { trouble: Trouble::NoCertificate, .. }) => {
            let what = "it has none; km speaks to it in plaintext, over a private socket";
            return Ok(Finding::Warning(what.to_owned()));
        }
        Err(error) => return Err(words(error)),
    };
    session.plugin.check_health(Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
    session.plugin.stop(Grace::default()).await;
    fine("")
}

/// The plugin is told of another host's certificate than the one that it will see.
async fn tls_stranger(ground: &Ground) -> Found {
    let host = ground.with_tls(Tls::Required);
    let elsewhere = ground.environment(&host).await;
    let other = elsewhere.into_iter().filter(|(name, _)| name == CLIENT_CERTIFICATE_VARIABLE).collect();
    let started = ground.start_by(&host, |executable| Changed { executable, changes: other }).await;
    match started {
        Err(PluginError { trouble: Trouble::Connect(_), .. }) => fine(""),
        Err(PluginError { trouble: Trouble::NoCertificate, .. }) => {
            Ok(Finding::Inapplicable("it has no TLS".to_owned()))
        }
        Err(error) => Err(words(error)),
        // In TLS 1.3 a server refuses only after the client is done.
        Ok(session) => {
            if session.plugin.check_health(Duration::from_secs(5)).await.is_ok() {
                return Err("it serves a host that it was not started by".to_owned());
            }
            match tokio::time::timeout(Duration::from_millis(300), session.plugin.wait()).await {
                Ok(status) => Err(format!("a connection that it should refuse ends it: {status}")),
                Err(_) => fine(""),
            }
        }
    }
}
