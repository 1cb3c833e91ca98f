//! Packages in the store, as they are handed out: whole, though they lie there in pieces.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use km_package::digest::{Digest, Hasher};
use km_package::failure::{Failure, Kind};
use km_package::index::{Index, IndexEntry};
use km_package::name::CustomerId;
use tokio::sync::{OnceCell, Semaphore};

use super::cache::Cache;
use crate::store::{Piece, Store};

/// What the pieces that are kept in memory may take together.
const KEPT: u64 = 256 << 20;
/// Longest piece that is kept. Longer ones are read a part at a time.
const LONGEST_KEPT: u64 = 8 << 20;
/// How many such pieces are read at one time.
const READING: usize = 16;
/// How many packages are remembered: their pieces and digests, a few hundred bytes each.
const REMEMBERED: u64 = 65_536;
/// What a download holds of a piece that is kept. A copy: however long its client takes, the piece may go.
const CHUNK: u64 = 64 << 10;
/// What it holds of a longer piece. Each part is a request to the store.
const PART: u64 = 256 << 10;

/// The packages of a store. A clone is another handle of the same.
#[derive(Debug, Clone)]
pub(super) struct Packages(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    known: Cache<Digest, Arc<OnceCell<Arc<Package>>>>,
    kept: Cache<Digest, Arc<OnceCell<Bytes>>>,
    reading: Semaphore,
    hashing: Semaphore,
}

/// What is known of a package. It never changes.
#[derive(Debug)]
pub(super) struct Package {
    /// Head and frames, in their order.
    pub(super) pieces: Vec<Piece>,
    /// Bytes of the whole.
    pub(super) size: u64,
    /// The digest of its executable.
    pub(super) executable: Digest,
    whole: OnceCell<Digest>,
}

impl Packages {
    pub(super) fn new(store: Store) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Shared {
            store,
            known: Cache::new(REMEMBERED),
            kept: Cache::new(KEPT),
            reading: Semaphore::new(READING),
            hashing: Semaphore::new(cores),
        }))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    /// What a customer's index names, not believed; nothing where there is none, or it is not one.
    pub(super) async fn named(&self, customer: &CustomerId) -> Result<Vec<IndexEntry>, Failure> {
        let text = self.store().index_text(customer).await?;
        Ok(text.map_or_else(Vec::new, |text| entries(&text, customer)))
    }

    /// The package that an index names.
    pub(super) async fn get(&self, entry: &IndexEntry) -> Result<Arc<Package>, Failure> {
        let read = async || {
            let stored = self.store().package(entry).await?;
            let (size, executable) = (stored.size(), stored.manifest.executable().sha256);
            Ok(Arc::new(Package { pieces: stored.pieces, size, executable, whole: OnceCell::new() }))
        };
        self.0.known.get_or_make(entry.head_sha256, 1, read).await
    }

    /// The digest of a whole package; read and computed when it is asked for first.
    pub(super) async fn sha256(&self, package: &Arc<Package>) -> Result<Digest, Failure> {
        let compute = async || {
            // It never closes.
            let _turn = self.0.hashing.acquire().await;
            let (packages, package) = (self.clone(), Arc::clone(package));
            let runtime = tokio::runtime::Handle::current();
            let hash = move || runtime.block_on(packages.hash(package));
            tokio::task::spawn_blocking(hash).await.map_err(|e| Failure::new(Kind::Failed, e))?
        };
        package.whole.get_or_try_init(compute).await.copied()
    }

    async fn hash(self, package: Arc<Package>) -> Result<Digest, Failure> {
        let mut hasher = Hasher::default();
        let size = package.size;
        let mut chunks = Box::pin(self.read(package, 0..size));
        while let Some(chunk) = chunks.next().await {
            hasher.update(&chunk?);
        }
        Ok(hasher.finish())
    }

    /// Fails where a package cannot be had as a whole. What is short enough is in memory then.
    pub(super) async fn check(&self, package: &Package) -> Result<(), Failure> {
        for piece in &package.pieces {
            match piece.size {
                0..=LONGEST_KEPT => drop(self.kept(piece).await?),
                _ => self.store().check_size(piece).await?,
            }
        }
        Ok(())
    }

    /// Some bytes of a package, in chunks that are made as they are asked for. A piece that is damaged ends
    /// in a failure, not in its last chunk.
    pub(super) fn read(
        self,
        package: Arc<Package>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
        let reader = Reader { packages: self, package, at: range.start, end: range.end, hasher: None };
        stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|chunk| (chunk, reader)))
        })
    }

    /// A piece that is short enough, from memory if it is there.
    async fn kept(&self, piece: &Piece) -> Result<Bytes, Failure> {
        let read = async || {
            let _turn = self.0.reading.acquire().await;
            self.store().get(piece.kind, &piece.sha256).await
        };
        self.0.kept.get_or_make(piece.sha256, piece.size, read).await
    }
}

