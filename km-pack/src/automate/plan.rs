//! What a run would do, for `--dry-run`.

use serde::Serialize;

use super::cleanup::{Cleanup, bytes};

/// What would be removed, built and run.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    pub(super) cleanup: Cleanup,
    pub(super) build: Vec<String>,
    pub(super) test: Vec<String>,
}

impl Plan {
    /// A line for each.
    pub fn text(&self) -> String {
        let removal = |removal: &super::cleanup::Removal| {
            format!("remove  {}  {}, {}", removal.path.display(), removal.what, bytes(removal.bytes))
        };
        let kept = |kept: &super::cleanup::Kept| format!("keep    {}  {}", kept.path.display(), kept.why);
        let mut lines: Vec<String> = self.cleanup.removals.iter().map(removal).collect();
        lines.extend(self.cleanup.kept.iter().map(kept));
        lines.extend(self.build.iter().map(|name| format!("build   {name}")));
        lines.extend(self.test.iter().map(|name| format!("test    {name}")));
        let all = self.cleanup.removals.iter().map(|removal| removal.bytes).sum();
        lines.push(format!(
            "would remove {} in {} places, build {}, test {}; nothing was done",
            bytes(all),
            self.cleanup.removals.len(),
            self.build.len(),
            self.test.len()
        ));
        lines.join("\n")
    }
}
