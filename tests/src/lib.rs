//! The ground that tests stand on: the real commands, a home of their own, packages built once.

mod api_server;
mod build;
mod environment;
pub mod go;
mod misbehaviour;
pub mod pairing;
pub mod postgres;
mod processes;
mod socket;

pub use api_server::ApiServer;
pub use build::{Built, api_logger, binary, packages, workspace};
pub use environment::{Finished, TestEnvironment, path};
pub use misbehaviour::Mode;
pub use processes::{alive, descendants, wait_until};
pub use socket::{HttpRequest, Socket, http_json};
