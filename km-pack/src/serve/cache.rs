//! What is kept in memory: at most so much of it, and what was not asked for the longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use km_package::failure::Failure;
use tokio::sync::OnceCell;

/// Values by key, each with a weight.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    most: u64,
    held: Mutex<Held<K, V>>,
}

#[derive(Debug)]
struct Held<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// By when they were last asked for.
    order: BTreeMap<u64, K>,
    weight: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: u64,
    asked: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    /// One that holds values of at most this weight together.
    pub(super) fn new(most: u64) -> Self {
        let held = Held { entries: HashMap::new(), order: BTreeMap::new(), weight: 0, clock: 0 };
        Self { most, held: Mutex::new(held) }
    }

    /// The value of a key, if it is still there.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.held().get(key)
    }

    /// Puts a value in the place of the one before.
    pub(super) fn put(&self, key: K, value: V, weight: u64) {
        let mut held = self.held();
        held.put(key, value, weight);
        held.shrink(self.most);
    }

    fn held(&self) -> MutexGuard<'_, Held<K, V>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, Arc<OnceCell<V>>> {
    /// The value of a key. Of many who ask at once for one that is not there, one makes it.
    pub(super) async fn get_or_make<F: Future<Output = Result<V, Failure>>>(
        &self,
        key: K,
        weight: u64,
        make: impl FnOnce() -> F,
    ) -> Result<V, Failure> {
        let cell = {
            let mut held = self.held();
            let there = held.get(&key);
            there.unwrap_or_else(|| {
                let cell = Arc::new(OnceCell::new());
                held.put(key, Arc::clone(&cell), weight);
                held.shrink(self.most);
                cell
            })
        };
        cell.get_or_try_init(make).await.cloned()
    }

    /// The value of a key, if it was made and is still there.
    pub(super) fn made(&self, key: &K) -> Option<V> {
        self.get(key)?.get().cloned()
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Held<K, V> {
    fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.asked);
        self.clock += 1;
        entry.asked = self.clock;
        self.order.insert(self.clock, *key);
        Some(entry.value.clone())
    }

    fn put(&mut self, key: K, value: V, weight: u64) {
        self.clock += 1;
        let entry = Entry { value, weight, asked: self.clock };
        if let Some(before) = self.entries.insert(key, entry) {
            self.order.remove(&before.asked);
            self.weight -= before.weight;
        }
        self.order.insert(self.clock, key);
        self.weight += weight;
    }

    fn shrink(&mut self, most: u64) {
        while self.weight > most
            && let Some((_, key)) = self.order.pop_first()
        {
            if let Some(gone) = self.entries.remove(&key) {
                self.weight -= gone.weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use km_package::failure::Kind;

    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes() {
        let cache = Cache::new(10);
        for key in 0..3 {
            cache.put(key, key, 3);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.put(3, 3, 4);
        let there = |key| cache.get(&key).is_some();
        assert_eq!([0, 1, 2, 3].map(there), [true, false, true, true]);
        cache.put(3, 5, 7);
        assert_eq!([0, 1, 2, 3].map(there), [false, false, true, true]);
        assert_eq!(cache.get(&3), Some(5));
        cache.put(4, 4, 11);
        assert_eq!([2, 3, 4].map(there), [false, false, false]);
        let held = cache.held();
        assert_eq!((held.weight, held.order.len()), (0, 0));
    }

    #[tokio::test]
    async fn of_many_at_once_one_makes_it_and_a_failure_is_not_kept() {
        let cache = Cache::new(10);
        let failure = Failure::new(Kind::NotFound, "x");
        let failed = cache.get_or_make(1, 1, async || Err(failure.clone())).await;
        assert_eq!((failed, cache.made(&1)), (Err::<u32, _>(failure), None));
        let one = cache.get_or_make(1, 1, async || {
            tokio::task::yield_now().await;
            Ok(1)
        });
        let other = cache.get_or_make(1, 1, async || unreachable!("the first one makes it"));
        assert_eq!(tokio::join!(one, other), (Ok(1), Ok(1)));
        assert_eq!(cache.made(&1), Some(1));
    }
}
