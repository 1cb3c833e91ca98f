//! What is to be built, decided before anything is touched.

use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::identity::api_key_digest;
use km_package::manifest::{Customer, Time};
use km_package::name::CustomerId;
use km_package::tier::Tier;

use crate::compile::{Compiler, Profile};
use crate::environment::Environment;
use crate::sign::SigningKey;
use crate::source::SourceTree;

/// What a release engineer asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name or path of the plugin.
    pub plugin: String,
    /// For whom.
    pub customer: CustomerId,
    /// At which tier.
    pub tier: Tier,
    /// The customer's API key, if its digest is to be stamped.
    pub api_key: Option<String>,
    /// The target triple; the machine's own without one.
    pub target: Option<String>,
    /// Overrides the sequence of the source.
    pub sequence: Option<u64>,
    /// The signing key's file.
    pub key: Option<PathBuf>,
    /// Where the package goes.
    pub out: PathBuf,
    /// Compile without optimization.
    pub debug: bool,
}

/// Everything a build needs, checked.
#[derive(Debug)]
pub struct Plan {
    /// What is compiled.
    pub source: SourceTree,
    /// How.
    pub compiler: Compiler,
    /// For whom.
    pub customer: Customer,
    /// With which key it is signed.
    pub key: SigningKey,
    /// The time that goes into manifest and archive.
    pub created: Time,
    /// What rollback is judged by.
    pub sequence: u64,
    /// Where the package goes.
    pub out: PathBuf,
}

impl Plan {
    /// Finds the source and the key, and decides the rest.
    ///
    /// # Errors
    /// Whatever is missing or wrong, before anything was compiled or written.
    pub fn gather(request: Request, environment: &Environment) -> Result<Self, Failure> {
        let key = SigningKey::load(request.key.as_deref(), environment)?;
        let source = SourceTree::find(&request.plugin, environment)?;
        let profile = if request.debug { Profile::Debug } else { Profile::Release };
        let compiler = Compiler::find(&source, request.target, profile, environment)?;
        let created = match &environment.source_date_epoch {
            Some(epoch) => epoch.parse().ok().and_then(Time::from_unix).ok_or_else(|| {
                Failure::new(
                    Kind::Usage,
                    format_args!("SOURCE_DATE_EPOCH={epoch:?} is not a time in Unix seconds"),
                )
            })?,
            None => source.last_changed()?,
        };
        Ok(Self {
            sequence: request.sequence.or(source.sequence).unwrap_or(created.unix()),
            customer: Customer {
                id: request.customer,
                tier: request.tier,
                api_key_sha256: request.api_key.as_deref().map(api_key_digest),
            },
            out: request.out,
            source,
            compiler,
            key,
            created,
        })
    }
}
