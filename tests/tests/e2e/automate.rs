//! `km-pack automate` in small checkouts of its own, each broken on purpose in one way.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use km_tests::{Finished, alive, binary, path, wait_until};
use serde_json::Value;

/// A checkout that has scenarios only, and a HOME that is not to be touched.
struct Checkout(tempfile::TempDir);

impl Checkout {
    /// With these scenarios: name, and what stands below the heading.
    fn new(scenarios: &[(&str, &str)]) -> Self {
        let checkout = Self(tempfile::tempdir().unwrap());
        checkout.write("c/automate.toml", "scenarios = [\"tests/scenarios\"]\n");
        checkout.write("home/.km/plugins/km-plugin-mine", "mine");
        checkout.write("home/.km/plugins/store/mine/1/km-plugin-mine", "mine");
        checkout.write("home/.km/config/config.toml", "api_key = \"k\"\n");
        checkout.write("home/.km/cache/mine-12345678.token", "t");
        checkout.write("tmp/nothing", "");
        std::fs::create_dir_all(checkout.path("c/tests/scenarios")).unwrap();
        for (name, text) in scenarios {
            checkout.write(&format!("c/tests/scenarios/{name}.md"), &page(text));
        }
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("km-pack"));
        command
            .arg("automate")
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            // Else rustup, when it is asked for its version, would begin one in that home.
            .env("RUSTUP_HOME", rustup_home())
            .env("TMPDIR", self.path("tmp"))
            .current_dir(self.path("c"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs the test phase with the binaries of this build.
    fn test(&self, more: &[&str]) -> Finished {
        self.test_with(more, &[])
    }

    fn test_with(&self, more: &[&str], variables: &[(&str, &str)]) -> Finished {
        let km = binary("km");
        let bins = path(km.parent().unwrap());
        let mut command = self.command(&[&["--phase", "test", "--bins", bins], more].concat());
        command.envs(variables.iter().copied()).output().unwrap().into()
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.read("c/logs/report.json")).unwrap()
    }

    /// Why the only case failed, its step's output, and what differs.
    fn failure(&self) -> (String, String, String) {
        let finished = self.test(&[]).expect(1);
        let report = self.report();
        let case = &report["cases"][0];
        assert_eq!(case["outcome"], "failed", "{report}");
        assert!(finished.stderr.contains("FAILED   broken"), "{finished:?}");
        assert!(finished.text().contains("km-pack automate --phase test --scenario broken"), "{finished:?}");
        let step = case["steps"].as_array().unwrap().last().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&case["why"]), text(&step["output"]), text(&step["difference"]))
    }

    /// Everything below a folder, with contents.
    fn files(&self, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                } else if let Ok(to) = std::fs::read_link(entry.path()) {
                    found.push((entry.path(), to.into_os_string().into_encoded_bytes()));
                } else {
                    found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(folder), &mut found);
        found.sort();
        found
    }
}

fn rustup_home() -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".rustup");
    std::env::var_os("RUSTUP_HOME").map_or_else(home, PathBuf::from)
}

fn page(text: &str) -> String {
    match text.split_once("-->\n") {
        Some((head, rest)) if head.starts_with("<!-- scenario") => format!("{head}-->\n# Page\n\n{rest}"),
        _ => format!("# Page\n\n{text}"),
    }
}

fn console(text: &str) -> String {
    format!("```console\n{text}\n```\n")
}

/// A checkout whose one scenario is broken, and what is said of it.
fn broken(text: &str) -> (String, String, String) {
    Checkout::new(&[("broken", text)]).failure()
}

