//! Packages over HTTP: whole and in parts, by a signed URL and by an API key.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;

use km_tests::{ApiServer, api_logger, packages, wait_until};
use reqwest::RequestBuilder;

use super::client::{Client, DOWNLOAD, File, Raw, UNKNOWN, signal_to};

/// A server that has console-logger for `customer_123` and for `other_customer`, and the key of the first.
fn published(options: &[&str]) -> (ApiServer, Client, String) {
    let server = ApiServer::start(options);
    server.publish(&[&packages().package, &packages().other_customer, api_logger()]);
    let key = server.add("customer_123", "Pro");
    let client = Client::of(&server);
    (server, client, key)
}

/// The path of a package's download.
fn place(package: &Path) -> String {
    format!("{DOWNLOAD}/{}", package.file_name().unwrap().to_str().unwrap())
}

fn get(client: &Client, url: &str) -> File {
    client.fetch(|http| http.get(url))
}

fn refused(file: &File) -> (u16, String) {
    (file.status, file.kind())
}

fn no(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

#[test]
fn a_download_is_the_file_that_was_built() {
    let (server, client, key) = published(&[]);
    let built = std::fs::read(&packages().package).unwrap();
    let url = client.download_url(&key, "console-logger");
    let by_key = format!("{}{}", server.url(), place(&packages().package));
    let check = |file: File| {
        assert_eq!(file.status, 200);
        assert_eq!(file.header("content-length"), built.len().to_string());
        assert_eq!(file.header("content-type"), "application/vnd.kilometers.kmpkg");
        assert_eq!(file.header("accept-ranges"), "bytes");
        assert_eq!(file.header("cache-control"), "private, max-age=3600, immutable");
        let name = packages().package.file_name().unwrap().to_str().unwrap();
        assert_eq!(file.header("content-disposition"), format!("attachment; filename=\"{name}\""));
        assert!(file.header("etag").starts_with('"') && file.header("etag").len() == 66);
        assert_eq!(file.header("x-request-id").len(), 32);
        file.bytes
    };
    assert!(check(get(&client, &url)) == built);
    assert!(check(client.fetch(|http| http.get(&by_key).bearer_auth(&key))) == built);
    assert!(check(client.fetch(|http| http.head(&url))).is_empty());
    assert!(check(client.fetch(|http| http.head(&by_key).bearer_auth(&key))).is_empty());
    let posted = client.fetch(|http| http.post(&url));
    assert_eq!(refused(&posted), no(405, "method-not-allowed"));
    let counted = client.open("/metrics").text;
    for line in [
        "km_downloads_total 2".to_owned(),
        format!("km_downloaded_bytes_total {}", built.len() * 2),
        "km_provisions_total 1".to_owned(),
    ] {
        assert!(counted.lines().any(|found| found == line), "{line}\n{counted}");
    }
}

#[test]
fn parts_are_those_of_the_file() {
    let (_server, client, key) = published(&[]);
    let built = std::fs::read(&packages().package).unwrap();
    let size = built.len();
    let url = client.download_url(&key, "console-logger");
    let ask = |range: &str| client.fetch(|http| http.get(&url).header("range", range));
    // Across the pieces that it lies in: its head ends within the first 10,000 bytes.
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=0-9999".to_owned(), 0, 10_000),
        ("bytes=1-".to_owned(), 1, size),
        ("bytes=0-".to_owned(), 0, size),
        (format!("bytes={}-{}", size / 2, size / 2 + 200_000), size / 2, size / 2 + 200_001),
        (format!("bytes={}-", size - 1), size - 1, size),
        (format!("bytes={}-{}", size - 5, size + 5), size - 5, size),
        ("bytes=-1".to_owned(), size - 1, size),
        ("bytes=-70000".to_owned(), size - 70_000, size),
        (format!("bytes=-{}", size * 2), 0, size),
    ] {
        let part = ask(&range);
        assert_eq!((part.status, part.bytes.len()), (206, end - start), "{range}");
        assert!(part.bytes == built[start..end], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
        assert_eq!(part.header("content-length"), (end - start).to_string());
    }
    for range in [format!("bytes={size}-"), "bytes=-0".to_owned(), "bytes=99999999999999999999-".to_owned()] {
        let none = ask(&range);
        assert_eq!(refused(&none), no(416, "unsatisfiable-range"), "{range}");
        assert_eq!(none.header("content-range"), format!("bytes */{size}"));
    }
    for range in ["bytes=0-1,5-6", "bytes=5-2", "lines=1-2", "bytes=x"] {
        let whole = ask(range);
        assert!(whole.status == 200 && whole.bytes == built, "{range}");
    }
    let head = client.fetch(|http| http.head(&url).header("range", "bytes=0-0"));
    assert_eq!((head.status, head.header("content-length")), (200, &*size.to_string()));
}

#[test]
fn what_a_client_has_is_not_sent_again() {
    let (_server, client, key) = published(&[]);
    let url = client.download_url(&key, "console-logger");
    let etag = get(&client, &url).header("etag").to_owned();
    let ask = |headers: &[(&str, &str)]| {
        let add = |request: RequestBuilder, &(name, value): &(&str, &str)| request.header(name, value);
        client.fetch(|http| headers.iter().fold(http.get(&url), add))
    };
    let range = ("range", "bytes=0-0");
    for known in [&*etag, "*", &format!("\"x\", W/{etag}")] {
        let same = ask(&[("if-none-match", known), range]);
        assert_eq!((same.status, same.bytes.len(), same.header("etag")), (304, 0, &*etag), "{known}");
    }
    assert_eq!(ask(&[("if-none-match", "\"x\"")]).status, 200);
    assert_eq!(ask(&[("if-range", &etag), range]).status, 206);
    for other in ["\"x\"", &format!("W/{etag}"), "Sun, 22 Nov 2026 00:00:00 GMT"] {
        assert_eq!(ask(&[("if-range", other), range]).status, 200, "{other}");
    }
    // The same with another URL for the same bytes, not with that of another package.
    let again = client.download_url(&key, "console-logger");
    let other = client.download_url(&key, "api-logger");
    let known = |url: &str| client.fetch(|http| http.get(url).header("if-none-match", &etag)).status;
    assert_eq!((known(&again), known(&other)), (304, 200));
}

#[test]
fn a_url_that_was_altered_is_good_for_nothing() {
    let (server, client, key) = published(&[]);
    let others = server.add("other_customer", "Pro");
    let url = client.download_url(&key, "console-logger");
    let other = client.download_url(&key, "api-logger");
    let file = |package: &Path| place(package).rsplit_once('/').unwrap().1.to_owned();
    let expires = parameter(&url, "expires");
    let later = format!("expires={}", expires.parse::<u64>().unwrap() + 1);
    let signature = parameter(&url, "signature");
    let replaced = |from: &str, to: &str| {
        assert!(url.contains(from), "{from}");
        url.replace(from, to)
    };
    for altered in [
        replaced(&file(&packages().package), &file(api_logger())),
        replaced(&file(&packages().package), &file(&packages().other_customer)),
        replaced(&file(&packages().package), "km-plugin-console-logger-000000000000.kmpkg"),
        replaced("customer=customer_123", "customer=other_customer"),
        replaced("customer=customer_123", "customer=nobody"),
        replaced("customer=customer_123", "customer=.."),
        replaced(&format!("expires={expires}"), &later),
        replaced(&format!("expires={expires}"), "expires=99999999999999999999"),
        replaced(&format!("expires={expires}"), "expires=1"),
        replaced("&key=", "&key=x"),
        replaced(signature, parameter(&other, "signature")),
        replaced(signature, &signature[1..]),
        replaced(signature, &format!("A{}", &signature[1..])),
        replaced(signature, ""),
        replaced(&format!("&expires={expires}"), ""),
        replaced("customer=customer_123&", ""),
        replaced(&format!("&key={}", parameter(&url, "key")), ""),
    ] {
        assert_eq!(refused(&get(&client, &altered)), no(403, "invalid-url"), "{altered}");
        // A good key beside it does not help.
        assert_eq!(client.fetch(|http| http.get(&altered).bearer_auth(&others)).status, 403);
    }
    assert_eq!(get(&client, &url).status, 200);
    assert!(!server.log().contains(signature) && !server.log().contains("expires="), "{}", server.log());
    // Without a signature, a key is asked for.
    let unsigned = url.split_once('?').unwrap().0;
    assert_eq!(refused(&get(&client, unsigned)), no(401, "invalid-key"));
    assert_eq!(refused(&get(&client, &url.replace("signature", "x"))), no(401, "invalid-key"));
}

fn parameter<'a>(url: &'a str, name: &str) -> &'a str {
    let query = url.split_once('?').unwrap().1;
    let find = |parameter: &'a str| parameter.split_once('=').filter(|(found, _)| *found == name);
    query.split('&').find_map(find).unwrap().1
}

