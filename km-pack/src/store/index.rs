//! Indexes in a store: read as they are, replaced only if nobody else did meanwhile.
//!
//! Text and signatures are two objects, and whoever reads them may come between any two steps. So the
//! signatures of a new text are there before it, beside those of the old one; once the new text is there
//! the old ones go. A crash leaves a pair that holds.

use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use km_package::failure::{Failure, Kind};
use km_package::index::{MAX_INDEX, UntrustedIndex};
use km_package::name::CustomerId;
use km_package::signature::{Signature, SignatureBlock};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, UpdateVersion};

use super::Store;

/// Most signatures that wait beside each other: one for each publisher that was interrupted. Of more, the
/// oldest go.
const MAX_WAITING: usize = 40;

/// How often an index is read that publishers keep changing.
const TRIES: usize = 100;

/// A customer's index as it lies in the store, perhaps not yet there.
#[derive(Debug, Clone)]
pub struct StoredIndex {
    customer: CustomerId,
    text: Option<Stored>,
    signatures: Option<Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    version: UpdateVersion,
}

/// What became of an attempt to replace an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is there.
    Done,
    /// Somebody else was faster: read it again.
    Lost,
}

impl StoredIndex {
    /// The index, not believed; none where the customer has none.
    pub fn document(&self) -> Option<UntrustedIndex> {
        let text = self.text.as_ref()?.bytes.to_vec();
        let signatures = self.signatures.as_ref().map(|stored| stored.bytes.to_vec()).unwrap_or_default();
        Some(UntrustedIndex { text, signatures })
    }
}

impl Store {
    /// The index of a customer. Where signatures are the same before and after the text was read, it is
    /// theirs: no publisher came between.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn index(&self, customer: &CustomerId) -> Result<StoredIndex, Failure> {
        let (text_path, signatures_path) =
            (self.index_path(customer, "toml"), self.index_path(customer, "sig"));
        let mut signatures = self.stored(&signatures_path).await?;
        for _ in 0..TRIES {
            let text = self.stored(&text_path).await?;
            let after = self.stored(&signatures_path).await?;
            let bytes = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.bytes.clone());
            if bytes(&signatures) == bytes(&after) {
                return Ok(StoredIndex { customer: customer.clone(), text, signatures: after });
            }
            signatures = after;
        }
        Err(Failure::new(Kind::Conflict, format_args!("others keep changing the index of {customer}"))
            .help("try again when they are done"))
    }

    /// The text of a customer's index alone, for whoever does not hand it on to be believed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn index_text(&self, customer: &CustomerId) -> Result<Option<Bytes>, Failure> {
        let text = self.stored(&self.index_path(customer, "toml")).await?;
        Ok(text.map(|stored| stored.bytes))
    }

    /// Everybody who has an index, in no order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn customers(&self) -> Result<Vec<CustomerId>, Failure> {
        let folder = self.path(["index"]);
        let listed = self.objects.list(Some(&folder)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|e| self.trouble("list", &folder, e))?;
        let customer = |path: &Path| path.filename()?.strip_suffix(".toml")?.parse().ok();
        Ok(listed.iter().filter_map(|object| customer(&object.location)).collect())
    }

    /// Puts a new index in the place of the one that was read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replace_index(
        &self,
        before: &StoredIndex,
        new: &UntrustedIndex,
        signature: Signature,
    ) -> Result<Replaced, Failure> {
        let (text_path, signatures_path) =
            (self.index_path(&before.customer, "toml"), self.index_path(&before.customer, "sig"));

        let both = joined(before, signature);
        let waits = both.signatures().len() > 1;
        let Some(staged) = self
            .put_if_unchanged(&signatures_path, both.to_bytes().into(), before.signatures.as_ref())
            .await?
        else {
            return Ok(Replaced::Lost);
        };
        let text = Bytes::from(new.text.clone());
        if self.put_if_unchanged(&text_path, text, before.text.as_ref()).await?.is_none() {
            return Ok(Replaced::Lost);
        }
        if waits {
            // Not if somebody has added theirs: then they tidy.
            self.put_if_unchanged(&signatures_path, new.signatures.clone().into(), Some(&staged)).await?;
        }
        Ok(Replaced::Done)
    }

    fn index_path(&self, customer: &CustomerId, extension: &str) -> Path {
        self.path(["index", &format!("{customer}.{extension}")])
    }

    async fn stored(&self, path: &Path) -> Result<Option<Stored>, Failure> {
        let read = async {
            let found = self.objects.get(path).await?;
            if found.meta.size > MAX_INDEX as u64 {
                return Ok(None);
            }
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok(Some(Stored { bytes: found.bytes().await?, version }))
        };
        match read.await {
            Ok(Some(stored)) if stored.bytes.is_empty() => Err(self.damaged(path, "it is empty")),
            Ok(Some(stored)) => Ok(Some(stored)),
            Ok(None) => Err(self.damaged(path, "it is longer than an index can be")),
            Err(object_store::Error::NotFound { .. }) if self.is_there() => Ok(None),
            Err(e) => Err(self.trouble("read", path, e)),
        }
    }

    /// What a power cut, or somebody, has left of one of an index's two files. Whose packages it named is
    /// not known any more, and must not be taken for nothing.
    fn damaged(&self, path: &Path, why: &str) -> Failure {
        Failure::new(Kind::Untrusted, format_args!("{path} in {}: {why}", self.name())).help(
            "restore it from a backup; or remove the customer's .toml and .sig, and publish again what they \
             are to have",
        )
    }

    /// None if the object is not the one that was read.
    async fn put_if_unchanged(
        &self,
        path: &Path,
        bytes: Bytes,
        before: Option<&Stored>,
    ) -> Result<Option<Stored>, Failure> {
        if let Some(folder) = &self.folder {
            return self.swap_file(folder.join(path.as_ref()), bytes, before).await;
        }
        let mode = before.map_or(PutMode::Create, |stored| PutMode::Update(stored.version.clone()));
        match self.objects.put_opts(path, bytes.clone().into(), mode.into()).await {
            Ok(put) => Ok(Some(Stored { bytes, version: put.into() })),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(None)
            }
            Err(e) => Err(self.trouble("write", path, e)),
        }
    }

    /// In a folder the condition is judged under a lock.
    async fn swap_file(
        &self,
        path: PathBuf,
        bytes: Bytes,
        before: Option<&Stored>,
    ) -> Result<Option<Stored>, Failure> {
        let before = before.map(|stored| stored.bytes.clone());
        let swap = move || {
            let swapped = swap_under_lock(&path, &bytes, before.as_deref());
            let stored = || Stored { bytes, version: UpdateVersion { e_tag: None, version: None } };
            swapped.map(|done| done.then(stored)).map_err(|e| Failure::file("write", &path, &e))
        };
        tokio::task::spawn_blocking(swap).await.map_err(|e| Failure::new(Kind::Failed, e))?
    }
}

