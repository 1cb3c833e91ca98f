//! The one function that decides whether to believe a package, and the types only it can make.
//!
//! [`verify`] takes something [`Untrusted`] — a package as a stream, the files of an installed
//! plugin, or only the documents of one — through the rules V1 to V17 in order. Install,
//! `km-pack verify`, provisioning, listing and start-up all call it; what they may do with a
//! [`Verified`] depends on what was read: only a streamed package can be installed, only opened
//! files can be run.

mod contents;
mod file;
mod rule;

pub use contents::{Contents, Discard, Documents, Extract, Installed, Sink};
pub use rule::Rule;

use std::fmt;
use std::io::{self, Read};

use crate::envelope::{EnvelopeError, Head};
use crate::failure::{Failure, Kind};
use crate::key::{KeyId, TrustedKeys};
use crate::manifest::{self, Manifest, Time};
use crate::name::{CustomerId, PluginName};
use crate::platform::Platform;
use crate::signature::SignatureBlock;

/// Distinct trusted keys that must have signed a package.
const THRESHOLD: usize = 1;

/// What a package is judged against.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Why it is judged.
    pub purpose: Purpose<'a>,
    /// The configured customer; where there is none, the rule is skipped.
    pub customer: Option<CustomerId>,
    /// The platform it should run on.
    pub platform: Platform,
    /// The protocol versions that the host speaks.
    pub protocols: Vec<u32>,
}

impl Context<'static> {
    /// For whoever passes packages of this platform on.
    pub fn passing_on(platform: Platform, now: Time) -> Self {
        Self { purpose: Purpose::PassOn { now }, customer: None, platform, protocols: Vec::new() }
    }
}

/// Why a package is judged. Rollback and expiry stop an installation, not what is installed; what is the
/// recipient's to judge (V6 to V10) does not stop whoever passes it on.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    /// To install it.
    Install {
        /// The time.
        now: Time,
        /// The highest sequence ever installed of a plugin for a customer.
        highest_sequence: &'a dyn Fn(&PluginName, &CustomerId) -> Option<u64>,
    },
    /// To list or run what is installed.
    Run,
    /// To publish it, or to stamp others like it.
    PassOn {
        /// The time.
        now: Time,
    },
}

impl fmt::Debug for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Install { .. } => "Install",
            Self::Run => "Run",
            Self::PassOn { .. } => "PassOn",
        })
    }
}

/// Something that claims to be a package: its head was read (rule V1), nothing was believed.
#[derive(Debug)]
pub struct Untrusted<C> {
    head: Head,
    contents: C,
}

/// A package as a stream: what installing and `km-pack verify` begin with.
pub type UntrustedPackage<R, K> = Untrusted<Extract<R, K>>;

impl<R: Read, K: Sink> UntrustedPackage<R, K> {
    /// Reads the head of a package (rule V1); the payload goes into `sink` once the head holds.
    ///
    /// # Errors
    /// A refusal by rule V1, or trouble with reading.
    pub fn open(mut package: R, sink: K) -> Result<Self, PackageError> {
        let head = Head::read(&mut package).map_err(|e| match e {
            EnvelopeError::Read(e) => PackageError::Read(e),
            other => Rule::Envelope.refuses(other),
        })?;
        Ok(Self { head, contents: Extract::new(package, sink) })
    }
}

impl<C> Untrusted<C> {
    /// What lies on disk as an installed plugin.
    pub fn installed(head: Head, contents: C) -> Self {
        Self { head, contents }
    }

    /// Manifest and signing keys as claimed, for showing them; nothing of it was checked.
    ///
    /// # Errors
    /// A refusal by rules V2 to V4, as far as they can be judged without keys.
    pub fn peek(&self) -> Result<(Manifest, Vec<KeyId>), PackageError> {
        let block = SignatureBlock::parse(&self.head.signatures).map_err(|e| Rule::Signature.refuses(e))?;
        Ok((parse(&self.head)?, block.key_ids()))
    }
}

/// A package that every rule holds for. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified<C> {
    manifest: Manifest,
    head: Head,
    signers: Vec<KeyId>,
    contents: C,
}

impl<C> Verified<C> {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The exact bytes of manifest and signatures.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The trusted keys that signed, in the order of the signature block.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// What was made of the contents.
    pub fn contents(&self) -> &C {
        &self.contents
    }

    /// Gives up the proof for what was made of the contents.
    pub fn into_contents(self) -> C {
        self.contents
    }
}

/// Why a package was not verified.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A rule refused it.
    #[error("refused by rule V{} ({}): {detail}", rule.number(), rule.name())]
    Refused {
        /// Which one.
        rule: Rule,
        /// What was expected and what was found.
        detail: String,
    },
    /// It could not be read.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// What came out of it could not be written.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
}

