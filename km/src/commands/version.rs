//! `km version`

use clap::Args;
use km_cli::Output;
use serde::Serialize;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("KM_COMMIT");
const TARGET: &str = env!("KM_TARGET");
/// What `--version` says.
pub(super) const LINE: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("KM_COMMIT"), ", ", env!("KM_TARGET"), ")");

/// Show version, commit and target
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km version --json")]
pub(super) struct Version {}

#[derive(Debug, Serialize)]
struct Document {
    version: &'static str,
    commit: &'static str,
    target: &'static str,
}

impl Version {
    #[expect(clippy::unused_self, reason = "every command runs the same way")]
    pub(super) fn run(&self, output: &Output) {
        let document = Document { version: VERSION, commit: COMMIT, target: TARGET };
        output.result(&document, format_args!("km {LINE}"));
    }
}