fn swap_under_lock(path: &std::path::Path, bytes: &[u8], before: Option<&[u8]>) -> std::io::Result<bool> {
    let folder = path.parent().unwrap_or(std::path::Path::new("."));
    std::fs::create_dir_all(folder)?;
    let lock = std::fs::File::open(folder)?;
    lock.lock()?;
    let current = match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if current.as_deref() != before {
        return Ok(false);
    }
    let mut file = tempfile::Builder::new().prefix(".km-pack-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    crate::archive::readable_by_all(file.as_file())?;
    file.persist(path)?;
    Ok(true)
}

/// The signatures that are there, and one more. Also those that no text was signed with yet: that of another
/// publisher may come between our two steps.
fn joined(before: &StoredIndex, signature: Signature) -> SignatureBlock {
    let there = before.signatures.as_ref().and_then(|stored| SignatureBlock::parse(&stored.bytes).ok());
    let mut all = there.map_or_else(Vec::new, |block| block.signatures().to_vec());
    all.drain(..all.len().saturating_sub(MAX_WAITING));
    all.push(signature);
    SignatureBlock::new(all)
}

#[cfg(test)]
mod tests {
    use km_package::key::KeyId;

    use super::*;

    #[test]
    fn a_signature_that_waits_for_its_first_text_stays() {
        let signature = |byte: u8| Signature { key_id: KeyId([byte; 8]), bytes: [byte; 64] };
        let bytes = SignatureBlock::new(vec![signature(1)]).to_bytes().into();
        let signatures = Stored { bytes, version: UpdateVersion { e_tag: None, version: None } };
        let customer = "customer_123".parse().unwrap();
        let before = StoredIndex { customer, text: None, signatures: Some(signatures) };
        assert_eq!(joined(&before, signature(2)).signatures(), [signature(1), signature(2)]);
    }
}
