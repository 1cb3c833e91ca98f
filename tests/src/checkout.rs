//! Copies of this checkout, for what would change it.

use std::path::Path;
use std::process::Command;

use crate::{path, workspace};

/// Copies what git knows, and what is new. Files keep their times, so that cargo sees what it has compiled.
pub fn copy_checkout(to: &Path) {
    let script = "cd \"$1\" && git ls-files -z --cached --others --exclude-standard | \
                  while IFS= read -r -d '' file; do if [ -e \"$file\" ]; then printf '%s\\0' \"$file\"; fi; done | \
                  xargs -0 cp -p --parents -t \"$2\"";
    std::fs::create_dir(to).expect("a folder");
    let copied = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script, "sh", path(&workspace()), path(to)])
        .status();
    assert!(copied.expect("bash runs").success());
}
