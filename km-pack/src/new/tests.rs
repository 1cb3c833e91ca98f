//! What projects consist of, before anything is written.

use std::path::Path;

use super::*;

const NAMES: [&str; 8] = ["mine", "a", "a-", "self", "fn", "test", "other", "go-logger-2"];

fn wanted(name: &str, language: Language, tier: Tier) -> Wanted {
    let name = name.parse().unwrap();
    Wanted { name, tier, description: "Says \"hello\" in {{braces}}".to_owned(), language }
}

fn alone() -> Place {
    Place::Alone { folder: PathBuf::from("/nowhere/x") }
}

fn member() -> Place {
    Place::Member { folder: PathBuf::from("/nowhere/plugins/x"), root: PathBuf::from("/nowhere") }
}

/// The files of an author, as text: the SDK and what was generated are not theirs.
fn own(files: &Files) -> impl Iterator<Item = (&Path, &str)> {
    let not_own = |path: &Path| path.starts_with("vendor") || path.starts_with("kilometersplugin");
    let own = files.iter().filter(move |(path, _)| !not_own(path));
    own.map(|(path, bytes)| (path.as_path(), std::str::from_utf8(bytes).unwrap()))
}

fn text<'a>(files: &'a Files, path: &str) -> &'a str {
    std::str::from_utf8(&files[Path::new(path)]).unwrap()
}

#[test]
fn no_name_of_a_model_and_no_brace_is_left() {
    for name in ["mine", "self"] {
        for (language, place) in
            [(Language::Rust, alone()), (Language::Rust, member()), (Language::Go, alone())]
        {
            for tier in Tier::ALL {
                let files = wanted(name, language, tier).files(&place).unwrap();
                for (path, text) in own(&files) {
                    for model in ["console-logger", "go-logger", "kilometers.example/plugin", "template"] {
                        assert!(!text.contains(model), "{model} in {}", path.display());
                    }
                    let without_description = text.replace("{{braces}}", "");
                    assert!(!without_description.contains("{{"), "{}:\n{text}", path.display());
                }
            }
        }
    }
}

#[test]
fn what_a_plugin_is_stands_wherever_it_is_read() {
    for name in NAMES {
        for tier in Tier::ALL {
            let rust = wanted(name, Language::Rust, tier).files(&alone()).unwrap();
            let manifest: toml::Table = toml::from_str(text(&rust, "Cargo.toml")).unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some(format!("km-plugin-{name}").as_str()));
            assert_eq!(manifest["package"]["description"].as_str(), Some("Says \"hello\" in {{braces}}"));
            let required = &manifest["package"]["metadata"]["km"]["required_tier"];
            assert_eq!(required.as_str(), Some(tier.as_str()));
            assert!(text(&rust, "Cargo.lock").contains(&format!("name = \"km-plugin-{name}\"\n")));
            let main = text(&rust, "src/main.rs");
            match tier {
                Tier::Free => assert!(main.contains("km_plugin::about!()"), "{main}"),
                tier => {
                    assert!(main.contains(&format!("km_plugin::about!(km_plugin::Tier::{tier})")), "{main}")
                }
            }
            let go = wanted(name, Language::Go, tier).files(&alone()).unwrap();
            let about: toml::Table = toml::from_str(text(&go, "km-plugin.toml")).unwrap();
            assert_eq!(
                (about["name"].as_str(), about["required_tier"].as_str()),
                (Some(name), Some(tier.as_str()))
            );
            assert!(
                text(&go, "go.mod").starts_with(&format!("module kilometers.example/km-plugin-{name}\n"))
            );
            let import = format!("\"kilometers.example/km-plugin-{name}/kilometersplugin\"");
            assert!(text(&go, "server.go").contains(&import));
        }
    }
}

#[test]
fn a_member_has_everything_from_its_workspace() {
    let files = wanted("mine", Language::Rust, Tier::Free).files(&member()).unwrap();
    let names: Vec<&str> = files.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["Cargo.toml", "README.md", "src/line.rs", "src/main.rs"]);
    let manifest = text(&files, "Cargo.toml");
    assert!(
        manifest.contains("km-plugin.workspace = true") && manifest.contains("[lints]\nworkspace = true")
    );
}

#[test]
fn a_description_is_one_line() {
    for description in ["", "two\nlines", "a\u{1b}[2J"] {
        let wanted =
            Wanted { description: description.to_owned(), ..wanted("mine", Language::Go, Tier::Free) };
        assert_eq!(wanted.files(&alone()).unwrap_err().kind, Kind::Usage, "{description:?}");
    }
}

#[test]
fn the_sdk_names_exactly_what_its_crates_use() {
    let files = sdk::files();
    let workspace: toml::Table = toml::from_str(text(&files, "Cargo.toml")).unwrap();
    let mut given: Vec<&String> = workspace["workspace"]["dependencies"].as_table().unwrap().keys().collect();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let mut used: Vec<String> = members
        .iter()
        .flat_map(|member| {
            let path = format!("{}/Cargo.toml", member.as_str().unwrap());
            let manifest: toml::Table = toml::from_str(text(&files, &path)).unwrap();
            assert!(!manifest.contains_key("dev-dependencies") && !manifest.contains_key("test"), "{path}");
            manifest["dependencies"].as_table().unwrap().keys().cloned().collect::<Vec<_>>()
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    given.sort_unstable();
    assert_eq!(given, used.iter().collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::Alone { folder: folder.path().join("mine") };
    // A file where a folder is to be: a write that fails in the middle.
    let files = Files::from([("a".into(), b"x".to_vec()), ("a/b".into(), b"y".to_vec())]);
    assert_eq!(create(&place, &files).unwrap_err().kind, Kind::Local);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // An empty folder, and a link to nowhere, are something.
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    assert_eq!(create(&place, &Files::new()).unwrap_err().kind, Kind::Conflict);
    let place = Place::Alone { folder: folder.path().join("link") };
    std::os::unix::fs::symlink("nowhere", place.folder()).unwrap();
    assert_eq!(create(&place, &Files::new()).unwrap_err().kind, Kind::Conflict);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn an_sdk_that_cannot_be_written_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let sdk = folder.path().join("kilometers");
    std::fs::create_dir(&sdk).unwrap();
    std::fs::write(sdk.join("before"), "x").unwrap();
    let broken = Files::from([("a".into(), b"x".to_vec()), ("a/b".into(), b"y".to_vec())]);
    assert_eq!(write::replace(&sdk, &broken).unwrap_err().kind, Kind::Local);
    assert!(sdk.join("before").is_file());
    write::replace(&sdk, &Files::from([("after".into(), b"y".to_vec())])).unwrap();
    assert!(sdk.join("after").is_file() && !sdk.join("before").exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
