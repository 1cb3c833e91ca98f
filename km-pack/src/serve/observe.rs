//! Around every request: its id, its deadline, and what is written of it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use km_api::error::ErrorKind;
use km_package::name::CustomerId;

use super::App;
use super::access_log::Line;
use super::caller::Peer;
use super::refusal::Refusal;
use crate::token::fill;

/// How long a request may take, its body included.
const DEADLINE: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 64;
/// Longest path that is logged.
const LONGEST_PATH: usize = 256;

/// What is found out while a request is answered, and logged afterwards.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace {
    customer: Arc<OnceLock<CustomerId>>,
}

impl Trace {
    /// The one of a request.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Who asks.
    pub(super) fn set_customer(&self, customer: &CustomerId) {
        // A request has one caller; a second would be the same.
        let _ = self.customer.set(customer.clone());
    }
}

/// The middleware: answers with the request's id, within the deadline, and writes and counts it.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let record = Record::begin(app, &mut request);
    let response = tokio::time::timeout(DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        Refusal::new(ErrorKind::Timeout, "the request did not come within its time").into_response()
    });
    record.end(response)
}

/// Written when it goes: also where the client went away and nobody waits for the answer.
struct Record {
    app: Arc<App>,
    began: Instant,
    time: Timestamp,
    id: String,
    peer: Option<Peer>,
    method: Method,
    endpoint: Option<MatchedPath>,
    path: String,
    trace: Trace,
    status: Option<StatusCode>,
}

impl Record {
    fn begin(app: Arc<App>, request: &mut Request) -> Self {
        let trace = Trace::default();
        request.extensions_mut().insert(trace.clone());
        Self {
            app,
            began: Instant::now(),
            time: Timestamp::now(),
            id: request_id(request.headers()),
            peer: request.extensions().get().copied(),
            method: request.method().clone(),
            endpoint: request.extensions().get().cloned(),
            path: loggable(request.uri().path()),
            trace,
            status: None,
        }
    }

    fn end(mut self, mut response: Response) -> Response {
        self.status = Some(response.status());
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(REQUEST_ID, id);
        }
        // Tokens and tiers are for one client and one moment; packages say otherwise.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        if let Some(status) = self.status {
            let endpoint = self.endpoint.as_ref().map(MatchedPath::as_str);
            self.app.metrics.answered(endpoint, &self.method, status, took);
        }
        self.app.log.line(&Line {
            time: &format!("{:.3}", self.time),
            id: &self.id,
            peer: self.peer.map(|peer| peer.0),
            method: self.method.as_str(),
            path: &self.path,
            status: self.status.map(|status| status.as_u16()),
            ms: (took.as_secs_f64() * 1e6).round() / 1e3,
            customer: self.trace.customer.get(),
        });
    }
}

/// The client's id for the request where it is one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane);
    given.map_or_else(new_id, str::to_owned)
}

/// Without randomness, requests are not told apart in the log; whatever needs it fails by itself.
fn new_id() -> String {
    let mut bytes = [0; 16];
    let _ = fill(&mut bytes);
    hex::encode(bytes)
}

/// Whether an API key or a token stands in a text.
pub(super) fn looks_secret(text: &str) -> bool {
    text.contains("km_live_") || text.contains("eyJ")
}

/// A path as it may be logged: somebody may have put a key or a token into it by mistake.
fn loggable(path: &str) -> String {
    let piece = |piece: &str| {
        if looks_secret(piece) { "(hidden)".to_owned() } else { piece.to_owned() }
    };
    let path = path.split('/').map(piece).collect::<Vec<_>>().join("/");
    path.chars().take(LONGEST_PATH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_another_replaced() {
        let id = |value: &str| {
            request_id(&[(REQUEST_ID, value.parse().unwrap())].into_iter().collect::<HeaderMap>())
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "a b", "a\"b", &"a".repeat(65)] {
            assert_eq!(id(bad).len(), 32, "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_path_shows_no_secret() {
        assert_eq!(loggable("/api/km_live_abc/x"), "/api/(hidden)/x");
        assert_eq!(loggable("/t/eyJhbGciOi.e.s"), "/t/(hidden)");
        assert_eq!(loggable("/health"), "/health");
        assert_eq!(loggable(&"/a".repeat(300)).len(), LONGEST_PATH);
    }
}
