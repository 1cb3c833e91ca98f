//! Tokens on disk, so that a plugin starts without waiting for the API, and without it for a while.
//!
//! ```text
//! kmtoken1 | salt (32) | nonce (12) | AES-256-GCM of {"token","key_set",…} | tag (16)
//! ```
//!
//! One file for each plugin and API key, readable by its owner alone. The key is
//! HKDF-SHA256(API key, salt, plugin and customer), plugin and customer are authenticated too: a file
//! that was cut, swapped with another plugin's or brought from a machine with another key is none.

use std::io;
use std::path::PathBuf;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use km_api::api_key::ApiKey;
use km_api::key_set::KeySet;
use km_api::token::Token;
use km_package::digest::Digest;
use km_package::name::{CustomerId, PluginName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::paths::{self, Home};

const MAGIC: &[u8; 8] = b"kmtoken1";
const SALT_LEN: usize = 32;
const SUFFIX: &str = ".token";

/// A token with the keys that it is checked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedToken {
    pub(crate) token: Token,
    pub(crate) key_set: KeySet,
    /// Where it is from, and for which binary.
    pub(crate) endpoint: String,
    pub(crate) binary_sha256: Digest,
}

/// The cached tokens of one API key.
#[derive(Debug, Clone)]
pub(crate) struct TokenCache {
    folder: PathBuf,
    key: ApiKey,
}

impl TokenCache {
    pub(crate) fn new(home: &Home, key: ApiKey) -> Self {
        Self { folder: home.cache(), key }
    }

    /// The token of a plugin, if there is one that can be read.
    pub(crate) fn load(&self, plugin: &PluginName, customer: &CustomerId) -> Option<CachedToken> {
        let path = self.path(plugin);
        let sealed = match paths::read_own(&path) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::debug!("the cached token {} cannot be read: {e}", path.display());
                return None;
            }
        };
        let opened = self.open(sealed, plugin, customer);
        if opened.is_none() {
            tracing::debug!("the cached token {} is damaged or another's; it is not used", path.display());
        }
        opened
    }

    /// Keeps a token. That it cannot be kept is no failure: the API can be asked again.
    pub(crate) fn store(&self, plugin: &PluginName, customer: &CustomerId, token: &CachedToken) {
        let path = self.path(plugin);
        let written = self.seal(token, plugin, customer).and_then(|sealed| {
            paths::create_private(&self.folder)?;
            // Several sessions may do this at once.
            let mut file = tempfile::Builder::new().prefix(".").suffix(".new").tempfile_in(&self.folder)?;
            io::Write::write_all(&mut file, &sealed)?;
            file.persist(&path)?;
            Ok(())
        });
        if let Err(e) = written {
            tracing::debug!("the token cannot be kept in {}: {e}", path.display());
        }
    }

    /// Forgets the token of a plugin that may not run any more.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        let _ = std::fs::remove_file(self.path(plugin));
    }

    /// Removes the cached tokens of all keys. Returns how many there were.
    pub(crate) fn clear(home: &Home) -> io::Result<usize> {
        let entries = match std::fs::read_dir(home.cache()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(e),
        };
        let mut removed = 0;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(SUFFIX)) {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Four bytes of the key's digest keep the files of several keys apart, and tell nothing of them.
    fn path(&self, plugin: &PluginName) -> PathBuf {
        let digest = self.key.digest().to_string();
        self.folder.join(format!("{plugin}-{}{SUFFIX}", &digest[..8]))
    }

    fn seal(&self, token: &CachedToken, plugin: &PluginName, customer: &CustomerId) -> io::Result<Vec<u8>> {
        let failed = |_| io::Error::other("encryption failed");
        let mut salt = [0; SALT_LEN];
        aws_lc_rs::rand::fill(&mut salt).map_err(failed)?;
        let mut text = Zeroizing::new(serde_json::to_vec(token)?);
        let owner = owner(plugin, customer);
        let key = self.cipher(&salt, &owner).ok_or_else(|| failed(aws_lc_rs::error::Unspecified))?;
        let nonce = key.seal_in_place_append_tag(Aad::from(&owner), &mut *text).map_err(failed)?;
        Ok([&MAGIC[..], &salt, nonce.as_ref(), &text].concat())
    }

    fn open(&self, sealed: Vec<u8>, plugin: &PluginName, customer: &CustomerId) -> Option<CachedToken> {
        let rest = sealed.strip_prefix(MAGIC)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let owner = owner(plugin, customer);
        let mut text = Zeroizing::new(text.to_vec());
        let key = self.cipher(salt, &owner)?;
        let opened = key.open_in_place(nonce.into(), Aad::from(&owner), &mut text).ok()?;
        serde_json::from_slice(opened).ok()
    }

    fn cipher(&self, salt: &[u8; SALT_LEN], owner: &[u8]) -> Option<RandomizedNonceKey> {
        let mut key = Zeroizing::new([0; 32]);
        let secret = hkdf::Salt::new(HKDF_SHA256, salt).extract(self.key.reveal().as_bytes());
        secret.expand(&[owner], &AES_256_GCM).ok()?.fill(&mut *key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &*key).ok()
    }
}

/// Whose a token is; neither name can hold the zero between them.
fn owner(plugin: &PluginName, customer: &CustomerId) -> Vec<u8> {
    format!("km token cache 1\0{plugin}\0{customer}").into_bytes()
}

#[cfg(test)]
mod tests {
    use km_api::key_set::TokenKey;

    use super::*;

    fn cache(folder: &tempfile::TempDir, key: &str) -> TokenCache {
        TokenCache { folder: folder.path().to_owned(), key: key.parse().unwrap() }
    }

    #[test]
    fn a_token_is_read_by_its_key_for_its_plugin_and_customer_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (own, foreign) = (cache(&folder, "km_live_1111"), cache(&folder, "km_live_2222"));
        let plugin: PluginName = "api-logger".parse().unwrap();
        let other: PluginName = "console-logger".parse().unwrap();
        let customer: CustomerId = "customer_123".parse().unwrap();
        let keys = KeySet { issuer: "i".to_owned(), keys: vec![TokenKey::new(&[1; 32])] };
        let token = CachedToken {
            token: Token::new("a.secret.token".to_owned()),
            key_set: keys,
            endpoint: "https://example.com".to_owned(),
            binary_sha256: Digest::of(b"binary"),
        };
        own.store(&plugin, &customer, &token);
        assert_eq!(own.load(&plugin, &customer), Some(token.clone()));
        assert_eq!(own.load(&plugin, &"other".parse().unwrap()), None);

        // Nothing of it can be read, and nobody else may try.
        let path = own.path(&plugin);
        let sealed = std::fs::read(&path).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert!(crate::config::is_private(&path));
        // From a machine with another key; in the place of another plugin's.
        std::fs::copy(&path, foreign.path(&plugin)).unwrap();
        assert_eq!(foreign.load(&plugin, &customer), None);
        std::fs::copy(&path, own.path(&other)).unwrap();
        assert_eq!(own.load(&other, &customer), None);
        // Cut anywhere, changed anywhere.
        for end in 0..sealed.len() {
            assert_eq!(own.open(sealed[..end].to_vec(), &plugin, &customer), None, "{end} bytes");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(own.open(changed, &plugin, &customer), None, "byte {at}");
        }
        // The same token is never encrypted alike.
        own.store(&plugin, &customer, &token);
        assert_ne!(std::fs::read(&path).unwrap(), sealed);
        own.forget(&plugin);
        assert_eq!(own.load(&plugin, &customer), None);
    }
}