/// What an index of this customer names.
pub(super) fn entries(text: &[u8], customer: &CustomerId) -> Vec<IndexEntry> {
    match Index::parse(text) {
        Ok(index) if index.customer == *customer => index.packages,
        Ok(index) => {
            tracing::error!("the store has the index of {} in the place of {customer}'s", index.customer);
            Vec::new()
        }
        Err(e) => {
            tracing::error!("the store's index of {customer} cannot be read: {e}");
            Vec::new()
        }
    }
}

/// A package that is being read.
struct Reader {
    packages: Packages,
    package: Arc<Package>,
    at: u64,
    end: u64,
    /// Of the longer piece that is being read, if it is read from its beginning.
    hasher: Option<Hasher>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.at >= self.end {
            return Ok(None);
        }
        let Some((piece, start)) = self.piece() else {
            return Err(Failure::new(Kind::Failed, "a package was read past its end"));
        };
        let long = piece.size > LONGEST_KEPT;
        let from = self.at - start;
        let to = (from + if long { PART } else { CHUNK }).min(piece.size).min(self.end - start);
        let chunk = match long {
            true => self.part(piece, from..to).await?,
            false => self.chunk(piece, from..to).await?,
        };
        self.at = start + to;
        Ok(Some(chunk))
    }

    /// The piece in which the next byte is, and where in the package it begins.
    fn piece(&self) -> Option<(Piece, u64)> {
        let mut start = 0;
        for piece in &self.package.pieces {
            if self.at - start < piece.size {
                return Some((*piece, start));
            }
            start += piece.size;
        }
        None
    }

    /// A piece is read into memory once for each download. Where it had to go since, the rest comes from
    /// the store in parts: else a few slow clients could have all of it read for each of their chunks.
    async fn chunk(&self, piece: Piece, range: Range<u64>) -> Result<Bytes, Failure> {
        let begins = range.start == 0;
        let there = match self.packages.0.kept.made(&piece.sha256) {
            Some(bytes) => Some(bytes),
            None if begins => Some(self.packages.kept(&piece).await?),
            None => None,
        };
        match there {
            Some(bytes) => copy(&bytes, range).ok_or_else(|| damaged(&piece)),
            None => self.exactly(piece, range).await,
        }
    }

    /// A part of a longer piece; the last one only if the whole was what it should be.
    async fn part(&mut self, piece: Piece, range: Range<u64>) -> Result<Bytes, Failure> {
        let last = range.end == piece.size;
        if range.start == 0 {
            self.hasher = Some(Hasher::default());
        }
        let bytes = self.exactly(piece, range).await?;
        if let Some(mut hasher) = self.hasher.take() {
            let part = bytes.clone();
            let update = move || {
                hasher.update(&part);
                hasher
            };
            let hasher =
                tokio::task::spawn_blocking(update).await.map_err(|e| Failure::new(Kind::Failed, e))?;
            if !last {
                self.hasher = Some(hasher);
            } else if hasher.finish() != piece.sha256 {
                return Err(damaged(&piece));
            }
        }
        Ok(bytes)
    }

    async fn exactly(&self, piece: Piece, range: Range<u64>) -> Result<Bytes, Failure> {
        let length = range.end - range.start;
        let bytes = self.packages.store().part(&piece, range).await?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged(&piece)) }
    }
}

fn copy(bytes: &[u8], range: Range<u64>) -> Option<Bytes> {
    let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    bytes.get(start..end).map(Bytes::copy_from_slice)
}

