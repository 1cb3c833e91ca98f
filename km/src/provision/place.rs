//! Where the pieces of a package are: on the mirrors, and where the API says.

use std::fmt;

use km_api::provision::ProvisionedPlugin;
use km_package::digest::Digest;
use km_package::index::IndexEntry;
use km_package::manifest::Frame;
use reqwest::Url;

use crate::api::{Endpoint, parse_download_url};

/// Most places of one piece that the API may name besides the whole package.
const MAX_PARTS: usize = 4;

/// A piece of a package, its head or one of its frames: its bytes are known by their digest, whoever has
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) sha256: Digest,
    pub(super) size: u64,
    /// Where it may be, in the order in which it is asked for.
    pub(super) places: Vec<Place>,
}

/// Where the bytes of a piece are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) url: Url,
    pub(super) span: Span,
}

/// What of the file at a place is the piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// All of it.
    Whole,
    /// What begins here.
    From(u64),
}

impl Span {
    /// Where the piece begins.
    pub(super) fn start(self) -> u64 {
        match self {
            Self::Whole => 0,
            Self::From(start) => start,
        }
    }
}

/// Without the query, which may be a signature.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// Who has a package.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) mirrors: &'a [Endpoint],
    /// What the API says of it.
    pub(super) offer: Option<&'a ProvisionedPlugin>,
}

impl Places<'_> {
    /// What lies in front of the payload.
    pub(super) fn head(self, entry: &IndexEntry) -> Piece {
        self.piece("manifests", entry.head_sha256, entry.head_size, 0)
    }

    /// The frames of the payload, which follow the head.
    pub(super) fn frames(self, entry: &IndexEntry, frames: &[Frame]) -> Vec<Piece> {
        let mut start = entry.head_size;
        let piece = |frame: &Frame| {
            let piece = self.piece("frames", frame.sha256, frame.size, start);
            start += frame.size;
            piece
        };
        frames.iter().map(piece).collect()
    }

    /// The mirrors, then the object store, then the whole package.
    fn piece(self, folder: &str, sha256: Digest, size: u64, start: u64) -> Piece {
        let on_mirror = |mirror: &Endpoint| mirror.at(&format!("/{folder}/{sha256}"));
        let mut places: Vec<Place> =
            self.mirrors.iter().map(on_mirror).map(|url| Place { url, span: Span::Whole }).collect();
        if let Some(offer) = self.offer {
            let parts = offer.parts.iter().filter(|part| part.sha256 == sha256 && part.size == size);
            places.extend(parts.take(MAX_PARTS).filter_map(|part| offered(&part.url, Span::Whole)));
            places.extend(offered(&offer.download_url, Span::From(start)));
        }
        Piece { sha256, size, places }
    }
}

fn offered(url: &str, span: Span) -> Option<Place> {
    match parse_download_url(url) {
        Ok(url) => Some(Place { url, span }),
        // The URL is not repeated: it may be a signed one.
        Err(why) => {
            tracing::warn!("a URL that the API sent is not used: {why}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use km_api::provision::Part;

    use super::*;

    fn entry() -> IndexEntry {
        IndexEntry {
            name: "a".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            sequence: 1,
            platform: "linux-amd64".parse().unwrap(),
            required_tier: Default::default(),
            tier: Default::default(),
            base_sha256: Digest::of(b"base"),
            manifest_sha256: Digest::of(b"manifest"),
            head_sha256: Digest::of(b"head"),
            head_size: 1500,
            payload_size: 30,
        }
    }

    fn offer(download_url: &str) -> ProvisionedPlugin {
        let part =
            |url: &str, bytes: &[u8], size| Part { url: url.to_owned(), sha256: Digest::of(bytes), size };
        ProvisionedPlugin {
            name: "a".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            required_tier: Default::default(),
            download_url: download_url.to_owned(),
            sha256: Digest::of(b"package"),
            size: 1530,
            expires_at: jiff::Timestamp::UNIX_EPOCH,
            parts: vec![
                part("https://s3.example/x?sig=secret", b"f1", 10),
                part("https://s3.example/y?sig=secret", b"f2", 21),
                part("http://s3.example/z?sig=secret", b"head", 1500),
            ],
        }
    }

    fn shown(piece: &Piece) -> Vec<(String, Span)> {
        piece.places.iter().map(|place| (place.to_string(), place.span)).collect()
    }

    #[test]
    fn mirrors_come_first_then_parts_then_the_whole_package() {
        let mirrors = ["https://m.example/store/".parse().unwrap(), "http://127.0.0.1:1".parse().unwrap()];
        let offer = offer("https://api.example/download/a.kmpkg?token=secret");
        let places = Places { mirrors: &mirrors, offer: Some(&offer) };
        let head = places.head(&entry());
        let digest = Digest::of(b"head");
        assert_eq!(
            shown(&head),
            [
                (format!("https://m.example/store/manifests/{digest}"), Span::Whole),
                (format!("http://127.0.0.1:1/manifests/{digest}"), Span::Whole),
                ("https://api.example/download/a.kmpkg".to_owned(), Span::From(0)),
            ],
            "a part in clear is no place"
        );
        let frames =
            [Frame { size: 10, sha256: Digest::of(b"f1") }, Frame { size: 20, sha256: Digest::of(b"f2") }];
        let pieces = places.frames(&entry(), &frames);
        assert_eq!(
            shown(&pieces[0])[2..],
            [
                ("https://s3.example/x".to_owned(), Span::Whole),
                ("https://api.example/download/a.kmpkg".to_owned(), Span::From(1500)),
            ]
        );
        assert_eq!(shown(&pieces[0])[0].0, format!("https://m.example/store/frames/{}", Digest::of(b"f1")));
        assert_eq!(
            shown(&pieces[1])[2..],
            [("https://api.example/download/a.kmpkg".to_owned(), Span::From(1510))],
            "a part of another size is another one"
        );
    }

    #[test]
    fn urls_that_would_send_a_password_or_go_in_clear_are_no_places() {
        for url in ["http://api.example/a", "https://user:secret@api.example/a", "file:///etc/passwd", "/a"] {
            let offer = ProvisionedPlugin { parts: Vec::new(), ..offer(url) };
            let places = Places { mirrors: &[], offer: Some(&offer) };
            assert_eq!(places.head(&entry()).places, [], "{url}");
        }
    }
}
