//! `automate.toml`: which scenarios there are, and for whom packages are built.

use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::{Deserialize, Serialize};

/// The file's name, in the root of a checkout.
pub(super) const FILE: &str = "automate.toml";

/// What it says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// Markdown files, or folders of them.
    pub(super) scenarios: Vec<PathBuf>,
    /// For whom packages are built. The first one's API key is given to scenarios.
    #[serde(default)]
    pub(super) customers: Vec<Customer>,
}

/// A customer of the suite.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Customer {
    pub(super) id: CustomerId,
    pub(super) tier: Tier,
}

/// The folder around the current one that has the file, as it really is.
pub(super) fn find_checkout(current: &Path) -> Result<PathBuf, Failure> {
    let found = current.ancestors().find(|folder| folder.join(FILE).is_file());
    let found = found.ok_or_else(|| {
        Failure::new(Kind::NotFound, format_args!("no {FILE} in {} or above it", current.display())).help(
            "it stands in the root of a checkout and says what the suite is made of: \
             scenarios = [\"tests/scenarios\"], and [[customers]] with id and tier",
        )
    })?;
    // Without links: what lies in it is known by that.
    std::fs::canonicalize(found).map_err(|e| Failure::file("find", found, &e))
}

impl Config {
    /// Reads that of a checkout.
    pub(super) fn read(checkout: &Path) -> Result<Self, Failure> {
        let path = checkout.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::file("read", &path, &e))?;
        Self::parse(&text).map_err(|(line, what)| {
            Failure::new(Kind::Failed, format_args!("{}, line {line}: {what}", path.display()))
                .help("docs/automation.md says what may stand there")
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            (line, e.message().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_enough() {
        let config = Config::parse("scenarios = [\"tests/scenarios\"]\n").unwrap();
        assert_eq!((config.scenarios, config.customers.len()), (vec![PathBuf::from("tests/scenarios")], 0));
        let config =
            Config::parse("scenarios = []\n[[customers]]\nid = \"customer_123\"\ntier = \"Pro\"\n").unwrap();
        assert_eq!(config.customers[0].tier, Tier::Pro);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, what) in [
            ("scenario = []\n", 1, "unknown field `scenario`"),
            ("scenarios = []\n\n[[customers]]\nid = \"a\"\ntier = \"Gold\"\n", 5, "unknown variant `Gold`"),
            ("scenarios = []\n[[customers]]\nid = \"a b\"\ntier = \"Pro\"\n", 3, ""),
            (
                "scenarios = []\n[[customers]]\nid = \"a\"\ntier = \"Pro\"\nkey = 1\n",
                5,
                "unknown field `key`",
            ),
            ("scenarios = [\n", 1, ""),
        ] {
            let (found, message) = Config::parse(text).unwrap_err();
            assert!(found == line && message.contains(what), "{found} {message}");
        }
    }
}
