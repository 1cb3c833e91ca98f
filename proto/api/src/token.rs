//! Tokens: a JWT (RFC 7519) signed with EdDSA (RFC 8037), good for one plugin of one customer for
//! some minutes.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors};
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key_set::KeySet;

/// How far two clocks may be apart, in seconds.
pub const CLOCK_SKEW: i64 = 60;
/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// What a token says. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it: [`KeySet::issuer`].
    pub iss: String,
    /// The customer.
    pub sub: CustomerId,
    /// The same.
    pub customer_id: CustomerId,
    /// The plugin that it is for.
    pub aud: PluginName,
    /// The tier of the subscription.
    pub tier: Tier,
    /// What the subscription includes.
    pub features: Vec<String>,
    /// When it was issued.
    pub iat: i64,
    /// From when it is valid.
    pub nbf: i64,
    /// Until when it is valid.
    pub exp: i64,
    /// Its own id.
    pub jti: String,
}

/// A token in its compact form. Not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// A token, as it came.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The token itself, for the `Authorization` header and for the plugin that it is for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a token does not hold. Says nothing of its signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url JSON with the claims that a token has.
    #[error("it is not a token: {0}")]
    Malformed(String),
    /// `none`, `HS256`, or anything else that is not EdDSA.
    #[error("it is signed with another algorithm than EdDSA")]
    Algorithm,
    /// `kid` names no key of the issuer.
    #[error("it names a signing key that the API does not have")]
    UnknownKey,
    /// The signature does not hold.
    #[error("its signature is wrong")]
    Signature,
    /// `iss` is not the issuer whose keys these are.
    #[error("it is from another issuer, {0}")]
    Issuer(String),
    /// `aud` is another plugin.
    #[error("it is for another plugin, {0}")]
    Audience(PluginName),
    /// `sub` or `customer_id` is another customer.
    #[error("it is for another customer, {0}")]
    Customer(CustomerId),
    /// `nbf` or `iat` is in the future.
    #[error("it is not valid for another {0} seconds: is this machine's clock right?")]
    NotYet(i64),
    /// `exp` is past.
    #[error("it expired {0} seconds ago")]
    Expired(i64),
}

/// What a token is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The plugin that holds it.
    pub plugin: &'a PluginName,
    /// The customer stamped into that; none checks nothing.
    pub customer: Option<&'a CustomerId>,
    /// The time in Unix seconds.
    pub now: i64,
}

/// Checks a token: algorithm, key, signature, issuer, audience, customer and time, in this order.
///
/// # Errors
/// [`TokenError`]; the first thing that is wrong.
pub fn verify(token: &Token, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims, TokenError> {
    let claims = check_signature(token, keys)?;
    if claims.aud != *expected.plugin {
        return Err(TokenError::Audience(claims.aud));
    }
    for customer in [&claims.customer_id, &claims.sub] {
        if expected.customer.is_some_and(|expected| expected != customer) {
            return Err(TokenError::Customer(customer.clone()));
        }
    }
    check_time(&claims, expected.now)?;
    Ok(claims)
}

/// Checks what does not depend on who holds it: algorithm, key, signature and issuer.
///
/// # Errors
/// [`TokenError`]
pub fn check_signature(token: &Token, keys: &KeySet) -> Result<Claims, TokenError> {
    let malformed = |error: errors::Error| TokenError::Malformed(error.to_string());
    let text = token.reveal();
    if text.len() > MAX_TOKEN {
        return Err(TokenError::Malformed(format!("{} bytes are too many", text.len())));
    }
    let header = jsonwebtoken::decode_header(text).map_err(|error| match error.kind() {
        // `none` and others that the library has no name for.
        errors::ErrorKind::InvalidAlgorithmName | errors::ErrorKind::Json(_) => TokenError::Algorithm,
        _ => malformed(error),
    })?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Algorithm);
    }
    let key = header.kid.as_deref().and_then(|kid| keys.get(kid)).ok_or(TokenError::UnknownKey)?;
    let key = DecodingKey::from_ed_components(key.x()).map_err(malformed)?;
    // What it says is checked by our own, with words of our own and a clock that is handed in.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Claims>(text, &key, &validation);
    let claims = decoded.map_err(|error| match error.kind() {
        errors::ErrorKind::InvalidSignature => TokenError::Signature,
        errors::ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        _ => malformed(error),
    })?;
    if claims.claims.iss != keys.issuer {
        return Err(TokenError::Issuer(claims.claims.iss));
    }
    Ok(claims.claims)
}

/// Checks that now is between `nbf` (and `iat`) and `exp`, give or take [`CLOCK_SKEW`].
///
/// # Errors
/// [`TokenError::NotYet`], [`TokenError::Expired`]
pub fn check_time(claims: &Claims, now: i64) -> Result<(), TokenError> {
    let begins = claims.nbf.max(claims.iat);
    if now < begins.saturating_sub(CLOCK_SKEW) {
        return Err(TokenError::NotYet(begins.saturating_sub(now)));
    }
    if now >= claims.exp.saturating_add(CLOCK_SKEW) {
        return Err(TokenError::Expired(now.saturating_sub(claims.exp)));
    }
    Ok(())
}
