//! Whether a binary that asks for a token is one that was published for its customer.
//!
//! An index names the last package of a version only. A customer may go on with the one before, though,
//! stamped with another tier, or go back to it; so a binary is compared with every one that was ever
//! published for them, of which the store keeps the digests. Where it does not, since another program put
//! the packages there, the binary is accepted: nobody is refused for what is not known.

use std::time::{Duration, Instant};

use km_api::authenticate::AuthenticateRequest;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use tokio::time::timeout;

use super::cache::Cache;
use super::packages::Packages;

/// How many answers are remembered.
const REMEMBERED: u64 = 100_000;
/// For how long one is remembered that a publisher may change.
const FRESH: Duration = Duration::from_secs(5);
/// How long the store has to answer: plugins do not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Remembers which binaries are accepted.
#[derive(Debug)]
pub(super) struct Binaries {
    packages: Packages,
    /// Until when; none: for ever.
    accepted: Cache<Digest, Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It was published for this customer.
    Published,
    /// The store does not know this version, or not all that was published as this version.
    Unknown,
    /// Other binaries were published as this version, and this one never was.
    Wrong,
}

impl Binaries {
    pub(super) fn new(packages: Packages) -> Self {
        Self { packages, accepted: Cache::new(REMEMBERED) }
    }

    /// Whether the binary may have a token. Where the store cannot say, it may.
    pub(super) async fn accept(&self, request: &AuthenticateRequest) -> bool {
        let key = key(request);
        match self.accepted.get(&key) {
            Some(until) if until.is_none_or(|until| Instant::now() < until) => return true,
            _ => {}
        }
        let verdict = match timeout(PATIENCE, self.judge(request)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(failure)) => unable(&failure.message),
            Err(_) => unable("the store does not answer"),
        };
        match verdict {
            Verdict::Wrong => return false,
            Verdict::Published => self.accepted.put(key, None, 1),
            Verdict::Unknown => {
                self.accepted.put(key, Some(Instant::now() + FRESH), 1);
                tracing::debug!(
                    plugin = %request.plugin_name, version = request.plugin_version,
                    sha256 = %request.binary_sha256,
                    "the store has nothing to compare this binary with: accepted"
                );
            }
        }
        true
    }

    async fn judge(&self, request: &AuthenticateRequest) -> Result<Verdict, Failure> {
        let AuthenticateRequest { plugin_name, plugin_version, customer_id, binary_sha256, .. } = request;
        let store = self.packages.store();
        if store.has_executable(customer_id, binary_sha256).await? {
            return Ok(Verdict::Published);
        }
        let mut verdict = Verdict::Unknown;
        for entry in self.packages.named(customer_id).await? {
            if entry.name != *plugin_name || entry.version.to_string() != *plugin_version {
                continue;
            }
            let executable = match self.packages.get(&entry).await {
                Ok(package) => package.executable,
                Err(failure) if matches!(failure.kind, Kind::NotFound | Kind::Untrusted) => continue,
                Err(failure) => return Err(failure),
            };
            if executable == *binary_sha256 {
                return Ok(Verdict::Published);
            }
            // The store remembers what was published as this version: then it was all of it.
            if store.has_executable(customer_id, &executable).await? {
                verdict = Verdict::Wrong;
            }
        }
        Ok(verdict)
    }
}

fn unable(why: &str) -> Verdict {
    tracing::warn!("a binary is accepted without comparing it: {why}");
    Verdict::Unknown
}

/// No name or version has a line's end.
fn key(request: &AuthenticateRequest) -> Digest {
    let AuthenticateRequest { plugin_name, plugin_version, customer_id, binary_sha256, .. } = request;
    Digest::of(format!("{customer_id}\n{plugin_name}\n{plugin_version}\n{binary_sha256}").as_bytes())
}
