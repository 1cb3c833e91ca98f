//! Counters in the text form of Prometheus.

use std::fmt;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use km_api::error::ErrorKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: from what a look-up takes to the deadline of a request.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    endpoint: String,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What the server counts. No label has a value that a client chooses.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Endpoint, Histogram>,
    refused: Family<Reason, Counter>,
    pub(super) tokens_issued: Counter,
    pub(super) events_accepted: Counter,
    pub(super) provisions: Counter,
    pub(super) downloads: Counter,
    pub(super) downloaded_bytes: Counter,
    pub(super) connections: Gauge,
    pub(super) log_lines_lost: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("km"),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            refused: Family::default(),
            tokens_issued: Counter::default(),
            events_accepted: Counter::default(),
            provisions: Counter::default(),
            downloads: Counter::default(),
            downloaded_bytes: Counter::default(),
            connections: Gauge::default(),
            log_lines_lost: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered", self.requests.clone());
        let durations = self.durations.clone();
        registry.register_with_unit("request_duration", "Time to answer", Unit::Seconds, durations);
        registry.register("tokens_issued", "Tokens signed", self.tokens_issued.clone());
        registry.register("events_accepted", "Events taken from plugins", self.events_accepted.clone());
        registry.register("provisions", "Lists of packages handed out", self.provisions.clone());
        registry.register(
            "downloads",
            "Packages or parts of them whose sending began",
            self.downloads.clone(),
        );
        let bytes = self.downloaded_bytes.clone();
        registry.register_with_unit("downloaded", "What was sent of packages", Unit::Bytes, bytes);
        registry.register("refused", "API keys, tokens and URLs that were refused", self.refused.clone());
        registry.register("connections", "Connections that are open", self.connections.clone());
        let lost = self.log_lines_lost.clone();
        registry.register("access_log_lost", "Access log lines that stderr did not take in time", lost);
    }

    /// Counts a request to an endpoint; none is a path that has none.
    pub(super) fn answered(
        &self,
        endpoint: Option<&str>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let endpoint = endpoint.unwrap_or("other").to_owned();
        let (method, status) = (known(method), status.as_u16());
        self.requests.get_or_create_owned(&Request { endpoint: endpoint.clone(), method, status }).inc();
        self.durations.get_or_create(&Endpoint { endpoint }).observe(took.as_secs_f64());
    }

    /// Counts a key, token or URL that was refused.
    pub(super) fn refused(&self, kind: ErrorKind) {
        let reason = match kind {
            ErrorKind::RevokedKey => "revoked-key",
            ErrorKind::InvalidToken => "invalid-token",
            ErrorKind::InvalidUrl => "invalid-url",
            _ => "invalid-key",
        };
        self.refused.get_or_create_owned(&Reason { reason }).inc();
    }

    /// All of it.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    }
}
