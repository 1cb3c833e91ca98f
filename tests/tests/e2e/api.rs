//! The API over HTTP: real servers, real requests, and the commands that say who may use it.

mod binaries;
mod callers;
mod client;
mod customers;
mod download;
mod endpoints;
mod events;
mod limits;
mod operation;
mod provision;
mod shutdown;
