//! A project in Rust.

use std::path::{Path, PathBuf};

use km_package::tier::Tier;
use toml_edit::{DocumentMut, Table, value};

use super::text::filled;
use super::{Files, Place, Wanted, embedded, sdk};

/// The model plugin, and what it is called.
const MODEL: &str = "km-plugin-template";
const MODEL_NAME: &str = "console-logger";

/// The version of what was not released yet.
const FIRST: &str = "0.1.0";

/// How a project outside of the checkout is compiled: what customers run as the checkout's plugins, what
/// developers run without the debug information of libraries.
const PROFILES: &str = r#"
[profile.dev]
debug = "line-tables-only"

[profile.dev.package."*"]
debug = false

[profile.release]
codegen-units = 1
lto = "thin"
panic = "abort"
strip = true
"#;

pub(super) fn files(wanted: &Wanted, place: &Place) -> Files {
    let mut files = Files::new();
    for (path, bytes) in embedded::folder(&format!("{MODEL}/src")) {
        files.insert(Path::new("src").join(path), bytes.to_vec());
    }
    let mut put = |path: &str, text: String| files.insert(PathBuf::from(path), text.into_bytes());
    put("src/main.rs", main(wanted));
    match place {
        Place::Member { .. } => {
            put("Cargo.toml", member_manifest(wanted).to_string());
            put("README.md", filled("workspace/README.md", wanted));
        }
        Place::Alone { .. } => {
            put("Cargo.toml", manifest(wanted));
            put("Cargo.lock", filled("rust/Cargo.lock", wanted));
            put("README.md", filled("rust/README.md", wanted));
            put("rustfmt.toml", embedded::text("rustfmt.toml").to_owned());
            put(".cargo/config.toml", filled("rust/config.toml", wanted));
            put(".gitignore", filled("gitignore", wanted));
            put(".github/workflows/plugin.yml", filled("rust/plugin.yml", wanted));
            files.extend(
                sdk::files().into_iter().map(|(path, bytes)| (Path::new(sdk::FOLDER).join(path), bytes)),
            );
        }
    }
    files
}

fn main(wanted: &Wanted) -> String {
    let text = embedded::text(&format!("{MODEL}/src/main.rs")).replace(MODEL_NAME, wanted.name.as_str());
    match wanted.tier {
        Tier::Free => text,
        tier => text.replace("about!()", &format!("about!(km_plugin::Tier::{tier})")),
    }
}

/// The model's, for another plugin.
fn member_manifest(wanted: &Wanted) -> DocumentMut {
    let mut manifest = sdk::parsed(&format!("{MODEL}/Cargo.toml"));
    manifest["package"]["name"] = value(wanted.name.executable().as_str());
    manifest["package"]["description"] = value(&wanted.description);
    manifest["package"]["version"] = value(FIRST);
    manifest["package"]["metadata"]["km"]["required_tier"] = value(wanted.tier.as_str());
    manifest
}

/// The same, with everything written out that the model has from its workspace.
fn manifest(wanted: &Wanted) -> String {
    let mut manifest = member_manifest(wanted);
    let root = sdk::root_manifest();
    let package = &root["workspace"]["package"];
    for key in ["edition", "rust-version", "publish"] {
        manifest["package"][key] = package[key].clone();
    }
    // Which license it is under is its author's word.
    for part in ["license", "lints"] {
        manifest.remove(part);
        manifest["package"].as_table_mut().and_then(|package| package.remove(part));
    }
    for (name, item) in manifest["dependencies"].as_table_mut().into_iter().flat_map(Table::iter_mut) {
        *item = root["workspace"]["dependencies"][name.get()].clone();
        if name.get() == "km-plugin" {
            item["path"] = value(format!("{}/km-plugin", sdk::FOLDER));
        }
    }
    format!("{}\n{PROFILES}\n[workspace]\nexclude = [\"{}\"]\n", manifest.to_string().trim_end(), sdk::FOLDER)
}
