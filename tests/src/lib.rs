//! The ground that tests stand on: the real commands, a home of their own, packages built once.

mod build;
mod environment;
pub mod go;
mod misbehaviour;
pub mod pairing;
mod processes;

pub use build::{Built, binary, packages, workspace};
pub use environment::{Finished, TestEnvironment, path};
pub use misbehaviour::Mode;
pub use processes::{alive, descendants, wait_until};
