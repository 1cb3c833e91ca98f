//! A run of the suite: its phases, and the scenarios that are played.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use km_cli::{Output, Progress};
use km_package::failure::{Failure, Kind};

use super::Request;
use super::accept;
use super::build::{Builder, Product, Workspace};
use super::config::{self, Config};
use super::ground::Base;
use super::place::{Products, Workplace, is_on_path};
use super::play::Player;
use super::report::{Case, Outcome, Phase, Report};
use super::scenario::Scenario;
use crate::environment::Environment;

/// One run, with all that it needs.
pub(super) struct Suite<'a> {
    request: &'a Request,
    environment: &'a Environment,
    stop: &'a AtomicBool,
    progress: Progress,
    checkout: PathBuf,
    config: Config,
    products: Products,
    files: Vec<ScenarioFile>,
}

/// A file that is a scenario, or should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ScenarioFile {
    name: String,
    /// From the root of the checkout.
    path: PathBuf,
}

impl<'a> Suite<'a> {
    pub(super) fn new(
        request: &'a Request,
        environment: &'a Environment,
        output: &Output,
        stop: &'a AtomicBool,
    ) -> Result<Self, Failure> {
        let checkout = config::find_checkout(&environment.current_dir)?;
        let config = Config::read(&checkout)?;
        let files = chosen(find_scenarios(&checkout, &config)?, &request.scenarios)?;
        let products = Products::lock(&checkout)?;
        let progress = output.progress();
        Ok(Self { request, environment, stop, progress, checkout, config, products, files })
    }

    pub(super) fn run(self) -> Result<Report, Failure> {
        let begun = Instant::now();
        let mut report = Report::default();
        let wanted = &self.request.phases;
        for phase in Phase::ALL.into_iter().filter(|phase| wanted.is_empty() || wanted.contains(phase)) {
            if self.stop.load(Ordering::Relaxed) || !report.passed() && !self.request.keep_going {
                break;
            }
            match phase {
                Phase::Cleanup => {}
                Phase::Build => report.products = self.build(&mut report.cases)?,
                Phase::Test => self.test(&mut report.cases)?,
            }
        }
        report.took = begun.elapsed();
        Ok(report)
    }

    fn build(&self, cases: &mut Vec<Case>) -> Result<Vec<Product>, Failure> {
        let builder = Builder {
            checkout: &self.checkout,
            products: &self.products.folder,
            customers: &self.config.customers,
            quick: self.request.quick,
            ci: self.environment.ci,
            has_go: is_on_path("go", &self.environment.path),
            stop: self.stop,
        };
        let workspace = Workspace::find(&self.checkout)?;
        builder.build(&workspace, &|what| self.progress.step(what), &mut |case| {
            self.progress.say(case.line());
            cases.push(case);
        })
    }

    fn test(&self, cases: &mut Vec<Case>) -> Result<(), Failure> {
        let workplace = Workplace::new(&self.environment.temporary)?;
        let built = match &self.request.bins {
            Some(_) => self.checkout.join("target/debug"),
            None => Workspace::find(&self.checkout)?.programs_folder(),
        };
        let bins = self.request.bins.as_ref().unwrap_or(&built);
        let base = Base {
            checkout: self.checkout.clone(),
            programs: workplace.link_programs(bins, Some(&built))?,
            products: self.products.folder.clone(),
            folder: workplace.path().to_path_buf(),
            passed_on: self.environment.for_scenarios.clone(),
            path: self.environment.path.clone(),
            customers: self.config.customers.clone(),
        };
        let player = Player { base: &base, accept: self.request.accept, stop: self.stop };
        let mut played = self.play_all(&player);
        played.sort_by(|one, other| one.name.cmp(&other.name));
        cases.extend(played);
        Ok(())
    }

