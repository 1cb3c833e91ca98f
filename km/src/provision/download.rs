//! Getting pieces from wherever they are. A place that does not give the right bytes is left for the next.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use km_cli::Progress;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use reqwest::header::RANGE;
use reqwest::{Client, StatusCode};

use super::body::{Body, Broken, Cause};
use super::part::{PartFile, Verdict};
use super::place::{Piece, Place, Span};

/// Most pieces that are on their way at the same time.
const PARALLEL: usize = 4;
/// How often one place is asked for a piece, if it gave some of it each time.
const TRIES: usize = 3;
/// Before each round through the places that may be well again: a server that is killed behind a
/// balancer is noticed, and one that is started again is there.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
];
/// Most places that an error tells of, and most characters of each.
const MAX_TOLD: usize = 6;
const MAX_WORDS: usize = 400;

/// Gets pieces into a folder.
#[derive(Debug)]
pub(super) struct Downloader<'a> {
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    /// How long a download may be too slow.
    pub(super) patience: Duration,
    pub(super) progress: &'a Progress,
}

/// Why a piece did not come from a place.
enum Trouble {
    /// It is the place's.
    Place(Broken),
    /// It is this machine's: no other place would help.
    Local(Failure),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Place(broken)
    }
}

impl Downloader<'_> {
    /// Gets pieces, each once, a few at a time.
    pub(super) async fn fetch_all(&self, pieces: Vec<Piece>) -> BTreeMap<Digest, Result<(), Failure>> {
        let mut distinct: BTreeMap<Digest, Piece> = BTreeMap::new();
        for piece in pieces {
            let places =
                &mut distinct.entry(piece.sha256).or_insert(Piece { places: Vec::new(), ..piece }).places;
            let new = piece.places.into_iter().filter(|place| !places.contains(place));
            let new: Vec<Place> = new.collect();
            places.extend(new);
        }
        let fetch = |piece: Piece| async move { (piece.sha256, self.fetch(&piece).await) };
        stream::iter(distinct.into_values()).map(fetch).buffer_unordered(PARALLEL).collect().await
    }

    /// Gets one piece from the first place that gives it.
    async fn fetch(&self, piece: &Piece) -> Result<(), Failure> {
        let mut part = PartFile::open(&self.folder, piece.sha256, piece.size).map_err(|e| self.local(&e))?;
        self.progress.advance(part.length());
        if part.missing() == 0 {
            match part.complete().map_err(|e| self.local(&e))? {
                Verdict::Complete => return Ok(()),
                Verdict::Wrong | Verdict::WrongTogether => {
                    self.reset(&mut part).map_err(|e| self.local(&e))?
                }
            }
        }
        let (mut tried, mut kind) = (Vec::<String>::new(), Kind::Unreachable);
        let mut open: Vec<&Place> = piece.places.iter().collect();
        for (round, pause) in PAUSES.into_iter().enumerate() {
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            let mut again = Vec::new();
            for place in open {
                match self.fetch_from(place, &mut part).await {
                    Ok(()) => return Ok(()),
                    Err(Trouble::Local(failure)) => return Err(failure),
                    Err(Trouble::Place(Broken { cause: Cause::Passing, .. })) if round + 1 < PAUSES.len() => {
                        again.push(place);
                    }
                    Err(Trouble::Place(Broken { why, cause })) => {
                        if cause == Cause::Wrong {
                            kind = Kind::Untrusted;
                        }
                        tracing::debug!("{place}: {why}");
                        tried.push(format!("{place}: {why}").chars().take(MAX_WORDS).collect());
                    }
                }
            }
            open = again;
        }
        part.close().map_err(|e| self.local(&e))?;
        Err(given_up(kind, &tried))
    }

    /// Gets a piece from one place, going on where it broke off.
    async fn fetch_from(&self, place: &Place, part: &mut PartFile) -> Result<(), Trouble> {
        part.change_place();
        let mut tries = 0;
        loop {
            tries += 1;
            let before = part.length();
            match self.attempt(place, part).await {
                Ok(()) => {}
                Err(Trouble::Place(Broken { cause: Cause::Passing, .. }))
                    if part.length() > before && tries < TRIES =>
                {
                    continue;
                }
                Err(trouble) => return Err(trouble),
            }
            match part.complete().map_err(|e| Trouble::Local(self.local(&e)))? {
                Verdict::Complete => return Ok(()),
                // This place may have sent what is right: all of it from here, then.
                Verdict::WrongTogether => self.reset(part).map_err(|e| Trouble::Local(self.local(&e)))?,
                Verdict::Wrong => {
                    self.reset(part).map_err(|e| Trouble::Local(self.local(&e)))?;
                    return Err(Broken::new(Cause::Wrong, "other bytes than those that are signed").into());
                }
            }
        }
    }

    /// Asks a place once for what is missing.
    async fn attempt(&self, place: &Place, part: &mut PartFile) -> Result<(), Trouble> {
        let (missing, start) = (part.missing(), place.span.start() + part.length());
        let mut request = self.client.get(place.url.clone());
        let whole = place.span == Span::Whole && part.length() == 0;
        if !whole {
            request = request.header(RANGE, format!("bytes={start}-{}", start + missing - 1));
        }
        let mut body = Body::open(request, self.patience).await?;
        let mut skip = check_answer(&body, place.span, start, missing)?;
        while part.missing() > 0 {
            let Some(bytes) = body.next().await? else {
                let left = part.missing();
                return Err(
                    Broken::new(Cause::Passing, format_args!("it ends {left} bytes too early")).into()
                );
            };
            let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            let taken = part.write(&bytes[skipped..]).map_err(|e| Trouble::Local(self.local(&e)))?;
            self.progress.advance(taken as u64);
        }
        Ok(())
    }

    fn reset(&self, part: &mut PartFile) -> io::Result<()> {
        self.progress.retreat(part.reset()?);
        Ok(())
    }

    fn local(&self, error: &io::Error) -> Failure {
        Failure { kind: Kind::Local, ..Failure::file("write into", &self.folder, error) }
    }
}

