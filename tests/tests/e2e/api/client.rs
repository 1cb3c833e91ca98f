//! Somebody who asks a server, and what they are answered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use km_pack::customers::{Address, Database, TokenKeys};
use km_package::platform::Platform;
use km_tests::{ApiServer, binary};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

pub(super) const AUTHENTICATE: &str = "/api/plugins/authenticate";
pub(super) const PROVISION: &str = "/api/plugins/provision";
pub(super) const DOWNLOAD: &str = "/api/plugins/download";
pub(super) const SUBSCRIPTION: &str = "/api/subscription/status";
pub(super) const FEATURES: &str = "/api/user/features";
pub(super) const EVENTS: &str = "/api/events/batch";
pub(super) const KEYS: &str = "/.well-known/jwks.json";
/// A key that nobody has.
pub(super) const UNKNOWN: &str = "km_live_nobody_has_this_key";

/// A client with connections of its own.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
}

/// An answer, its body read as JSON (null where it is none).
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(super) body: Value,
}

impl Client {
    pub(super) fn of(server: &ApiServer) -> Self {
        Self::with(&server.url(), reqwest::Client::builder())
    }

    pub(super) fn with(url: &str, http: reqwest::ClientBuilder) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = http.no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { runtime, http, url: url.to_owned() }
    }

    /// Sends whatever a test makes.
    pub(super) fn try_send(
        &self,
        make: impl FnOnce(&reqwest::Client, &str) -> RequestBuilder,
    ) -> reqwest::Result<Answer> {
        self.runtime.block_on(async {
            let answer = make(&self.http, &self.url).send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await?;
            let body = serde_json::from_str(&text).unwrap_or_default();
            Ok(Answer { status, headers, text, body })
        })
    }

    /// An answer whose body is no text.
    pub(super) fn fetch(&self, make: impl FnOnce(&reqwest::Client) -> RequestBuilder) -> File {
        self.runtime.block_on(async {
            let answer = make(&self.http).send().await.expect("an answer");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            File { status, headers, bytes: answer.bytes().await.expect("a whole body").to_vec() }
        })
    }

    /// What may be installed on this platform.
    pub(super) fn provision(&self, key: &str, plugins: &[&str]) -> Answer {
        let platform = Platform::current().unwrap();
        self.post(PROVISION, key, &json!({"platform": platform, "plugins": plugins}))
    }

    /// The download URL of the one plugin of this name.
    pub(super) fn download_url(&self, key: &str, plugin: &str) -> String {
        let answer = self.provision(key, &[plugin]);
        answer.ok()["plugins"][0]["download_url"].as_str().expect("a URL").to_owned()
    }

    pub(super) fn send(&self, make: impl FnOnce(&reqwest::Client, &str) -> RequestBuilder) -> Answer {
        self.try_send(make).expect("an answer")
    }

    /// Without a key.
    pub(super) fn open(&self, path: &str) -> Answer {
        self.send(|http, url| http.get(format!("{url}{path}")))
    }

    pub(super) fn get(&self, path: &str, key: &str) -> Answer {
        self.send(|http, url| http.get(format!("{url}{path}")).bearer_auth(key))
    }

    pub(super) fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.send(|http, url| http.post(format!("{url}{path}")).bearer_auth(key).body(body.to_string()))
    }

    pub(super) fn post_text(&self, path: &str, key: &str, body: &str) -> Answer {
        self.send(|http, url| http.post(format!("{url}{path}")).bearer_auth(key).body(body.to_owned()))
    }

    /// As api-logger of this customer.
    pub(super) fn authenticate(&self, key: &str, customer: &str) -> Answer {
        self.post(AUTHENTICATE, key, &plugin_of(customer))
    }

    /// A token for it.
    pub(super) fn token(&self, key: &str, customer: &str) -> String {
        self.authenticate(key, customer).ok()["token"].as_str().unwrap().to_owned()
    }

    /// Sends events with these ids.
    pub(super) fn events(&self, token: &str, ids: &[&str]) -> Answer {
        self.post(EVENTS, token, &batch(ids))
    }
}

