//! `km`: verifies, installs and runs Kilometers plugins, and monitors MCP servers through them.
//!
//! | room | what it owns |
//! |---|---|
//! | [`environment`], [`paths`], [`config`] | where things are and what was configured |
//! | [`api`], [`auth`] | the plugin API; who may run what: the key, tokens, their cache |
//! | [`trust`] | the release keys and the single binaries that this machine trusts |
//! | [`store`] | what is installed: staged, verified, renamed into place |
//! | [`provision`] | from what the customer may install to what is installed |
//! | [`host`] | processes: plugins from spawn to stop, and the monitored server |
//! | [`monitor`] | the relay, and the messages on their way to the plugins |
//! | [`commands`] | one file for each command |

mod api;
mod auth;
mod commands;
mod config;
mod environment;
mod host;
mod monitor;
mod paths;
mod provision;
mod store;
mod trust;

fn main() -> std::process::ExitCode {
    commands::main()
}
