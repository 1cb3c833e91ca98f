//! `km-pack new`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use km_cli::Output;
use km_package::failure::Failure;
use km_package::name::PluginName;
use km_package::tier::Tier;
use serde::Serialize;

use crate::environment::Environment;
use crate::new::{self, Language, Place, Sdk, Updated, Wanted};

/// Make a plugin project that builds and passes its own tests as it is
///
/// Inside the checkout of Kilometers plugins a plugin in Rust becomes plugins/<NAME>, a member of its
/// workspace. Anywhere else the project is a folder <NAME> that brings all that it needs, the SDK included.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack new tool-counter\n  \
                        km-pack new audit --tier Pro --lang go --description \"Keeps who called what\"\n  \
                        km-pack new --update")]
pub(super) struct New {
    /// The plugin's name
    #[arg(required_unless_present = "update")]
    name: Option<PluginName>,
    /// The tier that a customer needs: Free, Pro or Enterprise
    #[arg(long, default_value = "Free", conflicts_with = "update")]
    tier: Tier,
    /// What it is written in
    #[arg(long, value_name = "LANGUAGE", default_value = "rust", conflicts_with = "update")]
    lang: Written,
    /// One line about it
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "Prints one line for each MCP message",
        conflicts_with = "update"
    )]
    description: String,
    /// The folder of the project
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
    /// Put the SDK of this km-pack into a project's vendor/kilometers, and change nothing else
    #[arg(long, conflicts_with = "name")]
    update: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Written {
    Rust,
    Go,
}

#[derive(Debug, Serialize)]
struct Document {
    path: PathBuf,
    name: PluginName,
    language: &'static str,
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct UpdateDocument {
    path: PathBuf,
    version: &'static str,
    action: &'static str,
}

impl New {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        match &self.name {
            Some(name) => self.create(name, environment, output),
            None => self.update(environment, output),
        }
    }

    fn create(&self, name: &PluginName, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let language = match self.lang {
            Written::Rust => Language::Rust,
            Written::Go => Language::Go,
        };
        let description = self.description.clone();
        let wanted = Wanted { name: name.clone(), tier: self.tier, description, language };
        let place = Place::find(&wanted, self.path.as_deref(), &environment.current_dir)?;
        let files = wanted.files(&place)?;
        new::create(&place, &files)?;
        let path = shown(place.folder(), &environment.current_dir);
        let text = path.display().to_string();
        let next = next(&wanted, &place, &text).join("\n  ");
        let language = match language {
            Language::Rust => "rust",
            Language::Go => "go",
        };
        let files = files.into_keys().collect();
        output.result(&Document { path, name: name.clone(), language, files }, text);
        if !output.is_json() {
            output.note(format_args!("next:\n  {next}"));
        }
        Ok(())
    }

    fn update(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let project = self.path.as_deref().unwrap_or(Path::new("."));
        let sdk = Sdk::find(&environment.current_dir.join(project))?;
        let version = env!("CARGO_PKG_VERSION");
        let (action, text) = match sdk.update()? {
            Updated::Replaced => ("updated", "is now the SDK of"),
            Updated::Kept => ("kept", "is already the SDK of"),
        };
        let path = shown(sdk.folder(), &environment.current_dir);
        let text = format!("{} {text} km-pack {version}", path.display());
        output.result(&UpdateDocument { path, version, action }, text);
        Ok(())
    }
}

/// A path as it is written from the current folder.
fn shown(path: &Path, current_dir: &Path) -> PathBuf {
    let here = current_dir.canonicalize().unwrap_or_else(|_| current_dir.to_owned());
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.strip_prefix(here).map_or_else(|_| path.clone(), Path::to_path_buf)
}

/// The commands that lead from a new project to one that is seen to work.
fn next(wanted: &Wanted, place: &Place, path: &str) -> [String; 3] {
    let program = wanted.name.executable();
    let enter = format!("cd {path}");
    if wanted.tier != Tier::Free {
        // It runs for the customer that it was built for alone.
        let build = format!("km-pack build --plugin . --customer customer_123 --tier {}", wanted.tier);
        return [enter, "km-pack keygen".to_owned(), build];
    }
    match (place, wanted.language) {
        (Place::Member { .. }, _) => {
            [enter, format!("cargo build -p {program}"), format!("km-pack test ../../target/debug/{program}")]
        }
        (Place::Alone { .. }, Language::Rust) => {
            [enter, "cargo build".to_owned(), format!("km-pack test target/debug/{program}")]
        }
        (Place::Alone { .. }, Language::Go) => {
            [enter, format!("go build -o {program} ."), format!("km-pack test {program}")]
        }
    }
}
