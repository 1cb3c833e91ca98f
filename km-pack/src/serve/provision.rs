//! `POST /api/plugins/provision`: a customer's index as it was published, and where its packages are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use km_api::provision::{Part, ProvisionAnswer, ProvisionRequest, ProvisionedPlugin};
use km_package::failure::{Failure, Kind};
use km_package::index::{IndexEntry, UntrustedIndex};
use km_package::tier::Tier;

use super::caller::{KeyHolder, inactive};
use super::download_url::Grant;
use super::packages::{Package, entries};
use super::refusal::Refusal;
use super::{App, body};
use crate::customers::Customer;

/// Longest body of a request.
const MAX_PROVISION: usize = 64 * 1024;
/// How many packages of one request are looked at at once.
const AT_ONCE: usize = 8;

/// What one request is answered from.
struct Provision<'a> {
    app: &'a App,
    customer: &'a Customer,
    base: String,
    expires_at: Timestamp,
}

pub(super) async fn provision(
    State(app): State<Arc<App>>,
    KeyHolder(customer): KeyHolder,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Json<ProvisionAnswer>, Refusal> {
    let request: ProvisionRequest = body::json(&headers, body, MAX_PROVISION).await?;
    let now = Timestamp::now();
    if !customer.is_active(now) {
        return Err(inactive());
    }
    let document = app.packages.store().index(&customer.id).await?.document();
    let named = document.as_ref().map_or_else(Vec::new, |document| entries(&document.text, &customer.id));
    let base = app.base(&headers, &uri);
    let expires_at = end(now, app.url_lifetime);
    let answer = Provision { app: &app, customer: &customer, base, expires_at };
    let wanted = named.into_iter().filter(|entry| {
        let asked = entry.platform == request.platform && request.includes(&entry.name);
        asked && is_reached(entry, customer.tier)
    });
    let wanted: Vec<IndexEntry> = wanted.collect();
    let plugins = stream::iter(wanted).map(|entry| answer.plugin(entry)).buffered(AT_ONCE);
    let plugins: Vec<_> = plugins.collect().await;
    let plugins = plugins.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let (index, index_signature) = document.and_then(texts).unzip();
    app.metrics.provisions.inc();
    Ok(Json(ProvisionAnswer {
        subscription_tier: customer.tier,
        customer_id: customer.id,
        plugins,
        index,
        index_signature,
        root: None,
    }))
}

/// Whether both the subscription and the tier stamped into it reach a package.
pub(super) fn is_reached(entry: &IndexEntry, subscription: Tier) -> bool {
    entry.required_tier <= subscription.min(entry.tier)
}

impl Provision<'_> {
    /// None where the package is not there as it should be: the others can be had all the same.
    async fn plugin(&self, entry: IndexEntry) -> Result<Option<ProvisionedPlugin>, Failure> {
        match self.read(&entry).await {
            Ok(plugin) => Ok(Some(plugin)),
            Err(failure) if matches!(failure.kind, Kind::NotFound | Kind::Untrusted) => {
                let file = entry.file_name();
                tracing::error!("{file} of {} is left out: {}", self.customer.id, failure.message);
                Ok(None)
            }
            // A store that does not answer is no reason to say that there is nothing.
            Err(failure) => Err(failure),
        }
    }

    async fn read(&self, entry: &IndexEntry) -> Result<ProvisionedPlugin, Failure> {
        let packages = &self.app.packages;
        let package = packages.get(entry).await?;
        let sha256 = packages.sha256(&package).await?;
        let grant = Grant { customer: &self.customer.id, entry, expires: self.expires_at };
        Ok(ProvisionedPlugin {
            name: entry.name.clone(),
            version: entry.version.clone(),
            required_tier: entry.required_tier,
            download_url: self.app.download_url(&self.base, &grant).await,
            sha256,
            size: package.size,
            expires_at: self.expires_at,
            parts: self.parts(&package).await,
        })
    }

    /// Straight from the store, where that can be had without credentials.
    async fn parts(&self, package: &Package) -> Vec<Part> {
        let mut parts = Vec::new();
        let lifetime = Duration::try_from(self.app.url_lifetime).unwrap_or_default();
        for piece in &package.pieces {
            match self.app.packages.store().signed_url(piece.kind, &piece.sha256, lifetime).await {
                Ok(Some(url)) => parts.push(Part { url, sha256: piece.sha256, size: piece.size }),
                Ok(None) => return Vec::new(),
                Err(failure) => {
                    // The whole is still to be had from here.
                    tracing::warn!("{}", failure.message);
                    return Vec::new();
                }
            }
        }
        parts
    }
}

/// In whole seconds, as URLs have it.
fn end(now: Timestamp, lifetime: SignedDuration) -> Timestamp {
    let end = now.as_second().saturating_add(lifetime.as_secs());
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

/// An index as answers have it.
fn texts(document: UntrustedIndex) -> Option<(String, String)> {
    let signatures = ProvisionAnswer::encode_signature(&document.signatures);
    match String::from_utf8(document.text) {
        Ok(text) => Some((text, signatures)),
        Err(e) => {
            tracing::error!("an index in the store is no text: {e}");
            None
        }
    }
}
