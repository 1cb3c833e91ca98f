//! The keys that tokens are signed with, and the name under which they are signed.

use jiff::Timestamp;
use km_api::key_set::KeySet;
use km_package::failure::{Failure, Kind};
use zeroize::Zeroizing;

use super::Database;
use crate::token::TokenSigner;

const ISSUER: &str = "issuer";

/// Whose tokens they are, and the keys: the current one, and the one before if there is one.
#[derive(Debug, Clone)]
pub struct TokenKeys {
    /// `iss` of every token; made once for a database.
    pub issuer: String,
    /// The key that signs.
    pub current: TokenSigner,
    /// The key before, whose tokens still hold.
    pub previous: Option<TokenSigner>,
}

impl TokenKeys {
    /// The public halves.
    pub fn key_set(&self) -> KeySet {
        let signers = std::iter::once(&self.current).chain(&self.previous);
        KeySet { issuer: self.issuer.clone(), keys: signers.map(|key| key.public().clone()).collect() }
    }
}

impl Database {
    /// The keys that sign tokens. The first is made here; of two servers that do so at once, one wins and
    /// both use its key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_keys(&self) -> Result<TokenKeys, Failure> {
        let (mut stored, mut issuer) = (self.stored_keys().await?, self.issuer().await?);
        if stored.is_empty() {
            self.insert_token_key(1).await?;
            stored = self.stored_keys().await?;
        }
        let mut signers = stored.into_iter().map(|(_, signer)| signer);
        let current = signers.next().ok_or_else(|| Failure::new(Kind::Failed, "there is no token key"))?;
        if issuer.is_none() {
            let name: String = current.public().id().chars().take(16).collect();
            self.insert_issuer(&format!("km-pack:{name}")).await?;
            issuer = self.issuer().await?;
        }
        let issuer = issuer.ok_or_else(|| Failure::new(Kind::Failed, "there is no issuer"))?;
        Ok(TokenKeys { issuer, current, previous: signers.next() })
    }

    /// Makes a new key the current one. The one before stays, older ones go.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rotate_token_key(&self) -> Result<(), Failure> {
        self.token_keys().await?;
        let stored = self.stored_keys().await?;
        let newest = stored.first().map_or(0, |(number, _)| *number);
        // Where another server did the same at the same time, both have rotated once.
        self.insert_token_key(newest + 1).await?;
        self.answered(
            sqlx::query("DELETE FROM token_keys WHERE number < $1").bind(newest).execute(&self.pool),
        )
        .await?;
        Ok(())
    }

    /// Newest first.
    async fn stored_keys(&self) -> Result<Vec<(i64, TokenSigner)>, Failure> {
        let rows: Vec<(i64, String)> = self
            .answered(
                sqlx::query_as("SELECT number, seed FROM token_keys ORDER BY number DESC LIMIT 2")
                    .fetch_all(&self.pool),
            )
            .await?;
        rows.into_iter().map(|(number, seed)| Ok((number, signer(Zeroizing::new(seed))?))).collect()
    }

    async fn insert_token_key(&self, number: i64) -> Result<(), Failure> {
        let signer = TokenSigner::generate()?;
        let sql = "INSERT INTO token_keys (number, kid, seed, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        self.answered(
            sqlx::query(sql)
                .bind(number)
                .bind(signer.public().id())
                .bind(hex::encode(signer.seed()))
                .bind(Timestamp::now().as_second())
                .execute(&self.pool),
        )
        .await?;
        Ok(())
    }

    async fn issuer(&self) -> Result<Option<String>, Failure> {
        self.answered(
            sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
                .bind(ISSUER)
                .fetch_optional(&self.pool),
        )
        .await
    }

    async fn insert_issuer(&self, issuer: &str) -> Result<(), Failure> {
        self.answered(
            sqlx::query("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(ISSUER)
                .bind(issuer)
                .execute(&self.pool),
        )
        .await?;
        Ok(())
    }
}

fn signer(seed: Zeroizing<String>) -> Result<TokenSigner, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(seed.as_bytes(), &mut bytes[..])
        .map_err(|_| Failure::new(Kind::Failed, "the database has a token key that cannot be read"))?;
    TokenSigner::from_seed(&bytes)
}
