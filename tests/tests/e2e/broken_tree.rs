//! Each scenario on programs that are broken for it: the suite ends with 1 and names it, and no other. A
//! scenario that cannot fail is found here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use km_tests::{binary, workspace};
use serde_json::Value;

/// How `km` and `km-pack` are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breakage {
    /// They say nothing.
    Silent,
    /// They end with 1 where they should with 0, and with 0 otherwise.
    EndsWrong,
}

/// In each run one third is silent, one ends wrong, and one is left alone; each scenario is each once.
/// Slow ones are not in it: `--quick` says so, and so do the reports.
#[test]
fn every_scenario_that_is_broken_is_named_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let built = suite(&["--phase", "build", "--report", folder.path().to_str().unwrap()]);
    assert!(built.status.success(), "{}", text(&built));
    let names = quick_scenarios();
    assert!(names.len() > 50, "{names:?}");
    for turn in 0..3 {
        let third = |at: usize| -> BTreeSet<&String> {
            names.iter().enumerate().filter(|(n, _)| (n + turn) % 3 == at).map(|(_, name)| name).collect()
        };
        let bins = folder.path().join(format!("bins-{turn}"));
        std::fs::create_dir(&bins).unwrap();
        let broken = [(Breakage::Silent, third(0)), (Breakage::EndsWrong, third(1))];
        for program in ["km", "km-pack"] {
            wrap(&bins.join(program), &binary(program), &broken);
        }
        let report = folder.path().join(format!("report-{turn}"));
        let arguments = ["--phase", "test", "--bins", bins.to_str().unwrap()];
        let output = suite(&[&arguments[..], &["--report", report.to_str().unwrap()]].concat());

        let expected: BTreeSet<String> = third(0).union(&third(1)).map(|name| (*name).clone()).collect();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_named("stdout", &named_by_stdout(&output), &expected, &broken);
        assert_named("report.json", &named_by_json(&report.join("report.json")), &expected, &broken);
        assert_named("junit.xml", &named_by_junit(&report.join("junit.xml")), &expected, &broken);
    }
}

fn assert_named(
    by: &str,
    named: &BTreeSet<String>,
    expected: &BTreeSet<String>,
    broken: &[(Breakage, BTreeSet<&String>)],
) {
    let missed: Vec<_> = expected
        .difference(named)
        .map(|name| (name, broken.iter().find(|(_, names)| names.contains(name)).unwrap().0))
        .collect();
    let too_many: Vec<_> = named.difference(expected).collect();
    assert!(missed.is_empty() && too_many.is_empty(), "{by} misses {missed:?}, and names {too_many:?}");
}

/// A program that is itself for everybody but these scenarios, and for them until what is given is there.
fn wrap(path: &Path, real: &Path, broken: &[(Breakage, BTreeSet<&String>)]) {
    let real = real.display();
    let mut script = "#!/bin/sh\ncase \"$HOME\" in\n".to_owned();
    for (breakage, names) in broken {
        let acts = match breakage {
            Breakage::Silent => format!("exec {real} \"$@\" >/dev/null 2>&1"),
            Breakage::EndsWrong => format!("{real} \"$@\" && exit 1; exit 0"),
        };
        for name in names {
            let folder = name.replace('/', "-");
            script += &format!("*/{folder}/home) if {}; then {acts}; fi ;;\n", is_given(name));
        }
    }
    script += &format!("esac\nexec {real} \"$@\"\n");
    std::fs::write(path, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, executable).unwrap();
}

/// How a shell sees that what is given to a scenario is there.
fn is_given(name: &str) -> &'static str {
    let file = workspace().join("tests/scenarios").join(name).with_extension("md");
    let page = std::fs::read_to_string(file).unwrap();
    if page.contains("\ngiven = \"customer\"\n") {
        "[ -e \"$HOME/.km/config/config.toml\" ]"
    } else if page.contains("\ngiven = \"api\"\n") {
        "[ -n \"$KM_API_ENDPOINT\" ]"
    } else {
        "true"
    }
}

fn suite(arguments: &[&str]) -> Output {
    Command::new(binary("km-pack"))
        .args(["automate", "--quick"])
        .args(arguments)
        .current_dir(workspace())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The scenarios that are files of their own, but for slow ones.
fn quick_scenarios() -> Vec<String> {
    let root = workspace().join("tests/scenarios");
    let mut names = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !std::fs::read_to_string(&path).unwrap().contains("\nslow = true\n") {
                names.push(name(&root, &path));
            }
        }
    }
    names.sort();
    names
}

fn name(root: &Path, path: &Path) -> String {
    let within: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
    within.to_str().unwrap().to_owned()
}

/// `FAILED   plugins/list  …`: what begins a line of what people see.
fn named_by_stdout(output: &Output) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let named = text.lines().filter_map(|line| line.strip_prefix("FAILED   "));
    named.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

fn named_by_json(path: &Path) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = report["cases"].as_array().unwrap().iter();
    let failed = cases.filter(|case| case["outcome"] == "failed");
    failed.map(|case| case["name"].as_str().unwrap().to_owned()).collect()
}

fn named_by_junit(path: &Path) -> BTreeSet<String> {
    let report = std::fs::read_to_string(path).unwrap();
    let cases = report.split("<testcase ").skip(1).filter(|case| case.contains("<failure "));
    cases.map(|case| case.split('"').nth(1).unwrap().to_owned()).collect()
}
