//! The ground that tests stand on: the real commands, a home of their own, packages built once.

mod api_server;
mod build;
mod checkout;
pub mod control;
pub mod engineer;
mod environment;
pub mod go;
pub mod load;
pub mod measure;
pub mod mirror;
mod misbehaviour;
pub mod nginx;
pub mod pairing;
pub mod postgres;
mod processes;
mod socket;
mod tiny;
pub mod tools;
pub mod traffic;
pub mod versions;

pub use api_server::ApiServer;
pub use build::{Built, api_logger, binary, packages, workspace};
pub use checkout::copy_checkout;
pub use engineer::Engineer;
pub use environment::{Finished, TestEnvironment, path};
pub use mirror::{Answer, Mirror};
pub use misbehaviour::Mode;
pub use processes::{alive, descendants, wait_until};
pub use socket::{HttpRequest, Socket, http_json};
pub use tiny::{Tiny, index_of, signed};
