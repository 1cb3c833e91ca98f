//! Where clients connect, and which of them are meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::head::RequestHead;
use super::refusal::Refusal;

/// An address of this machine to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen(pub(super) SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
        if let Ok(port) = local.parse() {
            return Ok(Self((Ipv4Addr::LOCALHOST, port).into()));
        }
        let why = "an address to listen on is a port, or an IP address and a port, as 127.0.0.1:8080";
        text.parse().map(Self).map_err(|_| why.to_owned())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Listen {
    /// Refuses a request that was made for another host. On an address of this machine alone, a web page
    /// can only ask for it by a name of its own that leads here (DNS rebinding); the upstream cannot tell,
    /// since it sees its own name.
    pub(super) fn check(self, head: &RequestHead) -> Result<(), Refusal> {
        let hosts: Vec<_> = head.headers.all("host").collect();
        let host = match &hosts[..] {
            [host] => String::from_utf8_lossy(host),
            [] if head.version == 0 => return Ok(()),
            [] => return Err(Refusal::BadRequest("it names no host".to_owned())),
            [..] => return Err(Refusal::BadRequest("it names several hosts".to_owned())),
        };
        match !self.0.ip().is_loopback() || is_local(&host) {
            true => Ok(()),
            false => Err(Refusal::WrongHost(host.into_owned())),
        }
    }
}

/// Whether a `Host` is this machine, whatever the port.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let ip: Option<IpAddr> = name.parse().ok();
    name.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        for (text, address) in [
            ("8080", "127.0.0.1:8080"),
            (":0", "127.0.0.1:0"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), address);
        }
        for bad in ["", "localhost", "127.0.0.1", "example.com:80", ":99999"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn on_this_machine_only_requests_for_this_machine_are_passed_on() {
        let allowed = |listen: &str, version: u8, hosts: &[&str]| {
            let lines: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            let head = RequestHead::parse(&Bytes::from(format!("GET / HTTP/1.{version}\r\n{lines}\r\n")));
            listen.parse::<Listen>().unwrap().check(&head.unwrap()).is_ok()
        };
        for good in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.1.2.3", "[::1]", "[::1]:80"] {
            assert!(allowed(":80", 1, &[good]), "{good}");
        }
        for bad in ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "", "10.0.0.1", "[::2]"] {
            assert!(!allowed(":80", 1, &[bad]), "{bad}");
            assert!(allowed("0.0.0.0:80", 1, &[bad]), "{bad}");
        }
        assert!(!allowed(":80", 1, &[]) && allowed(":80", 0, &[]));
        assert!(!allowed("0.0.0.0:80", 1, &["localhost", "localhost"]));
    }
}
