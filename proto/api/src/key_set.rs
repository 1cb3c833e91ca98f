//! `GET /.well-known/jwks.json`: the public keys that tokens are checked with (RFC 7517, RFC 8037).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The keys of one issuer: the current one and the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// Whose tokens these keys check: the `iss` of those tokens. A member of our own, as RFC 7517
    /// (section 5) allows.
    pub issuer: String,
    /// Keys of kinds that this version does not know are left out.
    #[serde(deserialize_with = "known_keys")]
    pub keys: Vec<TokenKey>,
}

impl KeySet {
    /// The key of this id.
    pub fn get(&self, kid: &str) -> Option<&TokenKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

fn known_keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenKey>, D::Error> {
    let keys = Vec::<serde_json::Value>::deserialize(deserializer)?;
    Ok(keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
}

/// An Ed25519 public key as a JWK: `{"kty":"OKP","crv":"Ed25519","x","kid","alg":"EdDSA","use":"sig"}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub struct TokenKey {
    kid: String,
    x: String,
}

impl TokenKey {
    /// A key by its 32 bytes; its id is the thumbprint of RFC 7638.
    pub fn new(public: &[u8; 32]) -> Self {
        let x = URL_SAFE_NO_PAD.encode(public);
        // The members that RFC 7638 (section 3.2) and RFC 8037 (section 2) name, in their order.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Self { kid: URL_SAFE_NO_PAD.encode(thumbprint), x }
    }

    /// Its id, `kid` in the header of tokens.
    pub fn id(&self) -> &str {
        &self.kid
    }

    /// Its bytes in base64url.
    pub(crate) fn x(&self) -> &str {
        &self.x
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.kid)
    }
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
}

impl From<TokenKey> for Jwk {
    fn from(key: TokenKey) -> Self {
        let text = str::to_owned;
        let (alg, purpose) = (Some(text("EdDSA")), Some(text("sig")));
        Self { kty: text("OKP"), crv: text("Ed25519"), x: key.x, kid: key.kid, alg, purpose }
    }
}

impl TryFrom<Jwk> for TokenKey {
    type Error = &'static str;

    fn try_from(jwk: Jwk) -> Result<Self, &'static str> {
        let is = |given: &Option<String>, wanted: &str| given.as_deref().is_none_or(|given| given == wanted);
        if (jwk.kty.as_str(), jwk.crv.as_str()) != ("OKP", "Ed25519")
            || !is(&jwk.alg, "EdDSA")
            || !is(&jwk.purpose, "sig")
        {
            return Err("not an Ed25519 key for signatures");
        }
        match URL_SAFE_NO_PAD.decode(&jwk.x) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self { kid: jwk.kid, x: jwk.x }),
            _ => Err("x is not 32 bytes in base64url"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_thumbprint_of_rfc_8037() {
        // Appendix A.3.
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = TokenKey::new(&public.try_into().unwrap());
        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn unknown_keys_are_left_out() {
        let key = TokenKey::new(&[7; 32]);
        let mut document =
            serde_json::to_value(KeySet { issuer: "i".to_owned(), keys: vec![key.clone()] }).unwrap();
        assert_eq!(document["keys"][0]["kty"], "OKP");
        let keys = document["keys"].as_array_mut().unwrap();
        keys.push(serde_json::json!({"kty": "RSA", "n": "x", "e": "AQAB", "kid": "r"}));
        keys.push(serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": "short", "kid": "s"}));
        let read: KeySet = serde_json::from_value(document).unwrap();
        assert_eq!(read.keys, [key]);
    }
}
