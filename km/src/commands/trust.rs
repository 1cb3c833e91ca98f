//! `km trust`

use std::path::PathBuf;

use clap::Subcommand;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::key::KeyId;
use serde::Serialize;

use super::Local;
use crate::trust::{self, TrustedKey};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  km trust add release.pub.pem\n  km trust list")]
pub(super) enum TrustCommand {
    /// Trust packages signed by this key
    #[command(after_help = "Example:\n  km trust add release.pub.pem")]
    Add {
        /// The public key (SPKI PEM)
        #[arg(value_name = "PEM")]
        key: PathBuf,
    },
    /// Show the trusted keys
    #[command(after_help = "Example:\n  km trust list --json")]
    List,
    /// Trust a key no longer
    #[command(after_help = "Example:\n  km trust remove 0123456789abcdef")]
    Remove {
        /// Its key id, or its file
        #[arg(value_name = "KEY ID|PEM")]
        key: String,
        /// It is no error if the key is not there
        #[arg(long)]
        if_present: bool,
    },
}

#[derive(Debug, Serialize)]
struct Document {
    keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
struct Key {
    key_id: String,
    /// `built-in` or `added`
    source: &'static str,
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
}

impl Key {
    fn of(trusted: &TrustedKey) -> Self {
        Self {
            key_id: trusted.key.id().to_string(),
            source: if trusted.path.is_some() { "added" } else { "built-in" },
            path: trusted.path.clone(),
            action: None,
        }
    }
}

impl TrustCommand {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Add { key } => add(local, output, key),
            Self::List => {
                list(local, output);
                Ok(())
            }
            Self::Remove { key, if_present } => remove(local, output, key, *if_present),
        }
    }
}

fn add(local: &Local, output: &Output, path: &std::path::Path) -> Result<(), Failure> {
    let key = trust::read_key(path)?;
    let key_id = key.id().to_string();
    let added = local.trust.add(&local.home, &key)?;
    let (action, text) = match added {
        Some(_) => ("added", format!("trusts {key_id} from now on")),
        None => ("kept", format!("trusts {key_id} already")),
    };
    let key = Key { key_id, source: "added", path: added, action: Some(action) };
    output.result(&Document { keys: vec![key] }, text);
    Ok(())
}

fn list(local: &Local, output: &Output) {
    let keys: Vec<Key> = local.trust.iter().map(Key::of).collect();
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let path = key.path.as_ref().map(|path| path.display().to_string());
            vec![key.key_id.clone(), key.source.to_owned(), path.unwrap_or_default()]
        })
        .collect();
    if keys.is_empty() && !output.is_json() {
        output.note("no key is trusted; `km trust add release.pub.pem` adds one");
    }
    let text =
        if rows.is_empty() { String::new() } else { km_cli::table(&["KEY ID", "SOURCE", "FILE"], &rows) };
    output.result(&Document { keys }, text);
}

fn remove(local: &Local, output: &Output, key: &str, if_present: bool) -> Result<(), Failure> {
    let id = match key.parse::<KeyId>() {
        Ok(id) => id,
        Err(_) => trust::read_key(std::path::Path::new(key))?.id(),
    };
    let document = |source, path| Document {
        keys: vec![Key { key_id: id.to_string(), source, path, action: Some("removed") }],
    };
    match local.trust.get(id) {
        None if if_present => {
            output.result(&Document { keys: Vec::new() }, format_args!("{id} was not trusted"));
            Ok(())
        }
        None => Err(Failure::new(Kind::NotFound, format_args!("no trusted key {id}"))
            .help("`km trust list` shows the trusted keys")),
        Some(TrustedKey { path: None, .. }) => Err(Failure::new(
            Kind::Failed,
            format_args!("{id} is compiled into this km and cannot be removed"),
        )
        .help("use a km that was built without it")),
        Some(TrustedKey { path: Some(path), .. }) => {
            std::fs::remove_file(path).map_err(|e| Failure::file("remove", path, &e))?;
            let text = format!("trusts {id} no longer; what it signed does not run any more");
            output.result(&document("added", Some(path.clone())), text);
            Ok(())
        }
    }
}
