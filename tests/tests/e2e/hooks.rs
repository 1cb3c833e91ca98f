//! The hook of `.githooks`, in a clone of this checkout.

use std::path::Path;
use std::process::Command;

use km_tests::{Finished, TestEnvironment, binary, path, workspace};

fn git(folder: &Path, arguments: &[&str]) -> Finished {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=You", "-c", "user.email=you@example.com"]).args(arguments);
    // What is compiled already need not be again; what is broken changes nothing there.
    let target = binary("km").ancestors().nth(2).unwrap().to_path_buf();
    git.current_dir(folder).env("CARGO_TARGET_DIR", target);
    git.output().unwrap().into()
}

#[test]
fn a_commit_of_a_broken_tree_is_refused() {
    let environment = TestEnvironment::empty();
    let clone = environment.path("clone");
    git(&workspace(), &["clone", "--quiet", ".", path(&clone)]).expect(0);
    // As CONTRIBUTING.md has it.
    let page = std::fs::read_to_string(workspace().join("CONTRIBUTING.md")).unwrap();
    assert!(page.contains("git config core.hooksPath .githooks"));
    git(&clone, &["config", "core.hooksPath", ".githooks"]).expect(0);
    // The hook of the checkout itself, also where it is not committed yet.
    std::fs::create_dir_all(clone.join(".githooks")).unwrap();
    std::fs::copy(workspace().join(".githooks/pre-commit"), clone.join(".githooks/pre-commit")).unwrap();

    let broken = clone.join("proto/wire/src/lib.rs");
    let text = std::fs::read_to_string(&broken).unwrap();
    std::fs::write(&broken, format!("{text}\nthis is no Rust\n")).unwrap();
    let before = git(&clone, &["rev-parse", "HEAD"]).text();
    let refused = git(&clone, &["commit", "--quiet", "--all", "--message", "broken"]).expect(1);
    assert!(refused.stderr.contains("could not compile `km-proto`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("the commit was refused"), "{}", refused.stderr);
    assert_eq!(git(&clone, &["rev-parse", "HEAD"]).text(), before);
    git(&clone, &["commit", "--quiet", "--all", "--no-verify", "--message", "broken"]).expect(0);
}
