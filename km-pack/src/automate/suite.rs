//! A run of the suite: its phases, and the scenarios that are played.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use km_cli::{Output, Progress};
use km_package::failure::{Failure, Kind};

use super::Request;
use super::accept;
use super::build::{Builder, PROGRAMS, Product, Workspace};
use super::cleanup::{self, Cleanup, Ground as CleanupGround, Home, Removal};
use super::config::{self, Config};
use super::facts::{self, Facts};
use super::ground::Base;
use super::normal::masked;
use super::place::{Products, Workplace, is_on_path};
use super::plan::Plan;
use super::play::Player;
use super::report::{self, Case, Counts, Phase, Report};
use super::scenario::Scenario;
use super::stale;
use crate::compile::tracked_files;
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
    /// To be cleaned up, too.
    home: Option<Home>,
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
        products: fn(&Path) -> Result<Products, Failure>,
    ) -> Result<Self, Failure> {
        let checkout = config::find_checkout(&environment.current_dir)?;
        let config = Config::read(&checkout)?;
        let files = chosen(find_scenarios(&checkout, &config)?, &request.scenarios)?;
        report::check(&request.report, &checkout)?;
        let home = request.home.as_deref().map(Home::find).transpose()?;
        let products = products(&checkout)?;
        let progress = output.progress();
        Ok(Self { request, environment, stop, progress, checkout, config, products, files, home })
    }

    pub(super) fn run(self) -> Result<Report, Failure> {
        let begun = Instant::now();
        report::prepare(&self.request.report)?;
        let mut report = self.begin();
        for phase in self.phases() {
            let failed = report.failures().next().is_some();
            if self.stop.load(Ordering::Relaxed) || failed && !self.request.keep_going {
                report.passed = false;
                break;
            }
            let begun = Instant::now();
            if let Err(failure) = self.phase(phase, &mut report) {
                // Before anything was done there is nothing to report.
                if report.cases.is_empty() {
                    return Err(failure);
                }
                let mut case = Case::new(phase, "prepare", "what the phase needs");
                case.fail(masked(&failure.to_string()));
                self.progress.say(case.line());
                report.cases.push(case);
            }
            report.phases.push(Counts::of(phase, &report.cases, begun.elapsed()));
        }
        report.interrupted = self.stop.load(Ordering::Relaxed);
        report.passed &= !report.interrupted && report.failures().next().is_none();
        report.environment = Facts::gather(&self.checkout, &AtomicBool::new(false));
        report.took = begun.elapsed();
        Ok(report)
    }

    fn phases(&self) -> impl Iterator<Item = Phase> + use<'a> {
        let wanted = &self.request.phases;
        Phase::ALL.into_iter().filter(move |phase| wanted.is_empty() || wanted.contains(phase))
    }

    fn begin(&self) -> Report {
        let Request { quick, bins, report, .. } = self.request;
        let bins = bins.as_ref().map(|bins| format!(" --bins {}", bins.display())).unwrap_or_default();
        Report {
            started: jiff::Timestamp::now(),
            took: Duration::ZERO,
            passed: true,
            interrupted: false,
            quick: *quick,
            environment: Facts::default(),
            programs: Vec::new(),
            packages: Vec::new(),
            phases: Vec::new(),
            cases: Vec::new(),
            report: report.clone(),
            again: bins,
        }
    }

    fn phase(&self, phase: Phase, report: &mut Report) -> Result<(), Failure> {
        match phase {
            Phase::Cleanup => self.clean(&mut report.cases),
            Phase::Build => {
                report.packages = self.build(&mut report.cases)?;
                Ok(())
            }
            Phase::Test => self.test(report),
        }
    }

    fn ended(&self, case: Case, cases: &mut Vec<Case>) {
        self.progress.say(case.line());
        cases.push(case);
    }

    fn clean(&self, cases: &mut Vec<Case>) -> Result<(), Failure> {
        let tracked = tracked_files(&self.checkout)?;
        let target = self.target();
        let ground = self.cleanup_ground(&target, &tracked);
        let Cleanup { removals, kept } = ground.gather();
        for removal in &removals {
            self.progress.step(format!("removing {}", removal.path.display()));
            self.ended(ground.remove(removal), cases);
        }
        kept.iter().for_each(|kept| self.ended(ground.keep(kept), cases));
        if removals.is_empty() {
            self.ended(Case::new(Phase::Cleanup, "nothing", "there was nothing to remove"), cases);
        }
        if let Some(home) = &self.home {
            self.clean_home(home, &ground, cases);
        }
        Ok(())
    }

    fn clean_home(&self, home: &Home, ground: &CleanupGround<'_>, cases: &mut Vec<Case>) {
        let removals = home.removals();
        for removal in &removals {
            let Removal { path, what, bytes, .. } = removal;
            self.progress.say(format!("{}: {what}, {}", path.display(), cleanup::bytes(*bytes)));
        }
        if removals.is_empty() || self.may_remove() {
            removals.iter().for_each(|removal| self.ended(ground.remove(removal), cases));
        } else {
            let mut case = Case::new(Phase::Cleanup, home.path().display().to_string(), "plugins and caches");
            case.fail("nothing was removed: nobody agreed (--yes does, where there is no terminal)");
            self.ended(case, cases);
        }
    }

    /// Asks on a terminal.
    fn may_remove(&self) -> bool {
        if self.request.yes || !std::io::stdin().is_terminal() {
            return self.request.yes;
        }
        self.progress.say("Remove these? [y/N]");
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// cargo's.
    fn target(&self) -> PathBuf {
        let named = self.environment.cargo_target_dir.as_ref();
        named.map_or_else(|| self.checkout.join("target"), |named| self.environment.current_dir.join(named))
    }

    fn cleanup_ground<'b>(&'b self, target: &'b Path, tracked: &'b [PathBuf]) -> CleanupGround<'b> {
        let bins = self.request.bins.iter().flat_map(|bins| PROGRAMS.map(|name| bins.join(name)));
        let real = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path);
        CleanupGround {
            checkout: &self.checkout,
            products: &self.products.folder,
            target,
            reports: &self.request.report,
            temporary: &self.environment.temporary,
            in_use: bins.chain([self.environment.executable.clone()]).map(real).collect(),
            tracked,
            quick: self.request.quick,
        }
    }

    /// What would be done.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        for phase in self.phases() {
            match phase {
                Phase::Cleanup => {
                    let tracked = tracked_files(&self.checkout)?;
                    plan.cleanup = self.cleanup_ground(&self.target(), &tracked).gather();
                    plan.cleanup.removals.extend(self.home.iter().flat_map(Home::removals));
                }
                Phase::Build => plan.build = Workspace::find(&self.checkout)?.names(),
                Phase::Test => plan.test = self.files.iter().map(|file| file.name.clone()).collect(),
            }
        }
        Ok(plan)
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

    fn test(&self, report: &mut Report) -> Result<(), Failure> {
        if self.files.is_empty() {
            let what = "automate.toml names no scenario, and nothing else is tested";
            let failure = Failure::new(Kind::NotFound, what);
            return Err(failure.help("`scenarios` lists Markdown files, or folders of them"));
        }
        let workplace = Workplace::new(&self.environment.temporary)?;
        let built = match &self.request.bins {
            Some(_) => self.target().join("debug"),
            None => Workspace::find(&self.checkout)?.programs_folder(),
        };
        let bins = self.request.bins.as_ref().unwrap_or(&built);
        if self.request.bins.is_none() && !self.phases().any(|phase| phase == Phase::Build) {
            stale::refuse_older_than_source(bins)?;
        }
        let base = Base {
            checkout: self.checkout.clone(),
            programs: workplace.link_programs(bins, Some(&built))?,
            products: self.products.folder.clone(),
            folder: workplace.path().to_path_buf(),
            passed_on: self.environment.for_scenarios.clone(),
            path: self.environment.path.clone(),
            customers: self.config.customers.clone(),
        };
        report.programs = facts::programs(bins, self.stop);
        let player = Player { base: &base, accept: self.request.accept, stop: self.stop };
        let mut played = self.play_all(&player);
        played.sort_by(|one, other| one.name.cmp(&other.name));
        report.cases.extend(played);
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
                if !corrections.is_empty() {
                    match accept::replace(&path, &accept::corrected(&text, &corrections)) {
                        Ok(()) => self.progress.say(format!(
                            "written  {}: what came of {}",
                            file.path.display(),
                            counted(corrections.len(), "command")
                        )),
                        Err(failure) => case.fail(failure.to_string()),
                    }
                }
            }
        }
        case
    }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
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
        // Reports and failures name files; the same names what is to be played.
        if file.path == Path::new(wanted) {
            return true;
        }
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
