//! What is installed.
//!
//! ```text
//! plugins/km-plugin-<name>                       link to the executable of the active version
//! plugins/store/<name>/<version>-<digest8>/      one version: the files of its package, and
//!     .manifest.toml  .signatures  .receipt.toml (names that no file of a package can have)
//! plugins/store/<name>/highest.toml              the highest sequence ever installed, for each customer
//! plugins/store/<name>/disabled.toml             only while it must not run: why
//! plugins/.staging/<random>/                     a package that is being unpacked
//! ```
//!
//! The disk changes by stage → fsync → rename. A version is complete in staging, its receipt written
//! last, before it is renamed to its place; then the mark, then the link, and only when the link has
//! changed does anything older go. What a crash leaves is swept by the next command that changes that
//! plugin.

mod disabled;
mod highest;
mod inspect;
mod install;
mod installed;
mod link;
mod listing;
mod lock;
mod lock_file;
mod receipt;
mod rollback;
mod staging;
mod sweep;
mod versions;

pub(crate) use disabled::{disable, enable};
pub(crate) use highest::highest_seen;
pub(crate) use inspect::{Inspection, inspect};
pub(crate) use install::{Action, InstallOptions, install, remove};
pub(crate) use installed::{PackageIdentity, Runnable, is_sound, open};
pub(crate) use listing::{Entry, State, digest_of, list};
pub(crate) use lock::FolderLock;
pub(crate) use lock_file::{LOCK_FILE, LockFile, LockedPlugin};
pub(crate) use receipt::Origin;
pub(crate) use rollback::{RolledBack, rollback};
pub(crate) use staging::Staging;
pub(crate) use versions::{InstalledPackage, installed};

use std::io;
use std::path::Path;

use km_package::failure::{Failure, Kind};
use km_package::manifest::Time;
use km_package::name::CustomerId;
use km_package::platform::Platform;
use km_package::verify::{Context, PackageError, Purpose};

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

/// Why a package was not verified, as what a command ends with.
pub(crate) fn refusal(error: PackageError) -> Failure {
    match &error {
        PackageError::Write(e) if is_full(e) => Failure::from(error).help(MAKE_ROOM),
        _ => Failure::from(error),
    }
}

/// Trouble with a file of the store.
fn trouble(action: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::file(action, path, error);
    if is_full(error) { failure.help(MAKE_ROOM) } else { failure }
}

const MAKE_ROOM: &str = "the disk is full, and nothing was changed: make room, then try again";

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
