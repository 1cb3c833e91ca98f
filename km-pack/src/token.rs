//! Signing of tokens, for the server and for the conformance suite.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use km_api::key_set::TokenKey;
use km_api::token::{Claims, Token};
use km_package::failure::{Failure, Kind};
use zeroize::Zeroizing;

/// What precedes the seed in an Ed25519 key of PKCS#8, version 1 (RFC 8410, section 10.3).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// An Ed25519 key that signs tokens.
#[derive(Clone)]
pub struct TokenSigner {
    seed: Zeroizing<[u8; 32]>,
    key: EncodingKey,
    header: Header,
    public: TokenKey,
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigner({})", self.public.id())
    }
}

impl TokenSigner {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, Failure> {
        let mut seed = Zeroizing::new([0; 32]);
        fill(&mut seed[..])?;
        Self::from_seed(&seed)
    }

    /// The key of this seed.
    ///
    /// # Errors
    /// When the cryptography library refuses it.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, Failure> {
        let unusable = || Failure::new(Kind::Failed, "the seed of the token key is not usable");
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| unusable())?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| unusable())?;
        let public = TokenKey::new(public);
        let der = Zeroizing::new([PKCS8_HEAD.as_slice(), seed].concat());
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(public.id().to_owned());
        Ok(Self { seed: Zeroizing::new(*seed), key: EncodingKey::from_ed_der(&der), header, public })
    }

    /// The public half; its id is `kid` in the header of the tokens.
    pub fn public(&self) -> &TokenKey {
        &self.public
    }

    /// The private half, for the database.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the cryptography library fails.
    pub fn sign(&self, claims: &Claims) -> Result<Token, Failure> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
            .map(Token::new)
            .map_err(|e| Failure::new(Kind::Failed, format_args!("cannot sign a token: {e}")))
    }
}

/// Fills a buffer from the system's randomness.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(buffer)
        .map_err(|e| Failure::new(Kind::Local, format_args!("the system gives no randomness: {e}")))
}

#[cfg(test)]
mod tests {
    use km_api::key_set::KeySet;
    use km_api::token::check_signature;

    use super::*;

    #[test]
    fn what_is_signed_holds_with_the_public_half_only() {
        let signer = TokenSigner::from_seed(&[7; 32]).unwrap();
        let customer: km_package::name::CustomerId = "c1".parse().unwrap();
        let claims = Claims {
            iss: "issuer".to_owned(),
            sub: customer.clone(),
            customer_id: customer,
            aud: "api-logger".parse().unwrap(),
            tier: km_package::tier::Tier::Pro,
            features: vec!["api_logging".to_owned()],
            iat: 1,
            nbf: 1,
            exp: 2,
            jti: "1".to_owned(),
        };
        let token = signer.sign(&claims).unwrap();
        let keys = |signer: &TokenSigner| KeySet {
            issuer: "issuer".to_owned(),
            keys: vec![signer.public().clone()],
        };
        assert_eq!(check_signature(&token, &keys(&signer)).unwrap(), claims);
        assert!(check_signature(&token, &keys(&TokenSigner::generate().unwrap())).is_err());
        assert_eq!(format!("{signer:?}"), format!("TokenSigner({})", signer.public().id()));
    }
}
