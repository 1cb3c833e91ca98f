//! `config.toml`.

use std::io;

use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use serde::Deserialize;

use crate::paths::{self, Home};

/// What is configured. Keys of other versions of `km` are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Config {
    /// The customer that this installation belongs to.
    #[serde(default)]
    pub(crate) customer: Option<CustomerId>,
}

impl Config {
    /// Reads it; a missing file configures nothing.
    pub(crate) fn load(home: &Home) -> Result<Self, Failure> {
        let path = home.config_file();
        let text = match paths::read_own_text(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::file("read", &path, &e)),
        };
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            Failure::new(Kind::Failed, format_args!("{}: {}", path.display(), e.message()))
                .help("mend the file, or move it away")
        })
    }
}
