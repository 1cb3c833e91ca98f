//! Packages in a store: put in pieces, and put together again.

use std::ops::Range;

use bytes::Bytes;
use km_package::digest::Digest;
use km_package::envelope::Head;
use km_package::failure::{Failure, Kind};
use km_package::index::IndexEntry;
use km_package::manifest::Manifest;
use km_package::name::CustomerId;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::{ObjectKind, Store};
use crate::sign::Signed;

/// A package as it lies in a store: its head, and where the rest is.
#[derive(Debug, Clone)]
pub struct StoredPackage {
    /// What it says; not verified here.
    pub manifest: Manifest,
    /// Head and frames, in their order.
    pub pieces: Vec<Piece>,
}

/// One object of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which folder it is in.
    pub kind: ObjectKind,
    /// Its name there.
    pub sha256: Digest,
    /// Its bytes.
    pub size: u64,
}

impl StoredPackage {
    /// Bytes of the whole package.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size).sum()
    }
}

impl Store {
    /// Puts a package's frames, then its head, and remembers its executable: an index names the last
    /// one only, and a customer may go on with the one before. Nothing leads to it until an index does.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_package(&self, package: &Signed) -> Result<IndexEntry, Failure> {
        for shared in &package.frames {
            self.put(ObjectKind::Frame, &shared.frame.sha256, shared.bytes.clone()).await?;
        }
        let entry = IndexEntry::of(&package.manifest, &package.head);
        self.put(ObjectKind::Manifest, &entry.head_sha256, package.head.to_bytes().into()).await?;
        let executable = &package.manifest.executable().sha256;
        let path = self.executable_path(&package.manifest.customer.id, executable);
        self.put_new(&path, entry.head_sha256.to_string().into()).await?;
        Ok(entry)
    }

    /// Whether an executable with this digest was ever published for a customer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn has_executable(&self, customer: &CustomerId, sha256: &Digest) -> Result<bool, Failure> {
        let path = self.executable_path(customer, sha256);
        match self.objects.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.trouble("read", &path, e)),
        }
    }

    fn executable_path(&self, customer: &CustomerId, sha256: &Digest) -> Path {
        self.path(["executables", customer.as_str(), &sha256.to_string()])
    }

    /// Some bytes of a piece, not checked against its name.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub async fn part(&self, piece: &Piece, range: Range<u64>) -> Result<Bytes, Failure> {
        let path = self.object(piece.kind, &piece.sha256);
        self.objects.get_range(&path, range).await.map_err(|e| self.trouble("read", &path, e))
    }

    /// Whether a piece is there, as long as it should be.
    ///
    /// # Errors
    /// When it is not there (exit 6), has another length (exit 3), or the store fails.
    pub async fn check_size(&self, piece: &Piece) -> Result<(), Failure> {
        let path = self.object(piece.kind, &piece.sha256);
        let size = self.objects.head(&path).await.map_err(|e| self.trouble("read", &path, e))?.size;
        if size == piece.size {
            return Ok(());
        }
        let Piece { size: expected, .. } = piece;
        let message = format!("{path} in {} is damaged: {size} bytes instead of {expected}", self.name);
        Err(Failure::new(Kind::Untrusted, message).help("publish the package again"))
    }

    /// Finds the package that an index names.
    ///
    /// # Errors
    /// When it is not there, or not what the index says.
    pub async fn package(&self, entry: &IndexEntry) -> Result<StoredPackage, Failure> {
        let bytes = self.get(ObjectKind::Manifest, &entry.head_sha256).await?;
        let damaged = |why: String| {
            Failure::new(
                Kind::Untrusted,
                format_args!("manifests/{} in {}: {why}", entry.head_sha256, self.name),
            )
        };
        let head = Head::from_bytes(&bytes).map_err(|e| damaged(e.to_string()))?;
        let manifest = Manifest::parse(&head.manifest).map_err(|e| damaged(e.to_string()))?;
        let of_head =
            Piece { kind: ObjectKind::Manifest, sha256: entry.head_sha256, size: bytes.len() as u64 };
        let frames = &manifest.payload.frames;
        let of_frames = frames.iter().map(|frame| Piece {
            kind: ObjectKind::Frame,
            sha256: frame.sha256,
            size: frame.size,
        });
        Ok(StoredPackage { pieces: std::iter::once(of_head).chain(of_frames).collect(), manifest })
    }

    /// The bytes of all pieces, in order.
    ///
    /// # Errors
    /// When one is missing or damaged.
    pub async fn pieces(&self, package: &StoredPackage) -> Result<Vec<Bytes>, Failure> {
        let mut pieces = Vec::new();
        for piece in &package.pieces {
            pieces.push(self.get(piece.kind, &piece.sha256).await?);
        }
        Ok(pieces)
    }
}
