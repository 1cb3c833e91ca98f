//! The secret that a customer holds.

use std::fmt;
use std::str::FromStr;

use km_package::digest::Digest;
use km_package::identity::api_key_digest;
use zeroize::Zeroizing;

/// An API key: 8 to 512 visible ASCII characters. Wiped when dropped, shown masked.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Zeroizing<String>);

/// Why a text is no API key. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Nothing is there.
    #[error("the API key is empty")]
    Empty,
    /// It has been pasted with a space or a line end in it.
    #[error("the API key has {what} at position {position}: it must be one word")]
    Space {
        /// What stands there, for people.
        what: &'static str,
        /// From 1.
        position: usize,
    },
    /// A character that no key has, such as a typographic quote.
    #[error("the API key has a character at position {0} that is not printable ASCII")]
    Character(usize),
    /// Fewer than 8 or more than 512 characters.
    #[error("the API key is {0} characters long: that is none (8 to 512)")]
    Length(usize),
}

const LENGTHS: std::ops::RangeInclusive<usize> = 8..=512;

impl ApiKey {
    /// The key itself, for the `Authorization` header and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What documents and databases know it by: it cannot be found from that.
    pub fn digest(&self) -> Digest {
        api_key_digest(&self.0)
    }

    /// The first and the last four characters, `km_l…c123`; of a short key none.
    pub fn masked(&self) -> String {
        let key = self.0.as_str();
        if key.len() < 16 {
            return "…".to_owned();
        }
        format!("{}…{}", &key[..4], &key[key.len() - 4..])
    }
}

impl FromStr for ApiKey {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        for (at, character) in text.chars().enumerate() {
            let what = match character {
                ' ' => "a space",
                '\t' => "a tab",
                '\n' | '\r' => "a line end",
                '!'..='~' => continue,
                _ => return Err(ApiKeyError::Character(at + 1)),
            };
            return Err(ApiKeyError::Space { what, position: at + 1 });
        }
        match text.len() {
            0 => Err(ApiKeyError::Empty),
            length if !LENGTHS.contains(&length) => Err(ApiKeyError::Length(length)),
            _ => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_and_is_never_shown() {
        let key: ApiKey = "km_live_0123456789_c123".parse().unwrap();
        assert_eq!(key.masked(), "km_l…c123");
        assert_eq!(format!("{key:?}"), "ApiKey(km_l…c123)");
        assert_eq!("12345678".parse::<ApiKey>().unwrap().masked(), "…");
        let error = |text: &str| text.parse::<ApiKey>().unwrap_err();
        assert_eq!(error(""), ApiKeyError::Empty);
        assert_eq!(error("km_live_1\n"), ApiKeyError::Space { what: "a line end", position: 10 });
        assert_eq!(error(" km_live_1"), ApiKeyError::Space { what: "a space", position: 1 });
        assert_eq!(error("“km_live_1”"), ApiKeyError::Character(1));
        assert_eq!(error("short"), ApiKeyError::Length(5));
        assert!(!error(&"x".repeat(600)).to_string().contains("xxx"));
    }
}
