//! The index: the signed list of what one customer may install.
//!
//! It is a document of its own kind (`format = "kmindex/1"`), signed by a release key like a manifest,
//! and the upper bound of what `km` installs: an answer of the API may narrow it, never widen it. An
//! index that is older than the last one seen, expired or somebody else's is refused, so that neither a
//! server nor a mirror can make a customer go back, or hide for long that there is something new.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::{EnvelopeError, Head};
use crate::failure::{Failure, Kind};
use crate::key::{KeyId, TrustedKeys};
use crate::manifest::{Manifest, Time, quote};
use crate::name::{CustomerId, PluginName};
use crate::platform::Platform;
use crate::signature::{SignatureBlock, SignatureError};
use crate::tier::Tier;

/// First line of every index of this format: the domain tag of its signatures.
pub const TAG: &str = "format = \"kmindex/1\"\n";
/// Most bytes of an index.
pub const MAX_INDEX: usize = 1 << 20;
/// Most packages in an index.
pub const MAX_PACKAGES: usize = 1024;
/// How far the clocks of publisher and customer may be apart, in seconds.
pub const MAX_SKEW: u64 = 600;

/// A parsed index. It says nothing about who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    format: String,
    /// Whose it is.
    pub customer: CustomerId,
    /// Grows with each index of this customer.
    pub counter: u64,
    /// When it was signed.
    pub created: Time,
    /// When it stops being believed.
    pub expires: Time,
    /// What may be installed: at most one package of each plugin and platform, in that order.
    #[serde(default)]
    pub packages: Vec<IndexEntry>,
}

/// One package in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// The plugin.
    pub name: PluginName,
    /// Its version (semver), for people.
    pub version: semver::Version,
    /// What rollback is judged by.
    pub sequence: u64,
    /// Where it runs.
    pub platform: Platform,
    /// The tier that a customer needs to run it.
    pub required_tier: Tier,
    /// The tier stamped into it.
    pub tier: Tier,
    /// The executable without its identity: one for all customers of a build.
    pub base_sha256: Digest,
    /// Digest of the manifest's text; its first 12 digits are in the package's file name.
    pub manifest_sha256: Digest,
    /// Digest of the package's head (manifest and signatures in their frames): the name of the object
    /// `manifests/<head_sha256>` in a store.
    pub head_sha256: Digest,
    /// Bytes of the head.
    pub head_size: u64,
    /// Bytes of the payload, which follows the head.
    pub payload_size: u64,
}

impl IndexEntry {
    /// The entry of a package with this head.
    pub fn of(manifest: &Manifest, head: &Head) -> Self {
        let bytes = head.to_bytes();
        Self {
            name: manifest.plugin.name.clone(),
            version: manifest.plugin.version.clone(),
            sequence: manifest.plugin.sequence,
            platform: manifest.target.platform.clone(),
            required_tier: manifest.plugin.required_tier,
            tier: manifest.customer.tier,
            base_sha256: manifest.build.base_sha256,
            manifest_sha256: Digest::of(&head.manifest),
            head_sha256: Digest::of(&bytes),
            head_size: bytes.len() as u64,
            payload_size: manifest.payload.size,
        }
    }

    /// Bytes of the whole package.
    pub fn size(&self) -> u64 {
        self.head_size.saturating_add(self.payload_size)
    }

    /// Whether the tier stamped into it is one that runs it.
    pub fn is_entitled(&self) -> bool {
        self.tier >= self.required_tier
    }

    /// The package's file name: `km-plugin-<name>-<first 12 digits of the manifest's digest>.kmpkg`.
    pub fn file_name(&self) -> String {
        file_name(&self.name, &self.manifest_sha256)
    }

    fn key(&self) -> (&PluginName, &str) {
        (&self.name, self.platform.as_str())
    }
}

/// The file name of the package with this manifest.
pub fn file_name(name: &PluginName, manifest_sha256: &Digest) -> String {
    format!("{}-{}.kmpkg", name.executable(), manifest_sha256.prefix(12))
}