#[test]
fn pages_that_hold_pass_and_leave_nothing() {
    let all = "```sh\nX=1\ncd \"$(mktemp -d)\"\nfalse || true\nfor i in 1 2; do\n  echo $i > $i\ndone\n```\n\
        ```console\n$ ls; echo \"$X\"\n1\n2\n1\n$ echo a; echo b >&2\na\nb\n$ (exit 3)\n[exit 3]\n$ echo $?\n3\n$ echo \"two\n> lines\"\ntwo\nlines\n```\n\
        <!-- file: sub/it's.toml -->\n```toml\na = 'b' # $X\n```\n```console\n$ cat sub/*\na = 'b' # $X\n```\n\
        ```console unordered\n$ echo b; echo a\na\nb\n```\n\
        ```console background\n$ echo ready; exec sleep 1000\nready\n```\n\
        ```console\n$ kill $!; wait $!\n...\n[exit 143]\n$ km plugins list\n...\n$ echo $HOME $KM_HOME\n/home/you /home/you/.km\n$ cat\n$ km-pack --version\nkm-pack [..]\n```\n\
        <!-- not run: a reason -->\n```sh\nfalse\n```\n";
    let checkout =
        Checkout::new(&[("group/all", all), ("other", &console("$ test -z \"$KM_PACK_KEEPER$CI\""))]);
    let home = checkout.files("home");
    let finished = checkout.test(&[]).expect(0);
    assert!(finished.stderr.contains("ok       group/all"), "{finished:?}");
    let report = checkout.report();
    assert_eq!(report["passed"], true);
    assert_eq!(report["phases"][0]["passed"], 2);
    let steps = report["cases"][0]["steps"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["why"], "not run: a reason");
    assert_eq!(checkout.files("home"), home, "the user's home is as it was");
    assert_eq!(checkout.files("tmp").len(), 1, "no temporary folder is left");
}

#[test]
fn a_wrong_output_is_shown_with_its_place() {
    let checkout = Checkout::new(&[("broken", &console("$ echo one; echo two; echo three\none\n2\nthree"))]);
    let (why, output, difference) = checkout.failure();
    assert_eq!(why, "the output is not as expected");
    assert_eq!(output, "one\ntwo\nthree\n");
    assert_eq!(difference, "  one\n- 2\n+ two\n  three\n");
    let page = checkout.read("c/logs/report.md");
    assert!(page.contains("tests/scenarios/broken.md:4: $ echo one"), "{page}");
}

#[test]
fn a_missing_line_and_one_too_many_are_failures() {
    assert_eq!(broken(&console("$ echo one\none\ntwo")).2, "  one\n- two\n");
    assert_eq!(broken(&console("$ echo one; echo two\none")).2, "  one\n+ two\n");
    assert_eq!(broken(&console("$ true\nnot said")).2, "- not said\n");
}

#[test]
fn a_wrong_status_is_a_failure() {
    assert_eq!(broken(&console("$ (exit 3)")).0, "exit 3, where 0 was expected");
    assert_eq!(broken(&console("$ true\n[exit 6]")).0, "exit 0, where 6 was expected");
    assert_eq!(broken("```sh\ntrue\nfalse\ntrue\n```\n").0, "exit 1, where 0 was expected");
    assert_eq!(broken(&console("$ no-such-command-at-all 2>/dev/null")).0, "exit 127, where 0 was expected");
}

#[test]
fn a_command_that_does_not_end_is_ended() {
    let (why, output, _) = broken(
        "<!-- scenario\ntimeout = \"300ms\"\n-->\n```console\n$ echo begun; exec sleep 1000\nbegun\n```\n",
    );
    assert_eq!((why.as_str(), output.as_str()), ("it did not end within 0.3 s", "begun\n"));
}

#[test]
fn a_command_that_ends_the_shell_is_named() {
    assert_eq!(broken(&console("$ echo x; exit 4\nx")).0, "it ended the scenario's shell (exit 4)");
    assert_eq!(broken(&console("$ kill -9 $$")).0, "it ended the scenario's shell (exit 137)");
    assert_eq!(broken(&console("$ if true; then ((")).0, "it ended the scenario's shell (exit 2)");
}

#[test]
fn a_flood_of_output_is_ended() {
    assert_eq!(broken(&console("$ yes")).0, "it printed more than 16 MiB");
}

