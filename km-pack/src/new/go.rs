//! A project in Go.

use std::path::{Path, PathBuf};

use toml_edit::value;

use super::text::filled;
use super::{Files, Wanted, embedded, sdk};

/// The model plugin, what it is called, and its module.
const MODEL: &str = "km-plugin-template/go";
const MODEL_NAME: &str = "go-logger";
const MODEL_MODULE: &str = "kilometers.example/plugin";

/// The version of what was not released yet.
const FIRST: &str = "0.1.0";

pub(super) fn files(wanted: &Wanted) -> Files {
    let module = format!("kilometers.example/{}", wanted.name.executable());
    let mut files = Files::new();
    for (path, bytes) in embedded::folder(MODEL) {
        let named =
            |text: &str| text.replace(MODEL_NAME, wanted.name.as_str()).replace(MODEL_MODULE, &module);
        // What was generated, and the lock file, stay as they are.
        let as_it_is = path.starts_with("kilometersplugin/") || path == "go.sum";
        let bytes = match std::str::from_utf8(bytes) {
            Ok(text) if !as_it_is => named(text).into_bytes(),
            _ => bytes.to_vec(),
        };
        files.insert(Path::new(path).to_owned(), bytes);
    }
    let mut put = |path: &str, text: String| files.insert(PathBuf::from(path), text.into_bytes());
    put("km-plugin.toml", about(wanted));
    put("README.md", filled("go/README.md", wanted));
    put(".gitignore", filled("gitignore", wanted));
    put(".github/workflows/plugin.yml", filled("go/plugin.yml", wanted));
    files
}

fn about(wanted: &Wanted) -> String {
    let mut about = sdk::parsed(&format!("{MODEL}/km-plugin.toml"));
    about["name"] = value(wanted.name.as_str());
    about["version"] = value(FIRST);
    about["description"] = value(&wanted.description);
    about["required_tier"] = value(wanted.tier.as_str());
    about.to_string()
}
