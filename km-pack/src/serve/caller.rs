//! Who asks: extractors that prove it from the head of a request, before its body is read.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use km_api::api_key::ApiKey;
use km_api::error::ErrorKind;
use km_api::token::{Claims, Token, TokenError, check_signature, check_time};

use super::App;
use super::limits::Caller;
use super::observe::Trace;
use super::refusal::Refusal;
use crate::customers::{Customer, KeyOwner};

/// The other end of a connection, put into each request by the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The customer of a good API key in `Authorization`.
#[derive(Debug)]
pub(super) struct KeyHolder(pub(super) Customer);

/// The customer of a good API key in `Authorization` or `X-API-Key`.
#[derive(Debug)]
pub(super) struct AnyKeyHolder(pub(super) Customer);

/// A token that holds, and its customer as they are now.
#[derive(Debug)]
pub(super) struct TokenHolder {
    pub(super) claims: Claims,
    pub(super) customer: Customer,
}

impl FromRequestParts<Arc<App>> for KeyHolder {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        key_holder(app, parts, bearer(&parts.headers)).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for AnyKeyHolder {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let named = || parts.headers.get("x-api-key")?.to_str().ok();
        let given = bearer(&parts.headers).or_else(named);
        key_holder(app, parts, given).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for TokenHolder {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let Some(token) = bearer(&parts.headers) else {
            return Err(app.failed(parts, ErrorKind::InvalidToken, "this endpoint takes a token as Bearer"));
        };
        let claims = match app.claims(&Token::new(token.to_owned())).await {
            Ok(claims) => claims,
            Err(error) => {
                let message = format!("the token does not hold: {error}");
                return Err(app.failed(parts, ErrorKind::InvalidToken, &message));
            }
        };
        Trace::of(parts).set_customer(&claims.customer_id);
        app.limits.count(&Caller::Customer(claims.customer_id.clone()))?;
        let customer = app.database.customer(&claims.customer_id).await?;
        let customer =
            customer.filter(|customer| customer.is_active(Timestamp::now())).ok_or_else(inactive)?;
        Ok(Self { claims, customer })
    }
}

async fn key_holder(app: &App, parts: &Parts, given: Option<&str>) -> Result<Customer, Refusal> {
    let Some(given) = given else {
        return Err(app.failed(parts, ErrorKind::InvalidKey, "this endpoint takes an API key as Bearer"));
    };
    let key: Option<ApiKey> = given.parse().ok();
    let owner = match &key {
        Some(key) => app.key_owner(key).await?,
        None => None,
    };
    let (Some(key), Some(owner)) = (key, owner) else {
        return Err(app.failed(parts, ErrorKind::InvalidKey, "the API key is not known"));
    };
    Trace::of(parts).set_customer(&owner.customer.id);
    app.limits.count(&Caller::Key(*key.digest().as_bytes()))?;
    if owner.revoked {
        // Not counted with the unknown ones: whoever holds it must hear this, whatever others send from
        // the same address.
        app.metrics.refused(ErrorKind::RevokedKey);
        return Err(Refusal::new(ErrorKind::RevokedKey, "the API key was revoked"));
    }
    Ok(owner.customer)
}

impl App {
    /// The row is found by an index over digests, which tells nothing of a key; that it is the right one is
    /// then decided in constant time.
    async fn key_owner(&self, key: &ApiKey) -> Result<Option<KeyOwner>, Refusal> {
        let digest = key.digest();
        let same = |owner: &KeyOwner| {
            let (stored, given) = (owner.digest.as_bytes(), digest.to_string());
            aws_lc_rs::constant_time::verify_slices_are_equal(stored, given.as_bytes()).is_ok()
        };
        Ok(self.database.key_owner(&digest).await?.filter(same))
    }

    /// What a token of our own says. Its audience is whichever plugin sends it.
    async fn claims(&self, token: &Token) -> Result<Claims, TokenError> {
        let claims = match check_signature(token, &self.keys.get().await.public) {
            Err(TokenError::UnknownKey) => check_signature(token, &self.keys.get_for_unknown().await.public)?,
            other => other?,
        };
        check_time(&claims, Timestamp::now().as_second())?;
        Ok(claims)
    }

    /// A refused key, token or URL: who sends many of them is told to wait.
    pub(super) fn failed(&self, parts: &Parts, kind: ErrorKind, message: &str) -> Refusal {
        self.metrics.refused(kind);
        let counted = match parts.extensions.get::<Peer>() {
            Some(peer) => self.limits.count_failure(peer.0.ip()),
            None => Ok(()),
        };
        counted.err().unwrap_or_else(|| Refusal::new(kind, message))
    }
}

/// The refusal of a subscription that is suspended or over.
pub(super) fn inactive() -> Refusal {
    Refusal::new(ErrorKind::Inactive, "the subscription is suspended or over")
}

/// What follows `Bearer` in `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        let given = |value: &str| {
            let headers: HeaderMap = [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect();
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(given("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(given("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(given("Basic abc"), None);
        assert_eq!(given("Bearer"), None);
    }
}
