//! `km-pack verify`

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::key::{PublicKey, TrustedKeys};
use km_package::manifest::Time;
use km_package::platform::Platform;
use km_package::verify::{Context, Discard, Purpose, Sink, UntrustedPackage, Verified, verify};
use serde::Serialize;

use crate::environment::Environment;
use crate::sign::SigningKey;

/// Check packages by every rule of `km plugins install`, without installing them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack verify dist/*.kmpkg --key keys/release.pub.pem")]
pub(super) struct Verify {
    /// The packages
    #[arg(required = true, value_name = "PACKAGE")]
    packages: Vec<PathBuf>,
    /// Trust this public key [default: keys/*.pub.pem, keys/trusted/*.pub.pem, and that of KM_SIGNING_KEY]
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// Check as if on this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

#[derive(Debug, Serialize)]
struct Document {
    packages: Vec<VerifiedPackage>,
}

#[derive(Debug, Serialize)]
struct VerifiedPackage {
    path: PathBuf,
    ok: bool,
    key_ids: Vec<String>,
}

impl Verify {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let keys = trusted_keys(&self.key, environment)?;
        let context = context(self.platform.as_ref())?;
        let (mut packages, mut failures) = (Vec::new(), Vec::new());
        let mut text = String::new();
        for path in &self.packages {
            match verify_package(path, Discard, &keys, &context, output) {
                Ok(verified) => {
                    let key_ids: Vec<String> = verified.signers().iter().map(ToString::to_string).collect();
                    text += &format!("{}: good, signed by {}\n", path.display(), key_ids.join(", "));
                    packages.push(VerifiedPackage { path: path.clone(), ok: true, key_ids });
                }
                Err(failure) => failures.push(failure.context(path.display())),
            }
        }
        // Each package has its line; the first that failed decides how the command ends.
        let mut failures = failures.into_iter();
        let Some(first) = failures.next() else {
            output.result(&Document { packages }, text);
            return Ok(());
        };
        if !output.is_json() {
            output.result(&(), text);
            failures.for_each(|failure| output.warn(failure));
        }
        Err(first)
    }
}

/// What packages are judged against here.
pub(super) fn context(platform: Option<&Platform>) -> Result<Context<'static>, Failure> {
    let platform = match platform {
        Some(platform) => platform.clone(),
        None => Platform::current().map_err(|e| Failure::new(Kind::Failed, e))?,
    };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let now = Time::from_unix(seconds)
        .ok_or_else(|| Failure::new(Kind::Failed, "this machine's clock is after the year 2242"))?;
    let purpose = Purpose::Install { now, highest_sequence: &|_, _| None };
    Ok(Context { purpose, customer: None, platform, protocols: km_proto::PROTOCOL_VERSIONS.to_vec() })
}

/// The keys that were named, else those that lie where keys lie.
pub(super) fn trusted_keys(named: &[PathBuf], environment: &Environment) -> Result<TrustedKeys, Failure> {
    if !named.is_empty() {
        return named.iter().map(|path| read_public_key(&environment.current_dir.join(path))).collect();
    }
    let mut keys = Vec::new();
    for folder in ["keys", "keys/trusted"] {
        for path in public_keys_in(&environment.current_dir.join(folder)) {
            keys.push(read_public_key(&path)?);
        }
    }
    if environment.signing_key.is_some() {
        keys.push(*SigningKey::load(None, environment)?.public());
    }
    if keys.is_empty() {
        return Err(Failure::new(Kind::NotFound, "no public key to verify with")
            .help("name the public key of the release with --key release.pub.pem"));
    }
    Ok(keys.into_iter().collect())
}

/// Verifies a package; its files go into the sink.
pub(super) fn verify_package<K: Sink>(
    path: &Path,
    sink: K,
    keys: &TrustedKeys,
    context: &Context<'_>,
    output: &Output,
) -> Result<Verified<K>, Failure> {
    let (file, length) = super::open_package(path)?;
    let progress = output.progress();
    let package = UntrustedPackage::open(progress.reading(file, length, "verifying"), sink)?;
    let verified = verify(package, keys, context)?;
    Ok(verified)
}

fn public_keys_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().ends_with(".pub.pem")).collect();
    paths.sort();
    paths
}

fn read_public_key(path: &Path) -> Result<PublicKey, Failure> {
    let pem = std::fs::read_to_string(path).map_err(|e| Failure::file("read the public key", path, &e))?;
    PublicKey::from_pem(&pem)
        .map_err(|e| Failure::new(Kind::Untrusted, format_args!("{}: {e}", path.display())))
}
