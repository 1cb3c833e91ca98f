//! What `km-pack new` makes, as its author meets it: every command of a project's own page, and its CI file.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use km_tests::{Finished, TestEnvironment, binary, copy_checkout, path, wait_until, workspace};
use libtest_mimic::Trial;

use crate::trial;

pub(crate) fn trials(go: &Result<PathBuf, String>, actionlint: &Result<PathBuf, String>) -> Vec<Trial> {
    let cargo = &Ok(());
    vec![
        trial("the_page_of_a_new_plugin_is_true", cargo, |()| rust("tried", "Free")),
        trial("the_page_of_a_new_paid_plugin_is_true", cargo, |()| rust("paid", "Pro")),
        trial("the_page_of_a_new_plugin_in_the_checkout_is_true", cargo, |()| member()),
        trial("a_new_plugin_passes_clippy", cargo, |()| clippy()),
        trial("the_page_of_a_new_plugin_in_go_is_true", go, |_| in_go("tried", "Free")),
        trial("the_page_of_a_new_paid_plugin_in_go_is_true", go, |_| in_go("paid", "Pro")),
        trial("a_new_plugin_in_go_is_the_same_wherever_it_is_built", go, |_| same_in_go()),
        trial("a_new_plugin_in_go_may_have_any_name", go, |_| names_in_go()),
        trial("the_ci_files_of_new_plugins_are_sound", actionlint, |program| ci_files(program)),
    ]
}

