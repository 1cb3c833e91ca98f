//! The database of the plugin API: who may use it, the keys that tokens are signed with, and the events
//! that plugins sent. SQLite or PostgreSQL, the same statements for both.
//!
//! | module | what it owns |
//! |---|---|
//! | [`address`] | `sqlite://PATH` and `postgres://…`, shown without a password |
//! | `open` | files, folders, migrations, connections |
//! | `customer` | customers and their keys, as rows and as values |
//! | `token_keys`, `events` | their tables |
//!
//! Nothing of it is cached: what a command changes holds for the next request.

pub mod address;
mod customer;
mod events;
mod open;
mod token_keys;

pub use address::Address;
pub use customer::{Customer, KeyRecord, State, new_api_key};
pub use token_keys::TokenKeys;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use km_api::api_key::ApiKey;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use sqlx::{Any, AnyPool, AssertSqlSafe, Transaction};
use tokio::time::timeout;

use customer::{CustomerRow, KeyRow};

/// An open database. A clone is another handle of the same.
#[derive(Debug, Clone)]
pub struct Database {
    pool: AnyPool,
    address: Address,
}

/// Whom an API key belongs to.
#[derive(Debug, Clone)]
pub struct KeyOwner {
    /// The digest that the database has, in hex.
    pub digest: String,
    /// Whether the key was revoked.
    pub revoked: bool,
    /// Whose it is.
    pub customer: Customer,
}

/// How long a statement may take. Longer than SQLite waits for another process that writes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);
/// How many customers go into one statement: six values each, of the 32,766 that SQLite takes.
const CHUNK: usize = 500;

impl Database {
    /// Opens a database; a file and its folders are made, and the tables brought up to date.
    ///
    /// # Errors
    /// A file that cannot be opened is exit 9, a server that does not answer within 5 seconds exit 5.
    pub async fn open(address: &Address) -> Result<Self, Failure> {
        Ok(Self { pool: open::open(address).await?, address: address.clone() })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Failure> {
        self.answered(sqlx::query("SELECT 1").execute(&self.pool)).await?;
        Ok(())
    }

    /// Closes all connections, so that SQLite tidies its side files.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Adds a customer with their first key; false if the id is taken, and then nothing changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add(&self, customer: &Customer, key: &ApiKey) -> Result<bool, Failure> {
        let mut transaction = self.begin().await?;
        let added = self.insert_customers(&mut transaction, &[customer]).await?;
        if added == 1 {
            self.insert_keys(&mut transaction, &[(&customer.id, key)]).await?;
        }
        self.commit(transaction).await?;
        Ok(added == 1)
    }

    /// Adds many customers in one transaction, each with a key; ids that are taken fail it.
    ///
    /// # Errors
    /// When an id is taken (exit 7), or the database fails; then none is added.
    pub async fn add_customers(
        &self,
        customers: impl IntoIterator<Item = (CustomerId, Tier, ApiKey)>,
    ) -> Result<(), Failure> {
        let mut transaction = self.begin().await?;
        let mut customers = customers.into_iter();
        loop {
            let chunk: Vec<(Customer, ApiKey)> = (customers.by_ref().take(CHUNK))
                .map(|(id, tier, key)| (Customer::new(id, tier), key))
                .collect();
            if chunk.is_empty() {
                return self.commit(transaction).await;
            }
            let rows: Vec<&Customer> = chunk.iter().map(|(customer, _)| customer).collect();
            if self.insert_customers(&mut transaction, &rows).await? < chunk.len() as u64 {
                return Err(Failure::new(Kind::Conflict, "one of the customers exists already"));
            }
            let keys: Vec<_> = chunk.iter().map(|(customer, key)| (&customer.id, key)).collect();
            self.insert_keys(&mut transaction, &keys).await?;
        }
    }

    /// Adds another key to a customer, who must exist.
    ///
    /// # Errors
    /// When the customer is unknown or the database fails.
    pub async fn add_key(&self, customer: &CustomerId, key: &ApiKey) -> Result<(), Failure> {
        let mut transaction = self.begin().await?;
        self.insert_keys(&mut transaction, &[(customer, key)]).await?;
        self.commit(transaction).await
    }

