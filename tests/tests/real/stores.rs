//! Packages in a bucket: S3 by servers that others wrote. Of the two, s3s-fs is small, but looks at a
//! condition and writes in two steps; MinIO does both in one, as S3 does, so publishers race there.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use km_api::provision::ProvisionAnswer;
use km_package::digest::Digest;
use km_package::key::{PublicKey, TrustedKeys};
use km_package::platform::Platform;
use km_tests::{ApiServer, Finished, TestEnvironment, api_logger, binary, packages, path, wait_until};
use libtest_mimic::Trial;
use serde_json::json;

use crate::trial;

/// What is installed from crates.io, and how.
const S3S: [&str; 5] = ["s3s-fs@0.14.1", "--features", "binary", "--locked", "--debug"];
const ACCESS_KEY: &str = "km-tests-access";
const SECRET_KEY: &str = "km-tests-secret-key";

/// What is installed from the Go module proxy.
const MINIO: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";

pub(crate) fn trials(server: &Result<PathBuf, String>, minio: &Result<PathBuf, String>) -> Vec<Trial> {
    vec![
        trial("s3_serves_what_was_published", server, |server| serves(server)),
        trial("s3_urls_of_parts_need_no_credentials_and_cannot_be_altered", server, |server| parts(server)),
        trial("s3_publishers_at_once_lose_nothing", minio, |server| publishers(server)),
        trial("s3_that_is_down_is_no_made_up_answer", server, |server| down(server)),
    ]
}

/// s3s-fs, installed once into `target/tools`.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn install() -> Result<PathBuf, String> {
    let mut cargo = Command::new(env!("CARGO"));
    // Says by itself whether this version is there.
    cargo.args(["install", "--quiet", "--root", path(&tools())]).args(S3S);
    installed(cargo, "s3s-fs")
}

/// MinIO, installed once beside it.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn install_minio() -> Result<PathBuf, String> {
    let mut go = Command::new("go");
    go.args(["install", MINIO]).env("GOBIN", tools().join("bin"));
    installed(go, "minio")
}

fn tools() -> PathBuf {
    binary("km").ancestors().nth(2).expect("target").join("tools")
}

