//! The build phase: the commands, the plugins, and packages for the configured customers.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use km_package::failure::{Failure, Kind};
use km_package::name::EXECUTABLE_PREFIX;
use serde::{Deserialize, Serialize};

use super::config::Customer;
use super::keeper::Variables;
use super::play::exit_of;
use super::report::{Case, Done, Outcome, Phase, span};
use super::shell::{Ended, Shell};
use crate::compile::cargo_metadata;

/// The programs that scenarios find on their PATH.
pub(super) const PROGRAMS: [&str; 5] = ["km", "km-pack", "mcp-server", "mcp-client", "misbehaving"];
/// For one command; the first build of everything takes a while.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// What of a workspace is built.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) target_directory: PathBuf,
    programs: Vec<String>,
    /// Names of plugins in Rust.
    plugins: Vec<String>,
    /// Folders of plugins in Go, from the root.
    go_plugins: Vec<String>,
}

/// The parts of `cargo metadata` that matter here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A package that was built, as `km-pack build --json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Product {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) customer: String,
    pub(super) tier: String,
    pub(super) platform: String,
    pub(super) sha256: String,
    pub(super) tar_sha256: String,
}

impl Workspace {
    /// Asks cargo what there is.
    pub(super) fn find(checkout: &Path) -> Result<Self, Failure> {
        let metadata: Metadata = serde_json::from_str(&cargo_metadata(checkout, None)?).map_err(|e| {
            Failure::new(Kind::Failed, format_args!("cannot read the answer of cargo metadata: {e}"))
        })?;
        let members: Vec<_> = metadata
            .packages
            .iter()
            .filter(|package| metadata.workspace_members.contains(&package.id))
            .collect();
        let bins = |package: &&&Package| -> Vec<String> {
            let bins = package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin"));
            bins.map(|target| target.name.clone()).collect()
        };
        let programs = members.iter().flat_map(|package| bins(&package));
        let plugins = members.iter().filter_map(|package| package.name.strip_prefix(EXECUTABLE_PREFIX));
        let mut go_plugins = Vec::new();
        find_go_plugins(checkout, checkout, &mut go_plugins);
        go_plugins.sort();
        Ok(Self {
            target_directory: metadata.target_directory.clone(),
            plugins: plugins.map(str::to_owned).collect(),
            programs: programs
                .filter(|name| PROGRAMS.contains(&name.as_str()) || name.starts_with(EXECUTABLE_PREFIX))
                .collect(),
            go_plugins,
        })
    }

    /// All that is built.
    pub(super) fn names(&self) -> Vec<String> {
        let packages =
            self.plugins.iter().chain(&self.go_plugins).map(|plugin| format!("packages of {plugin}"));
        self.programs.iter().cloned().chain(packages).collect()
    }

    /// Where cargo puts programs.
    pub(super) fn programs_folder(&self) -> PathBuf {
        self.target_directory.join("debug")
    }
}

fn find_go_plugins(checkout: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_made = name.to_string_lossy().starts_with('.') || path.join("CACHEDIR.TAG").is_file();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !is_made && name != "node_modules" {
            find_go_plugins(checkout, &path, found);
        } else if name == "km-plugin.toml"
            && let Ok(relative) = folder.strip_prefix(checkout)
        {
            found.push(relative.display().to_string());
        }
    }
}

/// The build phase of one run.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) checkout: &'a Path,
    pub(super) products: &'a Path,
    pub(super) customers: &'a [Customer],
    pub(super) quick: bool,
    /// Whether what is missing is a failure.
    pub(super) ci: bool,
    pub(super) has_go: bool,
    pub(super) stop: &'a AtomicBool,
}

