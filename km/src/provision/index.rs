//! The last index that was believed, and what a new one must hold against.
//!
//! It lies in `plugins/index/<customer>`, text and signatures in one file, and is what tells an index that
//! is old from one that is new.

use std::io;

use km_package::envelope::MAX_SIGNATURES;
use km_package::failure::{Failure, Kind};
use km_package::index::{IndexContext, IndexError, MAX_INDEX, UntrustedIndex, VerifiedIndex};
use km_package::key::TrustedKeys;
use km_package::manifest::Time;
use km_package::name::CustomerId;
use km_package::signature::SignatureError;

use crate::paths::{self, Home};
use crate::store::FolderLock;

/// Most bytes of the file: the index, its signatures, and the frames around both.
const MAX_FILE: u64 = MAX_INDEX as u64 + 8 * 1024;

/// The last index of a customer that was believed here, if its signers are trusted still.
pub(crate) fn last_index(
    home: &Home,
    keys: &TrustedKeys,
    customer: &CustomerId,
) -> Result<Option<VerifiedIndex>, Failure> {
    let path = home.last_index(customer);
    let bytes = match paths::read_own_up_to(&path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure { kind: Kind::Local, ..Failure::file("read", &path, &e) }),
    };
    let damaged = |why: &dyn std::fmt::Display| {
        Failure::new(Kind::Local, format_args!("{} is damaged: {why}", path.display())).help(
            "without it an index that is older would go unnoticed: restore the file from a backup; or, if \
             you trust the server and its mirrors just now, remove it",
        )
    };
    let document = UntrustedIndex::from_bytes(&bytes).map_err(|e| damaged(&e))?;
    match document.verify_as_last(keys, customer) {
        Ok(index) => Ok(Some(index)),
        Err(IndexError::Signature(e @ SignatureError::Untrusted(_))) => {
            tracing::warn!("the last index that was seen here does not count any more: {e}");
            Ok(None)
        }
        Err(e) => Err(damaged(&e)),
    }
}

/// Believes indexes of one customer.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    home: &'a Home,
    keys: TrustedKeys,
    pub(super) customer: CustomerId,
    pub(super) now: Time,
    pub(super) last: Option<VerifiedIndex>,
}

/// What every customer's indexes are judged by.
#[derive(Debug)]
pub(super) struct Court<'a> {
    pub(super) home: &'a Home,
    pub(super) keys: TrustedKeys,
    pub(super) now: Time,
}

impl<'a> Court<'a> {
    /// The judge of one customer's.
    pub(super) fn judge(self, customer: CustomerId) -> Result<Judge<'a>, Failure> {
        let Self { home, keys, now } = self;
        let last = last_index(home, &keys, &customer)?;
        Ok(Judge { home, keys, customer, now, last })
    }
}

