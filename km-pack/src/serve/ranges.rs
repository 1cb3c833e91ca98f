//! Which bytes of a file are asked for, and whether at all (RFC 9110, sections 13 and 14).

use std::ops::Range;

use axum::http::{HeaderMap, Method, header};

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing: the client has it.
    NotModified,
    /// There are no such bytes.
    Unsatisfiable,
}

/// What is wanted of a file of this size, whose ETag is this (a strong one).
pub(super) fn wanted(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    if names(headers, etag) {
        return Wanted::NotModified;
    }
    // Neither a date nor a weak ETag says that the bytes are the same.
    let unchanged = headers.get(header::IF_RANGE).is_none_or(|value| value == etag);
    match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if unchanged && method == Method::GET => part(range, size),
        _ => Wanted::Whole,
    }
}

/// Whether `If-None-Match` names this ETag.
fn names(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut named = values.flat_map(|value| value.split(',')).map(str::trim);
    named.any(|name| name == "*" || name.strip_prefix("W/").unwrap_or(name) == etag)
}

/// A single range. Several, other units and what is no range are answered with the whole.
fn part(range: &str, size: u64) -> Wanted {
    let single = || range.trim().strip_prefix("bytes=")?.trim().split_once('-');
    let Some((first, last)) = single() else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => bytes(first, last.saturating_add(1), size),
        (Some(first), None) if last.is_empty() => bytes(first, size, size),
        (None, Some(suffix)) if first.is_empty() => bytes(size.saturating_sub(suffix), size, size),
        _ => Wanted::Whole,
    }
}

fn bytes(start: u64, end: u64, size: u64) -> Wanted {
    if start < size { Wanted::Part(start..end.min(size)) } else { Wanted::Unsatisfiable }
}

/// One that no file reaches is the largest there is.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    const ETAG: &str = "\"abc\"";

    fn asked(method: Method, headers: &[(HeaderName, &str)]) -> Wanted {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        wanted(&method, &headers, ETAG, 100)
    }

    #[test]
    fn a_single_range_is_a_part() {
        let part = |value| asked(Method::GET, &[(header::RANGE, value)]);
        for (value, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=10-19", 10..20),
            ("bytes=10-", 10..100),
            ("bytes=99-1000", 99..100),
            ("bytes=5-99999999999999999999999", 5..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
        ] {
            assert_eq!(part(value), Wanted::Part(range), "{value}");
        }
        for value in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(part(value), Wanted::Unsatisfiable, "{value}");
        }
        for value in
            ["bytes=0-1,3-4", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "lines=1-2", "x"]
        {
            assert_eq!(part(value), Wanted::Whole, "{value}");
        }
        assert_eq!(asked(Method::HEAD, &[(header::RANGE, "bytes=0-0")]), Wanted::Whole);
    }

    #[test]
    fn a_range_is_for_the_same_bytes_only() {
        let of = |value| asked(Method::GET, &[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, value)]);
        assert_eq!(of(ETAG), Wanted::Part(0..1));
        for value in ["\"other\"", "W/\"abc\"", "Sun, 22 Nov 2026 00:00:00 GMT"] {
            assert_eq!(of(value), Wanted::Whole, "{value}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent() {
        let of = |value| asked(Method::GET, &[(header::IF_NONE_MATCH, value), (header::RANGE, "bytes=0-0")]);
        for value in [ETAG, "*", "W/\"abc\"", "\"x\", \"abc\""] {
            assert_eq!(of(value), Wanted::NotModified, "{value}");
        }
        assert_eq!(of("\"x\", \"y\""), Wanted::Part(0..1));
    }
}
