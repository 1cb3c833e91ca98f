//! The commands as their users run them: real processes, real packages, real sessions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod accounts;
mod api;
mod architecture;
mod attacks;
mod authors;
mod automate;
mod bad_days;
mod broken_tree;
mod builds;
mod commands;
mod docs;
mod guide;
mod hooks;
mod http;
mod install_script;
mod invisible;
mod lifecycle;
mod man;
mod misbehaviour;
mod monitor;
mod new;
mod plugins;
mod provisioning;
mod publishing;
mod record;
mod refusals;
mod rollback;
mod session;
mod standard_tools;
mod store;
