//! The rules by number, with what each means for a command.

use std::fmt;

use super::PackageError;
use crate::failure::Kind;

/// A verification rule. The order is the order in which they are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// V1: the frames in front, and their limits.
    Envelope = 1,
    /// V2: signatures over the manifest's bytes.
    Signature,
    /// V3: the domain tag and format version.
    Format,
    /// V4: the manifest parses and agrees with itself.
    Manifest,
    /// V5: no revoked key, enough distinct signers.
    Keys,
    /// V6: made for the configured customer.
    Customer,
    /// V7: made for this platform.
    Platform,
    /// V8: a protocol version in common.
    Protocol,
    /// V9: the stamped tier reaches the required one.
    Tier,
    /// V10: not older than what was installed before.
    Rollback,
    /// V11: not expired.
    Expiry,
    /// V12: compressed sizes and digests.
    Payload,
    /// V13: decompression within the declared sizes.
    Decompression,
    /// V14: the strict archive.
    Archive,
    /// V15: each file's size and digest.
    Files,
    /// V16: the identity slot says what the manifest says.
    Identity,
    /// V17: the file ends where declared.
    End,
}

impl Rule {
    /// All rules in order.
    pub const ALL: [Self; 17] = [
        Self::Envelope,
        Self::Signature,
        Self::Format,
        Self::Manifest,
        Self::Keys,
        Self::Customer,
        Self::Platform,
        Self::Protocol,
        Self::Tier,
        Self::Rollback,
        Self::Expiry,
        Self::Payload,
        Self::Decompression,
        Self::Archive,
        Self::Files,
        Self::Identity,
        Self::End,
    ];

    /// 1 to 17.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Signature => "signature",
            Self::Format => "format",
            Self::Manifest => "manifest",
            Self::Keys => "keys",
            Self::Customer => "customer",
            Self::Platform => "platform",
            Self::Protocol => "protocol",
            Self::Tier => "tier",
            Self::Rollback => "rollback",
            Self::Expiry => "expiry",
            Self::Payload => "payload",
            Self::Decompression => "decompression",
            Self::Archive => "archive",
            Self::Files => "files",
            Self::Identity => "identity",
            Self::End => "end",
        }
    }

    /// What a command that it refused ends with.
    pub fn kind(self) -> Kind {
        match self {
            Self::Customer | Self::Tier => Kind::Unauthorized,
            Self::Rollback => Kind::Conflict,
            Self::Envelope
            | Self::Signature
            | Self::Format
            | Self::Manifest
            | Self::Keys
            | Self::Platform
            | Self::Protocol
            | Self::Expiry
            | Self::Payload
            | Self::Decompression
            | Self::Archive
            | Self::Files
            | Self::Identity
            | Self::End => Kind::Untrusted,
        }
    }

    /// What to do when it refused.
    pub(super) fn help(self) -> Option<&'static str> {
        match self {
            Self::Signature => Some(
                "get the package again from where it was published; if its signing key is new, get the \
                 public key by another way and trust it: `km trust add`, `km-pack verify --key`",
            ),
            Self::Format | Self::Protocol => Some("update km"),
            Self::Customer => Some("ask for a package made for this customer"),
            Self::Platform => Some("ask for the package of this platform"),
            Self::Tier => Some("ask for a package stamped with a higher tier"),
            Self::Rollback => Some("to go back on purpose, add --allow-downgrade"),
            Self::Expiry => Some("get a newer package"),
            Self::Envelope | Self::Payload | Self::Decompression | Self::End => {
                Some("the file is damaged or incomplete: get it again")
            }
            Self::Manifest | Self::Keys | Self::Archive | Self::Files | Self::Identity => {
                Some("do not use this file; tell whoever published it")
            }
        }
    }

    pub(super) fn refuses(self, detail: impl fmt::Display) -> PackageError {
        PackageError::Refused { rule: self, detail: detail.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_rule_by_its_number() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/package-format.md"))
                .unwrap();
        for (rule, number) in Rule::ALL.into_iter().zip(1..) {
            assert_eq!(rule.number(), number);
            let row = format!("| V{number} | {} | {} |", rule.name(), rule.kind().code());
            assert!(page.contains(&row), "docs/package-format.md lacks {row}");
        }
    }
}