#[test]
fn a_url_ends() {
    let (_server, client, key) = published(&["--url-lifetime", "1s"]);
    let url = client.download_url(&key, "console-logger");
    let mut last = None;
    wait_until("its time is over", || {
        let answer = get(&client, &url);
        let over = answer.status != 200;
        last = Some(refused(&answer));
        over
    });
    assert_eq!(last, Some(no(403, "expired-url")));
}

#[test]
fn a_key_is_good_for_what_its_customer_may_have_now() {
    let (server, client, key) = published(&[]);
    let others = server.add("other_customer", "Pro");
    let ask = |path: &str, key: &str| {
        let url = format!("{}{path}", server.url());
        refused(&client.fetch(|http| http.get(url).bearer_auth(key)))
    };
    let (own, other, paid) = (&packages().package, &packages().other_customer, api_logger());
    let yes = (200, String::new());
    assert_eq!((ask(&place(own), &key), ask(&place(other), &others)), (yes.clone(), yes.clone()));
    assert_eq!(
        (ask(&place(own), &others), ask(&place(other), &key)),
        (no(404, "not-found"), no(404, "not-found"))
    );
    assert_eq!(ask(&place(own), UNKNOWN), no(401, "invalid-key"));
    for nothing in [
        "/x",
        "/..%2f..%2findex%2fcustomer_123.toml",
        "/km-plugin-console-logger-.kmpkg",
        "/%ff",
        "/",
        "/a/b",
    ] {
        assert_eq!(ask(&format!("{DOWNLOAD}{nothing}"), &key), no(404, "not-found"), "{nothing}");
    }

    assert_eq!(ask(&place(paid), &key), yes);
    let signed = client.download_url(&key, "api-logger");
    server.customers(&["set-tier", "customer_123", "Free"]).expect(0);
    assert_eq!((ask(&place(paid), &key), ask(&place(own), &key)), (no(404, "not-found"), yes));
    server.customers(&["suspend", "customer_123"]).expect(0);
    assert_eq!(ask(&place(own), &key), no(403, "inactive"));
    // What was granted before is good for its hour.
    assert_eq!(get(&client, &signed).status, 200);
}

