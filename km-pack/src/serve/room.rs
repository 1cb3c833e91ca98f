//! Room in memory for large bodies: taken before one is read, for the whole server and for each customer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use km_api::error::ErrorKind;
use km_package::name::CustomerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// What all bodies that are read at one time may take.
const ALL: usize = 64 << 20;
/// How many requests of one customer may have bodies at one time.
const OF_ONE: usize = 8;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// The room that is left.
#[derive(Debug)]
pub(super) struct Room {
    /// In KiB.
    all: Arc<Semaphore>,
    callers: Arc<Mutex<HashMap<CustomerId, usize>>>,
}

/// Room for one body, given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _all: OwnedSemaphorePermit,
    _own: Own,
}

/// A customer's share.
#[derive(Debug)]
struct Own {
    customer: CustomerId,
    callers: Arc<Mutex<HashMap<CustomerId, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL >> 10)), callers: Arc::default() }
    }
}

impl Room {
    /// Room for a body as long as announced, or as long as it may be.
    pub(super) async fn take(
        &self,
        customer: &CustomerId,
        headers: &HeaderMap,
        limit: usize,
    ) -> Result<Taken, Refusal> {
        let own = self.own(customer)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let length = announced.unwrap_or(limit).min(limit);
        let wanted = u32::try_from((length >> 10) + 1).unwrap_or(u32::MAX);
        let all = tokio::time::timeout(PATIENCE, Arc::clone(&self.all).acquire_many_owned(wanted)).await;
        match all {
            Ok(Ok(all)) => Ok(Taken { _all: all, _own: own }),
            _ => {
                Err(Refusal::new(ErrorKind::Unavailable, "the server has no room just now: ask again later"))
            }
        }
    }

    fn own(&self, customer: &CustomerId) -> Result<Own, Refusal> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = callers.entry(customer.clone()).or_default();
        if *count >= OF_ONE {
            return Err(Refusal::limited(Duration::from_secs(1)));
        }
        *count += 1;
        Ok(Own { customer: customer.clone(), callers: Arc::clone(&self.callers) })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = callers.get_mut(&self.customer) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.customer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_shared_and_given_back() {
        let (room, headers) = (Room::default(), HeaderMap::new());
        let customer = |n: usize| format!("c{n}").parse::<CustomerId>().unwrap();
        let mut taken = Vec::new();
        for _ in 0..OF_ONE {
            taken.push(room.take(&customer(0), &headers, 1 << 20).await.unwrap());
        }
        assert!(room.take(&customer(0), &headers, 1 << 20).await.is_err());
        drop(taken.pop());
        taken.push(room.take(&customer(0), &headers, 1 << 20).await.unwrap());
        taken.push(room.take(&customer(1), &headers, 1 << 20).await.unwrap());
        drop(taken);
        assert_eq!(room.all.available_permits(), ALL >> 10);
        assert!(room.callers.lock().unwrap().is_empty());
    }
}
