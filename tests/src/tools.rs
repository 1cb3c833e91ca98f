//! MCP servers, clients and proxies that others wrote.

use std::path::PathBuf;
use std::process::Command;

use crate::{binary, workspace};

/// Installs them (`tests/tools/install.sh`); the folder they are in.
///
/// # Errors
/// Why they cannot be installed here.
pub fn install() -> Result<PathBuf, String> {
    let tools = binary("km").ancestors().nth(2).expect("target").join("mcp-tools");
    let script = workspace().join("tests/tools/install.sh");
    let installed = Command::new("sh").arg(script).arg(&tools).output().map_err(|e| e.to_string())?;
    match installed.status.success() {
        true => Ok(tools),
        false => Err(format!("tests/tools/install.sh: {}", String::from_utf8_lossy(&installed.stderr))),
    }
}
