//! `GET /api/plugins/download/{file}`: a package, put together as it is sent.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts as _, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use km_api::error::ErrorKind;
use km_package::failure::Failure;
use km_package::index::IndexEntry;

use super::App;
use super::caller::{KeyHolder, inactive};
use super::download_url::{Claim, is_signed};
use super::limits::Caller;
use super::observe::Trace;
use super::packages::Package;
use super::provision::is_reached;
use super::ranges::{Wanted, wanted};
use super::refusal::Refusal;

const CONTENT_TYPE: &str = "application/vnd.kilometers.kmpkg";
/// For one customer, and the same for ever: its name has a digest in it.
const CACHE_CONTROL: &str = "private, max-age=3600, immutable";

pub(super) async fn download(
    State(app): State<Arc<App>>,
    file_name: Result<Path<String>, PathRejection>,
    mut parts: Parts,
) -> Result<Response, Refusal> {
    // No file name is not UTF-8.
    let Path(file_name) = file_name.map_err(|_| not_found())?;
    let entry = app.entitled(&mut parts, &file_name).await?;
    let package = app.packages.get(&entry).await?;
    let etag = format!("\"{}\"", entry.head_sha256);
    let (status, range) = match wanted(&parts.method, &parts.headers, &etag, package.size) {
        Wanted::Whole => (StatusCode::OK, 0..package.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::NotModified => return Ok((StatusCode::NOT_MODIFIED, about(etag)).into_response()),
        Wanted::Unsatisfiable => return Ok(unsatisfiable(package.size)),
    };
    let Range { start, end } = range;
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE.to_owned()),
        (header::CONTENT_LENGTH, (end - start).to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")),
    ];
    let part = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| [(header::CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, package.size))]);
    let body = match parts.method {
        Method::HEAD => Body::empty(),
        _ => app.send(package, range).await?,
    };
    Ok((status, about(etag), headers, part, body).into_response())
}

impl App {
    /// The package that this request may have: what its URL was signed for, or what the index and the
    /// subscription of its API key's customer say now.
    async fn entitled(self: &Arc<Self>, parts: &mut Parts, file_name: &str) -> Result<IndexEntry, Refusal> {
        match parts.uri.query() {
            Some(query) if is_signed(query) => self.by_url(parts, query, file_name).await,
            _ => self.by_key(parts, file_name).await,
        }
    }

    async fn by_url(&self, parts: &Parts, query: &str, file_name: &str) -> Result<IndexEntry, Refusal> {
        let claim = Claim::read(query);
        let granted = match &claim {
            Some(claim) => self.granted(claim, file_name).await?,
            None => None,
        };
        let (Some(Claim { customer, expires, .. }), Some(entry)) = (claim, granted) else {
            let message = "the URL's signature does not hold, or what it was made for is not published any \
                           more: ask for a new one";
            return Err(self.failed(parts, ErrorKind::InvalidUrl, message));
        };
        Trace::of(parts).set_customer(&customer);
        if expires <= Timestamp::now() {
            return Err(Refusal::new(ErrorKind::ExpiredUrl, "the URL was good once: ask for a new one"));
        }
        self.limits.count(&Caller::Customer(customer))?;
        Ok(entry)
    }

    async fn by_key(self: &Arc<Self>, parts: &mut Parts, file_name: &str) -> Result<IndexEntry, Refusal> {
        let KeyHolder(customer) = KeyHolder::from_request_parts(parts, self).await?;
        if !customer.is_active(Timestamp::now()) {
            return Err(inactive());
        }
        let named = self.packages.named(&customer.id).await?;
        named
            .into_iter()
            .find(|entry| entry.file_name() == file_name && is_reached(entry, customer.tier))
            .ok_or_else(not_found)
    }

    /// A body of these bytes. It begins only where the whole package is there; if the store fails later,
    /// the connection breaks.
    async fn send(self: &Arc<Self>, package: Arc<Package>, range: Range<u64>) -> Result<Body, Failure> {
        self.packages.check(&package).await?;
        self.metrics.downloads.inc();
        let bytes = self.metrics.downloaded_bytes.clone();
        let chunks = self.packages.clone().read(package, range).inspect(move |chunk| match chunk {
            Ok(chunk) => drop(bytes.inc_by(chunk.len() as u64)),
            Err(failure) => tracing::error!("a download breaks off: {}", failure.message),
        });
        Ok(Body::from_stream(chunks))
    }
}

fn not_found() -> Refusal {
    Refusal::new(ErrorKind::NotFound, "there is no such package for this customer")
}

/// What is said of a package also to those who have it.
fn about(etag: String) -> [(HeaderName, String); 3] {
    [
        (header::ETAG, etag),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CACHE_CONTROL, CACHE_CONTROL.to_owned()),
    ]
}

fn unsatisfiable(size: u64) -> Response {
    let refusal = Refusal::new(ErrorKind::UnsatisfiableRange, "the package ends before this range");
    ([(header::CONTENT_RANGE, format!("bytes */{size}"))], refusal).into_response()
}
