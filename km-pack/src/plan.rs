//! What is to be built, decided before anything is touched.

mod customer_list;

use std::collections::HashSet;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::manifest::{Customer, Permissions, Time};
use km_package::name::PluginName;
use km_package::tier::Tier;

use crate::compile::{Compiler, Profile};
use crate::environment::Environment;
use crate::release::ReleaseOptions;
use crate::sign::SigningKey;
use crate::source::{About, PrebuiltBinary, SourceTree};
pub use customer_list::read_customers;

/// zstd level for packages that customers get; and for trying things.
const RELEASE_LEVEL: i32 = 19;
const DEBUG_LEVEL: i32 = 3;

/// What a release engineer asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which plugin.
    pub plugin: Wanted,
    /// For whom; each id once.
    pub customers: Vec<Customer>,
    /// The target triples; the machine's own without one.
    pub targets: Vec<String>,
    /// Overrides the sequence of the source.
    pub sequence: Option<u64>,
    /// The signing key's file.
    pub key: Option<PathBuf>,
    /// Compile without optimization.
    pub debug: bool,
}

/// How a plugin was named.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// By name or path of its source.
    Source(String),
    /// As an executable file, with what its source would say.
    Binary {
        /// Where it lies.
        path: PathBuf,
        /// Its name.
        name: PluginName,
        /// Its version.
        version: semver::Version,
        /// The tier that it needs.
        required_tier: Tier,
        /// One line.
        description: String,
        /// Protocol versions that it speaks.
        protocols: Vec<u32>,
    },
}

/// Everything a build needs, checked.
#[derive(Debug)]
pub struct Plan {
    /// What is compiled.
    pub source: SourceTree,
    /// How, for each target.
    pub compilers: Vec<Compiler>,
    /// For whom.
    pub customers: Vec<Customer>,
    /// With which key it is signed.
    pub key: SigningKey,
    /// Time, sequence and compression of the release.
    pub options: ReleaseOptions,
}

impl Plan {
    /// Finds the source and the key, and decides the rest.
    ///
    /// # Errors
    /// Whatever is missing or wrong, before anything was compiled or written.
    pub fn gather(request: Request, environment: &Environment) -> Result<Self, Failure> {
        let key = SigningKey::load(request.key.as_deref(), environment)?;
        let source = find(request.plugin, environment)?;
        some_protocol_of_km(source.about())?;
        let profile = if request.debug { Profile::Debug } else { Profile::Release };
        let compiler = |target| Compiler::find(&source, target, profile, environment);
        let compilers: Vec<_> = if request.targets.is_empty() {
            vec![compiler(None)?]
        } else {
            request.targets.into_iter().map(|target| compiler(Some(target))).collect::<Result<_, _>>()?
        };
        one_for_each_platform(&compilers)?;
        let created = match &environment.source_date_epoch {
            Some(epoch) => epoch.parse().ok().and_then(Time::from_unix).ok_or_else(|| {
                Failure::new(
                    Kind::Usage,
                    format_args!("SOURCE_DATE_EPOCH={epoch:?} is not a time in Unix seconds"),
                )
            })?,
            None => source.last_changed()?,
        };
        let sequence = request.sequence.or(source.about().sequence).unwrap_or(created.unix());
        let level = if request.debug { DEBUG_LEVEL } else { RELEASE_LEVEL };
        Ok(Self {
            customers: request.customers,
            options: ReleaseOptions { created, sequence, level },
            source,
            compilers,
            key,
        })
    }

    /// Customers whose tier does not reach what the plugin needs.
    pub fn below_required_tier(&self) -> impl Iterator<Item = &Customer> {
        let required = self.source.about().required_tier;
        self.customers.iter().filter(move |customer| customer.tier < required)
    }
}

fn find(plugin: Wanted, environment: &Environment) -> Result<SourceTree, Failure> {
    match plugin {
        Wanted::Source(plugin) => SourceTree::find(&plugin, environment),
        Wanted::Binary { path, name, version, required_tier, description, protocols } => {
            let permissions = Permissions::default();
            let about =
                About { name, version, description, required_tier, sequence: None, permissions, protocols };
            PrebuiltBinary::find(&path, about, environment).map(SourceTree::Binary)
        }
    }
}

fn some_protocol_of_km(about: &About) -> Result<(), Failure> {
    let known = km_proto::PROTOCOL_VERSIONS;
    if about.protocols.iter().any(|version| known.contains(version)) {
        return Ok(());
    }
    let message =
        format!("{} speaks protocols {:?}, km {known:?}: none in common", about.name, about.protocols);
    Err(Failure::new(Kind::Usage, message))
}

/// A customer installs by platform: two packages for one would take each other's place.
fn one_for_each_platform(compilers: &[Compiler]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    match compilers.iter().map(Compiler::target).find(|target| !seen.insert(&target.platform)) {
        Some(target) => {
            Err(Failure::new(Kind::Usage, format_args!("more than one target is {}", target.platform)))
        }
        None => Ok(()),
    }
}