/// The linter of GitHub's workflows, out of the Go module proxy.
///
/// # Errors
/// Why it cannot be installed here.
pub(crate) fn install_actionlint() -> Result<PathBuf, String> {
    let folder = target().join("tools");
    let mut install = Command::new("go");
    install.args(["install", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"]).env("GOBIN", &folder);
    let output = install.output().map_err(|e| format!("go: {e}"))?;
    let failed = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then(|| folder.join("actionlint")).ok_or_else(failed)
}

fn target() -> PathBuf {
    binary("km").ancestors().nth(2).expect("target").to_path_buf()
}

/// An author: a home of their own, and the compilers' caches of this machine.
struct Author(TestEnvironment);

impl Author {
    /// Whose libraries are compiled once for all of these tests, fast, and as in the checkout.
    fn new() -> Self {
        let environment = TestEnvironment::empty();
        let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("the checkout's");
        let (_, dev) = manifest.split_once("[profile.dev]").expect("a profile");
        let (dev, _) = dev.split_once("\n# Small").expect("the profile after it");
        let release =
            "[profile.release]\nopt-level = 0\nlto = false\ncodegen-units = 16\npanic = \"unwind\"\n";
        std::fs::create_dir(environment.path(".cargo")).expect("a folder");
        std::fs::write(environment.path(".cargo/config.toml"), format!("[profile.dev]{dev}{release}"))
            .expect("written");
        Self(environment)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn makes(&self, name: &str, more: &[&str]) -> PathBuf {
        self.0.km_pack([&["new", name], more].concat()).expect(0);
        self.path(name)
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        let own = binary("km").parent().expect("a folder").to_path_buf();
        let found = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(own).chain(std::env::split_paths(&found));
        command
            .current_dir(folder)
            .env("PATH", std::env::join_paths(all).expect("no colons"))
            .env("CARGO_HOME", home_of("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", home_of("RUSTUP_HOME", ".rustup"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("HOME", self.path("."))
            .stdin(Stdio::null());
        for name in ["GOPATH", "GOCACHE", "GOMODCACHE"] {
            let found = Command::new("go").args(["env", name]).output();
            if let Ok(found) = found {
                command.env(name, String::from_utf8_lossy(&found.stdout).trim());
            }
        }
        for name in ["KM_SIGNING_KEY", "KM_HOME", "KM_DATABASE", "CARGO_TARGET_DIR", "RUSTFLAGS"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs all commands of a project's page, each block as it is pasted; the last shows the plugin's line.
    fn follows_the_page(&self, project: &Path, from: &Path, name: &str) {
        let page = std::fs::read_to_string(project.join("README.md")).expect("a page");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let page = page.replace("127.0.0.1:5194", &address);
        let page = page.replace("\nkm-pack serve\n", &format!("\nexec km-pack serve --listen {address}\n"));
        let mut server = None;
        let mut shown = String::new();
        let blocks: Vec<&str> =
            page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{page}");
        for block in blocks {
            let mut shell = self.command("sh", from);
            shell.args(["-euc", block]);
            if block.contains("exec km-pack serve") {
                server = Some(Server(shell.spawn().expect("sh runs")));
                wait_until("the API listens", || TcpStream::connect(&address).is_ok());
                continue;
            }
            let done = Finished::from(shell.output().expect("sh runs")).expect(0);
            shown = shown + &done.text() + &done.stderr;
        }
        drop(server);
        let seen = |line: &str| line.starts_with(&format!("[{name}] ")) && line.contains("ping id=1");
        assert!(shown.lines().any(seen), "{shown}");
    }
}

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn home_of(variable: &str, folder: &str) -> PathBuf {
    let own = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(folder);
    std::env::var_os(variable).map_or_else(own, PathBuf::from)
}

/// One place to compile for all of them, which is not that of the checkout's own programs.
fn compile_together(project: &Path) {
    let target = target().join("new-plugins");
    std::fs::create_dir_all(&target).expect("a folder");
    std::os::unix::fs::symlink(target, project.join("target")).expect("a link");
}

fn rust(name: &str, tier: &str) {
    let author = Author::new();
    let made = author.makes(name, &["--tier", tier]);
    // The page holds wherever the project lies.
    let project = author.path("elsewhere");
    std::fs::rename(made, &project).expect("moved");
    compile_together(&project);
    author.follows_the_page(&project, &project, name);
}

fn member() {
    let author = Author::new();
    let checkout = author.path("checkout");
    copy_checkout(&checkout);
    compile_together(&checkout);
    let mut new = author.command("km-pack", &checkout);
    Finished::from(new.args(["new", "member"]).output().expect("km-pack runs")).expect(0);
    author.follows_the_page(&checkout.join("plugins/member"), &checkout, "member");
}

fn clippy() {
    let author = Author::new();
    let project = author.makes("clean", &["--tier", "Pro"]);
    compile_together(&project);
    let mut clippy = author.command("cargo", &project);
    clippy.args(["clippy", "--locked", "--quiet", "--all-targets", "--", "-D", "warnings"]);
    let said = Finished::from(clippy.output().expect("cargo runs")).expect(0);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
}

fn in_go(name: &str, tier: &str) {
    let author = Author::new();
    let made = author.makes(name, &["--lang", "go", "--tier", tier]);
    let project = author.path("elsewhere");
    std::fs::rename(made, &project).expect("moved");
    author.follows_the_page(&project, &project, name);
}

fn same_in_go() {
    let author = Author::new();
    let one = author.makes("mine", &["--lang", "go"]);
    let mut build = author.command("km-pack", &author.path("."));
    Finished::from(build.arg("keygen").output().expect("km-pack runs")).expect(0);
    let two = author.path("another");
    let copied = Command::new("cp").args(["-r", path(&one), path(&two)]).status().expect("cp runs");
    assert!(copied.success());
    // A program that was built beside its source is no part of it.
    let mut go = author.command("go", &one);
    assert!(go.args(["build", "-o", "km-plugin-mine", "."]).status().expect("go runs").success());
    let packages = [one, two].map(|project| {
        let mut build = author.command("km-pack", &author.path("."));
        build.args(["build", "--json", "--customer", "c", "--plugin", path(&project)]);
        build.env("SOURCE_DATE_EPOCH", "1795305600").env("CARGO_TARGET_DIR", "target");
        let built = Finished::from(build.output().expect("km-pack runs")).expect(0).json();
        built["packages"][0]["tar_sha256"].clone()
    });
    assert_eq!(packages[0], packages[1]);
}

/// Also those that its own tests and Go's reserved words know.
fn names_in_go() {
    let author = Author::new();
    for name in ["other", "func", "internal", "a-", "plugin"] {
        let project = author.makes(name, &["--lang", "go", "--description", "Says \"a\\b\""]);
        for arguments in [&["vet", "./..."][..], &["test", "./..."]] {
            let mut go = author.command("go", &project);
            Finished::from(go.args(arguments).output().expect("go runs")).expect(0);
        }
        let mut format = author.command("gofmt", &project);
        assert_eq!(
            Finished::from(format.args(["-l", "."]).output().expect("gofmt runs")).expect(0).text(),
            ""
        );
    }
}

fn ci_files(actionlint: &Path) {
    let author = Author::new();
    for (name, language, tier) in
        [("a", "rust", "Free"), ("b", "rust", "Pro"), ("c", "go", "Free"), ("d", "go", "Enterprise")]
    {
        let project = author.makes(name, &["--lang", language, "--tier", tier]);
        let file = project.join(".github/workflows/plugin.yml");
        let output = Command::new(actionlint).arg(&file).output().expect("actionlint runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let text = std::fs::read_to_string(file).expect("a file");
        let install = format!("/releases/download/v{}/install.sh | sh", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&install) && text.contains("km-pack test "), "{text}");
    }
}
