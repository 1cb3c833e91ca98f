//! Base URLs: where the API is, and its mirrors.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

/// The hosted service.
pub(crate) const DEFAULT_ENDPOINT: &str = "https://api.kilometers.ai";

/// `https://…`, or `http://` on this machine: an API key never crosses a network in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Url);

impl Endpoint {
    /// The URL of a path under it, such as one of [`km_api::path`].
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        is_loopback(&self.0)
    }
}

/// Why a URL is not one that `km` sends anything to or takes anything from, if it is not.
pub(super) fn refusal(url: &Url) -> Option<String> {
    let why = match url.scheme() {
        "https" => None,
        "http" if is_loopback(url) => None,
        "http" => {
            Some("http:// is taken for this machine only (127.0.0.1, localhost): use https://".to_owned())
        }
        other => Some(format!("{other}:// is not taken: use https://")),
    };
    let named = !url.username().is_empty() || url.password().is_some();
    why.or_else(|| named.then(|| "a URL with a user name or a password is not taken".to_owned()))
}

/// Reads the URL of a download.
pub(crate) fn parse_download_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("this is not a URL: {e}"))?;
    refusal(&url).map_or(Ok(url), Err)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text.trim()).map_err(|e| format!("this is not a URL: {e}"))?;
        if let Some(why) = refusal(&url) {
            return Err(why);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the base URL ends with its path: leave out ? and #".to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_on_this_machine() {
        for (good, shown) in [
            ("https://api.kilometers.ai", "https://api.kilometers.ai"),
            ("https://example.com/kilometers/", "https://example.com/kilometers"),
            ("http://127.0.0.1:5194", "http://127.0.0.1:5194"),
            ("http://localhost:5194/", "http://localhost:5194"),
            ("http://[::1]:5194", "http://[::1]:5194"),
        ] {
            let endpoint: Endpoint = good.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.at("/health").as_str(), format!("{shown}/health"));
        }
        for bad in [
            "",
            "api.kilometers.ai",
            "http://api.kilometers.ai",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com",
            "ftp://127.0.0.1",
            "https://user:password@example.com",
            "https://example.com/?a=b",
            "file:///etc/passwd",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