#[test]
fn what_is_not_published_any_more_is_not_served() {
    let (server, client, key) = published(&[]);
    let url = client.download_url(&key, "console-logger");
    let restamped = packages().build("console-logger", "customer_123", "Enterprise");
    server.publish(&[&restamped]);
    assert_eq!(refused(&get(&client, &url)), no(403, "invalid-url"));
    let old = format!("{}{}", server.url(), place(&packages().package));
    assert_eq!(refused(&client.fetch(|http| http.get(&old).bearer_auth(&key))), no(404, "not-found"));
    let url = client.download_url(&key, "console-logger");
    assert!(get(&client, &url).bytes == std::fs::read(restamped).unwrap());
}

#[test]
fn twenty_at_once_get_the_same_bytes() {
    let (server, client, key) = published(&[]);
    let built = std::fs::read(&packages().package).unwrap();
    let url = client.download_url(&key, "console-logger");
    // One that has nothing in memory yet.
    let fresh = server.beside(&[]);
    let url = url.replace(&server.url(), &fresh.url());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let file = get(&Client::of(&fresh), &url);
                assert!(file.status == 200 && file.bytes == built);
            });
        }
    });
}

#[test]
fn a_package_that_is_not_there_as_a_whole_is_not_begun() {
    let (original, client, key) = published(&[]);
    let url = client.download_url(&key, "console-logger");
    let built = std::fs::read(&packages().package).unwrap();
    let frames = Path::new(original.store()).join("frames");
    let largest = std::fs::read_dir(frames).unwrap().flatten().map(|frame| frame.path());
    let largest = largest.filter(|frame| holds(&built, &std::fs::read(frame).unwrap()));
    let frame = largest.max_by_key(|frame| std::fs::metadata(frame).unwrap().len()).unwrap();
    let bytes = std::fs::read(&frame).unwrap();
    let mut changed = bytes.clone();
    changed[100] ^= 1;
    for damage in [None, Some(&bytes[..100]), Some(&changed)] {
        match damage {
            None => std::fs::remove_file(&frame).unwrap(),
            Some(bytes) => std::fs::write(&frame, bytes).unwrap(),
        }
        let server = original.beside(&[]);
        let (client, url) = (Client::of(&server), url.replace(&original.url(), &server.url()));
        assert_eq!(refused(&get(&client, &url)), no(503, "unavailable"));
        assert!(server.log().contains(frame.file_name().unwrap().to_str().unwrap()), "{}", server.log());
        std::fs::write(&frame, &bytes).unwrap();
        assert!(get(&client, &url).bytes == built);
    }
}