#[test]
fn what_runs_in_the_background_must_say_what_is_shown() {
    let background = |text: &str, head: &str| broken(&format!("{head}```console background\n{text}\n```\n"));
    let head = "<!-- scenario\ntimeout = \"300ms\"\n-->\n";
    let (why, ..) = background("$ echo other; exec sleep 1000\nready", head);
    assert_eq!(why, "these lines did not come within 0.3 s");
    assert_eq!(background("$ echo other\nready", "").0, "it ended before these lines came");
}

#[test]
fn a_page_that_is_not_understood_is_named_with_its_line() {
    let checkout = Checkout::new(&[("broken", "```console\nls\n```\n"), ("good", &console("$ true"))]);
    checkout.write("c/tests/scenarios/worse.md", "\u{0}");
    std::fs::write(checkout.path("c/tests/scenarios/bytes.md"), [0xff, 0xfe]).unwrap();
    let finished = checkout.test(&[]).expect(1);
    let text = finished.text();
    assert!(text.contains("tests/scenarios/broken.md:4: a transcript begins with a command"), "{text}");
    assert!(text.contains("tests/scenarios/worse.md:1: there is no heading"), "{text}");
    assert!(text.contains("bytes.md: stream did not contain valid UTF-8"), "{text}");
    assert_eq!(checkout.report()["phases"][0]["passed"], 1);
}

#[test]
fn what_is_needed_and_missing_is_skipped_and_fails_in_ci() {
    let needs = "<!-- scenario\nneeds = [\"sh\", \"no-such-program\"]\n-->\n```sh\ntrue\n```\n";
    let checkout = Checkout::new(&[("broken", needs)]);
    let finished = checkout.test(&[]).expect(0);
    assert!(finished.stderr.contains("skipped  broken  no-such-program is not on PATH"), "{finished:?}");
    let finished = checkout.test_with(&[], &[("CI", "true")]).expect(1);
    assert!(finished.stderr.contains("no-such-program is not on PATH, and this is CI"), "{finished:?}");
}

#[test]
fn quick_leaves_out_what_is_slow_and_says_so() {
    let checkout = Checkout::new(&[("slow", "<!-- scenario\nslow = true\n-->\n```sh\nfalse\n```\n")]);
    let finished = checkout.test(&["--quick"]).expect(0);
    assert!(finished.stderr.contains("skipped  slow  slow, and this is --quick"), "{finished:?}");
    checkout.test(&[]).expect(1);
}