    /// As many at once as there are processors.
    fn play_all(&self, player: &Player<'_>) -> Vec<Case> {
        let next = AtomicUsize::new(0);
        let cases = Mutex::new(Vec::new());
        let work = || {
            while let Some(file) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let case = self.play(player, file);
                self.progress.say(case.line());
                if let Ok(mut cases) = cases.lock() {
                    cases.push(case);
                    self.progress.step(format!("{} of {} scenarios", cases.len(), self.files.len()));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        cases.into_inner().unwrap_or_default()
    }

    fn play(&self, player: &Player<'_>, file: &ScenarioFile) -> Case {
        let mut case = Case::new(Phase::Test, &file.name, "");
        case.file = Some(file.path.display().to_string());
        let path = self.checkout.join(&file.path);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) => {
                case.fail(format!("cannot read {}: {e}", path.display()));
                return case;
            }
        };
        let scenario = match Scenario::parse(&text) {
            Ok(scenario) => scenario,
            Err(refusal) => {
                case.fail(format!("{}:{}: {}", file.path.display(), refusal.line, refusal.what));
                return case;
            }
        };
        case.title.clone_from(&scenario.title);
        let missing = scenario.head.needs.iter().find(|program| !is_on_path(program, &self.environment.path));
        match missing {
            Some(program) if self.environment.ci => {
                case.fail(format!("{program} is not on PATH, and this is CI"))
            }
            Some(program) => case.skip(format!("{program} is not on PATH")),
            None if scenario.head.slow && self.request.quick => case.skip("slow, and this is --quick"),
            None => {
                let corrections = player.play(&scenario, &mut case);
                if !corrections.is_empty()
                    && let Err(failure) = accept::replace(&path, &accept::corrected(&text, &corrections))
                {
                    case.fail(failure.to_string());
                }
            }
        }
        case
    }
}

/// All files that the configuration names, by name.
fn find_scenarios(checkout: &Path, config: &Config) -> Result<Vec<ScenarioFile>, Failure> {
    let mut found = Vec::new();
    for path in &config.scenarios {
        let whole = checkout.join(path);
        let metadata = std::fs::metadata(&whole)
            .map_err(|e| Failure::file("read", &whole, &e).help("automate.toml names it in `scenarios`"))?;
        if metadata.is_dir() {
            walk(checkout, path, &mut found)?;
        } else {
            found.push(ScenarioFile { name: name_of(path), path: path.clone() });
        }
    }
    found.sort();
    match found.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            let what = format!(
                "two scenarios are named {}: {} and {}",
                pair[0].name,
                pair[0].path.display(),
                pair[1].path.display()
            );
            Err(Failure::new(Kind::Failed, what)
                .help("automate.toml names a file twice, or a folder and a file in it"))
        }
        None => Ok(found),
    }
}

fn walk(checkout: &Path, folder: &Path, found: &mut Vec<ScenarioFile>) -> Result<(), Failure> {
    let whole = checkout.join(folder);
    let fails = |e: std::io::Error| Failure::file("read", &whole, &e);
    for entry in std::fs::read_dir(&whole).map_err(fails)? {
        let entry = entry.map_err(fails)?;
        let path = folder.join(entry.file_name());
        if entry.file_type().map_err(fails)?.is_dir() {
            walk(checkout, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(ScenarioFile { name: name_of(&path), path });
        }
    }
    Ok(())
}

/// `tests/scenarios/errors/missing-package.md` is `errors/missing-package`.
fn name_of(path: &Path) -> String {
    let path = path.strip_prefix("tests/scenarios").unwrap_or(path);
    path.with_extension("").display().to_string()
}

/// Those with these names, or in these groups.
fn chosen(files: Vec<ScenarioFile>, wanted: &[String]) -> Result<Vec<ScenarioFile>, Failure> {
    let is = |file: &ScenarioFile, wanted: &str| {
        let wanted = wanted.trim_end_matches('/');
        file.name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(unknown) = wanted.iter().find(|wanted| !files.iter().any(|file| is(file, wanted))) {
        let mut groups: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        groups.dedup();
        return Err(Failure::new(
            Kind::NotFound,
            format_args!("no scenario and no group is named {unknown}"),
        )
        .help(format_args!("there are: {}", groups.join(", "))));
    }
    let is_chosen = |file: &ScenarioFile| wanted.is_empty() || wanted.iter().any(|wanted| is(file, wanted));
    Ok(files.into_iter().filter(is_chosen).collect())
}

/// Whether anything failed.
pub(super) fn any_failed(cases: &[Case]) -> bool {
    cases.iter().any(|case| case.outcome == Outcome::Failed)
}
