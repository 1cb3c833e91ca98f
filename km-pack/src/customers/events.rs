//! Events that plugins sent, each once.

use jiff::Timestamp;
use km_api::event::RawEvent;
use km_package::failure::{Failure, Kind};
use km_package::name::{CustomerId, PluginName};
use sqlx::AssertSqlSafe;

use super::{Database, rows_of};

impl Database {
    /// Stores events of a customer; those whose id it has already stay as they are. All or none.
    ///
    /// # Errors
    /// When the customer is unknown (exit 6) or the database fails.
    pub async fn add_events(
        &self,
        customer: &CustomerId,
        plugin: &PluginName,
        events: &[RawEvent],
    ) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        // In one order, so that two that send the same events do not wait for each other for ever.
        let mut ordered: Vec<&RawEvent> = events.iter().collect();
        ordered.sort_by(|a, b| a.id.cmp(&b.id));
        let rows = rows_of(ordered.len(), 5);
        let sql = format!(
            "INSERT INTO events (customer, id, plugin, received_at, body) VALUES {rows} ON CONFLICT DO NOTHING"
        );
        let now = Timestamp::now().as_second();
        // A statement for every number of rows would push all others out of the cache.
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for event in ordered {
            query = query
                .bind(customer.as_str())
                .bind(event.id.as_str())
                .bind(plugin.as_str())
                .bind(now)
                .bind(event.text.get());
        }
        self.answered(query.execute(&self.pool)).await?;
        Ok(())
    }

    /// The events of a customer, in the order in which they came.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_of(&self, customer: &CustomerId) -> Result<Vec<serde_json::Value>, Failure> {
        let sql = "SELECT body FROM events WHERE customer = $1 ORDER BY received_at, id";
        let rows: Vec<(String,)> = sqlx::query_as(sql)
            .bind(customer.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.trouble(e))?;
        rows.iter()
            .map(|(body,)| serde_json::from_str(body).map_err(|e| Failure::new(Kind::Failed, e)))
            .collect()
    }
}