/// Why a text is not an index of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedIndex(String);

impl Index {
    /// An index of format 1. Its packages are put into their order.
    pub fn new(
        customer: CustomerId,
        counter: u64,
        created: Time,
        expires: Time,
        mut packages: Vec<IndexEntry>,
    ) -> Self {
        packages.sort_by(|a, b| a.key().cmp(&b.key()));
        Self { format: "kmindex/1".to_owned(), customer, counter, created, expires, packages }
    }

    /// Parses a text, whoever may have signed it.
    ///
    /// # Errors
    /// For another format, unknown keys, names that are none, packages out of order or twice.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedIndex> {
        let malformed = |what: String| MalformedIndex(what);
        if text.len() > MAX_INDEX {
            return Err(malformed(format!("{} bytes; at most {MAX_INDEX} may be", text.len())));
        }
        if !text.starts_with(TAG.as_bytes()) {
            return Err(malformed(if text.starts_with(b"format = \"kmindex/") {
                "this index needs a newer km".to_owned()
            } else {
                "the text does not begin with `format = \"kmindex/1\"`: this is not an index".to_owned()
            }));
        }
        let text = std::str::from_utf8(text).map_err(|e| malformed(format!("not UTF-8: {e}")))?;
        // Nothing nests in an index, and a parser of what nests needs stack.
        if let Some(line) = text.lines().find(|line| !is_plain(line)) {
            let line: String = line.chars().take(80).collect();
            return Err(malformed(format!("{line:?} is no line of an index")));
        }
        let index: Self = toml::from_str(text).map_err(|e| malformed(e.message().to_owned()))?;
        let packages = &index.packages;
        if packages.len() > MAX_PACKAGES {
            return Err(malformed(format!("{} packages; at most {MAX_PACKAGES} may be", packages.len())));
        }
        if !packages.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err(malformed("packages are not in strictly ascending order".to_owned()));
        }
        Ok(index)
    }

    /// The text that is signed.
    pub fn to_text(&self) -> String {
        let mut text = String::from(TAG);
        self.write(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { format: _, customer, counter, created, expires, packages } = self;
        writeln!(out, "customer = {}", quote(customer.as_str()))?;
        writeln!(out, "counter = {counter}")?;
        writeln!(out, "created = {created}")?;
        writeln!(out, "expires = {expires}")?;
        for entry in packages {
            let IndexEntry { name, version, sequence, platform, required_tier, tier, .. } = entry;
            writeln!(out, "\n[[packages]]")?;
            writeln!(out, "name = {}", quote(name.as_str()))?;
            writeln!(out, "version = {}", quote(&version.to_string()))?;
            writeln!(out, "sequence = {sequence}")?;
            writeln!(out, "platform = {}", quote(platform.as_str()))?;
            writeln!(out, "required_tier = {}", quote(required_tier.as_str()))?;
            writeln!(out, "tier = {}", quote(tier.as_str()))?;
            writeln!(out, "base_sha256 = \"{}\"", entry.base_sha256)?;
            writeln!(out, "manifest_sha256 = \"{}\"", entry.manifest_sha256)?;
            writeln!(out, "head_sha256 = \"{}\"", entry.head_sha256)?;
            writeln!(out, "head_size = {}", entry.head_size)?;
            writeln!(out, "payload_size = {}", entry.payload_size)?;
        }
        Ok(())
    }
}

/// Nothing, the head of a package, or a key with a plain value.
fn is_plain(line: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        let word = key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        Some(word && value.starts_with(|c: char| c == '"' || c.is_ascii_digit()))
    };
    line.is_empty() || line == "[[packages]]" || value(line).unwrap_or(false)
}

/// An index and its signatures as they came: nothing of them is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntrustedIndex {
    /// The exact text.
    pub text: Vec<u8>,
    /// The signature block: n × (key id 8 | ed25519 64).
    pub signatures: Vec<u8>,
}