impl PackageError {
    /// The rule that refused, if one did.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Refused { rule, .. } => Some(*rule),
            Self::Read(_) | Self::Write(_) => None,
        }
    }
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        let rule = error.rule();
        let failure =
            Self { rule: rule.map(Rule::number), ..Self::new(rule.map_or(Kind::Local, Rule::kind), &error) };
        match rule.and_then(Rule::help) {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// Takes a package through rules V2 to V17 (V1 is what made it an [`Untrusted`]).
///
/// # Errors
/// The first rule that refuses, or trouble with reading or writing.
pub fn verify<C: Contents>(
    package: Untrusted<C>,
    keys: &TrustedKeys,
    context: &Context<'_>,
) -> Result<Verified<C::Checked>, PackageError> {
    let Untrusted { head, contents } = package;

    // V2: signatures over the exact bytes of the manifest, by the keys that the key ids name.
    let signers = SignatureBlock::parse(&head.signatures)
        .and_then(|block| block.verify(&head.manifest, keys))
        .map_err(|e| Rule::Signature.refuses(e))?;

    // V3, V4: only now is the manifest parsed.
    let manifest = parse(&head)?;

    // V5: enough distinct keys.
    if signers.len() < THRESHOLD {
        return Err(Rule::Keys.refuses(format_args!("{} of {THRESHOLD} signatures", signers.len())));
    }
    judge_recipient(&manifest, context)?;
    judge_installation(&manifest, context.purpose)?;

    // V12 to V17.
    let contents = contents.check(&manifest, keys)?;
    Ok(Verified { manifest, head, signers, contents })
}

fn parse(head: &Head) -> Result<Manifest, PackageError> {
    // V3: the domain tag; other signed documents have other tags.
    let text = &head.manifest;
    if !text.starts_with(manifest::TAG.as_bytes()) {
        return Err(Rule::Format.refuses(if text.starts_with(b"format = \"kmpkg/") {
            "this package needs a newer km"
        } else {
            "the signed text does not begin with `format = \"kmpkg/1\"`: this is not the manifest of a package"
        }));
    }
    // V4: manifest, name and version.
    Manifest::parse(text).map_err(|e| Rule::Manifest.refuses(e))
}

fn judge_recipient(manifest: &Manifest, context: &Context<'_>) -> Result<(), PackageError> {
    if matches!(context.purpose, Purpose::PassOn { .. }) {
        return Ok(());
    }
    // V6: customer.
    let made_for = &manifest.customer.id;
    if let Some(customer) = &context.customer
        && customer != made_for
    {
        return Err(Rule::Customer.refuses(format_args!("made for {made_for}, and this is {customer}")));
    }
    // V7: platform.
    let (platform, here) = (&manifest.target.platform, &context.platform);
    if platform != here {
        return Err(Rule::Platform.refuses(format_args!("made for {platform}, and this is {here}")));
    }
    // V8: protocol.
    let (spoken, known) = (&manifest.protocol.versions, &context.protocols);
    if !spoken.iter().any(|version| known.contains(version)) {
        return Err(Rule::Protocol
            .refuses(format_args!("the plugin speaks protocol {spoken:?}, this km speaks {known:?}")));
    }
    // V9: tier.
    let (required, stamped) = (manifest.plugin.required_tier, manifest.customer.tier);
    if stamped < required {
        return Err(
            Rule::Tier.refuses(format_args!("the plugin needs tier {required}, stamped is {stamped}"))
        );
    }
    Ok(())
}

fn judge_installation(manifest: &Manifest, purpose: Purpose<'_>) -> Result<(), PackageError> {
    let now = match purpose {
        Purpose::Run => return Ok(()),
        Purpose::PassOn { now } => now,
        Purpose::Install { now, highest_sequence } => {
            // V10: rollback.
            check_rollback(manifest, highest_sequence(&manifest.plugin.name, &manifest.customer.id))?;
            now
        }
    };
    // V11: expiry.
    match manifest.plugin.expires {
        Some(expires) if expires <= now => {
            Err(Rule::Expiry.refuses(format_args!("it expired at {expires}, and it is {now}")))
        }
        _ => Ok(()),
    }
}

/// Rule V10 by itself, for a store that judges it once more when nobody else can install.
///
/// # Errors
/// A refusal by that rule.
pub fn check_rollback(manifest: &Manifest, highest_sequence: Option<u64>) -> Result<(), PackageError> {
    let sequence = manifest.plugin.sequence;
    match highest_sequence {
        Some(highest) if sequence < highest => Err(Rule::Rollback
            .refuses(format_args!("its sequence is {sequence}, and {highest} was installed before"))),
        _ => Ok(()),
    }
}