fn holds(whole: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_url_is_good_at_every_server_of_the_same_database() {
    let (mut one, client, key) = published(&[]);
    let two = one.beside(&[]);
    let at = |url: &str, server: &ApiServer| {
        let path = url.splitn(4, '/').nth(3).unwrap();
        get(&Client::of(server), &format!("{}/{path}", server.url())).status
    };
    let url = client.download_url(&key, "console-logger");
    assert_eq!((at(&url, &one), at(&url, &two)), (200, 200));
    one.stop();
    one.run();
    assert_eq!(at(&url, &one), 200);

    // A rotation goes for URLs, too: those of the key before hold, and the others know the new key at once.
    let third = one.beside(&["--rotate-token-key"]);
    let newer = Client::of(&third).download_url(&key, "console-logger");
    assert_ne!(parameter(&newer, "key"), parameter(&url, "key"));
    for server in [&one, &two, &third] {
        wait_until("it knows the new key", || at(&newer, server) == 200);
        assert_eq!(at(&url, server), 200);
    }
    let fourth = one.beside(&["--rotate-token-key"]);
    assert_eq!((at(&url, &fourth), at(&newer, &fourth)), (403, 200));

    // Other keys, other signatures.
    let stranger = ApiServer::with_store(one.store(), &[], &[]);
    assert_eq!(at(&url, &stranger), 403);
}

#[test]
fn the_base_of_urls_is_what_clients_can_reach() {
    let (server, client, key) = published(&[]);
    let base = |client: &Client, headers: &[(&str, &str)]| {
        let body = serde_json::json!({
            "platform": km_package::platform::Platform::current().unwrap(), "plugins": ["console-logger"]
        });
        let answer = client.send(|http, url| {
            let request = http.post(format!("{url}/api/plugins/provision")).bearer_auth(&key);
            headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).body(body.to_string())
        });
        let url = answer.ok()["plugins"][0]["download_url"].as_str().unwrap().to_owned();
        url.split_once(DOWNLOAD).unwrap().0.to_owned()
    };
    assert_eq!(base(&client, &[]), server.url());
    assert_eq!(base(&client, &[("host", "plugins.example:8443")]), "http://plugins.example:8443");
    let proxied = [("host", "plugins.example"), ("x-forwarded-proto", "https")];
    assert_eq!(base(&client, &proxied), "https://plugins.example");
    assert_eq!(
        base(&client, &[("host", "plugins.example"), ("x-forwarded-proto", "gopher")]),
        "http://plugins.example"
    );
    for strange in ["u@evil.example", "evil.example/x", "x:y"] {
        assert_eq!(base(&client, &[("host", strange)]), server.url(), "{strange}");
    }
    let public = server.beside(&["--public-url", "https://plugins.example/km/"]);
    assert_eq!(base(&Client::of(&public), &proxied[..1]), "https://plugins.example/km");
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let (server, client, key) = published(&[]);
    let url = client.download_url(&key, "console-logger");
    let path = url.splitn(4, '/').nth(3).unwrap();
    for _ in 0..5 {
        let mut raw = Raw::to(&server.url());
        raw.head("GET", &format!("/{path}"), "", "");
        let mut first = [0; 100];
        raw.0.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 "));
    }
    wait_until("their connections are gone", || client.open("/metrics").text.contains("km_connections 1\n"));
    assert_eq!(get(&client, &url).status, 200);
}

#[test]
fn a_download_that_has_begun_is_finished_when_the_server_is_to_stop() {
    let (mut server, client, key) = published(&[]);
    let url = client.download_url(&key, "api-logger");
    let path = url.splitn(4, '/').nth(3).unwrap();
    let mut raw = Raw::to(&server.url());
    raw.head("GET", &format!("/{path}"), "", "");
    let mut bytes = vec![0; 100];
    raw.0.read_exact(&mut bytes).unwrap();
    signal_to(server.pid(), rustix::process::Signal::TERM);
    let address = server.url().split_once("://").unwrap().1.to_owned();
    wait_until("nobody else is let in", || TcpStream::connect(&address).is_err());
    raw.0.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(&std::fs::read(api_logger()).unwrap()));
    server.stop();
}
