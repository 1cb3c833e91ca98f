//! Texts of a project, with what they are about filled in.

use km_package::tier::Tier;

use super::{Wanted, embedded};

/// Where this version is published.
const REPOSITORY: &str = "https://github.com/kilometers-ai/kilometers-cli";

/// A file of `km-plugin-template/project`. What stands there in double braces is replaced; a line
/// `{{free}}` or `{{paid}}` begins what is for plugins of that kind alone, up to a line `{{all}}`.
pub(super) fn filled(path: &str, wanted: &Wanted) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let install = format!("{REPOSITORY}/releases/download/v{version}/install.sh");
    let guide = format!("{REPOSITORY}/blob/v{version}/docs/plugin-authors.md");
    let text = embedded::text(&format!("km-plugin-template/project/{path}"));
    let mut text = meant_for(wanted.tier, text);
    // The description last: what it holds is the author's.
    for (key, value) in [
        ("{{name}}", wanted.name.as_str()),
        ("{{tier}}", wanted.tier.as_str()),
        ("{{install}}", &install),
        ("{{guide}}", &guide),
        ("{{version}}", version),
        ("{{description}}", &wanted.description),
    ] {
        text = text.replace(key, value);
    }
    text
}

/// The lines that are for plugins of a tier.
fn meant_for(tier: Tier, text: &str) -> String {
    let other = if tier == Tier::Free { "{{paid}}" } else { "{{free}}" };
    let mut taken = true;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            mark @ ("{{free}}" | "{{paid}}" | "{{all}}") => taken = mark != other,
            _ if taken => kept.push_str(line),
            _ => {}
        }
    }
    kept
}
