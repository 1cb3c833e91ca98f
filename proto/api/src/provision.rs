//! `POST /api/plugins/provision`: what a customer may install, and where it is.
//!
//! The signed index in the answer is what counts; the list beside it says where the packages are, and
//! leaves out what the subscription does not reach.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use km_package::digest::Digest;
use km_package::index::UntrustedIndex;
use km_package::name::{CustomerId, PluginName};
use km_package::platform::Platform;
use km_package::tier::Tier;
use serde::{Deserialize, Serialize};

/// What stands in [`ProvisionRequest::plugins`] for every plugin.
pub const ALL: &str = "all";

/// For which platform, and which plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionRequest {
    /// Where they are to run.
    pub platform: Platform,
    /// Their names, or [`ALL`].
    pub plugins: Vec<String>,
}

impl ProvisionRequest {
    /// Whether this plugin is asked for.
    pub fn includes(&self, name: &PluginName) -> bool {
        self.plugins.iter().any(|wanted| wanted == ALL || wanted == name.as_str())
    }
}

/// What may be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionAnswer {
    /// Whose API key it was.
    pub customer_id: CustomerId,
    /// The tier of the subscription.
    pub subscription_tier: Tier,
    /// Of what the index names: what was asked for, runs on the platform, and is reached by the
    /// subscription and by the tier stamped into it.
    pub plugins: Vec<ProvisionedPlugin>,
    /// The text of the customer's index; none where nothing was published for them.
    pub index: Option<String>,
    /// Its signature block, in base64 (standard alphabet, padded).
    pub index_signature: Option<String>,
    /// A chain of trust roots; none yet.
    #[serde(default)]
    pub root: Option<String>,
}

/// One package, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionedPlugin {
    /// The plugin.
    pub name: PluginName,
    /// Its version (semver).
    pub version: semver::Version,
    /// The tier it needs.
    pub required_tier: Tier,
    /// Where the whole package is, until `expires_at`.
    pub download_url: String,
    /// Digest of the whole package.
    pub sha256: Digest,
    /// Bytes of the whole package.
    pub size: u64,
    /// When the URLs stop working.
    pub expires_at: Timestamp,
    /// The same bytes in pieces, straight from the object store; empty where it has no URLs of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A piece of a package: its head, or one of its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is.
    pub url: String,
    /// Digest of its bytes.
    pub sha256: Digest,
    /// How many they are.
    pub size: u64,
}

impl ProvisionAnswer {
    /// The index as it was published, in its exact bytes; none where there is none, or no signature.
    pub fn untrusted_index(&self) -> Option<UntrustedIndex> {
        let signatures = STANDARD.decode(self.index_signature.as_ref()?).ok()?;
        Some(UntrustedIndex { text: self.index.as_ref()?.clone().into_bytes(), signatures })
    }

    /// A signature block as [`index_signature`](Self::index_signature) has it.
    pub fn encode_signature(block: &[u8]) -> String {
        STANDARD.encode(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_comes_through_byte_for_byte() {
        let document = UntrustedIndex { text: b"format = \"kmindex/1\"\n".to_vec(), signatures: vec![7; 72] };
        let answer = ProvisionAnswer {
            customer_id: "c1".parse().unwrap(),
            subscription_tier: Tier::Pro,
            plugins: Vec::new(),
            index: Some(String::from_utf8(document.text.clone()).unwrap()),
            index_signature: Some(ProvisionAnswer::encode_signature(&document.signatures)),
            root: None,
        };
        let text = serde_json::to_string(&answer).unwrap();
        let again: ProvisionAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(again.untrusted_index(), Some(document));
    }

    #[test]
    fn all_is_every_plugin() {
        let request = |plugins: &[&str]| ProvisionRequest {
            platform: "linux-amd64".parse().unwrap(),
            plugins: plugins.iter().map(|name| (*name).to_owned()).collect(),
        };
        let name = "api-logger".parse().unwrap();
        assert!(request(&["all"]).includes(&name));
        assert!(request(&["x", "api-logger"]).includes(&name));
        assert!(!request(&["x"]).includes(&name) && !request(&[]).includes(&name));
    }
}
