//! From what is installed to what may be run: the open file that was verified, and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::{FileEntry, Manifest};
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use km_package::verify::{Installed, Purpose, Untrusted, verify};

use super::disabled;
use super::link::active_folder;
use super::listing::digest_file;
use super::receipt::{Receipt, read_head};
use crate::config::Config;
use crate::paths::Home;
use crate::trust::{Allowed, Trust};

/// An executable that was verified just now: run exactly this open file.
#[derive(Debug)]
pub(crate) struct Runnable {
    pub(crate) name: PluginName,
    /// The open file whose bytes were digested.
    pub(crate) file: File,
    /// Its path, as a name for it.
    pub(crate) path: PathBuf,
    /// The tier it needs, by its manifest; Free for an allowed binary, which has none.
    pub(crate) required_tier: Tier,
    /// What the API is told of it; none for an allowed binary.
    pub(crate) identity: Option<PackageIdentity>,
}

/// Whose an installed plugin is, by its signed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackageIdentity {
    pub(crate) name: PluginName,
    pub(crate) version: String,
    /// Who it was built for.
    pub(crate) customer: CustomerId,
    /// The tier stamped into it.
    pub(crate) tier: Tier,
    /// Whether the executable has this stamped into it, too; not in one that has no room for it.
    pub(crate) is_stamped: bool,
    /// The digest of its executable.
    pub(crate) sha256: Digest,
}

impl PackageIdentity {
    fn of(manifest: &Manifest) -> Self {
        let Manifest { plugin, customer, .. } = manifest;
        Self {
            name: plugin.name.clone(),
            version: plugin.version.to_string(),
            customer: customer.id.clone(),
            tier: customer.tier,
            is_stamped: manifest.identity.is_some(),
            sha256: manifest.executable().sha256,
        }
    }
}

/// Opens and verifies the active version of a plugin, or an allowed binary.
pub(crate) fn open(
    home: &Home,
    trust: &Trust,
    config: &Config,
    name: &PluginName,
) -> Result<Runnable, Failure> {
    match active_folder(home, name) {
        Some(version) => {
            disabled::check(home, name)?;
            open_version(home, trust, config, name, &version)
        }
        None => open_allowed(home, name),
    }
}

/// Whether the active version of a plugin verifies as a whole, disabled or not.
pub(crate) fn is_sound(home: &Home, trust: &Trust, config: &Config, name: &PluginName) -> bool {
    active_folder(home, name).is_some_and(|version| open_version(home, trust, config, name, &version).is_ok())
}

/// Opens and verifies one version.
pub(super) fn open_version(
    home: &Home,
    trust: &Trust,
    config: &Config,
    name: &PluginName,
    version: &str,
) -> Result<Runnable, Failure> {
    let folder = home.versions(name).join(version);
    let failed = |e: io::Error| Failure::file("read", &folder, &e);
    if Receipt::read(&folder).is_none() {
        return Err(Failure::new(Kind::Untrusted, format_args!("{} has no receipt", folder.display()))
            .help("install the package again"));
    }
    let head = read_head(&folder).map_err(failed)?;
    let mut open = |file: &FileEntry| open_file(&folder.join(file.path.as_str()));
    let context = super::context(Purpose::Run, config.customer.clone())?;
    let verified = verify(Untrusted::installed(head, Installed::new(&mut open)), &trust.keys(), &context)
        .map_err(|e| Failure::from(e).context(folder.display()))?;
    if verified.manifest().plugin.name != *name {
        let found = &verified.manifest().plugin.name;
        return Err(Failure::new(
            Kind::Untrusted,
            format_args!("{} holds the plugin {found}", folder.display()),
        ));
    }
    Ok(Runnable {
        name: name.clone(),
        path: folder.join(name.executable().as_str()),
        required_tier: verified.manifest().plugin.required_tier,
        identity: Some(PackageIdentity::of(verified.manifest())),
        file: verified.into_contents(),
    })
}

fn open_allowed(home: &Home, name: &PluginName) -> Result<Runnable, Failure> {
    let path = home.plugin(name);
    let failed = |e: io::Error| Failure::file("read", &path, &e);
    let mut file = File::open(&path).map_err(failed)?;
    let digest = digest_file(&mut file).map_err(failed)?;
    if !Allowed::load(home)?.contains(name, digest) {
        let message = format!("{} is not from a package, and was not allowed", path.display());
        return Err(Failure::new(Kind::Untrusted, message)
            .help(format_args!("if you built it yourself: km plugins allow {}", path.display())));
    }
    Ok(Runnable { name: name.clone(), file, path, required_tier: Tier::Free, identity: None })
}

/// Opens a file of a version, which is never a link.
fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}