/// What an index is judged against.
#[derive(Debug, Clone, Copy)]
pub struct IndexContext<'a> {
    /// Whose index it must be.
    pub customer: &'a CustomerId,
    /// The time.
    pub now: Time,
    /// The last index of this customer that was believed.
    pub last: Option<&'a VerifiedIndex>,
}

/// An index whose signature holds. Only [`UntrustedIndex::verify`] and [`UntrustedIndex::verify_as_last`]
/// make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIndex {
    index: Index,
    document: UntrustedIndex,
    signers: Vec<KeyId>,
}

/// Why an index is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// No trusted key signed it.
    #[error("the index is not signed by a trusted key: {0}")]
    Signature(SignatureError),
    /// A signed text that is no index.
    #[error("the index cannot be read: {0}")]
    Malformed(MalformedIndex),
    /// Somebody else's.
    #[error("the index is that of {found}, and this is {expected}")]
    Customer {
        /// The configured customer.
        expected: CustomerId,
        /// Whose it is.
        found: CustomerId,
    },
    /// A lower counter than the last one, or the same with another text.
    #[error("the index is older than the last one seen here: its counter is {found}, and {last} was seen")]
    Older {
        /// The highest counter seen.
        last: u64,
        /// Its own.
        found: u64,
    },
    /// Two with the same counter.
    #[error("another index with the same counter, {0}, was seen here before")]
    Fork(u64),
    /// It is too old to be believed.
    #[error("the index expired at {expires}, and it is {now}")]
    Expired {
        /// When it did.
        expires: Time,
        /// The time here.
        now: Time,
    },
    /// Signed in the future: this machine's clock is behind.
    #[error("the index was signed at {created}, and this machine's clock says {now}")]
    Clock {
        /// When it was signed.
        created: Time,
        /// The time here.
        now: Time,
    },
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        let (kind, help) = match &error {
            IndexError::Signature(_) => (
                Kind::Untrusted,
                "if the release key is new, get its public half by another way and trust it: `km trust add`",
            ),
            IndexError::Malformed(_) => (Kind::Untrusted, "update km, or tell whoever published it"),
            IndexError::Customer { .. } => {
                (Kind::Unauthorized, "`km auth status` shows whose API key is configured")
            }
            IndexError::Older { .. } => (
                Kind::Conflict,
                "the server or mirror is behind, or was set back: try again later, and tell whoever runs it",
            ),
            IndexError::Fork(_) => (Kind::Conflict, "tell whoever published it"),
            IndexError::Expired { .. } => (
                Kind::Untrusted,
                "whoever publishes renews it with `km-pack publish --renew`; if that was done, the server or \
                 mirror is behind",
            ),
            IndexError::Clock { .. } => (Kind::Untrusted, "set this machine's clock"),
        };
        Self::new(kind, &error).help(help)
    }
}

impl UntrustedIndex {
    /// Believes an index that a trusted key signed, of this customer, neither expired nor older than the
    /// last one.
    ///
    /// # Errors
    /// The first of [`IndexError`] that holds, in their order.
    pub fn verify(self, keys: &TrustedKeys, context: IndexContext<'_>) -> Result<VerifiedIndex, IndexError> {
        let IndexContext { customer, now, last } = context;
        let verified = self.verify_signed(keys, customer)?;
        let index = &verified.index;
        if let Some(last) = last {
            if index.counter < last.index.counter {
                return Err(IndexError::Older { last: last.index.counter, found: index.counter });
            }
            if index.counter == last.index.counter && verified.document.text != last.document.text {
                return Err(IndexError::Fork(index.counter));
            }
        }
        if index.created.unix() > now.unix().saturating_add(MAX_SKEW) {
            return Err(IndexError::Clock { created: index.created, now });
        }
        if index.expires <= now {
            return Err(IndexError::Expired { expires: index.expires, now });
        }
        Ok(verified)
    }

