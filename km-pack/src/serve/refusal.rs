//! What the API answers when it says no.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use km_api::error::{ApiError, ErrorAnswer, ErrorKind};
use km_package::failure::Failure;

/// A refusal: a kind, which decides the status, and a message that holds no secrets.
#[derive(Debug)]
pub(super) struct Refusal {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// Too many requests; the next one has a chance after this time.
    pub(super) fn limited(wait: Duration) -> Self {
        let message = "too many requests: ask again later".to_owned();
        Self { kind: ErrorKind::RateLimited, message, retry_after: Some(wait) }
    }
}

/// The database failed: there is no answer, and none is made up. What failed is for the log.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        tracing::warn!("{}", failure.message);
        Self::new(ErrorKind::Unavailable, "the server cannot answer just now: ask again later")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let answer = ErrorAnswer { error: ApiError { kind: self.kind, message: self.message } };
        let mut response = (status, Json(answer)).into_response();
        let mut set = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
        if status == StatusCode::UNAUTHORIZED {
            set(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            set(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }
}

/// Whole seconds, rounded up: asked earlier, the answer would be the same.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_never_has_to_wait_zero_seconds() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
    }
}
