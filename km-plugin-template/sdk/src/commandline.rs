//! What a plugin says when a person starts it.

use std::process::ExitCode;

use crate::About;
use crate::identity::Stamp;

/// Answers `--version` and `--help`, if that was asked.
pub(crate) fn answer(about: &About, stamp: &Stamp) -> Option<ExitCode> {
    let asked = std::env::args().nth(1)?;
    match asked.as_str() {
        "--version" | "-V" => {
            println!("{} {}\n{stamp}", about.package, about.version);
            Some(match stamp {
                Stamp::Wrong(_) => ExitCode::FAILURE,
                Stamp::None | Stamp::Signed { .. } => ExitCode::SUCCESS,
            })
        }
        "--help" | "-h" => {
            let About { package, description, required_tier, .. } = about;
            println!(
                "{package}: {description}\n\n\
                 A plugin for Kilometers. It is started by km, which shows it every message of a\n\
                 monitored MCP session; started by hand it only answers:\n\n\
                 \x20 --version   its version, and the customer and tier stamped into it\n\
                 \x20 --help      this text\n\n\
                 Needs tier: {required_tier}\n\n\
                 Example: km plugins install {package}-<hash>.kmpkg && km monitor -- <server command>"
            );
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

/// What a person gets who starts a plugin by hand.
pub(crate) fn refuse(about: &About) -> ExitCode {
    let About { package, version, .. } = about;
    eprintln!(
        "{package} {version} is a Kilometers plugin: km starts it, not you.\n\
         help: install its package with `km plugins install <file>.kmpkg`, or trust this file with\n\
         \x20     `km plugins allow <path>`; then run `km monitor -- <server command>`.\n\
         \x20     `{package} --version` shows whose it is."
    );
    ExitCode::FAILURE
}