/// Whether this can be what was asked for. Returns how many of its bytes come before that.
fn check_answer(body: &Body, span: Span, start: u64, missing: u64) -> Result<u64, Broken> {
    let (skip, expected) = match body.status() {
        StatusCode::PARTIAL_CONTENT if body.range_start() == Some(start) => (0, Some(missing)),
        StatusCode::PARTIAL_CONTENT => {
            return Err(Broken::new(Cause::Lasting, "another range than was asked for"));
        }
        // It knows no ranges: what is there already, or belongs to other pieces, comes again.
        StatusCode::OK => (start, (span == Span::Whole).then_some(start + missing)),
        other => return Err(Broken::status(other)),
    };
    match (body.length(), expected) {
        (Some(length), Some(expected)) if length != expected => {
            Err(Broken::new(Cause::Lasting, format_args!("{length} bytes instead of {expected}")))
        }
        _ => Ok(skip),
    }
}

/// What every place said.
fn given_up(kind: Kind, tried: &[String]) -> Failure {
    let told = tried.iter().take(MAX_TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match tried.len().saturating_sub(MAX_TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let message = match tried {
        [] => "neither the API nor a mirror says where it is".to_owned(),
        _ => format!("it could not be downloaded: {told}{more}"),
    };
    let help = match kind {
        Kind::Untrusted => "what lies there is not what was published: tell whoever runs it",
        _ => "try again: what has come is kept; `mirrors` in config.toml names further places",
    };
    Failure::new(kind, message).help(help)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;

    use km_cli::Output;

    use super::super::part;
    use super::super::server::{Asked, Server, send, write};
    use super::*;
    use crate::environment::Proxy;

    /// The bytes of the piece that is fetched, and its place in a package.
    fn piece() -> Vec<u8> {
        (0..50_000u32).map(|i| (i % 251) as u8).collect()
    }

    fn package() -> Vec<u8> {
        [&[7; 1000][..], &piece(), &[9; 500]].concat()
    }

    fn whole(url: String) -> Place {
        Place { url: url.parse().unwrap(), span: Span::Whole }
    }

    /// A folder to download to, with a short patience.
    struct Bench {
        folder: tempfile::TempDir,
        progress: Progress,
        proxy: Proxy,
    }

    impl Bench {
        fn new() -> Self {
            let (folder, progress) = (tempfile::tempdir().unwrap(), Output::default().progress());
            Self { folder, progress, proxy: Proxy::default() }
        }

        fn fetch(&self, places: Vec<Place>) -> Result<(), Failure> {
            let bytes = piece();
            let sha256 = Digest::of(&bytes);
            let piece = Piece { sha256, size: bytes.len() as u64, places };
            let downloader = Downloader {
                client: crate::api::download_client(&[], &self.proxy).unwrap(),
                folder: self.folder.path().to_path_buf(),
                patience: Duration::from_millis(500),
                progress: &self.progress,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut fetched = runtime.block_on(downloader.fetch_all(vec![piece.clone(), piece]));
            let outcome = fetched.remove(&sha256).unwrap();
            if outcome.is_ok() {
                assert_eq!(std::fs::read(part::path(self.folder.path(), sha256)).unwrap(), bytes);
            }
            outcome
        }
    }

    fn ranges(server: &Server) -> Vec<Option<String>> {
        server.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect()
    }

    /// Sends a part of an answer that is announced as longer.
    fn cut(connection: &TcpStream, bytes: &[u8], announced: usize) {
        write(connection, &format!("200 OK\r\nContent-Length: {announced}"), bytes);
    }

    #[test]
    fn a_connection_that_is_cut_is_taken_up_where_it_was() {
        let server = Server::start(|asked, connection| match asked.number {
            0 => cut(&connection, &piece()[..20_000], 50_000),
            _ => send(asked, connection, &piece()),
        });
        Bench::new().fetch(vec![whole(server.url("/frames/x"))]).unwrap();
        assert_eq!(ranges(&server), [None, Some("bytes=20000-49999".to_owned())]);
    }

    #[test]
    fn a_place_that_breaks_off_again_and_again_is_left_for_the_next() {
        let server = Server::start(|asked, connection| {
            let start = asked.number * 100;
            let range = format!("206 Partial Content\r\nContent-Range: bytes {start}-49999/50000");
            let head = if start == 0 { "200 OK".to_owned() } else { range };
            write(&connection, &head, &piece()[start..start + 100]);
        });
        let good = Server::of(&piece());
        Bench::new().fetch(vec![whole(server.url("/x")), whole(good.url("/x"))]).unwrap();
        assert_eq!(server.asked().len(), TRIES);
        assert_eq!(ranges(&good), [Some("bytes=300-49999".to_owned())]);
    }

    #[test]
    fn a_part_that_a_killed_run_left_is_continued() {
        let (bench, server) = (Bench::new(), Server::of(&piece()));
        let part = part::path(bench.folder.path(), Digest::of(&piece())).with_extension("part");
        std::fs::write(part, &piece()[..30_000]).unwrap();
        bench.fetch(vec![whole(server.url("/x"))]).unwrap();
        assert_eq!(ranges(&server), [Some("bytes=30000-49999".to_owned())]);
        bench.fetch(vec![whole(server.url("/x"))]).unwrap();
        assert_eq!(server.asked().len(), 1, "what is there is not asked for again");
    }

    #[test]
    fn a_piece_of_a_package_is_asked_for_by_its_range() {
        let server = Server::of(&package());
        let place = Place { span: Span::From(1000), ..whole(server.url("/a.kmpkg")) };
        Bench::new().fetch(vec![place]).unwrap();
        assert_eq!(ranges(&server), [Some("bytes=1000-50999".to_owned())]);
    }

    #[test]
    fn a_server_that_knows_no_ranges_is_read_from_its_beginning() {
        let server = Server::start(|asked, connection| match asked.number {
            0 => cut(&connection, &package()[..5000], 51_500),
            _ => {
                write(&connection, "200 OK", &package());
            }
        });
        let place = Place { span: Span::From(1000), ..whole(server.url("/a.kmpkg")) };
        Bench::new().fetch(vec![place]).unwrap();
        assert_eq!(server.asked().len(), 2);
    }

    #[test]
    fn wrong_bytes_are_left_for_the_next_place() {
        let mut wrong = piece();
        wrong[40_000] ^= 1;
        let (wrong, good) = (Server::of(&wrong), Server::of(&piece()));
        Bench::new().fetch(vec![whole(wrong.url("/x")), whole(good.url("/x"))]).unwrap();
        assert_eq!((wrong.asked().len(), ranges(&good)), (1, vec![None]));
    }

    #[test]
    fn what_a_wrong_place_has_begun_does_not_spoil_the_right_one() {
        let wrong = Server::start(|_, connection| cut(&connection, &[0; 20_000], 50_000));
        let good = Server::of(&piece());
        Bench::new().fetch(vec![whole(wrong.url("/x")), whole(good.url("/x"))]).unwrap();
        assert_eq!(ranges(&good).last(), Some(&None), "all of it, once the rest was not enough");
    }

    #[test]
    fn a_byte_now_and_then_is_no_download() {
        let slow = Server::start(|_, mut connection| {
            write(&connection, "200 OK\r\nContent-Length: 50000", b"");
            while connection.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let silent = Server::start(|_, connection| {
            std::thread::sleep(Duration::from_secs(5));
            drop(connection);
        });
        let good = Server::of(&piece());
        let places = [&slow, &silent, &good].map(|server| whole(server.url("/x")));
        let start = std::time::Instant::now();
        Bench::new().fetch(places.to_vec()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!((slow.asked().len(), silent.asked().len()), (1, 1), "each is waited for once");
        let failure = Bench::new().fetch(places[..2].to_vec()).unwrap_err();
        assert!(
            failure.message.contains("too slow") && failure.message.contains("no answer within"),
            "{failure}"
        );
    }

    #[test]
    fn a_body_without_end_is_read_to_the_size_that_was_signed_and_no_further() {
        let endless = |_: &Asked, mut connection: TcpStream| {
            write(&connection, "200 OK", b"");
            while connection.write_all(&[0; 4096]).is_ok() {}
        };
        let (endless, good) = (Server::start(endless), Server::of(&piece()));
        Bench::new().fetch(vec![whole(endless.url("/x")), whole(good.url("/x"))]).unwrap();
        // The right bytes are the right bytes, whatever comes behind them.
        let longer = Server::start(|_, mut connection| {
            write(&connection, "200 OK", &piece());
            while connection.write_all(&[0; 4096]).is_ok() {}
        });
        Bench::new().fetch(vec![whole(longer.url("/x"))]).unwrap();
        let announced = Server::of(&package());
        let failure = Bench::new().fetch(vec![whole(announced.url("/x"))]).unwrap_err();
        assert!(failure.message.contains("51500 bytes instead of 50000"), "{failure}");
    }

    #[test]
    fn redirects_are_followed_to_safe_places_and_take_nothing_with_them() {
        let good = Server::of(&piece());
        let to = |location: String| {
            Server::start(move |_, connection| {
                write(&connection, &format!("302 Found\r\nLocation: {location}\r\nContent-Length: 0"), b"");
            })
        };
        let redirecting = to(good.url("/elsewhere?sig=1"));
        Bench::new().fetch(vec![whole(redirecting.url("/x?signature=secret"))]).unwrap();
        let packages = Server::of(&package());
        let place = whole(to(packages.url("/a.kmpkg")).url("/a.kmpkg"));
        Bench::new().fetch(vec![Place { span: Span::From(1000), ..place }]).unwrap();
        assert_eq!(ranges(&packages), [Some("bytes=1000-50999".to_owned())]);
        for asked in redirecting.asked().iter().chain(&good.asked()) {
            let secret = ["authorization", "cookie", "x-api-key", "referer"].map(|name| asked.header(name));
            assert_eq!(secret, [None; 4], "{asked:?}");
        }
        assert!(good.asked().iter().all(|asked| !asked.head.contains("secret")));
        let round = to("/again".to_owned());
        let elsewhere = to("http://192.0.2.1/x?sig=secret".to_owned());
        let named = to("http://user:password@127.0.0.1:1/".to_owned());
        let places = [&round, &elsewhere, &named].map(|server| whole(server.url("/x?signature=secret")));
        let failure = Bench::new().fetch(places.to_vec()).unwrap_err();
        for part in ["more than 3 redirects", "this machine only", "user name or a password"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(!failure.message.contains("secret") && !failure.message.contains("password@"), "{failure}");
    }

    #[test]
    fn a_proxy_is_not_asked_for_what_is_on_this_machine() {
        let (proxy, good) = (Server::of(b"a proxy's page"), Server::of(&piece()));
        let proxied = Proxy { url: proxy.url(""), except: String::new() };
        Bench { proxy: proxied, ..Bench::new() }.fetch(vec![whole(good.url("/x"))]).unwrap();
        assert_eq!(proxy.asked().len(), 0);
    }

    #[test]
    fn everything_that_failed_is_told_and_no_signature() {
        let missing = Server::start(|_, connection| {
            write(&connection, "404 Not Found\r\nContent-Length: 0", b"");
        });
        let other_range = Server::start(|_, connection| {
            write(&connection, "206 Partial Content\r\nContent-Range: bytes 0-49999/51500", &piece());
        });
        let empty = Server::of(b"");
        let gone = "http://127.0.0.1:1/x?sig=secret".to_owned();
        let mut places = vec![whole(missing.url("/x?sig=secret")), whole(gone), whole(empty.url("/x"))];
        places.push(Place { span: Span::From(1000), ..whole(other_range.url("/y")) });
        let failure = Bench::new().fetch(places).unwrap_err();
        assert_eq!(failure.kind, Kind::Unreachable);
        for part in ["404 Not Found", "http://127.0.0.1:1/x: ", "0 bytes instead of 50000", "another range"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(!failure.message.contains("secret"), "{failure}");
        let bench = Bench::new();
        let none = bench.fetch(Vec::new()).unwrap_err();
        assert_eq!(std::fs::read_dir(bench.folder.path()).unwrap().count(), 0);
        assert_eq!(
            (none.kind, none.message.as_str()),
            (Kind::Unreachable, "neither the API nor a mirror says where it is")
        );
    }
}
