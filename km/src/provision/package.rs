//! From an entry of the index to the package it names, verified: head, frames, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use km_api::provision::ProvisionedPlugin;
use km_package::digest::Digest;
use km_package::envelope::{EnvelopeError, Head};
use km_package::failure::{Failure, Kind};
use km_package::index::IndexEntry;
use km_package::key::TrustedKeys;
use km_package::manifest::Time;
use km_package::name::{CustomerId, PluginName};
use km_package::verify::{
    Contents, Documents, PackageError, Purpose, Rule, Untrusted, UntrustedPackage, Verified, verify,
};

use super::download::Downloader;
use super::part;
use super::place::{Piece, Places};
use crate::api::Endpoint;
use crate::paths::{self, Home};
use crate::store::{self, Staging};

/// A package that the index names, and who has it.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) entry: IndexEntry,
    pub(super) mirrors: &'a [Endpoint],
    /// What the API says of it.
    pub(super) offer: Option<&'a ProvisionedPlugin>,
}

impl Wanted<'_> {
    fn places(&self) -> Places<'_> {
        Places { mirrors: self.mirrors, offer: self.offer }
    }
}

/// A package whose head is here and holds: which frames it has is known.
struct Described {
    entry: IndexEntry,
    frames: Vec<Piece>,
}

/// A package that is here as a whole. Nothing but its head was verified.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) entry: IndexEntry,
    /// Head and frames, in order.
    pieces: Vec<Digest>,
}

/// What downloaded packages are judged by.
#[derive(Debug)]
pub(super) struct Examiner<'a> {
    pub(super) home: &'a Home,
    pub(super) keys: TrustedKeys,
    pub(super) customer: CustomerId,
    pub(super) now: Time,
    pub(super) allow_downgrade: bool,
}

impl Examiner<'_> {
    /// Judges everything that a head says, before more is downloaded.
    fn describe(&self, wanted: &Wanted<'_>, folder: &Path) -> Result<Described, Failure> {
        let head = read_head(&part::path(folder, wanted.entry.head_sha256))?;
        let verified = self.verify(Untrusted::installed(head, Documents), &wanted.entry)?;
        let frames = wanted.places().frames(&wanted.entry, &verified.manifest().payload.frames);
        Ok(Described { entry: wanted.entry.clone(), frames })
    }

    /// Verifies the whole package, and unpacks it.
    pub(super) fn unpack(&self, fetched: &Fetched, folder: &Path) -> Result<Verified<Staging>, Failure> {
        let package = chain(folder, &fetched.pieces)?;
        let package = UntrustedPackage::open(package, Staging::new(self.home)).map_err(store::refusal)?;
        self.verify(package, &fetched.entry)
    }

    fn verify<C: Contents>(
        &self,
        package: Untrusted<C>,
        entry: &IndexEntry,
    ) -> Result<Verified<C::Checked>, Failure> {
        let highest = |name: &PluginName, customer: &CustomerId| {
            if self.allow_downgrade {
                return None;
            }
            // Where the marks cannot be read, the store refuses.
            store::highest_seen(self.home, name, customer).ok()?
        };
        let purpose = Purpose::Install { now: self.now, highest_sequence: &highest };
        let context = store::context(purpose, Some(self.customer.clone()))?;
        let verified = verify(package, &self.keys, &context).map_err(store::refusal)?;
        if IndexEntry::of(verified.manifest(), verified.head()) != *entry {
            let plugin = &verified.manifest().plugin;
            let found = format!("{} {}", plugin.name, plugin.version);
            return Err(Failure::new(
                Kind::Untrusted,
                format_args!("this is {found}, signed, but not the package that the index describes"),
            )
            .help("tell whoever published it"));
        }
        Ok(verified)
    }
}

/// Gets packages: their heads, and of those that hold the frames.
pub(super) async fn fetch(
    wanted: &[Wanted<'_>],
    examiner: &Examiner<'_>,
    downloader: &Downloader<'_>,
) -> Vec<Result<Fetched, Failure>> {
    let heads = wanted.iter().map(|wanted| wanted.places().head(&wanted.entry)).collect();
    let heads = downloader.fetch_all(heads).await;
    let describe = |wanted: &Wanted<'_>| {
        came(&heads, wanted.entry.head_sha256)?;
        examiner.describe(wanted, &downloader.folder)
    };
    let described: Vec<Result<Described, Failure>> = wanted.iter().map(describe).collect();
    let frames: Vec<Piece> =
        described.iter().flatten().flat_map(|described| described.frames.iter().cloned()).collect();
    if described.iter().all(Result::is_ok) {
        // All that is needed is known: what runs before have left beside it is not.
        let needed = heads.keys().copied().chain(frames.iter().map(|frame| frame.sha256)).collect();
        sweep(&downloader.folder, &needed);
    }
    let frames = downloader.fetch_all(frames).await;
    described.into_iter().map(|described| whole(described?, &frames)).collect()
}

/// The outcome of one download among many.
fn came(outcomes: &BTreeMap<Digest, Result<(), Failure>>, sha256: Digest) -> Result<(), Failure> {
    outcomes.get(&sha256).cloned().unwrap_or(Ok(()))
}

fn whole(described: Described, frames: &BTreeMap<Digest, Result<(), Failure>>) -> Result<Fetched, Failure> {
    let Described { entry, frames: pieces } = described;
    for piece in &pieces {
        came(frames, piece.sha256)?;
    }
    let head = entry.head_sha256;
    Ok(Fetched {
        entry,
        pieces: std::iter::once(head).chain(pieces.iter().map(|piece| piece.sha256)).collect(),
    })
}

fn read_head(path: &Path) -> Result<Head, Failure> {
    let bytes = paths::read_own(path).map_err(|e| Failure::file("read", path, &e))?;
    Head::from_bytes(&bytes).map_err(|e| {
        store::refusal(match e {
            EnvelopeError::Read(e) => PackageError::Read(e),
            other => PackageError::Refused { rule: Rule::Envelope, detail: other.to_string() },
        })
    })
}

/// The pieces of a package, one after the other.
fn chain(folder: &Path, pieces: &[Digest]) -> Result<Box<dyn Read>, Failure> {
    let mut package: Box<dyn Read> = Box::new(io::empty());
    for piece in pieces {
        let path = part::path(folder, *piece);
        let file = File::open(&path).map_err(|e| Failure::file("read", &path, &e))?;
        package = Box::new(package.chain(file));
    }
    Ok(package)
}

/// Removes the pieces that nobody needs. What is not called as one stays.
fn sweep(folder: &Path, needed: &BTreeSet<Digest>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digest = name.to_str().map(|name| name.strip_suffix(".part").unwrap_or(name).parse::<Digest>());
        if let Some(Ok(digest)) = digest
            && !needed.contains(&digest)
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes all pieces, and the folder unless something else is in it.
pub(super) fn clear(folder: &Path) {
    sweep(folder, &BTreeSet::new());
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_that_nobody_needs_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (needed, garbage) = (Digest::of(b"needed"), Digest::of(b"garbage"));
        let names =
            [needed.to_string(), format!("{needed}.part"), "other".to_owned(), "other.part".to_owned()];
        for name in &names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        for name in [garbage.to_string(), format!("{garbage}.part")] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(folder.path(), &BTreeSet::from([needed]));
        let mut left: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut names = names.to_vec();
        names.sort();
        assert_eq!(left, names);
    }
}
