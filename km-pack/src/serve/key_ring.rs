//! The keys that tokens and download URLs are signed with, as the database has them some seconds ago.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use km_api::key_set::KeySet;
use km_package::failure::Failure;
use tokio::sync::Mutex;

use super::download_url::UrlKeys;
use crate::customers::{Database, TokenKeys};

/// After this time the keys are read again: another server may have rotated them.
const FRESH: Duration = Duration::from_secs(5);
/// A token or URL that names an unknown key has them read again sooner, but not for each of them.
const FRESH_FOR_UNKNOWN: Duration = Duration::from_secs(1);

/// The keys and their public halves.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) signing: TokenKeys,
    pub(super) public: KeySet,
    pub(super) urls: UrlKeys,
    read_at: Instant,
}

/// Hands out the keys.
#[derive(Debug)]
pub(super) struct KeyRing {
    database: Database,
    keys: RwLock<Arc<Keys>>,
    /// Held by the one request that reads them again.
    reading: Mutex<()>,
}

impl KeyRing {
    pub(super) async fn load(database: Database) -> Result<Self, Failure> {
        let keys = RwLock::new(Arc::new(read(&database).await?));
        Ok(Self { database, keys, reading: Mutex::new(()) })
    }

    /// The keys, not much older than [`FRESH`].
    pub(super) async fn get(&self) -> Arc<Keys> {
        let keys = self.held();
        if keys.read_at.elapsed() < FRESH {
            return keys;
        }
        match self.reading.try_lock() {
            Ok(_turn) => self.read_again().await,
            // Somebody else reads them: what is here does meanwhile.
            Err(_) => keys,
        }
    }

    /// The keys, for a token or URL that names one that is not among [`get`](Self::get).
    pub(super) async fn get_for_unknown(&self) -> Arc<Keys> {
        let _turn = self.reading.lock().await;
        let keys = self.held();
        if keys.read_at.elapsed() < FRESH_FOR_UNKNOWN { keys } else { self.read_again().await }
    }

    fn held(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// While the database is away, tokens are signed and checked with the keys from before.
    async fn read_again(&self) -> Arc<Keys> {
        match read(&self.database).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
                keys
            }
            Err(failure) => {
                tracing::warn!("the token keys cannot be read again: {}", failure.message);
                self.held()
            }
        }
    }
}

async fn read(database: &Database) -> Result<Keys, Failure> {
    let read_at = Instant::now();
    let signing = database.token_keys().await?;
    Ok(Keys { public: signing.key_set(), urls: UrlKeys::of(&signing)?, signing, read_at })
}
