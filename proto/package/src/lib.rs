//! What a `.kmpkg` is, and the one function that decides whether to believe it.
//!
//! Both sides of the product see a package through this crate: `km-pack` writes with it, `km` and
//! `km-pack verify` read with it, and a plugin finds its own identity with it. It is synchronous
//! and has no clock, no environment, no network and starts no process: time, platform, customer
//! and keys are handed in.
//!
//! | room | what it owns |
//! |---|---|
//! | [`name`], [`tier`], [`platform`], [`digest`] | the words of the format, parsed once |
//! | [`key`], [`signature`] | release keys, key ids, the signature block |
//! | [`identity`] | the reserved slot in a plugin binary and the signed text in it |
//! | [`manifest`] | the signed TOML text: parsing and writing |
//! | [`envelope`] | the frames of the file, under limits |
//! | [`archive`] | the strict tar reader and the deterministic writer |
//! | [`index`] | the signed list of what a customer may install |
//! | [`verify`] | the rules V1 to V17 in order, and the types only they can make |
//! | [`failure`] | exit codes and error documents, shared by both commands |
//!
//! The format is described in `docs/package-format.md`.

#![warn(missing_docs)]

#[cfg(feature = "archive")]
pub mod archive;
pub mod digest;
#[cfg(feature = "archive")]
pub mod envelope;
pub mod failure;
pub mod identity;
#[cfg(feature = "archive")]
pub mod index;
pub mod key;
#[cfg(feature = "archive")]
pub mod manifest;
pub mod name;
pub mod platform;
pub mod signature;
pub mod tier;
#[cfg(feature = "archive")]
pub mod verify;
