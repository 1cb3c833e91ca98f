//! Man pages: one for each command, saying what `--help` says.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use km_tests::{TestEnvironment, path};

/// A program's commands, as its `--help` lists them: `["plugins", "install"]`.
fn commands(help: &dyn Fn(&[String]) -> String, above: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![above.to_vec()];
    let text = help(above);
    let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| !line.is_empty()) {
        let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
        let name = name.split(' ').next().unwrap();
        if name != "help" {
            all.extend(commands(help, &[above, &[name.to_owned()]].concat()));
        }
    }
    all
}

/// troff without its markup, as one line of words.
fn words(text: &str) -> String {
    let mut plain = text.replace("\\*(Aq", "'").replace("\\-", "-").replace("\\&", "");
    for markup in ["\\fB", "\\fI", "\\fR"] {
        plain = plain.replace(markup, "");
    }
    while let Some((before, rest)) = plain.split_once("\\[u") {
        let (code, after) = rest.split_once(']').unwrap();
        let named = char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
        plain = format!("{before}{named}{after}");
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The options that a `--help` lists.
fn options_of_help(help: &str) -> BTreeSet<String> {
    let option = |line: &str| {
        let word =
            line.split([' ', ',', '=', '[', '.']).find(|word| word.starts_with("--")).map(str::to_owned);
        word.filter(|_| line.starts_with('-'))
    };
    help.lines().map(str::trim).filter_map(option).collect()
}

/// Those that a page explains.
fn options_of(page: &str) -> BTreeSet<String> {
    let headers = page.split(".TP\n").skip(1).filter_map(|item| item.lines().next());
    headers.flat_map(|line| options_of_help(&words(line))).collect()
}

fn example_of(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
    lines.map(words).filter(|line| !line.is_empty()).collect()
}

fn check(program: &str, run: &dyn Fn(&[&str]) -> String, folder: &Path) {
    let help = |command: &[String]| {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        run(&words)
    };
    let commands = commands(&help, &[]);
    assert!(commands.len() > 20, "{program}: {commands:?}");
    for command in &commands {
        let name = [&[program.to_owned()], &command[..]].concat().join("-");
        let file = folder.join(format!("{name}.1"));
        let page = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name} has no page: {e}"));
        let help = help(command);
        assert_eq!(options_of(&page), options_of_help(&help), "{name}");
        let page = words(&page);
        let about = words(help.split("\n\n").next().unwrap());
        assert!(page.contains(&about), "{name}: {about}");
        let example = example_of(&help);
        assert!(!example.is_empty() && page.contains(&example.join(" ")), "{name}: {example:?}\n{page}");
    }
    let pages = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(pages, commands.len(), "{program} has pages that no command has");
}

#[test]
fn every_command_has_a_page_that_says_what_its_help_says() {
    let environment = TestEnvironment::empty();
    let (km, km_pack) = (environment.path("km-pages"), environment.path("km-pack-pages"));
    environment.km(["man", "--out", path(&km)]).expect(0);
    let written = environment.km_pack(["man", "--out", path(&km_pack), "--json"]).expect(0).json();
    assert!(written["pages"].as_array().unwrap().len() > 20);
    check("km", &|words| environment.km(words.iter().copied()).expect(0).text(), &km);
    check("km-pack", &|words| environment.km_pack(words.iter().copied()).expect(0).text(), &km_pack);
    // The main page, as it is piped into man.
    let main = std::fs::read_to_string(km.join("km.1")).unwrap();
    assert_eq!(environment.km(["man"]).expect(0).text().trim_end(), main.trim_end());
    assert_eq!(environment.km(["man", "--json"]).expect(0).json()["page"], main);
    environment.km(["man", "--out", "/dev/null/man"]).expect(9);
}

#[test]
fn troff_reads_the_pages_without_a_warning() {
    if Command::new("groff").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "groff is missing: apt-get install groff-base");
        return;
    }
    let environment = TestEnvironment::empty();
    environment.km(["man", "--out", "pages"]).expect(0);
    environment.km_pack(["man", "--out", "pages"]).expect(0);
    let script = "for page in pages/*.1; do groff -man -Tutf8 -ww -z \"$page\"; done 2>&1";
    let groff = Command::new("sh").args(["-c", script]).current_dir(environment.path(".")).output().unwrap();
    assert!(groff.status.success(), "{groff:?}");
    assert_eq!(String::from_utf8_lossy(&groff.stdout), "");
}
