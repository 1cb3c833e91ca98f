//! What a live session says of itself.

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use crate::TestEnvironment;

/// The report on the control socket of this `km`; nothing before it listens there.
pub fn report(environment: &TestEnvironment, km: u32) -> serde_json::Value {
    let socket = environment.home().join(format!("run/{km}.sock"));
    let mut document = Vec::new();
    let asked = UnixStream::connect(socket).and_then(|mut stream| stream.read_to_end(&mut document));
    asked.map_or(serde_json::Value::Null, |_| serde_json::from_slice(&document).expect("JSON"))
}

/// What it says of one plugin.
pub fn plugin(environment: &TestEnvironment, km: u32, name: &str) -> serde_json::Value {
    let report = report(environment, km);
    let plugins = report["plugins"].as_array().cloned().unwrap_or_default();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or_default()
}
