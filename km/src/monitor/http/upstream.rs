//! The server behind the proxy: its URL, and connections to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use km_package::failure::{Failure, Kind};
use reqwest::Url;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::ServiceExt as _;

use crate::environment::Proxy;

/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(30);
/// How long one that is silent goes unchecked by the kernel.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The URL that requests go to.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamUrl(Url);

/// Connects to the upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    url: UpstreamUrl,
    address: Uri,
    /// The value of `Host`.
    pub(super) host: String,
    way: Way,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

#[derive(Debug)]
enum Way {
    Direct(HttpConnector),
    Proxy(Tunnel<HttpConnector>),
}

/// A connection, with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl std::str::FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("this is not a URL: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err("the URL of an MCP server begins with http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a URL with a user name or a password is not taken: clients send their own".to_owned()
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the URL ends with its path: leave out ? and #".to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl UpstreamUrl {
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The target of a request for this path: the path goes on where the URL ends. None for what is no
    /// path.
    pub(super) fn target(&self, asked: &str) -> Option<String> {
        let base = self.0.path();
        match asked.strip_prefix('/') {
            Some(rest) if rest.is_empty() || rest.starts_with('?') => Some(format!("{base}{rest}")),
            Some(rest) => Some(format!("{}/{rest}", base.trim_end_matches('/'))),
            // OPTIONS for the server as a whole.
            None if asked == "*" => Some(asked.to_owned()),
            None => None,
        }
    }
}

impl Upstream {
    /// The certificates are trusted besides the system's. A proxy is used for https only.
    pub(super) fn new(url: UpstreamUrl, certificates: &[u8], proxy: &Proxy) -> Result<Self, Failure> {
        let authority = match url.0.port() {
            Some(port) => format!("{}:{port}", url.0.host_str().unwrap_or_default()),
            None => url.0.host_str().unwrap_or_default().to_owned(),
        };
        let unusable = |why: &dyn fmt::Display| {
            Failure::new(Kind::Usage, format_args!("{url} cannot be an upstream: {why}"))
        };
        let address: Uri = format!("{}://{authority}/", url.0.scheme()).parse().map_err(|e| unusable(&e))?;
        let tls = match url.is_https() {
            true => {
                let name = url.0.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|e| unusable(&e))?;
                Some((Arc::new(tls(certificates)?), name))
            }
            false => None,
        };
        let way = if url.is_https() { Way::find(&address, proxy) } else { Way::Direct(connector()) };
        Ok(Self { url, address, host: authority, way, tls })
    }

    pub(super) fn target(&self, asked: &str) -> Option<String> {
        self.url.target(asked)
    }

    /// A new connection, or what is to be said of why there is none.
    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>, String> {
        let connected = tokio::time::timeout(CONNECT, self.open()).await;
        let why = match connected {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => innermost(&*error),
            Err(_) => format!("no connection within {} s", CONNECT.as_secs()),
        };
        Err(format!("the MCP server at {} cannot be reached: {why}", self.url))
    }

    async fn open(&self) -> Result<Box<dyn Connection>, Box<dyn std::error::Error + Send + Sync>> {
        let address = self.address.clone();
        let stream = match &self.way {
            Way::Direct(connector) => connector.clone().oneshot(address).await?,
            Way::Proxy(tunnel) => tunnel.clone().oneshot(address).await?,
        };
        let stream = stream.into_inner();
        Ok(match &self.tls {
            Some((tls, name)) => {
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await?)
            }
            None => Box::new(stream),
        })
    }
}

impl Way {
    fn find(address: &Uri, proxy: &Proxy) -> Self {
        let matcher = Matcher::builder().https(proxy.url.as_str()).no(proxy.except.as_str()).build();
        let Some(found) = matcher.intercept(address) else { return Self::Direct(connector()) };
        let tunnel = Tunnel::new(found.uri().clone(), connector());
        Self::Proxy(match found.basic_auth() {
            Some(auth) => tunnel.with_auth(auth.clone()),
            None => tunnel,
        })
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEP_ALIVE));
    connector
}

fn tls(certificates: &[u8]) -> Result<ClientConfig, Failure> {
    let unusable = |e: &dyn fmt::Display| Failure::new(Kind::Failed, format_args!("cannot set up TLS: {e}"));
    let mut roots = RootCertStore::empty();
    // What cannot be read is missing, and said where it matters: when a certificate does not hold.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(certificates) {
        roots.add(certificate.map_err(|e| unusable(&e))?).map_err(|e| unusable(&e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The innermost error says what happened, those around it where.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_on_where_the_url_ends() {
        for (url, asked, target) in [
            ("http://h", "/", "/"),
            ("http://h", "/mcp?a=b", "/mcp?a=b"),
            ("http://h/", "//x", "//x"),
            ("http://h/mcp", "/", "/mcp"),
            ("http://h/mcp", "/?a=b", "/mcp?a=b"),
            ("http://h/mcp/", "/", "/mcp/"),
            ("http://h/base", "/x%2F/../y", "/base/x%2F/../y"),
            ("http://h/base/", "/x", "/base/x"),
            ("http://h/base", "*", "*"),
        ] {
            let url: UpstreamUrl = url.parse().unwrap();
            assert_eq!(url.target(asked).as_deref(), Some(target), "{url} {asked}");
        }
        let url: UpstreamUrl = "http://h".parse().unwrap();
        assert_eq!(url.target("http://h/x"), None);
    }

    #[test]
    fn an_upstream_is_a_url_without_secrets() {
        for bad in
            ["", "h:1", "ftp://h", "http://u:p@h", "http://u@h", "http://h/?a", "http://h/#a", "https://"]
        {
            assert!(bad.parse::<UpstreamUrl>().is_err(), "{bad}");
        }
    }
}