/// An answer, its body as it came.
pub(super) struct File {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) bytes: Vec<u8>,
}

impl File {
    /// A header; empty where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The kind of a refusal.
    pub(super) fn kind(&self) -> String {
        let body: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        body["error"]["kind"].as_str().unwrap_or_default().to_owned()
    }
}

impl Answer {
    /// Asserts that it is a yes.
    pub(super) fn ok(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.body
    }

    /// Asserts that it is a refusal of this status and kind, in the one form of all refusals; gives its message.
    pub(super) fn refused(&self, status: u16, kind: &str) -> &str {
        let message = self.body["error"]["message"].as_str().unwrap_or_default();
        let document = json!({"error": {"kind": kind, "message": message}});
        assert_eq!((self.status, &self.body), (status, &document), "{self:?}");
        assert!(
            !message.is_empty() && !message.contains("km_live_") && !message.contains("eyJ"),
            "{message}"
        );
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.header("www-authenticate"), if status == 401 { "Bearer" } else { "" });
        assert_eq!(self.headers.contains_key("retry-after"), status == 429, "{self:?}");
        message
    }

    /// A header; empty where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What api-logger of a customer asks for a token with.
pub(super) fn plugin_of(customer: &str) -> Value {
    json!({
        "plugin_name": "api-logger", "plugin_version": "1.2.3-beta.1", "customer_id": customer,
        "binary_sha256": "ab".repeat(32), "timestamp": "2026-01-01T00:00:00Z"
    })
}

pub(super) fn batch(ids: &[&str]) -> Value {
    let event = |id: &&str| json!({"id": id, "method": "tools/call", "n": 1});
    json!({"events": ids.iter().map(event).collect::<Vec<_>>()})
}

/// One of the three parts of a token, as JSON.
pub(super) fn part(token: &str, at: usize) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

pub(super) fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The keys that a server signs with, from its database.
pub(super) fn token_keys(server: &ApiServer) -> TokenKeys {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = Address::parse(server.database(), Path::new("/")).unwrap();
        let database = Database::open(&address).await.unwrap();
        let keys = database.token_keys().await.unwrap();
        database.close().await;
        keys
    })
}

/// A connection of which a test writes every byte.
pub(super) struct Raw(pub(super) TcpStream);

impl Raw {
    pub(super) fn to(url: &str) -> Self {
        let stream = TcpStream::connect(url.split_once("://").unwrap().1).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    pub(super) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// The head of a request, with a key.
    pub(super) fn head(&mut self, method: &str, path: &str, key: &str, more: &str) {
        self.say(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{more}\r\n"));
    }

    /// Everything up to the end of the connection, ours closed for writing or not.
    pub(super) fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let ended = self.0.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        ended.unwrap_or_else(|e| panic!("{e}: {text}"));
        text
    }

    /// One answer: its status and its body.
    pub(super) fn answer(&mut self) -> (u16, Value) {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut bytes);
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        while bytes.len() < head + length {
            self.more(&mut bytes);
        }
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_slice(&bytes[head..]).unwrap_or_default())
    }

    fn more(&mut self, bytes: &mut Vec<u8>) {
        let mut chunk = [0; 4096];
        let read = self.0.read(&mut chunk).unwrap();
        assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(bytes));
        bytes.extend_from_slice(&chunk[..read]);
    }

    pub(super) fn done(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }
}

/// A `km-pack serve` of which a test sees the end.
pub(super) struct Serving {
    pub(super) child: Child,
    pub(super) url: String,
}

impl Serving {
    /// On a database, started by a shell after `before`.
    pub(super) fn start(database: &str, before: &str, options: &[&str]) -> Self {
        let script = format!("{before}\nexec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(binary("km-pack"))
            .args(["serve", "--json", "--database", database, "--listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let document: Value = serde_json::from_str(&line).unwrap();
        Self { child, url: document["listening"].as_str().unwrap().to_owned() }
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        signal_to(self.child.id(), signal);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn signal_to(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
