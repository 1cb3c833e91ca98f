//! Opening a store by its address: a folder, or a bucket.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use km_package::failure::{Failure, Kind};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::signer::{Signer, Url};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::Store;
use crate::environment::Environment;

/// How long a request to an object store is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRIES: usize = 4;

const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Settings of object stores: `AWS_…`, `GOOGLE_…`, `AZURE_…`, in their official names.
#[derive(Clone, Default)]
pub struct CloudSettings(Vec<(String, String)>);

impl CloudSettings {
    /// Those among some variables of the environment.
    pub fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        Self(variables.filter(|(name, _)| Self::is_one(name)).collect())
    }

    /// Whether a variable of this name is one of them.
    pub(crate) fn is_one(name: &str) -> bool {
        // What the compilers' own build scripts read is not.
        !name.starts_with("AWS_LC_") && PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }

    /// As the builders take them, which know which are theirs.
    fn each<K: std::str::FromStr>(&self) -> impl Iterator<Item = (K, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, &**value)))
    }
}

/// Names alone: the values are secrets.
impl fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Store {
    /// Opens a store: a path (a folder, which is made when missing), `file://`, `s3://bucket/prefix`,
    /// `gs://bucket/prefix` or `az://container/prefix`, with the credentials of the environment.
    ///
    /// # Errors
    /// For an address of another kind (exit 2), a folder that cannot be made, or missing settings.
    pub fn open(address: &str, environment: &Environment) -> Result<Self, Failure> {
        let settings = &environment.cloud;
        match address.split_once("://") {
            None | Some(("file", _)) => {
                let folder = folder_of(address, environment);
                std::fs::create_dir_all(&folder).map_err(|e| Failure::file("make the store", &folder, &e))?;
                Self::folder(folder, address)
            }
            Some(("s3", _)) => {
                let builder = AmazonS3Builder::new().with_url(address).with_retry(retry());
                let builder = settings.each().fold(builder, |b, (key, value)| b.with_config(key, value));
                Self::bucket(address, builder.build())
            }
            Some(("gs", _)) => {
                let builder = GoogleCloudStorageBuilder::new().with_url(address).with_retry(retry());
                let builder = settings.each().fold(builder, |b, (key, value)| b.with_config(key, value));
                Self::bucket(address, builder.build())
            }
            Some(("az", _)) => {
                let builder = MicrosoftAzureBuilder::new().with_url(address).with_retry(retry());
                let builder = settings.each().fold(builder, |b, (key, value)| b.with_config(key, value));
                Self::bucket(address, builder.build())
            }
            Some((other, _)) => Err(Failure::new(Kind::Usage, format_args!("{other}:// is no store"))
                .help("a store is a folder, file://, s3://, gs:// or az://")),
        }
    }

    /// Opens a store that must be there: whoever changes what is published does not want a new one.
    ///
    /// # Errors
    /// As [`open`](Self::open), and for a folder that is missing (exit 6).
    pub fn open_existing(address: &str, environment: &Environment) -> Result<Self, Failure> {
        match address.split_once("://") {
            None | Some(("file", _)) => Self::folder(folder_of(address, environment), address),
            Some(_) => Self::open(address, environment),
        }
    }

    fn folder(folder: PathBuf, name: &str) -> Result<Self, Failure> {
        let folder = std::fs::canonicalize(&folder).map_err(|e| {
            Failure::file("open the store", &folder, &e)
                .help("name it with --store; `km-pack publish <package>` makes one")
        })?;
        let objects = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|e| Failure::new(Kind::Local, format_args!("cannot open the store {name}: {e}")))?;
        Ok(Self::new(Arc::new(objects), None, Path::default(), Some(folder), name))
    }

    fn bucket<S: ObjectStore + Signer>(
        address: &str,
        opened: object_store::Result<S>,
    ) -> Result<Self, Failure> {
        let refuse = |why: String| {
            Failure::new(Kind::Usage, format_args!("cannot open the store {address}: {why}"))
                .help("credentials and endpoint come from the variables AWS_…, GOOGLE_… or AZURE_…")
        };
        let url = Url::parse(address).map_err(|e| refuse(e.to_string()))?;
        if url.password().is_some() || url.query().is_some() {
            return Err(refuse("it ends with its path, and has no password".to_owned()));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|e| refuse(e.to_string()))?;
        let objects = Arc::new(opened.map_err(|e| refuse(e.to_string()))?);
        Ok(Self::new(Arc::clone(&objects) as _, Some(objects), prefix, None, address))
    }

    fn new(
        objects: Arc<dyn ObjectStore>,
        signer: Option<Arc<dyn Signer>>,
        prefix: Path,
        folder: Option<PathBuf>,
        name: &str,
    ) -> Self {
        Self { objects, signer, prefix, folder, name: name.to_owned(), known: Arc::default() }
    }
}

fn folder_of(address: &str, environment: &Environment) -> PathBuf {
    environment.current_dir.join(address.strip_prefix("file://").unwrap_or(address))
}

fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: PATIENCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let variables = [("AWS_SECRET_ACCESS_KEY", "hidden"), ("PATH", "/bin")];
        let settings =
            CloudSettings::of(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter());
        assert_eq!(format!("{settings:?}"), "[\"AWS_SECRET_ACCESS_KEY\"]");
    }

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment { current_dir: folder.path().to_path_buf(), ..Environment::default() };
        let open = |address: &str| Store::open(address, &environment);
        assert_eq!(Store::open_existing("a/b", &environment).unwrap_err().kind, Kind::NotFound);
        assert!(open("a/b").unwrap().folder.unwrap().ends_with("a/b"));
        assert!(Store::open_existing("a/b", &environment).is_ok());
        assert_eq!(open("ftp://x").unwrap_err().kind, Kind::Usage);
        assert_eq!(open("s3://bucket/a/b").unwrap().prefix.as_ref(), "a/b");
        assert_eq!(open("s3://bucket/a?x=1").unwrap_err().kind, Kind::Usage);
    }
}