fn installed(mut install: Command, program: &str) -> Result<PathBuf, String> {
    let done = install.output().map_err(|e| format!("{program}: {e}"))?;
    match done.status.success() {
        true => Ok(tools().join("bin").join(program)),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

/// A server of one bucket. Ends when dropped.
struct Bucket {
    folder: tempfile::TempDir,
    port: u16,
    program: PathBuf,
    child: Option<Child>,
}

impl Bucket {
    fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("bucket")).expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        let mut bucket = Self { folder, port, program: program.to_owned(), child: None };
        drop(free);
        bucket.run();
        bucket
    }

    fn run(&mut self) {
        let mut command = Command::new(&self.program);
        if self.program.ends_with("minio") {
            command.args(["server", "--quiet", "--address", &format!("127.0.0.1:{}", self.port)]);
            command.envs([("MINIO_ROOT_USER", ACCESS_KEY), ("MINIO_ROOT_PASSWORD", SECRET_KEY)]);
        } else {
            command.args(["--host", "127.0.0.1", "--port", &self.port.to_string()]);
            command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        }
        let child = command
            .arg(self.folder.path())
            .env("HOME", self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        self.child = Some(child);
        wait_until("the bucket is there", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How it is reached.
    fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn server(&self) -> ApiServer {
        ApiServer::with_store("s3://bucket/a/prefix", &self.variables(), &[])
    }

    /// `km-pack publish` into it.
    fn publish(&self, environment: &TestEnvironment, store: &str, files: &[&Path]) -> Command {
        let mut command = environment.command("km-pack");
        command
            .args(["publish", "--json", "--store", store])
            .args(["--key", path(&packages().private_key)])
            .args(files)
            .envs(self.variables());
        command
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who asks, with credentials of the API at most.
struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
}

impl Client {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // While a test does something else, nobody here would notice that a connection is closed.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        Self { runtime, http: http.build().expect("a client") }
    }

    fn get(&self, url: &str) -> (u16, Vec<u8>) {
        self.runtime.block_on(async {
            let answer = self.http.get(url).send().await.expect("an answer");
            (answer.status().as_u16(), answer.bytes().await.expect("a body").to_vec())
        })
    }

    fn post(&self, server: &ApiServer, place: &str, key: &str, body: &serde_json::Value) -> (u16, String) {
        let url = format!("{}/api/plugins/{place}", server.url());
        self.runtime.block_on(async {
            let request = self.http.post(url).bearer_auth(key).body(body.to_string());
            let answer = request.send().await.expect("an answer");
            (answer.status().as_u16(), answer.text().await.expect("a body"))
        })
    }

    fn provision(&self, server: &ApiServer, key: &str) -> (u16, String) {
        let platform = Platform::current().expect("one that packages are made for");
        self.post(server, "provision", key, &json!({"platform": platform, "plugins": ["all"]}))
    }

    fn provisioned(&self, server: &ApiServer, key: &str) -> ProvisionAnswer {
        let (status, text) = self.provision(server, key);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("an answer")
    }
}

fn serves(program: &Path) {
    let bucket = Bucket::start(program);
    let server = bucket.server();
    let (client, key) = (Client::new(), server.add("customer_123", "Pro"));
    // On an empty bucket.
    assert_eq!(client.provisioned(&server, &key).index, None);
    let files = [api_logger(), &packages().package];
    server.publish(&files);
    let answer = client.provisioned(&server, &key);
    let pem = std::fs::read_to_string(&packages().public_key).expect("a key");
    let keys = TrustedKeys::from_iter([PublicKey::from_pem(&pem).expect("a key")]);
    let index = answer.untrusted_index().expect("an index").verify_as_last(&keys, &answer.customer_id);
    assert_eq!(index.expect("it holds").index().packages.len(), 2);
    for (plugin, file) in answer.plugins.iter().zip(files) {
        let built = std::fs::read(file).expect("a package");
        assert_eq!((plugin.sha256, plugin.size), (Digest::of(&built), built.len() as u64));
        let (status, bytes) = client.get(&plugin.download_url);
        assert!(status == 200 && bytes == built, "{status}");
    }
    // A binary that was never published is known as one.
    let manifest = index_of_executable();
    let ask = |sha256: &str| {
        let body = json!({
            "plugin_name": "console-logger", "plugin_version": packages().document["version"],
            "customer_id": "customer_123", "binary_sha256": sha256, "timestamp": "2026-01-01T00:00:00Z"
        });
        client.post(&server, "authenticate", &key, &body).0
    };
    assert_eq!((ask(&manifest), ask(&"ab".repeat(32))), (200, 403));
    assert!(!server.log().contains(SECRET_KEY) && !server.log().contains("X-Amz"), "{}", server.log());
}

/// The digest of console-logger's executable.
fn index_of_executable() -> String {
    let environment = TestEnvironment::empty();
    let inspected = environment.km_pack(["inspect", path(&packages().package), "--json"]).expect(0).json();
    let files = inspected["manifest"]["files"].as_array().expect("files");
    let file = files.iter().find(|file| file["path"] == "km-plugin-console-logger").expect("the executable");
    file["sha256"].as_str().expect("a digest").to_owned()
}

fn parts(program: &Path) {
    let bucket = Bucket::start(program);
    let server = bucket.server();
    let (client, key) = (Client::new(), server.add("customer_123", "Pro"));
    server.publish(&[&packages().package]);
    let answer = client.provisioned(&server, &key);
    let [plugin] = &answer.plugins[..] else { panic!("{answer:?}") };
    assert!(plugin.parts.len() >= 2, "{plugin:?}");
    let mut whole = Vec::new();
    for part in &plugin.parts {
        let (status, bytes) = client.get(&part.url);
        assert_eq!((status, Digest::of(&bytes), bytes.len() as u64), (200, part.sha256, part.size));
        whole.extend(bytes);
    }
    assert!(whole == std::fs::read(&packages().package).expect("a package"));

    let url = &plugin.parts[0].url;
    let (place, query) = url.split_once('?').expect("it is signed");
    assert!(query.contains("X-Amz-Expires=3600"), "an hour");
    let other = plugin.parts[1].url.split_once('?').expect("it is signed").0;
    let digit = |digit: char| if digit == '0' { '1' } else { '0' };
    let (rest, last) = url.split_at(url.len() - 1);
    let altered = [
        format!("{other}?{query}"),
        format!("{rest}{}", digit(last.chars().next().expect("a digit"))),
        url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"),
        place.to_owned(),
    ];
    for altered in altered {
        assert_eq!(client.get(&altered).0, 403, "{altered}");
    }
}

/// Each time, two begin with the index of a customer who has none, and with the same one after that.
fn publishers(program: &Path) {
    let bucket = Bucket::start(program);
    let environment = TestEnvironment::empty();
    for round in 0..20 {
        let store = format!("s3://bucket/{round}");
        let publish = |file: &Path| {
            let mut command = bucket.publish(&environment, &store, &[file]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("km-pack starts")
        };
        for _ in 0..2 {
            let both = [publish(&packages().package), publish(api_logger())];
            for one in both {
                let finished: Finished = one.wait_with_output().expect("it ends").into();
                finished.expect(0);
            }
        }
        let mut again = bucket.publish(&environment, &store, &[api_logger()]);
        let again: Finished = again.output().expect("km-pack runs").into();
        assert_eq!(again.expect(0).json()["indexes"][0]["packages"], 2, "{store}");
    }
}

fn down(program: &Path) {
    let mut bucket = Bucket::start(program);
    let server = bucket.server();
    let (client, key) = (Client::new(), server.add("customer_123", "Pro"));
    server.publish(&[&packages().package]);
    let before = client.provisioned(&server, &key);
    bucket.stop();
    let (status, text) = client.provision(&server, &key);
    assert!(status == 503 && text.contains("\"unavailable\""), "{status} {text}");
    // A plugin goes on, whatever became of the store.
    let body = json!({
        "plugin_name": "console-logger", "plugin_version": "1.0.0", "customer_id": "customer_123",
        "binary_sha256": "ab".repeat(32), "timestamp": "2026-01-01T00:00:00Z"
    });
    assert_eq!(client.post(&server, "authenticate", &key, &body).0, 200);
    bucket.run();
    assert_eq!(client.provisioned(&server, &key).index, before.index);
}
