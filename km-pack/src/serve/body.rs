//! Bodies: read up to a limit, then understood as JSON.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use km_api::error::ErrorKind;
use serde::de::DeserializeOwned;

use super::observe::looks_secret;
use super::refusal::Refusal;

/// Longest message about JSON that is not understood: it may repeat what was sent.
const LONGEST_REASON: usize = 200;

/// Reads a JSON document of at most `limit` bytes. One that announces more is not read at all.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let bytes = read(body, limit).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let mut reason: String = error.to_string().chars().take(LONGEST_REASON).collect();
        if looks_secret(&reason) {
            reason = format!("what is wrong in line {} looks like a key and is not repeated", error.line());
        }
        Refusal::new(
            ErrorKind::BadRequest,
            format!("the body is not the JSON that this endpoint takes: {reason}"),
        )
    })
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk
            .map_err(|_| Refusal::new(ErrorKind::BadRequest, "the body ended before it was complete"))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(ErrorKind::TooLarge, format!("the body is over {limit} bytes"))
}
