//! What is built once for all tests of a program: the commands, a key, packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the workspace is where it was compiled")
}

/// The path of one of the workspace's programs, freshly built.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // target/<profile>/deps/<this test> → target/<profile>
        let test = std::env::current_exe().expect("a test knows its path");
        let folder = test.ancestors().nth(2).expect("a test lies in target/*/deps").to_path_buf();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(workspace());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the workspace does not build");
        folder
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// A release key and packages of console-logger made with it.
#[derive(Debug)]
pub struct Built {
    _folder: tempfile::TempDir,
    /// `release.pub.pem`
    pub public_key: PathBuf,
    /// `release.key.pem`
    pub private_key: PathBuf,
    /// For `customer_123` at Pro.
    pub package: PathBuf,
    /// The same build for `other_customer` at Free.
    pub other_customer: PathBuf,
    folder: PathBuf,
    /// What `km-pack build --json` said of the first.
    pub document: serde_json::Value,
}

/// Packages, built once for all tests of a program.
pub fn packages() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = folder.path().join("keys");
        km_pack(&["keygen", "--out", keys.to_str().expect("UTF-8")]);
        let private_key = keys.join("release.key.pem");
        let dist = folder.path().join("dist");
        let build = |customer, tier| build(&private_key, &dist, "console-logger", customer, tier);
        let document = build("customer_123", "Pro");
        let other = build("other_customer", "Free");
        Built {
            public_key: keys.join("release.pub.pem"),
            package: path_of(&document),
            other_customer: path_of(&other),
            folder: dist.clone(),
            private_key,
            document,
            _folder: folder,
        }
    })
}

impl Built {
    /// A package of one of our plugins, built with the same key.
    pub fn build(&self, plugin: &str, customer: &str, tier: &str) -> PathBuf {
        path_of(&build(&self.private_key, &self.folder, plugin, customer, tier))
    }
}

/// api-logger for `customer_123` at Pro, built once for all tests of a program.
pub fn api_logger() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| packages().build("api-logger", "customer_123", "Pro"))
}

fn build(key: &Path, dist: &Path, plugin: &str, customer: &str, tier: &str) -> serde_json::Value {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (key, dist) = (text(key), text(dist));
    let what = ["--plugin", plugin, "--customer", customer, "--tier", tier, "--key", &key, "--out", &dist];
    km_pack(&[&["build", "--json", "--debug"], &what[..]].concat())["packages"][0].clone()
}

fn path_of(package: &serde_json::Value) -> PathBuf {
    PathBuf::from(package["path"].as_str().expect("a path"))
}

fn km_pack(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(binary("km-pack"))
        .args(arguments)
        .current_dir(workspace())
        .env_remove("KM_SIGNING_KEY")
        .output()
        .expect("km-pack runs");
    assert!(output.status.success(), "km-pack {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}
