//! The way of a plugin author, as README and template say it.

use std::process::Command;

use km_tests::{TestEnvironment, packages, path, workspace};

#[test]
fn the_template_is_a_plugin_outside_of_this_repository() {
    let environment = TestEnvironment::trusting();
    let folder = environment.path("mine");
    let template = workspace().join("km-plugin-template");
    std::fs::create_dir_all(folder.join("src")).unwrap();
    for file in ["main.rs", "line.rs"] {
        std::fs::copy(template.join("src").join(file), folder.join("src").join(file)).unwrap();
    }
    // The manifest of the page, with this checkout's path.
    let page = std::fs::read_to_string(template.join("README.md")).unwrap();
    let manifest = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let manifest = manifest.replace("/path/to/this/repository", path(&workspace()));
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already: no network.
    std::fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let target = km_tests::binary("km").parent().unwrap().parent().unwrap().to_path_buf();
    let output = Command::new(km_tests::binary("km-pack"))
        .args(["build", "--json", "--debug", "--plugin", path(&folder), "--customer", "c"])
        .args(["--key", path(&packages().private_key), "--out", path(&environment.path("dist"))])
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = document["packages"][0]["path"].as_str().unwrap();
    environment.km(["plugins", "install", package]).expect(0);
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{\"method\":\"hi\"}\n").expect(0);
    assert!(session.stderr.contains("[mine] ") && session.stderr.contains(" hi "), "{}", session.stderr);
}

#[test]
fn a_complete_plugin_is_at_most_40_lines() {
    // The crate's first page: a plugin from `use` to the end of `main`.
    let page = std::fs::read_to_string(workspace().join("km-plugin-template/sdk/src/lib.rs")).unwrap();
    let example = page.split("//! ```no_run\n").nth(1).unwrap().split("//! ```").next().unwrap();
    assert!(example.contains("impl Plugin") && example.contains("fn main()"));
    assert!(example.lines().count() <= 40);
    let main = std::fs::read_to_string(workspace().join("km-plugin-template/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 40);
}