    /// The last index that was believed, read again to judge a new one by: it may have expired since.
    ///
    /// # Errors
    /// When its signature does not hold any more, or it is not of this customer.
    pub fn verify_as_last(
        self,
        keys: &TrustedKeys,
        customer: &CustomerId,
    ) -> Result<VerifiedIndex, IndexError> {
        self.verify_signed(keys, customer)
    }

    fn verify_signed(self, keys: &TrustedKeys, customer: &CustomerId) -> Result<VerifiedIndex, IndexError> {
        let signers = SignatureBlock::parse(&self.signatures)
            .and_then(|block| block.signers_of(&self.text, keys))
            .map_err(IndexError::Signature)?;
        let index = Index::parse(&self.text).map_err(IndexError::Malformed)?;
        if index.customer != *customer {
            return Err(IndexError::Customer { expected: customer.clone(), found: index.customer });
        }
        Ok(VerifiedIndex { index, document: self, signers })
    }

    /// Text and signatures in one piece: the frames of a package's head, with the index in the place of
    /// the manifest. For keeping both in one file.
    pub fn to_bytes(&self) -> Vec<u8> {
        Head::frames(&self.text, &self.signatures)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (text, signatures) = Head::read_frames(bytes, MAX_INDEX as u32)?;
        Ok(Self { text, signatures })
    }
}

impl VerifiedIndex {
    /// What it says.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Its exact text and signatures.
    pub fn document(&self) -> &UntrustedIndex {
        &self.document
    }

    /// The trusted keys that signed it.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::key::PublicKey;
    use crate::signature::Signature;

    const NOW: u64 = 1_795_305_600;

    fn time(seconds: u64) -> Time {
        Time::from_unix(seconds).unwrap()
    }

    fn entry(name: &str, platform: &str) -> IndexEntry {
        IndexEntry {
            name: name.parse().unwrap(),
            version: "1.2.3-rc.1".parse().unwrap(),
            sequence: 7,
            platform: platform.parse().unwrap(),
            required_tier: Tier::Pro,
            tier: Tier::Enterprise,
            base_sha256: Digest::of(b"base"),
            manifest_sha256: Digest::of(b"manifest"),
            head_sha256: Digest::of(b"head"),
            head_size: 1500,
            payload_size: 2_000_000,
        }
    }

    fn customer() -> CustomerId {
        "customer_123".parse().unwrap()
    }

    fn index(counter: u64) -> Index {
        let packages = vec![entry("b", "linux-amd64"), entry("a", "linux-arm64"), entry("a", "linux-amd64")];
        Index::new(customer(), counter, time(NOW - 10), time(NOW + 10), packages)
    }

    fn key(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
        (key, public)
    }

    fn signature(text: &str, seed: u8) -> Signature {
        let (key, public) = key(seed);
        Signature { key_id: public.id(), bytes: key.sign(text.as_bytes()).to_bytes() }
    }

    fn signed_text(text: &str, seed: u8) -> UntrustedIndex {
        let signatures = SignatureBlock::new(vec![signature(text, seed)]).to_bytes();
        UntrustedIndex { text: text.as_bytes().to_vec(), signatures }
    }

    fn signed(index: &Index) -> UntrustedIndex {
        signed_text(&index.to_text(), 1)
    }

    fn trusted() -> TrustedKeys {
        TrustedKeys::from_iter([key(1).1])
    }

    fn verdict(index: UntrustedIndex, last: Option<&VerifiedIndex>) -> Result<VerifiedIndex, IndexError> {
        index.verify(&trusted(), IndexContext { customer: &customer(), now: time(NOW), last })
    }

    #[test]
    fn what_is_written_is_read_again() {
        let index = index(5);
        let text = index.to_text();
        assert_eq!(Index::parse(text.as_bytes()), Ok(index.clone()), "{text}");
        assert_eq!(index.packages[0].name.as_str(), "a");
        let document = signed(&index);
        assert_eq!(UntrustedIndex::from_bytes(&document.to_bytes()).unwrap(), document);
        assert!(UntrustedIndex::from_bytes(&[&document.to_bytes()[..], b"x"].concat()).is_err());
    }

