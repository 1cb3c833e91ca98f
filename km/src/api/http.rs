//! What the requests to the API and the downloads have in common: certificates, and the way there.

use std::time::Duration;

use km_package::failure::{Failure, Kind};
use reqwest::redirect::{self, Attempt};
use reqwest::{Certificate, Client, ClientBuilder};

use super::endpoint::refusal;
use crate::environment::Proxy;

/// Most redirects that a download follows.
const MAX_REDIRECTS: usize = 3;

/// Hosts that no proxy has a way to.
const THIS_MACHINE: &str = "localhost,127.0.0.0/8,::1";

/// A client that follows no redirect: the API key must not follow to another host.
pub(super) fn api_client(certificates: &[u8], proxy: &Proxy, deadline: Duration) -> Result<Client, Failure> {
    build(builder(certificates, proxy)?.timeout(deadline).redirect(redirect::Policy::none()))
}

/// A client for bytes that are checked by their digest, whoever sends them. It has no key; whoever uses it
/// says how long it waits.
pub(crate) fn download_client(certificates: &[u8], proxy: &Proxy) -> Result<Client, Failure> {
    let follow = |attempt: Attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error(format!("more than {MAX_REDIRECTS} redirects"));
        }
        match refusal(attempt.url()) {
            Some(why) => attempt.error(format!("a redirect that is not followed: {why}")),
            None => attempt.follow(),
        }
    };
    // The URL that a redirect came from may be a signed one.
    build(builder(certificates, proxy)?.referer(false).redirect(redirect::Policy::custom(follow)))
}

fn builder(certificates: &[u8], proxy: &Proxy) -> Result<ClientBuilder, Failure> {
    let certificates = Certificate::from_pem_bundle(certificates).map_err(unusable)?;
    let mut http = Client::builder().user_agent(concat!("km/", env!("CARGO_PKG_VERSION"))).http1_only();
    if !certificates.is_empty() {
        http = http.tls_certs_merge(certificates);
    }
    // What is in the environment was read already.
    http = http.no_proxy();
    if proxy.url.is_empty() {
        return Ok(http);
    }
    let bad = |_| Failure::new(Kind::Usage, "HTTPS_PROXY is not the URL of a proxy");
    let proxied = reqwest::Proxy::all(&proxy.url).map_err(bad)?;
    let except = format!("{},{THIS_MACHINE}", proxy.except);
    Ok(http.proxy(proxied.no_proxy(reqwest::NoProxy::from_string(&except))))
}

fn build(http: ClientBuilder) -> Result<Client, Failure> {
    http.build().map_err(unusable)
}

fn unusable(error: reqwest::Error) -> Failure {
    Failure::new(Kind::Failed, format_args!("cannot set up HTTP: {error}"))
}

/// What happened, without where: the innermost error says it, those around it repeat the URL.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
