//! What `km` answers itself, where no answer of the upstream can be had.

use bytes::Bytes;

/// Why a request is not passed on.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is no HTTP that has one meaning only.
    BadRequest(String),
    /// It was made for another host: a web page that looks like one of this machine.
    WrongHost(String),
    HeadTooLarge,
    HeadTooLate,
    /// There is no answer of the upstream, or it is no HTTP.
    BadGateway(String),
    TooManyConnections,
}

impl Refusal {
    /// The whole response.
    pub(super) fn write(&self) -> Bytes {
        let (status, why) = match self {
            Self::BadRequest(why) => ("400 Bad Request", format!("this request cannot be passed on: {why}")),
            Self::WrongHost(host) => (
                "403 Forbidden",
                format!("a request for {host:?} is not passed on: this address is for localhost only"),
            ),
            Self::HeadTooLarge => {
                ("431 Request Header Fields Too Large", "the head of this request is too large".to_owned())
            }
            Self::HeadTooLate => {
                ("408 Request Timeout", "the head of this request did not come in time".to_owned())
            }
            Self::BadGateway(why) => ("502 Bad Gateway", why.clone()),
            Self::TooManyConnections => {
                ("503 Service Unavailable", "too many connections are open at once".to_owned())
            }
        };
        let body = format!("km: {why}\n");
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into()
    }
}