    /// A customer.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, Failure> {
        let sql = "SELECT id, tier, state, expires_at, features, created_at FROM customers WHERE id = $1";
        let row: Option<CustomerRow> =
            self.answered(sqlx::query_as(sql).bind(id.as_str()).fetch_optional(&self.pool)).await?;
        row.map(Customer::try_from).transpose()
    }

    /// All customers with their keys, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<(Customer, Vec<KeyRecord>)>, Failure> {
        let sql = "SELECT id, tier, state, expires_at, features, created_at FROM customers";
        let customers: Vec<CustomerRow> = self.answered(sqlx::query_as(sql).fetch_all(&self.pool)).await?;
        let sql =
            "SELECT customer, digest, hint, created_at, revoked_at FROM api_keys ORDER BY created_at, digest";
        let keys: Vec<(String, String, String, i64, Option<i64>)> =
            self.answered(sqlx::query_as(sql).fetch_all(&self.pool)).await?;

        let mut of_customer = BTreeMap::new();
        for row in customers {
            of_customer.insert(row.0.clone(), (Customer::try_from(row)?, Vec::new()));
        }
        for (customer, digest, hint, created_at, revoked_at) in keys {
            // One that was added between the two statements is left out.
            if let Some((_, keys)) = of_customer.get_mut(&customer) {
                keys.push(KeyRecord::try_from((digest, hint, created_at, revoked_at))?);
            }
        }
        Ok(of_customer.into_values().collect())
    }

    /// Whom the key with this digest belongs to: one row, found by two indexes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn key_owner(&self, digest: &Digest) -> Result<Option<KeyOwner>, Failure> {
        let sql = "SELECT k.digest, k.revoked_at, c.id, c.tier, c.state, c.expires_at, c.features, c.created_at \
                   FROM api_keys k JOIN customers c ON c.id = k.customer WHERE k.digest = $1";
        type Row = (String, Option<i64>, String, String, String, Option<i64>, String, i64);
        let row: Option<Row> =
            self.answered(sqlx::query_as(sql).bind(digest.to_string()).fetch_optional(&self.pool)).await?;
        let Some((digest, revoked_at, id, tier, state, expires_at, features, created_at)) = row else {
            return Ok(None);
        };
        let customer = Customer::try_from((id, tier, state, expires_at, features, created_at))?;
        Ok(Some(KeyOwner { digest, revoked: revoked_at.is_some(), customer }))
    }

    /// The keys of a customer, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys(&self, customer: &CustomerId) -> Result<Vec<KeyRecord>, Failure> {
        let sql = "SELECT digest, hint, created_at, revoked_at FROM api_keys WHERE customer = $1 \
                   ORDER BY created_at, digest";
        let rows: Vec<KeyRow> =
            self.answered(sqlx::query_as(sql).bind(customer.as_str()).fetch_all(&self.pool)).await?;
        rows.into_iter().map(KeyRecord::try_from).collect()
    }

    /// Gives a customer another tier.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_tier(&self, id: &CustomerId, tier: Tier) -> Result<(), Failure> {
        self.update("UPDATE customers SET tier = $2 WHERE id = $1", id.as_str(), tier.as_str()).await
    }

    /// Suspends or resumes a customer.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_state(&self, id: &CustomerId, state: State) -> Result<(), Failure> {
        self.update("UPDATE customers SET state = $2 WHERE id = $1", id.as_str(), state.as_str()).await
    }

    /// Sets what a customer has besides what the tier includes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_features(&self, id: &CustomerId, features: &[String]) -> Result<(), Failure> {
        self.update("UPDATE customers SET features = $2 WHERE id = $1", id.as_str(), &json(features)?).await
    }

    /// Sets the end of a subscription, or takes it away.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_expiry(&self, id: &CustomerId, end: Option<Timestamp>) -> Result<(), Failure> {
        let end = end.map(Timestamp::as_second);
        self.update("UPDATE customers SET expires_at = $2 WHERE id = $1", id.as_str(), end).await
    }

    /// Revokes the key with this digest (in hex). One that is revoked keeps its time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(&self, digest: &str) -> Result<(), Failure> {
        let now = Timestamp::now().as_second();
        let sql = "UPDATE api_keys SET revoked_at = $2 WHERE digest = $1 AND revoked_at IS NULL";
        self.update(sql, digest, now).await
    }

    /// Removes a customer with their keys and events; false if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove(&self, id: &CustomerId) -> Result<bool, Failure> {
        let removed = self
            .answered(
                sqlx::query("DELETE FROM customers WHERE id = $1").bind(id.as_str()).execute(&self.pool),
            )
            .await?;
        Ok(removed.rows_affected() > 0)
    }

    async fn update<'q, V>(&self, sql: &'static str, id: &'q str, value: V) -> Result<(), Failure>
    where
        V: 'q + Send + sqlx::Encode<'q, Any> + sqlx::Type<Any>,
    {
        let query = sqlx::query(sql).bind(id).bind(value);
        self.answered(query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Gives the number of rows that are new.
    async fn insert_customers(
        &self,
        transaction: &mut Transaction<'_, Any>,
        customers: &[&Customer],
    ) -> Result<u64, Failure> {
        let sql = format!(
            "INSERT INTO customers (id, tier, state, expires_at, features, created_at) VALUES {} \
             ON CONFLICT DO NOTHING",
            rows_of(customers.len(), 6)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for customer in customers {
            query = query
                .bind(customer.id.as_str())
                .bind(customer.tier.as_str())
                .bind(customer.state.as_str())
                .bind(customer.expires_at.map(Timestamp::as_second))
                .bind(json(&customer.features)?)
                .bind(customer.created_at.as_second());
        }
        let done = self.answered(query.execute(&mut **transaction)).await?;
        Ok(done.rows_affected())
    }

    async fn insert_keys(
        &self,
        transaction: &mut Transaction<'_, Any>,
        keys: &[(&CustomerId, &ApiKey)],
    ) -> Result<(), Failure> {
        let rows = rows_of(keys.len(), 4);
        let sql = format!("INSERT INTO api_keys (digest, hint, customer, created_at) VALUES {rows}");
        let now = Timestamp::now().as_second();
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (customer, key) in keys {
            query = query.bind(key.digest().to_string()).bind(key.masked()).bind(customer.as_str()).bind(now);
        }
        self.answered(query.execute(&mut **transaction)).await?;
        Ok(())
    }

    /// A transaction that writes. SQLite is told so at once: one that reads first and writes then fails
    /// when another process wrote in between.
    async fn begin(&self) -> Result<Transaction<'static, Any>, Failure> {
        let begin = if self.address.is_file() { "BEGIN IMMEDIATE" } else { "BEGIN" };
        self.pool.begin_with(begin).await.map_err(|e| self.trouble(e))
    }

    async fn commit(&self, transaction: Transaction<'_, Any>) -> Result<(), Failure> {
        transaction.commit().await.map_err(|e| self.trouble(e))
    }

    /// What a statement gives, within a deadline.
    async fn answered<T>(&self, statement: impl Future<Output = sqlx::Result<T>>) -> Result<T, Failure> {
        let late = || Err(io::Error::from(io::ErrorKind::TimedOut).into());
        let answer = timeout(ANSWER_DEADLINE, statement).await.unwrap_or_else(|_| late());
        answer.map_err(|e| self.trouble(e))
    }

    /// Whom a row belongs to may be gone since it was asked for.
    fn trouble(&self, error: sqlx::Error) -> Failure {
        match error.as_database_error() {
            Some(e) if e.is_foreign_key_violation() => {
                Failure::new(Kind::NotFound, "there is no such customer")
            }
            _ => self.address.trouble("use", &error),
        }
    }
}

/// `($1, $2), ($3, $4)`: so many rows of so many values.
fn rows_of(rows: usize, values: usize) -> String {
    let row = |row: usize| {
        let numbers = (1..=values).map(|value| format!("${}", row * values + value));
        format!("({})", numbers.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

fn json(features: &[String]) -> Result<String, Failure> {
    serde_json::to_string(features).map_err(|e| Failure::new(Kind::Failed, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(rows_of(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }

    #[tokio::test]
    async fn many_customers_come_in_at_once_and_all_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let database =
            Database::open(&Address::parse("sqlite://a/km.db", folder.path()).unwrap()).await.unwrap();
        let key = |number: usize| format!("km_live_{number:032}").parse::<ApiKey>().unwrap();
        let some = |numbers: std::ops::Range<usize>| {
            numbers.map(move |number| (format!("c{number}").parse().unwrap(), Tier::Pro, key(number)))
        };
        database.add_customers(some(0..1201)).await.unwrap();
        assert_eq!(database.add_customers(some(1200..1900)).await.unwrap_err().kind, Kind::Conflict);

        let owner = database.key_owner(&key(1200).digest()).await.unwrap().unwrap();
        assert_eq!((owner.customer.id.as_str(), owner.revoked), ("c1200", false));
        assert!(database.key_owner(&key(1201).digest()).await.unwrap().is_none());
        assert!(database.remove(&owner.customer.id).await.unwrap());
        assert!(database.key_owner(&key(1200).digest()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_issuer_stays_and_two_keys_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::parse("sqlite://km.db", folder.path()).unwrap();
        let (one, other) = tokio::join!(Database::open(&address), Database::open(&address));
        let (one, other) = (one.unwrap(), other.unwrap());
        let (first, same) = tokio::join!(one.token_keys(), other.token_keys());
        let first = first.unwrap();
        assert_eq!(first.key_set(), same.unwrap().key_set());
        one.rotate_token_key().await.unwrap();
        one.rotate_token_key().await.unwrap();
        let third = other.token_keys().await.unwrap();
        assert_eq!(third.issuer, first.issuer);
        assert_eq!(third.key_set().keys.len(), 2);
        assert!(third.key_set().get(first.current.public().id()).is_none());
    }
}
