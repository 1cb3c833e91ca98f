//! What the API answers when it says no: `{"error":{"kind","message"}}`.

use serde::{Deserialize, Serialize};

/// Why the API says no, and the HTTP status that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// 400: the request is not what the endpoint takes.
    BadRequest,
    /// 401: no API key was sent, or nobody has this one.
    InvalidKey,
    /// 401: the API key was revoked.
    RevokedKey,
    /// 401: the token is none, or not (any more) valid.
    InvalidToken,
    /// 403: the plugin was built for another customer than the key's.
    WrongCustomer,
    /// 403: the subscription is suspended or over.
    Inactive,
    /// 403: the subscription does not include this.
    MissingFeature,
    /// 403: the binary is none of those that were published as this version for its customer.
    WrongBinary,
    /// 403: the signature of a download URL does not hold, or what it was made for is not published any more.
    InvalidUrl,
    /// 403: a download URL was good once.
    ExpiredUrl,
    /// 404: there is no such endpoint.
    NotFound,
    /// 405: the endpoint is asked with another method.
    MethodNotAllowed,
    /// 408: the request did not come within its time.
    Timeout,
    /// 413: the body is over its limit.
    TooLarge,
    /// 416: the range lies behind the end.
    UnsatisfiableRange,
    /// 429: too many requests; `Retry-After` says when to ask again.
    RateLimited,
    /// 500: the server failed.
    Internal,
    /// 503: the server cannot work just now.
    Unavailable,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::InvalidKey | Self::RevokedKey | Self::InvalidToken => 401,
            Self::WrongCustomer | Self::Inactive | Self::MissingFeature | Self::WrongBinary => 403,
            Self::InvalidUrl | Self::ExpiredUrl => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::UnsatisfiableRange => 416,
            Self::RateLimited => 429,
            Self::Internal | Self::Unknown => 500,
            Self::Unavailable => 503,
        }
    }
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// Why.
    pub error: ApiError,
}

/// Why the API says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs.
    #[serde(default = "unknown")]
    pub kind: ErrorKind,
    /// For people; holds no secrets.
    #[serde(default)]
    pub message: String,
}

fn unknown() -> ErrorKind {
    ErrorKind::Unknown
}