    #[test]
    fn an_index_is_believed_once_everything_about_it_holds() {
        let last = verdict(signed(&index(5)), None).unwrap();
        assert!(verdict(signed(&index(5)), Some(&last)).is_ok());
        assert!(verdict(signed(&index(6)), Some(&last)).is_ok());
        assert_eq!(verdict(signed(&index(4)), Some(&last)), Err(IndexError::Older { last: 5, found: 4 }));
        let fork = Index { expires: time(NOW + 11), ..index(5) };
        assert_eq!(verdict(signed(&fork), Some(&last)), Err(IndexError::Fork(5)));
    }

    #[test]
    fn another_customers_expired_or_future_index_is_refused() {
        let other = Index { customer: "other".parse().unwrap(), ..index(1) };
        assert!(matches!(verdict(signed(&other), None), Err(IndexError::Customer { .. })));
        let expired = Index { expires: time(NOW), ..index(1) };
        assert!(matches!(verdict(signed(&expired), None), Err(IndexError::Expired { .. })));
        let soon = Index { created: time(NOW + MAX_SKEW), expires: time(NOW + 9999), ..index(1) };
        assert!(verdict(signed(&soon), None).is_ok());
        let future = Index { created: time(NOW + MAX_SKEW + 1), ..soon };
        assert!(matches!(verdict(signed(&future), None), Err(IndexError::Clock { .. })));
    }

    #[test]
    fn one_signature_that_holds_is_enough_and_none_is_not() {
        let text = index(1).to_text();
        let mut document = signed_text(&text, 1);
        let old = signature("the text before", 1);
        document.signatures = SignatureBlock::new(vec![old.clone(), signature(&text, 1)]).to_bytes();
        assert!(verdict(document.clone(), None).is_ok());
        document.signatures = SignatureBlock::new(vec![old]).to_bytes();
        assert!(matches!(verdict(document, None), Err(IndexError::Signature(SignatureError::Broken(_)))));
        assert!(matches!(
            verdict(signed_text(&text, 2), None),
            Err(IndexError::Signature(SignatureError::Untrusted(_)))
        ));
    }

    #[test]
    fn a_mark_made_by_a_key_that_is_not_trusted_any_more_does_not_count() {
        let far = Index { counter: i64::MAX as u64, ..index(1) };
        let last = signed_text(&far.to_text(), 2);
        let both = TrustedKeys::from_iter([key(1).1, key(2).1]);
        assert!(last.clone().verify_as_last(&both, &customer()).is_ok());
        assert!(last.verify_as_last(&trusted(), &customer()).is_err());
    }

    #[test]
    fn what_does_not_add_up_or_could_nest_is_no_index() {
        let text = index(1).to_text();
        for (from, to) in [
            ("kmindex/1", "kmindex/2"),
            ("kmindex/1", "kmpkg/1"),
            ("name = \"a\"", "name = \"../a\""),
            ("name = \"a\"", "name = \"z\""),
            ("version = \"1.2.3-rc.1\"", "version = \"../../x\""),
            ("counter = 1", "counter = -1"),
            ("counter = 1", "counter = 1\nsurprise = 1"),
            ("counter = 1", "counter = 1\nx = [[[[1]]]]"),
            ("counter = 1", "counter = 1\na.b.c = 1"),
            ("sequence = 7", "sequence = { x = 1 }"),
            ("platform = \"linux-amd64\"", "platform = \"../x\""),
            ("tier = \"Enterprise\"", "tier = \"Root\""),
        ] {
            assert!(text.contains(from), "{from}");
            let changed = text.replacen(from, to, 1);
            assert!(Index::parse(changed.as_bytes()).is_err(), "{to}");
        }
        let twice = format!("{text}{}", &text[text.rfind("\n[[packages]]").unwrap()..]);
        assert!(Index::parse(twice.as_bytes()).is_err());
        let long = format!("{text}{}", "\n".repeat(MAX_INDEX));
        assert!(Index::parse(long.as_bytes()).is_err());
    }
}
