//! What is installed.
//!
//! ```text
//! plugins/km-plugin-<name>                       link to the executable of the active version
//! plugins/store/<name>/<version>-<digest8>/      one version: the files of its package, and
//!     .manifest.toml  .signatures  .receipt.toml (names that no file of a package can have)
//! plugins/store/<name>/highest.toml              the highest sequence ever installed, for each customer
//! plugins/.staging/<random>/                     a package that is being unpacked
//! ```
//!
//! The disk changes by stage → fsync → rename. A version without a receipt is what a crash left,
//! and is swept at the next installation of that plugin.

mod highest;
mod install;
mod installed;
mod listing;
mod lock;
mod receipt;
mod staging;

pub(crate) use highest::HighestSequences;
pub(crate) use install::{Action, InstallOptions, install, remove};
pub(crate) use installed::{PackageIdentity, Runnable, open};
pub(crate) use listing::{Entry, State, digest_of, list};
pub(crate) use lock::FolderLock;
pub(crate) use staging::Staging;

use km_package::failure::{Failure, Kind};
use km_package::manifest::Time;
use km_package::name::CustomerId;
use km_package::platform::Platform;
use km_package::verify::{Context, Purpose};

/// What packages and installed plugins are judged against here.
pub(crate) fn context(purpose: Purpose<'_>, customer: Option<CustomerId>) -> Result<Context<'_>, Failure> {
    let platform = Platform::current().map_err(|e| Failure::new(Kind::Failed, e))?;
    Ok(Context { purpose, customer, platform, protocols: km_proto::PROTOCOL_VERSIONS.to_vec() })
}

/// The time, for judging expiry.
pub(crate) fn now() -> Result<Time, Failure> {
    let seconds = jiff::Timestamp::now().as_second();
    u64::try_from(seconds)
        .ok()
        .and_then(Time::from_unix)
        .ok_or_else(|| Failure::new(Kind::Failed, "this machine's clock is before 1970 or after 2242"))
}
