//! What host and plugin agree on before they speak gRPC: the cookie in the environment and the one
//! line on the plugin's stdout (go-plugin `server.go` and `client.go`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Version of the handshake itself.
pub const CORE_VERSION: &str = "1";
/// Comma-joined application protocol versions that the host speaks.
pub const VERSIONS_VARIABLE: &str = "PLUGIN_PROTOCOL_VERSIONS";
/// Folder in which the plugin makes its socket.
pub const SOCKET_DIR_VARIABLE: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// The host's certificate in PEM, from hosts that want mutual TLS.
pub const CLIENT_CERTIFICATE_VARIABLE: &str = "PLUGIN_CLIENT_CERT";
/// Set by hosts of this crate: raw stdout and stderr are read to the end, however much comes.
pub const RAW_OUTPUT_VARIABLE: &str = "PLUGIN_RAW_OUTPUT";
/// Set by hosts that want one multiplexed connection.
pub const MULTIPLEX_VARIABLE: &str = "PLUGIN_MULTIPLEX_GRPC";
/// Shorter values in the certificate's field are something else (older plugins put other data there).
const SHORTEST_CERTIFICATE: usize = 50;

/// The environment variable by which a program knows that it was started as a plugin. It is no
/// secret: it keeps people from starting plugins by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Name of the variable.
    pub key: &'static str,
    /// Its value.
    pub value: &'static str,
}

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port, which only plugins on Windows use.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix|{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp|{address}"),
        }
    }
}

impl Address {
    /// Reads an address as it stands in the handshake and in announcements of the broker.
    pub fn parse(network: &str, address: &str) -> Option<Self> {
        match network {
            "unix" if !address.is_empty() => Some(Self::Unix(PathBuf::from(address))),
            "tcp" => address.parse().ok().map(Self::Tcp),
            _ => None,
        }
    }
}

/// The line: `CORE|APP|NETWORK|ADDRESS|PROTOCOL|SERVERCERT[|MUX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeLine {
    /// The application protocol version that the plugin chose.
    pub version: u32,
    /// Where it listens.
    pub address: Address,
    /// Its certificate, base64 of DER, if it sent one.
    pub certificate: Option<String>,
    /// What it says about multiplexing; only hosts that asked get this field.
    pub multiplex: Option<bool>,
}

/// Why a line is not a handshake that this crate can go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Too few fields, or one that cannot be read.
    #[error("the handshake line {line:?} is wrong: {what}")]
    Malformed {
        /// The line, cut to a readable length.
        line: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It speaks net/rpc, or something newer.
    #[error("the plugin speaks {0:?}, and only grpc is spoken here")]
    Protocol(String),
}

impl HandshakeLine {
    /// Whether a line claims to be a handshake at all; anything else on stdout is noise.
    pub fn is_candidate(line: &[u8]) -> bool {
        let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
        digits > 0 && line.get(digits) == Some(&b'|')
    }

    /// Parses one line without its newline.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn parse(line: &[u8]) -> Result<Self, HandshakeError> {
        let text = String::from_utf8_lossy(line);
        let malformed = |what| HandshakeError::Malformed { line: text.chars().take(200).collect(), what };
        let fields: Vec<&str> = text.trim().split('|').collect();
        let [core, version, network, address, rest @ ..] = &fields[..] else {
            return Err(malformed("it has fewer than four fields"));
        };
        if *core != CORE_VERSION {
            return Err(malformed("its core version is not 1"));
        }
        match rest.first() {
            Some(&"grpc") => {}
            other => return Err(HandshakeError::Protocol(other.unwrap_or(&"netrpc").to_string())),
        }
        let address = Address::parse(network, address)
            .ok_or_else(|| malformed("its address is neither a Unix socket nor a TCP port"))?;
        Ok(Self {
            version: version.parse().map_err(|_| malformed("its protocol version is no number"))?,
            address,
            certificate: rest.get(1).filter(|c| c.len() > SHORTEST_CERTIFICATE).map(|c| (*c).to_owned()),
            multiplex: rest.get(2).map(|mux| matches!(*mux, "1" | "t" | "T" | "true" | "TRUE" | "True")),
        })
    }
}

impl fmt::Display for HandshakeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, address, certificate, multiplex } = self;
        write!(f, "{CORE_VERSION}|{version}|{address}|grpc|{}", certificate.as_deref().unwrap_or(""))?;
        match multiplex {
            Some(multiplex) => write!(f, "|{multiplex}"),
            None => Ok(()),
        }
    }
}

/// The version that a plugin speaks with a host: the highest in common. Without one a plugin still
/// starts and reports its lowest, so that the host can say what is wrong.
pub fn negotiate(offered: Option<&str>, spoken: &[u32]) -> Option<u32> {
    let offered: Vec<u32> =
        offered.unwrap_or_default().split(',').filter_map(|version| version.trim().parse().ok()).collect();
    let common = spoken.iter().filter(|version| offered.contains(version)).max();
    common.or(spoken.iter().min()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_real_plugins_are_read() {
        let line = HandshakeLine::parse(b"1|1|unix|/tmp/plugin2385458441|grpc|\n").unwrap();
        assert_eq!(line.version, 1);
        assert_eq!(line.address, Address::Unix("/tmp/plugin2385458441".into()));
        assert_eq!((line.certificate, line.multiplex), (None, None));
        let line = HandshakeLine::parse(b"1|2|tcp|127.0.0.1:10000|grpc||true").unwrap();
        assert_eq!((line.version, line.multiplex), (2, Some(true)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for multiplex in [None, Some(false)] {
            let line = HandshakeLine {
                version: 1,
                address: Address::Unix("/run/x/s".into()),
                certificate: Some("A".repeat(80)),
                multiplex,
            };
            assert_eq!(HandshakeLine::parse(line.to_string().as_bytes()), Ok(line));
        }
    }

    #[test]
    fn wrong_lines_are_refused_and_noise_is_no_line() {
        for bad in
            ["1|1|unix", "2|1|unix|/a|grpc|", "1|x|unix|/a|grpc|", "1|1|pipe|/a|grpc|", "1|1|tcp|x|grpc|"]
        {
            assert!(
                matches!(HandshakeLine::parse(bad.as_bytes()), Err(HandshakeError::Malformed { .. })),
                "{bad}"
            );
        }
        for old in ["1|1|unix|/a", "1|1|unix|/a|netrpc|"] {
            assert_eq!(HandshakeLine::parse(old.as_bytes()), Err(HandshakeError::Protocol("netrpc".into())));
        }
        assert!(HandshakeLine::is_candidate(b"1|1|unix|/a|grpc|"));
        for noise in [&b"hello"[..], b"", b"|", b"1", b"a|b"] {
            assert!(!HandshakeLine::is_candidate(noise));
        }
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(negotiate(Some("1,2"), &[1, 2]), Some(2));
        assert_eq!(negotiate(Some("2,1"), &[1]), Some(1));
        assert_eq!(negotiate(Some("7,x"), &[1, 2]), Some(1));
        assert_eq!(negotiate(None, &[1, 2]), Some(1));
    }
}