impl Judge<'_> {
    /// Whether an index is to be believed.
    pub(super) fn verify(&self, index: UntrustedIndex) -> Result<VerifiedIndex, IndexError> {
        self.verify_after(index, self.last.as_ref())
    }

    fn verify_after(
        &self,
        index: UntrustedIndex,
        last: Option<&VerifiedIndex>,
    ) -> Result<VerifiedIndex, IndexError> {
        // What else lies beside a signature that holds is not signed: it must not keep the file that the
        // index goes into from being read again.
        let length = index.signatures.len();
        if length > MAX_SIGNATURES as usize {
            return Err(IndexError::Signature(SignatureError::Length(length)));
        }
        index.verify(&self.keys, IndexContext { customer: &self.customer, now: self.now, last })
    }

    /// The last index again, where there is none newer: it is believed until it expires.
    pub(super) fn verify_last(&self) -> Option<Result<VerifiedIndex, IndexError>> {
        Some(self.verify(self.last.as_ref()?.document().clone()))
    }

    /// Makes an index the last one that was believed. Another process may have seen a newer one meanwhile.
    pub(super) fn keep(&self, index: &VerifiedIndex) -> Result<(), Failure> {
        let document = index.document();
        if self.last.as_ref().is_some_and(|last| last.document() == document) {
            return Ok(());
        }
        let path = self.home.last_index(&self.customer);
        let _lock = FolderLock::take(&self.home.indexes())?;
        let last = last_index(self.home, &self.keys, &self.customer)?;
        self.verify_after(document.clone(), last.as_ref())?;
        paths::replace_file(&path, &document.to_bytes(), 0o600)
            .map_err(|e| Failure { kind: Kind::Local, ..Failure::file("write", &path, &e) })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use km_package::index::Index;
    use km_package::key::PublicKey;
    use km_package::signature::{Signature, SignatureBlock};

    use super::*;

    const NOW: u64 = 1_795_305_600;

    fn signed(counter: u64, seed: u8) -> UntrustedIndex {
        let time = |seconds| Time::from_unix(seconds).unwrap();
        let index = Index::new(customer(), counter, time(NOW - 10), time(NOW + 10), Vec::new());
        let text = index.to_text();
        let key = SigningKey::from_bytes(&[seed; 32]);
        let bytes = key.sign(text.as_bytes()).to_bytes();
        let signatures = SignatureBlock::new(vec![Signature { key_id: public(seed).id(), bytes }]).to_bytes();
        UntrustedIndex { text: text.into_bytes(), signatures }
    }

    fn public(seed: u8) -> PublicKey {
        PublicKey::from_bytes(&SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()).unwrap()
    }

    fn customer() -> CustomerId {
        "customer_123".parse().unwrap()
    }

    struct Machine {
        _folder: tempfile::TempDir,
        home: Home,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let environment = crate::environment::Environment {
                km_home: Some(folder.path().join("km")),
                ..Default::default()
            };
            Self { home: Home::find(&environment).unwrap(), _folder: folder }
        }

        fn judge(&self, seeds: &[u8], seconds: u64) -> Judge<'_> {
            let keys = seeds.iter().map(|seed| public(*seed)).collect();
            let now = Time::from_unix(seconds).unwrap();
            Court { home: &self.home, keys, now }.judge(customer()).unwrap()
        }

        fn believe(&self, counter: u64, seed: u8) {
            let judge = self.judge(&[1, 2], NOW);
            judge.keep(&judge.verify(signed(counter, seed)).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_was_believed_is_the_mark_for_the_next() {
        let machine = Machine::new();
        assert_eq!(machine.judge(&[1], NOW).last, None);
        machine.believe(5, 1);
        let judge = machine.judge(&[1], NOW);
        assert_eq!(judge.verify(signed(4, 1)), Err(IndexError::Older { last: 5, found: 4 }));
        assert!(judge.verify(signed(5, 1)).is_ok() && judge.verify(signed(6, 1)).is_ok());
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(machine.home.last_index(&customer())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn more_signatures_than_can_be_kept_are_refused() {
        let machine = Machine::new();
        let mut padded = signed(5, 1);
        padded.signatures = padded.signatures.repeat(57);
        let refused = machine.judge(&[1], NOW).verify(padded);
        assert_eq!(refused, Err(IndexError::Signature(SignatureError::Length(57 * 72))));
    }

    #[test]
    fn a_newer_one_that_another_process_believed_stays() {
        let machine = Machine::new();
        let slow = machine.judge(&[1], NOW);
        let index = slow.verify(signed(5, 1)).unwrap();
        machine.believe(6, 1);
        assert_eq!(slow.keep(&index).unwrap_err().kind, Kind::Conflict);
        assert_eq!(machine.judge(&[1], NOW).last.unwrap().index().counter, 6);
    }

    #[test]
    fn a_counter_that_a_revoked_key_ran_up_does_not_count() {
        let machine = Machine::new();
        machine.believe(i64::MAX as u64, 2);
        let judge = machine.judge(&[1], NOW);
        assert_eq!(judge.last, None);
        judge.keep(&judge.verify(signed(7, 1)).unwrap()).unwrap();
        assert_eq!(machine.judge(&[1], NOW).last.unwrap().index().counter, 7);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_beginning() {
        let machine = Machine::new();
        machine.believe(5, 1);
        let path = machine.home.last_index(&customer());
        let mut bytes = std::fs::read(&path).unwrap();
        let keys: TrustedKeys = [public(1)].into_iter().collect();
        bytes[100] ^= 1;
        for damaged in [&bytes[..], &bytes[..50], b""] {
            std::fs::write(&path, damaged).unwrap();
            let failure = last_index(&machine.home, &keys, &customer()).unwrap_err();
            assert!(failure.kind == Kind::Local && failure.help.is_some(), "{failure}");
        }
    }

    #[test]
    fn the_last_one_is_believed_until_it_expires() {
        let machine = Machine::new();
        assert!(machine.judge(&[1], NOW).verify_last().is_none());
        machine.believe(5, 1);
        assert!(machine.judge(&[1], NOW).verify_last().unwrap().is_ok());
        let expired = machine.judge(&[1], NOW + 10).verify_last().unwrap();
        assert!(matches!(expired, Err(IndexError::Expired { .. })));
    }
}
