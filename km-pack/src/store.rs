//! The store: what was published, as objects that never change but for the indexes.
//!
//! ```text
//! index/<customer>.toml   what the customer may install; replaced as a whole
//! index/<customer>.sig    its signatures
//! manifests/<sha256>      the head of a package: manifest and signatures in their frames
//! frames/<sha256>         a compressed piece of an archive, shared by all packages that have it
//! executables/<customer>/<sha256>
//!                         for each executable that was ever published for them: the name of its head
//! packages/<file name>    a whole package, where somebody asked for one
//! ```
//!
//! A folder, or a bucket of S3, GCS or Azure. Objects are named by the digest of their bytes, so that
//! any file server can hand them out and nobody has to believe it.

mod address;
mod index;
mod package;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use object_store::path::Path;
use object_store::signer::{Method, Signer};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

pub use address::CloudSettings;
pub use index::{Replaced, StoredIndex};
pub use package::{Piece, StoredPackage};

/// Where the store is, when nothing says it.
pub const DEFAULT: &str = "dist/store";

/// An open store. A clone is another handle of the same.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Makes URLs that need no credentials; none for a folder.
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    /// Where it lies, if it is a folder.
    folder: Option<PathBuf>,
    /// As it was named.
    name: String,
    /// Objects that are known to be there.
    known: Arc<Mutex<HashSet<Path>>>,
}

/// What kind of object a digest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The head of a package.
    Manifest,
    /// A compressed piece of an archive.
    Frame,
}

impl ObjectKind {
    fn folder(self) -> &'static str {
        match self {
            Self::Manifest => "manifests",
            Self::Frame => "frames",
        }
    }
}

impl Store {
    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts an object under the digest of its bytes. One that is there already stays.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put(&self, kind: ObjectKind, digest: &Digest, bytes: Bytes) -> Result<(), Failure> {
        let path = self.object(kind, digest);
        if self.known().contains(&path) {
            return Ok(());
        }
        self.put_new(&path, bytes).await?;
        self.known().insert(path);
        Ok(())
    }

    /// Puts a whole package under its file name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_whole(&self, file_name: &str, bytes: Bytes) -> Result<(), Failure> {
        self.put_new(&self.path(["packages", file_name]), bytes).await
    }

    async fn put_new(&self, path: &Path, bytes: Bytes) -> Result<(), Failure> {
        let create = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(path, bytes.clone().into(), create).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(e) => return Err(self.trouble("write", path, e)),
        }
        // What a power cut or a bad disk has left is put right.
        let there = async { self.objects.get(path).await?.bytes().await };
        if there.await.map_err(|e| self.trouble("read", path, e))? == bytes {
            return Ok(());
        }
        self.objects.put(path, bytes.into()).await.map_err(|e| self.trouble("write", path, e))?;
        Ok(())
    }

    /// The bytes of an object, checked against its name.
    ///
    /// # Errors
    /// When it is not there (exit 6), is not what its name says (exit 3), or the store fails.
    pub async fn get(&self, kind: ObjectKind, digest: &Digest) -> Result<Bytes, Failure> {
        let path = self.object(kind, digest);
        let got = async { self.objects.get(&path).await?.bytes().await };
        let bytes = got.await.map_err(|e| self.trouble("read", &path, e))?;
        if Digest::of(&bytes) != *digest {
            let message = format!("{path} in {} is damaged: its digest is not its name", self.name);
            return Err(Failure::new(Kind::Untrusted, message).help("publish the package again"));
        }
        Ok(bytes)
    }

    /// A URL at which an object can be had for so long without credentials; none for a folder.
    ///
    /// # Errors
    /// When the store's credentials do not allow it.
    pub async fn signed_url(
        &self,
        kind: ObjectKind,
        digest: &Digest,
        lifetime: Duration,
    ) -> Result<Option<String>, Failure> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let path = self.object(kind, digest);
        let url = signer.signed_url(Method::GET, &path, lifetime).await;
        url.map(|url| Some(url.to_string())).map_err(|e| self.trouble("sign a URL for", &path, e))
    }

    /// Makes what was written to a folder survive a power cut. Object stores do that by themselves.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn sync(&self) -> Result<(), Failure> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let sync = move || {
            let failed = |e: std::io::Error| Failure::file("write", &folder, &e);
            let open = std::fs::File::open(&folder).map_err(failed)?;
            rustix::fs::syncfs(&open).map_err(|e| failed(e.into()))
        };
        tokio::task::spawn_blocking(sync).await.map_err(|e| Failure::new(Kind::Failed, e))?
    }

    /// Whether the folder is there: a disk that is not mounted must not look like a store with nothing in it.
    fn is_there(&self) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.is_dir())
    }

    fn object(&self, kind: ObjectKind, digest: &Digest) -> Path {
        self.path([kind.folder(), &digest.to_string()])
    }

    fn path<const N: usize>(&self, parts: [&str; N]) -> Path {
        parts.iter().fold(self.prefix.clone(), |path, part| path.join(*part))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<Path>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What failed, on which object, why.
    fn trouble(&self, action: &str, path: &Path, error: object_store::Error) -> Failure {
        use object_store::Error;
        let kind = match &error {
            Error::NotFound { .. } => Kind::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } if self.folder.is_none() => {
                Kind::Unauthorized
            }
            _ if self.folder.is_some() => Kind::Local,
            _ => Kind::Unreachable,
        };
        // The innermost error says what happened; those around it repeat the path.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Failure::new(kind, format_args!("cannot {action} {path} in {}: {cause}", self.name))
    }
}
