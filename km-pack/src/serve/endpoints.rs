//! The endpoints, one function for each.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use km_api::authenticate::{AuthenticateAnswer, AuthenticateRequest};
use km_api::error::ErrorKind;
use km_api::event::{EventsAnswer, MAX_BODY, MAX_EVENTS, MAX_ID, RawEventBatch};
use km_api::feature;
use km_api::key_set::KeySet;
use km_api::path;
use km_api::subscription::{Health, SubscriptionStatus, UserFeatures};
use km_api::token::{Claims, Token};
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use super::caller::{AnyKeyHolder, KeyHolder, TokenHolder, inactive};
use super::download::download;
use super::provision::provision;
use super::refusal::Refusal;
use super::{App, body, observe};
use crate::customers::Customer;
use crate::token::fill;

/// Longest body of a request for a token.
const MAX_AUTHENTICATE: usize = 64 * 1024;
/// Where Prometheus asks.
const METRICS: &str = "/metrics";

/// All endpoints, and what answers where there is none.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(path::HEALTH, get(health))
        .route(path::KEYS, get(keys))
        .route(path::AUTHENTICATE, post(authenticate))
        .route(path::PROVISION, post(provision))
        .route(&format!("{}/{{file}}", path::DOWNLOAD), get(download))
        .route(path::SUBSCRIPTION, get(subscription))
        .route(path::FEATURES, get(features))
        .route(path::EVENTS, post(events))
        .route(METRICS, get(metrics))
        .fallback(async || Refusal::new(ErrorKind::NotFound, "there is no such endpoint"))
        .method_not_allowed_fallback(async || {
            Refusal::new(ErrorKind::MethodNotAllowed, "this endpoint is asked with another method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe::observe))
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, Refusal> {
    app.database.ping().await?;
    Ok(Json(Health { status: "healthy".to_owned(), time: Timestamp::now() }))
}

async fn keys(State(app): State<Arc<App>>) -> Json<KeySet> {
    Json(app.keys.get().await.public.clone())
}

async fn authenticate(
    State(app): State<Arc<App>>,
    KeyHolder(customer): KeyHolder,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AuthenticateAnswer>, Refusal> {
    let request: AuthenticateRequest = body::json(&headers, body, MAX_AUTHENTICATE).await?;
    if semver::Version::parse(&request.plugin_version).is_err() {
        return Err(Refusal::new(ErrorKind::BadRequest, "plugin_version is not a version (semver)"));
    }
    if request.customer_id != customer.id {
        let message = "the plugin was built for another customer than the API key's";
        return Err(Refusal::new(ErrorKind::WrongCustomer, message));
    }
    let now = Timestamp::now();
    if !customer.is_active(now) {
        return Err(inactive());
    }
    if !app.binaries.accept(&request).await {
        let AuthenticateRequest { plugin_name, plugin_version, .. } = &request;
        let message =
            format!("no {plugin_name} {plugin_version} with this digest was published for {}", customer.id);
        return Err(Refusal::new(ErrorKind::WrongBinary, message));
    }
    let expires_at = expiry(now, app.token_lifetime, &customer);
    let token = app.token(&customer, &request.plugin_name, now, expires_at).await?;
    app.metrics.tokens_issued.inc();
    Ok(Json(AuthenticateAnswer {
        success: true,
        authorized: true,
        user_tier: customer.tier,
        features: customer.all_features(),
        expires_at,
        customer_id: customer.id,
        plugin_id: format!("{}@{}", request.plugin_name, request.plugin_version),
        token: token.reveal().to_owned(),
        error: None,
    }))
}

async fn subscription(KeyHolder(customer): KeyHolder) -> Json<SubscriptionStatus> {
    let active = customer.is_active(Timestamp::now());
    Json(SubscriptionStatus { subscription_tier: customer.tier, active, customer_id: customer.id })
}

async fn features(AnyKeyHolder(customer): AnyKeyHolder) -> Result<Json<UserFeatures>, Refusal> {
    if !customer.is_active(Timestamp::now()) {
        return Err(inactive());
    }
    let features = customer.all_features();
    Ok(Json(UserFeatures { tier: customer.tier, features, expires_at: customer.expires_at }))
}

async fn events(
    State(app): State<Arc<App>>,
    TokenHolder { claims, customer }: TokenHolder,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EventsAnswer>, Refusal> {
    let includes = |features: &[String]| features.iter().any(|name| name == feature::API_LOGGING);
    // The token may be older than a downgrade.
    if !includes(&claims.features) || !includes(&customer.all_features()) {
        let message = format!("the subscription does not include {}", feature::API_LOGGING);
        return Err(Refusal::new(ErrorKind::MissingFeature, message));
    }
    let _room = app.room.take(&customer.id, &headers, MAX_BODY).await?;
    let RawEventBatch { events } = body::json(&headers, body, MAX_BODY).await?;
    if events.len() > MAX_EVENTS {
        return Err(Refusal::new(ErrorKind::BadRequest, format!("over {MAX_EVENTS} events in one request")));
    }
    if events.iter().any(|event| !(1..=MAX_ID).contains(&event.id.len())) {
        return Err(Refusal::new(ErrorKind::BadRequest, format!("an id is not 1 to {MAX_ID} bytes long")));
    }
    // PostgreSQL keeps no such text, and the sender would try again for ever.
    if events.iter().any(|event| event.id.contains('\0')) {
        return Err(Refusal::new(ErrorKind::BadRequest, "an id has a NUL character"));
    }
    match app.database.add_events(&customer.id, &claims.aud, &events).await {
        // Removed since the token was checked.
        Err(failure) if failure.kind == Kind::NotFound => return Err(inactive()),
        other => other?,
    }
    let accepted = events.len() as u64;
    app.metrics.events_accepted.inc_by(accepted);
    Ok(Json(EventsAnswer { success: true, accepted }))
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let text = app.metrics.text().map_err(|e| Refusal::new(ErrorKind::Internal, e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

impl App {
    async fn token(
        &self,
        customer: &Customer,
        plugin: &PluginName,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Token, Refusal> {
        let keys = self.keys.get().await;
        let claims = Claims {
            iss: keys.signing.issuer.clone(),
            sub: customer.id.clone(),
            customer_id: customer.id.clone(),
            aud: plugin.clone(),
            tier: customer.tier,
            features: customer.all_features(),
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: expires_at.as_second(),
            jti: token_id().map_err(internal)?,
        };
        keys.signing.current.sign(&claims).map_err(internal)
    }
}

/// In whole seconds, as tokens have it; never past the end of the subscription.
fn expiry(now: Timestamp, lifetime: jiff::SignedDuration, customer: &Customer) -> Timestamp {
    let end = now.as_second().saturating_add(lifetime.as_secs());
    let end = Timestamp::from_second(end).unwrap_or(Timestamp::MAX);
    customer.expires_at.map_or(end, |subscription| end.min(subscription))
}

fn token_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn internal(failure: Failure) -> Refusal {
    tracing::error!("{}", failure.message);
    Refusal::new(ErrorKind::Internal, "the server failed")
}

#[cfg(test)]
mod tests {
    use km_package::tier::Tier;

    use super::*;

    #[test]
    fn a_token_does_not_outlive_the_subscription() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let lifetime = jiff::SignedDuration::from_mins(15);
        let mut customer = Customer::new("c1".parse().unwrap(), Tier::Pro);
        assert_eq!(expiry(time(1000), lifetime, &customer), time(1900));
        customer.expires_at = Some(time(1200));
        assert_eq!(expiry(time(1000), lifetime, &customer), time(1200));
        customer.expires_at = Some(time(9999));
        assert_eq!(expiry(time(1000), lifetime, &customer), time(1900));
    }
}
