//! What holds for the pages for people, besides that they are run (`automate.toml`): their links lead
//! somewhere, they are all run, and the JSON to paste into clients starts a session.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use km_tests::{TestEnvironment, binary, path, workspace};
use serde_json::Value;

/// Every Markdown file that git knows, by its path in the checkout.
fn pages() -> Vec<PathBuf> {
    let files = Command::new("git").args(["ls-files", "*.md"]).current_dir(workspace()).output().unwrap();
    assert!(files.status.success(), "{files:?}");
    text(&files.stdout).lines().map(PathBuf::from).collect()
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(workspace().join(page)).unwrap_or_else(|e| panic!("{}: {e}", page.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A page without its code blocks and what stands between backquotes.
fn prose(page: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in page.lines() {
        let fence = line.trim_start().starts_with("```");
        if !fence && !inside {
            let parts = line.split('`').enumerate();
            prose.extend(parts.filter(|(n, _)| n % 2 == 0).map(|(_, part)| part));
            prose.push('\n');
        }
        inside ^= fence;
    }
    prose
}

/// Where the links of a page lead: `[text](target)` and `href="target"`.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let of = |begin: &'static str, end: char| {
        let parts: Vec<&str> = prose.split(begin).skip(1).collect();
        parts.into_iter().filter_map(move |rest| Some(rest.split_once(end)?.0.to_owned())).collect::<Vec<_>>()
    };
    [of("](", ')'), of("href=\"", '"')].concat()
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut inside = false;
    let headings = page.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !fence && !inside && line.starts_with('#')
    });
    let mut anchors = BTreeSet::new();
    for heading in headings {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let further = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(further).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    // Pages of new projects lead somewhere when these are made.
    for page in pages().iter().filter(|page| !page.starts_with("km-plugin-template/project")) {
        for link in links(&read(page)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => workspace().join(page),
                file => workspace().join(page).parent().unwrap().join(file),
            };
            let found = target.exists()
                && (anchor.is_empty()
                    || std::fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn anchors_are_those_of_github() {
    let page = "# One\n```sh\n# no heading\n```\n## `km monitor`: what, *when*?\n## One\n";
    let expected = ["km-monitor-what-when", "one", "one-1"].map(str::to_owned);
    assert_eq!(anchors(page), BTreeSet::from(expected));
}

/// Those that the README lists as for people, and itself.
#[test]
fn every_page_for_people_is_run() {
    let readme = read(Path::new("README.md"));
    let row = readme.lines().find(|line| line.starts_with("| for people")).expect("a row for people");
    let mut pages = links(row);
    assert!(pages.len() > 5, "{pages:?}");
    pages.push("README.md".to_owned());
    let suite = read(Path::new("automate.toml"));
    pages.retain(|page| !suite.contains(&format!("\"{page}\"")));
    assert!(pages.is_empty(), "not in automate.toml: {pages:?}");
}

/// The command and arguments of each server that a client's configuration names.
fn servers(configuration: &str) -> Vec<Vec<String>> {
    let value: Value = serde_json::from_str(configuration).unwrap_or_else(|e| panic!("{e}: {configuration}"));
    let entries = ["mcpServers", "servers", "context_servers"].iter().find_map(|member| value.get(member));
    let entries = entries.and_then(Value::as_object).unwrap_or_else(|| panic!("no servers: {configuration}"));
    let line = |entry: &Value| {
        let arguments = entry["args"].as_array().expect("args").iter();
        let words = std::iter::once(&entry["command"]).chain(arguments);
        words.map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    entries.values().map(line).collect()
}

#[test]
fn what_customers_paste_into_their_clients_starts_a_session() {
    let page = read(Path::new("docs/customers.md"));
    let blocks: Vec<&str> =
        page.split("```json\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert_eq!(blocks.len(), 6, "Claude Desktop, Cursor, VS Code, Claude Code, Windsurf, Zed");
    let environment = TestEnvironment::with_console_logger();
    for block in blocks {
        for mut words in servers(block) {
            let program = Path::new(&words[0]).file_name().expect("a program");
            assert_eq!(program, "km", "{block}");
            words[0] = path(&binary("km")).to_owned();
            // From the network; in its place what the workspace has.
            let server = words.iter().position(|word| word == "npx").expect("a server from npm");
            words.truncate(server);
            words.push(path(&binary("mcp-server")).to_owned());
            let mut client = Command::new(binary("mcp-client"));
            client.arg("--").args(&words).env("KM_HOME", environment.home());
            let output = client.output().unwrap();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(output.status.success() && out.contains("tools: echo"), "{out}\n{err}");
            assert!(err.contains("[console-logger]") && err.contains("tools/call"), "{err}");
        }
    }
}