impl Builder<'_> {
    /// Builds everything, and tells `each` what comes of it. What does not compile ends the phase.
    pub(super) fn build(
        &self,
        workspace: &Workspace,
        begin: &dyn Fn(&str),
        each: &mut dyn FnMut(Case),
    ) -> Result<Vec<Product>, Failure> {
        self.clear()?;
        let km_pack = workspace.programs_folder().join("km-pack");
        let km_pack = km_pack.display();
        let to = self.products.strip_prefix(self.checkout).unwrap_or(self.products).display().to_string();
        let bins: String = workspace.programs.iter().map(|name| format!(" --bin {name}")).collect();
        let mut made = Vec::new();
        let each = std::cell::RefCell::new(each);
        let each = |case| (each.borrow_mut())(case);
        let run = |name: &str, title: &str, command: String| {
            begin(&format!("build {name}"));
            let (case, output) = self.run(name, title, &command);
            let passed = case.outcome == Outcome::Passed;
            each(case);
            (passed, output)
        };
        if !run(
            "programs",
            "the commands, plugins and test programs",
            format!("cargo build --workspace{bins}"),
        )
        .0 || self.customers.is_empty()
            || !run("keys", "a signing key of this run", format!("{km_pack} keygen --out {to}/keys")).0
        {
            return Ok(made);
        }
        let how = if self.quick { " --debug" } else { "" };
        let packages = |plugin: &str, out: &str| {
            format!(
                "{km_pack} build --plugin {plugin} --customers {to}/customers.toml \
                 --key {to}/keys/release.key.pem --out {to}/{out}{how} --json"
            )
        };
        for plugin in &workspace.plugins {
            let (_, output) = run(plugin, "packages for all customers", packages(plugin, "dist"));
            made.extend(self.sorted(products(&output))?);
        }
        // Not by a pattern: a plugin that failed leaves none.
        let files: String = made.iter().map(|product| format!(" {}", product.path.display())).collect();
        if !made.is_empty() {
            let key = format!("--store {to}/dist/store --key {to}/keys/release.key.pem");
            run("store", "all packages, published", format!("{km_pack} publish{files} {key}"));
        }
        // Apart from the others: what scenarios are given must not depend on whether Go is here.
        for folder in &workspace.go_plugins {
            if self.has_go {
                let (_, output) = run(folder, "packages for all customers, in Go", packages(folder, "go"));
                made.extend(products(&output));
            } else {
                let case = self.without_go(folder);
                each(case);
            }
        }
        Ok(made)
    }

    /// Packages of all customers but the first go into folders of theirs, so that `dist/*.kmpkg` are one
    /// customer's.
    fn sorted(&self, mut made: Vec<Product>) -> Result<Vec<Product>, Failure> {
        let first = self.customers.first().map(|customer| customer.id.to_string());
        for product in made.iter_mut().filter(|product| Some(&product.customer) != first.as_ref()) {
            let from = self.checkout.join(&product.path);
            let folder = self.products.join("dist").join(&product.customer);
            let to = folder.join(product.path.file_name().unwrap_or_default());
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::rename(&from, &to))
                .map_err(|e| Failure::file("move", &from, &e))?;
            product.path = to;
        }
        Ok(made)
    }

    /// Everything that was made before goes, and the customers are written down.
    fn clear(&self) -> Result<(), Failure> {
        super::place::refuse_links(self.products, self.checkout)?;
        for part in ["keys", "dist", "go"] {
            let folder = self.products.join(part);
            match std::fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::file("remove", &folder, &e));
                }
                _ => {}
            }
        }
        let file = self.products.join("customers.toml");
        let customers = std::collections::BTreeMap::from([("customers", self.customers)]);
        let text = toml::to_string(&customers).map_err(|e| Failure::new(Kind::Failed, e))?;
        super::accept::replace(&file, &text)
    }

    fn run(&self, name: &str, title: &str, command: &str) -> (Case, String) {
        let begun = Instant::now();
        let mut case = Case::new(Phase::Build, name, title);
        let mut done = Done::new(None, command);
        let mut output = String::new();
        match Shell::start(self.checkout, &Variables::Ours(Vec::new())) {
            Ok(mut shell) => {
                let ran = shell.run(command, LIMIT, self.stop);
                shell.end();
                done.exit = exit_of(ran.ended);
                let why = match ran.ended {
                    Ended::Exited(0) => None,
                    Ended::Exited(status) | Ended::WithShell(status) => Some(format!("exit {status}")),
                    Ended::Abandoned => Some("its keeper was killed".to_owned()),
                    Ended::Late => Some(format!("it did not end within {}", span(LIMIT))),
                    Ended::TooMuch => Some("it printed more than 16 MiB".to_owned()),
                    Ended::Interrupted => Some("interrupted".to_owned()),
                };
                output = ran.output;
                if let Some(why) = why {
                    case.fail(why.clone());
                    done.fail(why, Some(super::normal::masked(&output)));
                }
            }
            Err(failure) => {
                case.fail(failure.to_string());
                done.fail(failure.to_string(), None);
            }
        }
        case.took = begun.elapsed();
        done.took = case.took;
        case.steps.push(done);
        (case, output)
    }

    fn without_go(&self, folder: &str) -> Case {
        let mut case = Case::new(Phase::Build, folder, "packages for all customers, in Go");
        if self.ci {
            case.fail("go is not installed, and this is CI");
        } else {
            case.skip("go is not installed");
        }
        case
    }
}

/// The packages that a build's document names.
fn products(output: &str) -> Vec<Product> {
    #[derive(Deserialize)]
    struct Document {
        packages: Vec<Product>,
    }
    let documents = output.lines().filter(|line| line.starts_with('{'));
    let documents = documents.filter_map(|line| serde_json::from_str::<Document>(line).ok());
    documents.flat_map(|document| document.packages).collect()
}