#[test]
fn scenarios_are_chosen_by_name_and_group() {
    let pass = console("$ true");
    let checkout = Checkout::new(&[("a/one", &pass), ("a/two", &pass), ("ab", &pass)]);
    let names = |arguments: &[&str]| -> Vec<String> {
        checkout.test(arguments).expect(0);
        let report = checkout.report();
        let cases = report["cases"].as_array().unwrap();
        cases.iter().map(|case| case["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["--scenario", "a"]), ["a/one", "a/two"]);
    assert_eq!(names(&["--scenario", "a/two", "--scenario", "ab"]), ["a/two", "ab"]);
    let finished = checkout.test(&["--scenario", "b"]).expect(6);
    assert!(
        finished.stderr.contains("no scenario and no group is named b\nhelp: there are: a/one"),
        "{finished:?}"
    );
}

#[test]
fn accepting_writes_what_came_and_nothing_else() {
    let text = "```console\n$ echo old\nnew\n$ echo took 12 ms\ntook 7 ms\n$ echo \"$HOME km_live_0123456789abcdef\"\n$ (exit 3)\n```\n\
                - in a list\n\n  ```console\n  $ echo x\n  [..]\n  $ echo y\n  ```\n";
    let checkout = Checkout::new(&[("a", text), ("b", &console("$ echo b\nb"))]);
    let other = checkout.read("c/tests/scenarios/b.md");
    checkout.test(&["--accept"]).expect(0);
    let expected = "# Page\n\n```console\n$ echo old\nold\n$ echo took 12 ms\ntook 7 ms\n$ echo \"$HOME km_live_0123456789abcdef\"\n\
                    /home/you km_live_…\n$ (exit 3)\n[exit 3]\n```\n- in a list\n\n  ```console\n  $ echo x\n  [..]\n  $ echo y\n  y\n  ```\n";
    assert_eq!(checkout.read("c/tests/scenarios/a.md"), expected);
    assert_eq!(checkout.read("c/tests/scenarios/b.md"), other);
    checkout.test(&[]).expect(0);
}

#[test]
fn reports_are_read_by_machines_and_hold_no_secret() {
    let secrets = "$ echo km_live_0123456789abcdef '<&>' ']]>'\nx\n$ printf '\\033[31m\\001red\\n'\ny";
    let needs = "<!-- scenario\nneeds = [\"no-such-program\"]\n-->\n```sh\ntrue\n```\n";
    let checkout =
        Checkout::new(&[("g/broken", &console(secrets)), ("g/good", &console("$ true")), ("skipped", needs)]);
    let finished = checkout.test(&["--json"]).expect(1);
    assert_eq!(finished.json(), checkout.report());
    let report = checkout.report();
    assert_eq!(report["phases"][0]["failed"], 1);
    assert!(
        report["environment"]["cores"].as_u64() > Some(0) && report["environment"]["kernel"] != "",
        "{report}"
    );
    assert_eq!(report["programs"][0]["sha256"].as_str().map(str::len), Some(64));
    for file in ["report.md", "junit.xml", "report.json"] {
        let text = checkout.read(&format!("c/logs/{file}"));
        assert!(!text.contains("0123456789abcdef") && text.contains("km_live_"), "{file}: {text}");
    }
    // Another's reader of XML, if Python is here; in CI it is.
    let script = "import sys, xml.etree.ElementTree as e\nr = e.parse(sys.argv[1]).getroot()\n\
                  print(r.get('tests'), r.get('failures'), r.get('skipped'), [c.get('classname') for c in r.iter('testcase')])";
    match Command::new("python3").args(["-c", script, path(&checkout.path("c/logs/junit.xml"))]).output() {
        Ok(output) => {
            let finished = Finished::from(output).expect(0);
            assert_eq!(finished.text().trim(), "3 1 1 ['test.g', 'test.g', 'test']");
        }
        Err(e) => assert!(std::env::var_os("CI").is_none(), "python3: {e}"),
    }
}

#[test]
fn without_a_configuration_it_says_what_that_is() {
    let checkout = Checkout::new(&[]);
    std::fs::remove_file(checkout.path("c/automate.toml")).unwrap();
    let finished = checkout.run(&[]).expect(6);
    assert!(
        finished.stderr.contains("no automate.toml in") && finished.stderr.contains("scenarios = ["),
        "{finished:?}"
    );
    checkout.write("c/automate.toml", "scenarios = []\ncolour = 1\n");
    let finished = checkout.run(&[]).expect(1);
    assert!(finished.stderr.contains("automate.toml, line 2: unknown field `colour`"), "{finished:?}");
    checkout.write("c/automate.toml", "scenarios = [\"missing\"]\n");
    checkout.run(&[]).expect(6);
    checkout.write("c/automate.toml", "scenarios = [\"tests/scenarios\", \"tests/scenarios\"]\n");
    checkout.write("c/tests/scenarios/a.md", &page(&console("$ true")));
    let finished = checkout.run(&[]).expect(1);
    assert!(finished.stderr.contains("two scenarios are named a"), "{finished:?}");
}

#[test]
fn what_is_not_built_is_named() {
    let given = "<!-- scenario\ngiven = \"packages\"\n-->\n```sh\ntrue\n```\n";
    let checkout = Checkout::new(&[("broken", given)]);
    let finished = checkout.test(&[]).expect(1);
    assert!(finished.text().contains("km-pack automate --phase build"), "{finished:?}");
    let finished = checkout.run(&["--phase", "test", "--bins", path(&checkout.path("tmp"))]).expect(6);
    assert!(finished.stderr.contains("tmp/km is not there"), "{finished:?}");
}

#[test]
fn a_missing_shell_is_said() {
    let checkout = Checkout::new(&[("broken", &console("$ true"))]);
    let finished = checkout.test_with(&[], &[("PATH", "/nonexistent")]).expect(1);
    assert!(finished.text().contains("cannot run sh: No such file or directory"), "{finished:?}");
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let checkout = Checkout::new(&[("good", &console("$ true"))]);
    checkout.write("c/logs", "a file");
    let finished = checkout.test(&[]).expect(9);
    assert!(finished.stderr.contains("cannot make") && finished.stderr.contains("logs"), "{finished:?}");
    let finished = checkout.test(&["--report", "/proc/1/logs", "--json"]);
    assert_eq!(finished.json()["error"]["help"], "--report names another folder");
}

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";
const REPORT: &str = "# Automation: passed\n";

#[test]
fn a_dry_run_touches_nothing() {
    let checkout = Checkout::new(&[("good", &console("$ true"))]);
    for file in ["target/debug/x", "dist/a.kmpkg"] {
        checkout.write(&format!("c/{file}"), "x");
    }
    checkout.write("c/target/CACHEDIR.TAG", TAG);
    checkout.write("c/logs/report.md", REPORT);
    let (before, home) = (checkout.files("c"), path(&checkout.path("home/.km")).to_owned());
    let phases = ["--phase", "cleanup", "--phase", "test"];
    let finished = checkout.run(&[&phases[..], &["--dry-run", "--home", &home]].concat()).expect(0);
    let text = finished.text();
    for line in
        ["target/debug", "dist/a.kmpkg", "logs/report.md", ".km/plugins", "test    good", "nothing was done"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(checkout.files("c"), before);
    assert!(checkout.path("home/.km/plugins/km-plugin-mine").is_file());
}

#[test]
fn cleanup_leaves_what_is_not_its_own() {
    let checkout = Checkout::new(&[]);
    let stays =
        ["dist/store/index/a.toml", "dist/km.db", "keys/release.key.pem", "src/x", "target/own.key.pem"];
    let goes = ["target/debug/x", "target/km-pack/y", "dist/a.kmpkg"];
    for file in stays.iter().chain(&goes) {
        checkout.write(&format!("c/{file}"), "x");
    }
    checkout.write("c/target/CACHEDIR.TAG", TAG);
    let home = checkout.files("home");
    checkout.run(&["--phase", "cleanup"]).expect(0);
    for file in stays {
        assert!(checkout.path("c").join(file).is_file(), "{file} stays");
    }
    for file in goes {
        assert!(!checkout.path("c").join(file).exists(), "{file} goes");
    }
    assert_eq!(checkout.files("home"), home);
}

#[test]
fn a_target_folder_elsewhere_stays() {
    let checkout = Checkout::new(&[]);
    checkout.write("away/CACHEDIR.TAG", TAG);
    checkout.write("away/debug/x", "x");
    let away = checkout.files("away");
    let mut command = checkout.command(&["--phase", "cleanup"]);
    let finished: Finished = command.env("CARGO_TARGET_DIR", checkout.path("away")).output().unwrap().into();
    assert!(finished.expect(0).stderr.contains("it lies outside of the checkout"));
    assert_eq!(checkout.files("away"), away);
}

#[test]
fn a_home_is_cleaned_up_only_when_somebody_agrees() {
    let checkout = Checkout::new(&[]);
    let home = checkout.path("home/.km");
    let cleanup = ["--phase", "cleanup", "--home", path(&home)];
    let before = checkout.files("home");
    let finished = checkout.run(&cleanup).expect(1);
    assert!(
        finished.stderr.contains("installed plugins") && finished.stderr.contains("--yes"),
        "{finished:?}"
    );
    assert_eq!(checkout.files("home"), before);
    checkout.run(&[&cleanup[..], &["--yes"]].concat()).expect(0);
    let left: Vec<_> = checkout.files("home").into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [home.join("config/config.toml")]);
}

#[test]
fn a_folder_that_is_no_home_is_refused() {
    let checkout = Checkout::new(&[]);
    for file in ["plugins/x/src/lib.rs", "plugins/store/x", "cache/x", "config/config.toml"] {
        checkout.write(&format!("c/{file}"), "x");
    }
    let before = checkout.files("c");
    let finished = checkout.run(&["--phase", "cleanup", "--home", ".", "--yes"]).expect(2);
    assert!(finished.stderr.contains("is no KM_HOME: it is a checkout"), "{finished:?}");
    assert_eq!(checkout.files("c"), before);
}

fn git(checkout: &Checkout, arguments: &[&str]) {
    let mut git = Command::new("git");
    let git = git.arg("-C").arg(checkout.path("c")).args(arguments).env("HOME", checkout.path("home"));
    Finished::from(git.output().unwrap()).expect(0);
}

/// A repository that keeps a package.
fn repository() -> Checkout {
    let checkout = Checkout::new(&[("good", &console("$ true"))]);
    checkout.write("c/dist/kept.kmpkg", "x");
    checkout.write("c/docs/report.md", REPORT);
    git(&checkout, &["init", "--quiet"]);
    git(&checkout, &["add", "-f", "."]);
    git(&checkout, &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a"]);
    checkout
}

#[test]
fn what_git_keeps_stays_whatever_git_is_told() {
    let checkout = repository();
    let cleanup = ["--phase", "cleanup"];
    checkout.write("empty/x", "");
    let kept = || checkout.path("c/dist/kept.kmpkg").is_file();
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        let mut command = checkout.command(&cleanup);
        let finished: Finished = command.env(name, checkout.path("empty")).output().unwrap().into();
        assert!(finished.expect(0).stderr.contains("stays: git keeps it") && kept(), "{name}");
    }
    std::fs::remove_file(checkout.path("c/.git/index")).unwrap();
    checkout.run(&cleanup).expect(0);
    assert!(kept(), "an index that is gone");
    let removed_nothing = |finished: Finished| {
        assert!(finished.stderr.contains("cannot learn which files git keeps in"), "{finished:?}");
        assert!(kept(), "{finished:?}");
    };
    removed_nothing(checkout.command(&cleanup).env("PATH", "/nonexistent").output().unwrap().into());
    checkout.write("c/.git/index", "corrupt");
    removed_nothing(checkout.run(&cleanup).expect(1));
}

#[test]
fn a_target_folder_that_is_a_link_is_refused() {
    for link in ["c/target", "c/target/automate"] {
        let checkout = Checkout::new(&[("good", &console("$ true"))]);
        for file in ["keys/a.key.pem", "dist/a.kmpkg", "go/x"] {
            checkout.write(&format!("away/{file}"), "x");
            checkout.write(&format!("away/automate/{file}"), "x");
        }
        std::fs::create_dir_all(checkout.path(link).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(checkout.path("away"), checkout.path(link)).unwrap();
        let before = checkout.files("away");
        for phase in ["cleanup", "build"] {
            let finished = checkout.run(&["--phase", phase]).expect(9);
            assert!(finished.stderr.contains("is a symbolic link"), "{finished:?}");
        }
        assert_eq!(checkout.files("away"), before);
    }
}

#[test]
fn a_report_that_would_take_a_file_away_is_refused_before_anything_runs() {
    let checkout = repository();
    checkout.write("c/folder/report.md/x", "x");
    checkout.write("c/mine/junit.xml", "<testsuites/>");
    checkout.write("away/x", "x");
    std::os::unix::fs::symlink(checkout.path("away"), checkout.path("c/link")).unwrap();
    std::fs::create_dir(checkout.path("c/one")).unwrap();
    std::os::unix::fs::symlink(checkout.path("away/x"), checkout.path("c/one/report.json")).unwrap();
    let before = (checkout.files("c"), checkout.files("away"));
    for (folder, why) in [
        ("docs", "git keeps it"),
        ("folder", "it is no file"),
        ("mine", "there is a file which is not the suite's"),
        ("one", "it is no file"),
        ("link", "a symbolic link leads there"),
        ("link/", "a symbolic link leads there"),
        ("link/sub", "a symbolic link leads there"),
    ] {
        let finished = checkout.run(&["--report", folder]).expect(9);
        assert!(finished.stderr.contains(why), "{folder}: {finished:?}");
    }
    assert_eq!((checkout.files("c"), checkout.files("away")), before);
}

/// A run whose scenario has started what would stay: in the background, out of its session, deaf to SIGTERM.
fn started(checkout: &Checkout) -> (std::process::Child, Vec<u32>) {
    let km = binary("km");
    let mut command = checkout.command(&["--phase", "test", "--bins", path(km.parent().unwrap())]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pids = checkout.path("pids");
    let read = || std::fs::read_to_string(&pids).unwrap_or_default();
    wait_until("the scenario has started its processes", || read().lines().count() == 3);
    let processes = read().lines().map(|line| line.parse().unwrap()).collect();
    (child, processes)
}

fn staying(checkout: &Checkout) -> String {
    let pids = checkout.path("pids");
    let pids = path(&pids);
    format!(
        "```sh\nsleep 1000 & echo $! >> {pids}\nsetsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &\n\
         (trap '' TERM HUP INT; sh -c 'echo $PPID >> {pids}'; while :; do sleep 1; done)\n```\n"
    )
}

fn interrupted_by(signal: rustix::process::Signal) -> (Checkout, Finished) {
    let checkout = Checkout::new(&[]);
    checkout.write("c/tests/scenarios/long.md", &page(&staying(&checkout)));
    let (child, processes) = started(&checkout);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal).unwrap();
    let finished = child.wait_with_output().unwrap().into();
    wait_until("nothing of the scenario is left", || !processes.iter().any(|pid| alive(*pid)));
    (checkout, finished)
}

#[test]
fn an_interrupted_run_leaves_nothing_and_says_so() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let (checkout, finished) = interrupted_by(signal);
        let finished = finished.expect(1);
        assert!(finished.text().contains("interrupted in"), "{finished:?}");
        assert_eq!(checkout.report()["interrupted"], true);
        assert_eq!(checkout.files("tmp").len(), 1, "no temporary folder is left");
    }
}

#[test]
fn a_killed_run_leaves_no_process() {
    let (checkout, _) = interrupted_by(rustix::process::Signal::KILL);
    assert!(checkout.files("tmp").len() > 1, "nobody could remove the temporary folder");
}

#[test]
fn two_runs_in_one_checkout_are_refused() {
    let checkout = Checkout::new(&[]);
    checkout.write("c/tests/scenarios/long.md", &page(&staying(&checkout)));
    let (mut child, _) = started(&checkout);
    let finished = checkout.test(&[]).expect(7);
    assert!(finished.stderr.contains("another run of the suite works in"), "{finished:?}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).last();
    assert!(said.is_some_and(|line| line.contains("long")));
    child.wait().unwrap();
    checkout.write("c/tests/scenarios/long.md", &page(&console("$ true")));
    checkout.test(&[]).expect(0);
}

#[test]
fn what_would_be_syntax_is_not_accepted() {
    let lines = ["> touch $HOME/x", "[exit 4]", "...", "a [..] b", "$ ls", "```", "~~~"];
    for line in lines {
        let checkout = Checkout::new(&[("broken", &console(&format!("$ echo '{line}'")))]);
        let before = checkout.read("c/tests/scenarios/broken.md");
        let finished = checkout.test(&["--accept"]).expect(1);
        assert!(finished.text().contains("cannot stand in a transcript"), "{line}: {finished:?}");
        assert_eq!(checkout.read("c/tests/scenarios/broken.md"), before);
    }
    let begin = console("$ echo '-----BEGIN PRIVATE KEY-----'; echo QUJD");
    let checkout = Checkout::new(&[("broken", &begin)]);
    checkout.test(&["--accept"]).expect(1);
    assert!(!checkout.read("c/tests/scenarios/broken.md").contains("\nQUJD"));
}

#[test]
fn half_a_private_key_is_compared_and_not_shown() {
    let text = "$ echo '-----BEGIN PRIVATE KEY-----'; echo WRONG OUTPUT; echo \"km_live_$(printf '\\033[1m')0123456789abcdef\"\n-----BEGIN PRIVATE KEY-----\nright\n[..]";
    let (why, output, difference) = broken(&console(text));
    assert_eq!(why, "the output is not as expected");
    assert_eq!(output, "-----PRIVATE KEY…-----");
    assert_eq!(difference, "  -----PRIVATE KEY…-----\n- right\n  …\n+ …\n");
}

#[test]
fn a_command_that_fails_in_the_midst_of_a_block_is_a_failure() {
    let why = "exit 1, where 0 was expected";
    for text in
        ["false; true", "echo if\nfalse\necho fi", "for i in 1 2; do\n  false\n  true\ndone", "true && false"]
    {
        assert_eq!(broken(&format!("```sh\n{text}\n```\n")).0, why, "{text}");
    }
    let text = "```sh\nfalse || true\nif false; then :; fi\necho $((1 << 2)) > x\ncat <<EOF >> x\n4 < 5\nEOF\nx=1\n```\n\
                ```console\n$ false\n[exit 1]\n$ cat x; echo \"$x\"\n4\n4 < 5\n1\n```\n";
    Checkout::new(&[("good", text)]).test(&[]).expect(0);
}

#[test]
fn what_fails_in_the_background_is_a_failure() {
    let page = |command: &str, then: &str| {
        format!("```console background\n$ {command}\nready\n```\n```sh\n{then}\n```\n")
    };
    let (why, output, _) = broken(&page("echo ready; sleep 0.1; echo bad; exit 101", "sleep 0.5"));
    assert_eq!(why, "echo ready; sleep 0.1; echo bad; exit 101 ended with 101");
    assert_eq!(output, "ready\nbad\n");
    for (command, then) in [
        ("echo ready # and that is all", "sleep 0.2"),
        ("echo ready; sleep 1000 # for long", "true"),
        ("echo ready; exec sleep 1000", "kill $!; sleep 0.2"),
        ("echo ready; exec sleep 1000", "kill $!; wait $! || true"),
    ] {
        Checkout::new(&[("good", &page(command, then))]).test(&[]).expect(0);
    }
}

#[test]
fn a_stopped_keeper_stops_nobody_else() {
    let checkout = Checkout::new(&[]);
    let pid = checkout.path("pid");
    let text = format!(
        "<!-- scenario\ntimeout = \"300ms\"\n-->\n```sh\nsetsid sleep 1000 & echo $! > {}\n```\n{}",
        path(&pid),
        console("$ kill -STOP $PPID; sleep 1000")
    );
    checkout.write("c/tests/scenarios/broken.md", &page(&text));
    assert_eq!(checkout.failure().0, "it did not end within 0.3 s");
    let process: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(!alive(process), "nothing of the scenario is left");
}

#[test]
fn a_killed_keeper_is_named_at_once() {
    let begun = std::time::Instant::now();
    let (why, ..) = broken(&console("$ sleep 1000 & kill -9 $PPID; sleep 1000"));
    assert_eq!(why, "the keeper of the scenario's shell was killed");
    assert!(begun.elapsed().as_secs() < 30);
}

#[test]
fn a_terminal_shows_the_beginning_of_a_long_difference() {
    let checkout = Checkout::new(&[("broken", &console("$ seq 100 300"))]);
    let finished = checkout.test(&[]).expect(1);
    let text = finished.text();
    assert!(text.contains("more lines, see report") && !text.contains("+ 200\n"), "{text}");
    assert!(checkout.read("c/logs/report.md").contains("+ 300\n"));
}

#[test]
fn a_suite_that_tests_nothing_has_not_passed() {
    let checkout = Checkout::new(&[]);
    let refused = checkout.test(&[]).expect(6);
    assert!(refused.stderr.contains("names no scenario"), "{refused:?}");
}
