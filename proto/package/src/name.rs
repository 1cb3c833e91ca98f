//! Names that travel in packages and become paths: parsed once, then trusted as safe.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: it must match {pattern}")]
pub struct NameError {
    what: &'static str,
    pattern: &'static str,
    text: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $pattern:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&[u8]) -> bool = $valid;
                if valid(text.as_bytes()) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { what: $what, pattern: $pattern, text: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a plugin: `[a-z][a-z0-9-]{0,47}`.
    PluginName,
    "plugin name",
    "[a-z][a-z0-9-]{0,47}",
    |text| {
        matches!(text, [b'a'..=b'z', rest @ ..] if rest.len() <= 47
            && rest.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')))
    }
);

name_type!(
    /// The id of a customer: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    CustomerId,
    "customer id",
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    |text| {
        matches!(text, [first, rest @ ..] if first.is_ascii_alphanumeric() && rest.len() <= 63
            && rest.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b)))
    }
);

name_type!(
    /// The flat name of a file in the archive: `[a-z0-9][a-z0-9._-]{0,99}`.
    FileName,
    "file name in a package",
    "[a-z0-9][a-z0-9._-]{0,99}",
    |text| {
        let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        matches!(text, [first, rest @ ..] if word(first) && rest.len() <= 99
            && rest.iter().all(|b| word(b) || b"._-".contains(b)))
    }
);

/// What every plugin's executable is called, less the name itself.
pub const EXECUTABLE_PREFIX: &str = "km-plugin-";

impl PluginName {
    /// The file name of this plugin's executable: `km-plugin-<name>`.
    pub fn executable(&self) -> FileName {
        FileName(format!("{EXECUTABLE_PREFIX}{}", self.0))
    }

    /// The plugin that an executable of this file name is, if it is named as one.
    pub fn of_executable(file_name: &str) -> Option<Self> {
        file_name.strip_prefix(EXECUTABLE_PREFIX)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names_are_what_the_contract_says() {
        for good in ["a", "console-logger", "a1-", &"a".repeat(48)] {
            assert!(good.parse::<PluginName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "1a", "-a", "a_b", "a/b", "..", "a\n", &"a".repeat(49)] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn customer_ids_never_are_paths() {
        for good in ["customer_123", "A", "a.b-c_d"] {
            assert!(good.parse::<CustomerId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "$(x)", "é", &"a".repeat(65)] {
            assert!(bad.parse::<CustomerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn file_names_have_no_leading_dot_and_no_separator() {
        for bad in [".manifest.toml", "a/b", "A", "a\\b", "", &"a".repeat(101)] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_executable_of_a_plugin_is_found_again() {
        let name: PluginName = "console-logger".parse().unwrap();
        assert_eq!(name.executable().as_str(), "km-plugin-console-logger");
        assert_eq!(PluginName::of_executable("km-plugin-console-logger"), Some(name));
        assert_eq!(PluginName::of_executable("km-plugin-"), None);
        assert_eq!(PluginName::of_executable("other"), None);
    }
}
