//! `km-pack keygen`

use std::path::PathBuf;

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use serde::Serialize;

use crate::environment::Environment;
use crate::sign::SigningKey;

/// Make an ed25519 signing key
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack keygen --out keys --name release")]
pub(super) struct Keygen {
    /// Folder for the two files
    #[arg(long, value_name = "FOLDER", default_value = "keys")]
    out: PathBuf,
    /// Name of the key: <NAME>.key.pem and <NAME>.pub.pem
    #[arg(long, default_value = "release")]
    name: String,
}

#[derive(Debug, Serialize)]
struct Document {
    key_id: String,
    private_key: PathBuf,
    public_key: PathBuf,
}

impl Keygen {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(safe) {
            return Err(Failure::new(
                Kind::Usage,
                format_args!("{:?} is not a name for a key file", self.name),
            ));
        }
        let made = SigningKey::generate(&environment.current_dir.join(&self.out), &self.name)?;
        let key_id = made.public.id().to_string();
        let text = format!(
            "key id       {key_id}\nprivate key  {}\npublic key   {}",
            made.private_path.display(),
            made.public_path.display()
        );
        let document = Document { key_id, private_key: made.private_path, public_key: made.public_path };
        output.result(&document, text);
        Ok(())
    }
}