fn damaged(piece: &Piece) -> Failure {
    Failure::new(Kind::Untrusted, format_args!("{} in the store is damaged", piece.sha256))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::environment::Environment;
    use crate::store::ObjectKind;

    /// A package of three pieces, of which the second is read in parts.
    async fn long(folder: &Path) -> (Packages, Arc<Package>, Vec<u8>) {
        let environment = Environment { current_dir: folder.to_path_buf(), ..Environment::default() };
        let store = Store::open("store", &environment).unwrap();
        let (mut pieces, mut whole) = (Vec::new(), Vec::new());
        for (kind, size) in
            [(ObjectKind::Manifest, 5000), (ObjectKind::Frame, LONGEST_KEPT + 3), (ObjectKind::Frame, 70_000)]
        {
            let bytes: Vec<u8> = (0..size).map(|n| (n * size / 7) as u8).collect();
            let sha256 = Digest::of(&bytes);
            whole.extend(&bytes);
            store.put(kind, &sha256, bytes.into()).await.unwrap();
            pieces.push(Piece { kind, sha256, size });
        }
        let size = whole.len() as u64;
        let package = Package { pieces, size, executable: Digest::of(b""), whole: OnceCell::new() };
        (Packages::new(store), Arc::new(package), whole)
    }

    async fn read(
        packages: &Packages,
        package: &Arc<Package>,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let chunks: Vec<Bytes> = packages.clone().read(Arc::clone(package), range).try_collect().await?;
        assert!(chunks.iter().all(|chunk| (1..=PART as usize).contains(&chunk.len())));
        Ok(chunks.concat())
    }

    fn file(folder: &Path, piece: &Piece) -> std::path::PathBuf {
        let kind = if piece.kind == ObjectKind::Manifest { "manifests" } else { "frames" };
        folder.join("store").join(kind).join(piece.sha256.to_string())
    }

    #[tokio::test]
    async fn long_pieces_are_read_in_parts_and_the_digest_is_that_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (packages, package, whole) = long(folder.path()).await;
        let size = package.size;
        packages.check(&package).await.unwrap();
        for range in [0..size, 0..1, 4999..5001, 5000..5000 + PART, size - 70_001..size, 100..size - 100] {
            let (start, end) = (range.start as usize, range.end as usize);
            assert!(read(&packages, &package, range).await.unwrap() == whole[start..end], "{start}..{end}");
        }
        assert_eq!(packages.sha256(&package).await.unwrap(), Digest::of(&whole));
    }

    #[tokio::test]
    async fn a_damaged_piece_never_comes_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        for damaged in 0..3 {
            let (packages, package, _) = long(folder.path()).await;
            let file = file(folder.path(), &package.pieces[damaged]);
            let good = std::fs::read(&file).unwrap();
            let mut bad = good.clone();
            bad[4000] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            assert_eq!(read(&packages, &package, 0..package.size).await.unwrap_err().kind, Kind::Untrusted);
            assert_eq!(packages.sha256(&package).await.unwrap_err().kind, Kind::Untrusted);
            std::fs::write(&file, &good[1..]).unwrap();
            assert_eq!(packages.check(&package).await.unwrap_err().kind, Kind::Untrusted);
            std::fs::remove_file(&file).unwrap();
            assert_eq!(packages.check(&package).await.unwrap_err().kind, Kind::NotFound);
            // It is not remembered as bad.
            std::fs::write(&file, &good).unwrap();
            packages.check(&package).await.unwrap();
            packages.sha256(&package).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_had_to_go_from_memory_comes_from_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let (packages, package, whole) = long(folder.path()).await;
        let start = package.size - 70_000;
        let mut chunks = Box::pin(packages.clone().read(Arc::clone(&package), start..package.size));
        let mut bytes = chunks.next().await.unwrap().unwrap().to_vec();
        packages.0.kept.put(Digest::of(b"other"), Arc::default(), KEPT);
        assert!(packages.0.kept.made(&package.pieces[2].sha256).is_none());
        while let Some(chunk) = chunks.next().await {
            bytes.extend(chunk.unwrap());
        }
        assert!(bytes == whole[start as usize..]);
        assert!(packages.0.kept.made(&package.pieces[2].sha256).is_none());
    }
}
