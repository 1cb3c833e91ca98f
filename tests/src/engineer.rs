//! A release engineer: a key, packages of a binary that says nothing, and a store.

use std::path::PathBuf;
use std::sync::Arc;

use km_pack::environment::Environment;
use km_pack::publish::{PublishOptions, Publisher};
use km_pack::sign::SigningKey;
use km_pack::store::Store;
use km_package::index::{Index, IndexContext, UntrustedIndex, VerifiedIndex};
use km_package::key::{PublicKey, TrustedKeys};
use km_package::manifest::Time;

use crate::{Finished, TestEnvironment, path};

/// A folder with `keys/`, `dist/` and `dist/store`.
#[derive(Debug)]
pub struct Engineer(TestEnvironment);

impl Default for Engineer {
    fn default() -> Self {
        Self::new()
    }
}

impl Engineer {
    /// With a new key, and nothing else yet.
    pub fn new() -> Self {
        let engineer = Self(TestEnvironment::empty());
        engineer.run(&["keygen"]).expect(0);
        engineer
    }

    /// Runs `km-pack` there.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.0.km_pack(arguments.iter().copied())
    }

    /// A place in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// A package of `/bin/true`; gives its path.
    pub fn package(&self, name: &str, version: &str, customer: &str, more: &[&str]) -> String {
        self.package_of("/bin/true", name, version, customer, more)
    }

    /// A package of a program; gives its path.
    pub fn package_of(&self, file: &str, name: &str, version: &str, customer: &str, more: &[&str]) -> String {
        let arguments =
            ["build", "--binary", file, "--name", name, "--version", version, "--customer", customer];
        let built = self.run(&[&arguments, more].concat()).expect(0);
        built.text().trim().to_owned()
    }

    /// Builds a package of `/bin/true` and publishes it.
    pub fn release(&self, name: &str, version: &str, customer: &str, more: &[&str]) {
        let package = self.package(name, version, customer, more);
        self.run(&["publish", &package]).expect(0);
    }

    /// Where the store lies.
    pub fn store(&self) -> PathBuf {
        self.0.path("dist/store")
    }

    /// The public half of the key.
    pub fn public_key(&self) -> PathBuf {
        self.0.path("keys/release.pub.pem")
    }

    /// The key itself.
    pub fn key(&self) -> SigningKey {
        let key = self.0.path("keys/release.key.pem");
        SigningKey::load(Some(&key), &self.environment()).expect("a key")
    }

    /// The index of a customer, as it says.
    pub fn index(&self, customer: &str) -> Index {
        let text = std::fs::read(self.index_file(customer, "toml")).expect("an index");
        Index::parse(&text).expect("an index")
    }

    /// `index/<customer>.toml` or `.sig`.
    pub fn index_file(&self, customer: &str, extension: &str) -> PathBuf {
        self.store().join(format!("index/{customer}.{extension}"))
    }

    /// The index as a customer would believe it; none if there is none.
    pub fn believed(&self, customer: &str) -> Option<VerifiedIndex> {
        let read = |extension| std::fs::read(self.index_file(customer, extension));
        let (text, signatures) = (read("toml").ok()?, read("sig").ok()?);
        let pem = std::fs::read_to_string(self.public_key()).expect("a key");
        let keys = TrustedKeys::from_iter([PublicKey::from_pem(&pem).expect("a key")]);
        let customer = customer.parse().expect("a customer id");
        let context = IndexContext { customer: &customer, now: now(), last: None };
        let verified = UntrustedIndex { text, signatures }.verify(&keys, context);
        Some(verified.unwrap_or_else(|e| panic!("{e}")))
    }

    /// `<name> <version>` of all that the index names.
    pub fn names(&self, customer: &str) -> Vec<String> {
        let packages = self.index(customer).packages;
        packages.iter().map(|entry| format!("{} {}", entry.name, entry.version)).collect()
    }

    /// A publisher of this engineer at another time, whose indexes are good for so many seconds.
    pub fn publisher_at(&self, now: Time, lifetime: u64) -> Arc<Publisher> {
        let store = Store::open(path(&self.store()), &self.environment()).expect("a store");
        let options = PublishOptions { now, lifetime, force: true, allow_downgrade: true };
        Publisher::new(store, self.key(), TrustedKeys::default(), options)
    }

    /// Puts this text in the place of an index, properly signed whatever it says.
    pub fn sign_index(&self, customer: &str, text: &str) {
        let signature = self.key().sign(text.as_bytes());
        let block = km_package::signature::SignatureBlock::new(vec![signature]);
        std::fs::write(self.index_file(customer, "toml"), text).expect("written");
        std::fs::write(self.index_file(customer, "sig"), block.to_bytes()).expect("written");
    }

    fn environment(&self) -> Environment {
        Environment { current_dir: self.0.path("."), ..Environment::default() }
    }
}

/// The time.
pub fn now() -> Time {
    Time::from_unix(jiff::Timestamp::now().as_second().cast_unsigned()).expect("a time")
}
