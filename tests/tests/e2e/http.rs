//! `km monitor --http` is invisible: bytes, timing, ends and errors are those of the upstream.

mod peers;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use km_tests::{Mode, TestEnvironment, alive, binary, descendants, wait_until};

use self::peers::{Proxied, connect, get, json, post, read_to_end, read_until, upstream};
use crate::lifecycle::plugin_process;

/// A request, its last bytes, and the response after which the upstream closes.
type Case = (&'static str, &'static str, &'static str);

/// Header names in all cases, values that repeat, unknown ones, non-ASCII ones.
const ZOO: &str = "POST /mcp/a%20b?x=1&y=%2F#z HTTP/1.1\r\nHost: HOST\r\naccept: application/json, text/event-stream\r\n\
     MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nmcp-name: =?base64?w6Q=?=\r\n\
     Mcp-Param-Region: eu\r\nX-Two: 1\r\nAuthorization: Bearer abc.def\r\nx-two: 2\r\nX-EMPTY: \r\n\
     Origin: http://localhost:6274\r\nLast-Event-ID: 17\r\nCookie: a=b; c=d\r\nX-Latin: \u{e4}\u{f6}\r\n\
     TE: trailers\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

const CASES: [Case; 18] = [
    (
        ZOO,
        "{}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\nDATE: never\r\n\
     Set-Cookie: a=1; HttpOnly\r\nMcp-Session-Id: abc\r\nset-cookie: b=2\r\nX-Accel-Buffering: no\r\nVary: *\r\n\r\n[]",
    ),
    // Notifications, and what servers answer to them.
    (
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n{}",
        "{}",
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    ),
    ("POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n{}", "{}", "HTTP/1.1 202 \r\n\r\n"),
    // The end of a session.
    (
        "DELETE /mcp HTTP/1.1\r\nHost: HOST\r\nMcp-Session-Id: 1\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    ),
    (
        "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAllow: GET, POST\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "BREW /pot HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 5\r\n\r\nshort",
    ),
    // Errors, redirects and pages are the client's business.
    (
        "GET /x HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "GET /x HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer resource_metadata=\"x\"\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    ),
    (
        "GET /x HTTP/1.1\r\nHost: HOST\r\nIf-None-Match: a\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 1000\r\n\r\n",
    ),
    ("HEAD /x HTTP/1.1\r\nHost: HOST\r\n\r\n", "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    // Bodies in chunks, with all that belongs to them.
    (
        "POST /x HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1;a=b\r\n{\r\n01\r\n}\r\n0\r\nX-Sum: 1\r\n\r\n",
        "X-Sum: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\nA;x\r\n0123456789\r\n1\r\n\n\r\n0\r\nX-Sum: 2\r\nX-More: 3\r\n\r\n",
    ),
    (
        "GET /mcp HTTP/1.1\r\nHost: HOST\r\nAccept: text/event-stream\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n: hello\n\n\r\n0\r\n\r\n",
    ),
    // Without a length: until the connection ends.
    (
        "GET /mcp HTTP/1.0\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2",
    ),
    // What announces a response.
    (
        "POST /x HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "{}",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
    // What is compressed stays so.
    (
        "POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "{}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    ),
    (
        "POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "{}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n??",
    ),
    // Cut short: the client sees it as it was.
    (
        "GET /x HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    ),
    (
        "GET /x HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ),
];

/// What the upstream and what the client has seen, in hexadecimal where it is no text.
type Seen = (Vec<u8>, Vec<u8>);

#[test]
fn what_passes_is_the_same_on_both_sides() {
    let environment = TestEnvironment::with_console_logger();
    for (request, end, response) in CASES {
        let (requests, seen) = mpsc::channel();
        let address = upstream(move |mut stream| {
            requests.send(read_until(&mut stream, end)).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        });
        // The same words for both: the upstream's own name.
        let request = request.replace("HOST", &address.to_string());
        let ask = |to: SocketAddr| -> Seen {
            let mut stream = connect(to);
            stream.write_all(request.as_bytes()).unwrap();
            let response = read_to_end(&mut stream);
            (seen.recv_timeout(Duration::from_secs(30)).unwrap(), response)
        };
        let proxied = Proxied::start(&environment, &[], address);
        let (direct, through) = (ask(address), ask(proxied.address));
        let text = |(request, response): &Seen| {
            (String::from_utf8_lossy(request).into_owned(), String::from_utf8_lossy(response).into_owned())
        };
        assert_eq!(text(&direct), text(&through));
        assert!(direct == through && direct.1 == response.as_bytes());
        proxied.stop();
    }
}

#[test]
fn the_upstream_sees_its_own_host_and_the_path_goes_on_where_its_url_ends() {
    let address = upstream(|mut stream| {
        let seen = read_until(&mut stream, "\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        stream.write_all(&seen).unwrap();
    });
    let environment = TestEnvironment::empty();
    let proxied = Proxied::before(&environment, &["--no-plugins"], &format!("http://{address}/base"));
    for (asked, target) in [("/", "/base"), ("/?a", "/base?a"), ("/x/../y?a=%00", "/base/x/../y?a=%00")] {
        let mut client = proxied.connect();
        let head = "X-Before: 1\r\nhOST: localhost:1\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nUpgrade: h2c\r\nProxy-Authorization: x\r\nForwarded: for=me\r\n";
        client.write_all(format!("GET {asked} HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
        let expected = format!(
            "GET {target} HTTP/1.1\r\nX-Before: 1\r\nhOST: {address}\r\nConnection: close\r\nForwarded: for=me\r\n\r\n"
        );
        let seen = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert_eq!(seen, format!("HTTP/1.1 200 OK\r\n\r\n{expected}"));
    }
    proxied.stop();
}

#[test]
fn each_piece_is_passed_on_before_the_next_is_there() {
    let environment = TestEnvironment::with_console_logger();
    // Each side sends the next piece only when it has the one before.
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        for n in 0..50 {
            let piece = read_until(&mut stream, "\r\n");
            assert_eq!(piece, b"1\r\n");
            assert_eq!(read_until(&mut stream, "\r\n"), b"x\r\n");
            stream.write_all(format!("data: {n}").as_bytes()).unwrap();
            read_until(&mut stream, "1\r\ny\r\n");
            stream.write_all(b"\n\n").unwrap();
        }
    });
    let proxied = Proxied::start(&environment, &[], address);
    let mut client = proxied.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    read_until(&mut client, "\r\n\r\n");
    for n in 0..50 {
        client.write_all(b"1\r\nx\r\n").unwrap();
        assert_eq!(read_until(&mut client, &n.to_string()), format!("data: {n}").into_bytes());
        client.write_all(b"1\r\ny\r\n").unwrap();
        assert_eq!(read_until(&mut client, "\n\n"), b"\n\n");
    }
    let _ = client.write_all(b"0\r\n\r\n");
    assert_eq!(read_to_end(&mut client), b"");
    proxied.stop();
}

#[test]
fn a_client_that_leaves_is_gone_for_the_upstream_at_once() {
    let (ended, end) = mpsc::channel();
    let address = upstream(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        ended.send(stream.read(&mut [0]).map_err(|e| e.kind())).unwrap();
    });
    let environment = TestEnvironment::empty();
    let proxied = Proxied::start(&environment, &["--no-plugins"], address);
    for reset in [false, true] {
        let mut client = proxied.connect();
        get(&mut client, "/mcp");
        read_until(&mut client, "data: 1\n\n");
        if reset {
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        }
        let left = Instant::now();
        drop(client);
        let seen = end.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(matches!(seen, Ok(0) | Err(ErrorKind::ConnectionReset)), "{seen:?}");
        assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
    }
    proxied.stop();
}

#[test]
fn a_client_that_sends_no_more_still_hears_the_answer() {
    let address = upstream(|mut stream| {
        read_to_end(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let mut client = proxied.connect();
    get(&mut client, "/");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_to_end(&mut client).ends_with(b"ok"));
    proxied.stop();
}

#[test]
fn an_upstream_that_breaks_off_gives_no_end_that_looks_clean() {
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        // Its end is the end of the connection: only a reset says that it is not whole.
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        read_until(&mut stream, "go\r\n");
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    let environment = TestEnvironment::empty();
    let proxied = Proxied::start(&environment, &["--no-plugins"], address);
    for to in [address, proxied.address] {
        let mut client = connect(to);
        get(&mut client, "/");
        read_until(&mut client, "data: 1\n\n");
        client.write_all(b"POST /go HTTP/1.1\r\nHost: localhost\r\nX: go\r\n").unwrap();
        if to == proxied.address {
            // Only whole heads are passed on.
            client.write_all(b"\r\n").unwrap();
        }
        let end = client.read(&mut [0]).map_err(|e| e.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    }
    proxied.stop();
}

#[test]
fn no_request_is_sent_twice_and_idle_connections_end_with_the_upstream_s() {
    let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, opened) = (Arc::clone(&requests), Arc::clone(&connections));
    let address = upstream(move |mut stream| {
        opened.fetch_add(1, Ordering::Relaxed);
        for n in 0..3 {
            read_until(&mut stream, "{}");
            // The third is heard and not answered.
            if asked.fetch_add(1, Ordering::Relaxed) + 1 + n < 5 {
                stream.write_all(json("[]").as_bytes()).unwrap();
            }
        }
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let mut client = proxied.connect();
    // Two at once, on the same connection.
    client.write_all([post("{}"), post("{}")].concat().as_bytes()).unwrap();
    read_until(&mut client, "[]");
    read_until(&mut client, "[]");
    client.write_all(post("{}").as_bytes()).unwrap();
    assert_eq!(read_to_end(&mut client), b"", "the connection ends, and nothing is made up");
    assert_eq!((requests.load(Ordering::Relaxed), connections.load(Ordering::Relaxed)), (3, 1));
    proxied.stop();
}

#[test]
fn who_does_not_read_holds_up_who_sends() {
    let (progress, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, up) = (Arc::clone(&progress), Arc::clone(&written));
    const ALL: usize = 100 << 20;
    let address = upstream(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {ALL}\r\n\r\n").as_bytes()).unwrap();
        for _ in 0..ALL >> 16 {
            stream.write_all(&[b'x'; 1 << 16]).unwrap();
            count.fetch_add(1 << 16, Ordering::Relaxed);
        }
        up.store(1, Ordering::Relaxed);
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let mut client = proxied.connect();
    get(&mut client, "/");
    let mut before = usize::MAX;
    let mut checked = Instant::now();
    wait_until("the upstream is blocked", || {
        if checked.elapsed() < Duration::from_millis(300) {
            return false;
        }
        checked = Instant::now();
        let now = progress.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(before < ALL / 2, "{before} bytes went nowhere");
    read_until(&mut client, "\r\n\r\n");
    let mut body = vec![0; ALL];
    client.read_exact(&mut body).unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'));
    wait_until("all is written", || written.load(Ordering::Relaxed) == 1);
    proxied.stop();
}

#[test]
fn bodies_of_100_mib_pass_in_both_directions_in_little_memory() {
    const ALL: usize = 100 << 20;
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {ALL}\r\n\r\n").as_bytes()).unwrap();
        // An echo.
        let mut from = stream.try_clone().unwrap().take(ALL as u64);
        std::io::copy(&mut from, &mut stream).unwrap();
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let mut client = proxied.connect();
    let mut writer = client.try_clone().unwrap();
    let body: Vec<u8> = (0..ALL).map(|n| (n / 7) as u8).collect();
    let sent = body.clone();
    let writing = std::thread::spawn(move || {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {ALL}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&sent).unwrap();
    });
    read_until(&mut client, "\r\n\r\n");
    let mut received = vec![0; ALL];
    client.read_exact(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == body);
    let peak = memory(proxied.session.pid());
    assert!(peak < 40 << 10, "{peak} KiB");
    proxied.stop();
}

/// The most that a process had resident, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_upstream_that_cannot_be_reached_is_a_502_and_said_once() {
    // A port that nobody has.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    for _ in 0..3 {
        let mut client = proxied.connect();
        get(&mut client, "/");
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(answer.contains("cannot be reached: Connection refused"), "{answer}");
    }
    let said = proxied.stop();
    assert_eq!(said.matches("cannot be reached").count(), 1, "{said}");
}

#[test]
fn what_is_no_http_and_what_is_for_another_host_goes_no_further() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = upstream(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: 1\r\n".repeat(300));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "400"),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nA : b\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
        ),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        ("\u{16}\u{3}\u{1}\0", "400"),
        (&long, "431"),
        (&many, "400"),
    ] {
        let mut client = proxied.connect();
        client.write_all(request.as_bytes()).unwrap();
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.99}: {answer}");
        assert!(answer.contains("\r\n\r\nkm: "), "{answer}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    proxied.stop();
}

#[test]
fn a_response_that_is_no_http_is_a_502() {
    for (response, why) in [
        ("hello\r\n\r\n", "no HTTP/1"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "cannot be passed on"),
    ] {
        let address = upstream(move |mut stream| {
            read_until(&mut stream, "\r\n\r\n");
            stream.write_all(response.as_bytes()).unwrap();
        });
        let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
        let mut client = proxied.connect();
        get(&mut client, "/");
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(why), "{answer}");
        proxied.stop();
    }
}

#[test]
fn an_upstream_with_a_certificate_is_checked() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
    let config = Arc::new(config);
    let address = upstream(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            request.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(&request).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let url = format!("https://localhost:{}", address.port());
    let environment = TestEnvironment::empty();
    let ask = || {
        let proxied = Proxied::before(&environment, &["--no-plugins"], &url);
        let mut client = proxied.connect();
        get(&mut client, "/mcp");
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        proxied.stop();
        answer
    };
    let refused = ask();
    assert!(refused.starts_with("HTTP/1.1 502 ") && refused.contains("certificate"), "{refused}");
    let trusted = environment.path("upstream.pem");
    std::fs::write(&trusted, made.cert.pem()).unwrap();
    environment.configure("http://localhost:1", "", &format!("api_certificates = {trusted:?}"));
    let answer = ask();
    let port = address.port();
    assert!(answer.ends_with(&format!("GET /mcp HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")), "{answer}");
}

#[test]
fn connections_without_number_are_turned_away() {
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let proxied = Proxied::start(&TestEnvironment::empty(), &["--no-plugins"], address);
    let open: Vec<TcpStream> = (0..400).map(|_| proxied.connect()).collect();
    let ask = || {
        let mut client = proxied.connect();
        get(&mut client, "/");
        String::from_utf8(read_to_end(&mut client)).unwrap()
    };
    let answer = ask();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections"), "{answer}");
    drop(open);
    wait_until("there is room again", || ask().starts_with("HTTP/1.1 204 "));
    proxied.stop();
}

/// Answers each JSON body with a JSON body, a GET with a stream of events.
fn mcp() -> SocketAddr {
    upstream(|mut stream| {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            if head.starts_with("GET") {
                let events = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/one\"}\n\n: ping\n\n\
                     event: message\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"method\":\"notifications/two\"}\r\n\r\n\
                     event: ping\ndata: {}\n\ndata: {\"cut\":";
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
                    .unwrap();
                return stream.write_all(events.as_bytes()).unwrap();
            }
            let length = head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let kind = if head.contains("/page") { "text/html" } else { "Application/JSON; charset=utf-8" };
            let answer = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}";
            let length = answer.len();
            stream
                .write_all(
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{answer}"
                    )
                    .as_bytes(),
                )
                .unwrap();
        }
    })
}

#[test]
fn plugins_see_what_is_a_message_in_its_order_and_direction() {
    let environment = TestEnvironment::with_console_logger();
    let proxied = Proxied::start(&environment, &[], mcp());
    assert!(
        descendants(proxied.session.pid()).len() == 1,
        "the guard alone: no plugin before the first message"
    );
    let mut client = proxied.connect();
    let call = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"}";
    client.write_all(post(call).as_bytes()).unwrap();
    read_until(&mut client, "{}}");
    // Neither a form nor what answers it, nor a page.
    client.write_all(b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 8\r\n\r\nsecret=1").unwrap();
    read_until(&mut client, "{}}");
    client
        .write_all(post(call).replace("/mcp", "/page").replace("tools/call", "tools/page").as_bytes())
        .unwrap();
    read_until(&mut client, "{}}");
    get(&mut client, "/mcp");
    read_to_end(&mut client);
    let report = || proxied.session.plugin(&environment, "console-logger");
    wait_until("all are delivered", || report()["delivered"] == 5);
    let said = proxied.stop();
    let lines: Vec<String> = said
        .lines()
        .filter_map(|line| Some(line.strip_prefix("[console-logger] ")?.split_once(' ')?.1.to_owned()))
        .filter(|line| line.contains("bound"))
        .collect();
    let expected = [
        "inbound  tools/call id=1 46 B",
        "outbound result id=1 36 B",
        "inbound  tools/page id=1 46 B",
        "outbound notifications/one 46 B",
        "outbound notifications/two 47 B",
    ];
    assert_eq!(lines, expected, "{said}");
}

#[test]
fn plugins_that_die_sleep_or_fail_change_nothing() {
    for mode in [Mode::AnswersLate, Mode::Crashes, Mode::ExitsEarly, Mode::FloodsStderr] {
        let environment = TestEnvironment::empty();
        environment.allow(&binary("misbehaving"), mode.name());
        let proxied = Proxied::start(&environment, &[], mcp());
        let mut client = proxied.connect();
        let begun = Instant::now();
        for _ in 0..100 {
            client.write_all(post("{}").as_bytes()).unwrap();
            let answer = read_until(&mut client, "{}}");
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON"));
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "{mode:?}: {:?}", begun.elapsed());
        let ending = Instant::now();
        proxied.stop();
        assert!(ending.elapsed() < Duration::from_secs(8), "{mode:?}: {:?}", ending.elapsed());
    }
}

#[test]
fn a_signal_lets_what_is_open_end_and_a_second_one_does_not() {
    let finish = Arc::new(Mutex::new(Vec::new()));
    let streams = Arc::clone(&finish);
    let address = upstream(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").unwrap();
        streams.lock().unwrap().push(stream);
    });
    let environment = TestEnvironment::empty();
    let open = |proxied: &Proxied| {
        let mut client = proxied.connect();
        get(&mut client, "/");
        read_until(&mut client, "\r\n\r\na");
        client
    };
    // One ends within its time.
    let proxied = Proxied::start(&environment, &["--no-plugins"], address);
    let (mut client, idle) = (open(&proxied), proxied.connect());
    proxied.signal(rustix::process::Signal::TERM);
    wait_until("nobody is let in any more", || TcpStream::connect(proxied.address).is_err());
    wait_until("the upstream has it", || !finish.lock().unwrap().is_empty());
    finish.lock().unwrap().remove(0).write_all(b"b").unwrap();
    let mut last = [0];
    client.read_exact(&mut last).unwrap();
    assert_eq!(&last, b"b");
    drop((client, idle));
    proxied.ended();
    // One does not: a second later it is cut, and a second signal does not wait for that.
    for (signals, least) in [(1, 1000), (2, 0)] {
        let proxied = Proxied::start(&environment, &["--no-plugins"], address);
        let mut client = open(&proxied);
        let asked = Instant::now();
        proxied.signal(rustix::process::Signal::INT);
        if signals == 2 {
            wait_until("nobody is let in any more", || TcpStream::connect(proxied.address).is_err());
            proxied.signal(rustix::process::Signal::HUP);
        }
        assert_eq!(read_to_end(&mut client), b"", "it is cut");
        proxied.ended();
        let taken = asked.elapsed();
        assert!(taken >= Duration::from_millis(least) && taken < Duration::from_secs(8), "{taken:?}");
    }
}

#[test]
fn killing_km_leaves_nothing_behind_here_either() {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("misbehaving"), Mode::Forks.name());
    let mut proxied = Proxied::start(&environment, &[], mcp());
    let mut client = proxied.connect();
    client.write_all(post("{}").as_bytes()).unwrap();
    read_until(&mut client, "{}}");
    plugin_process(&proxied.session);
    wait_until("the plugin has its child", || proxied.said().contains("[forks] stray "));
    let said = proxied.said();
    let pid = |what: &str| -> u32 {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("[forks] {what} ")));
        line.unwrap().trim().parse().unwrap()
    };
    let stray = pid("stray");
    let family: Vec<u32> =
        descendants(proxied.session.pid()).into_iter().filter(|member| *member != stray).collect();
    assert!(family.contains(&pid("child")));
    proxied.session.child.kill().unwrap();
    proxied.session.child.wait().unwrap();
    wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
    // What left its plugin's process group is nobody's any more, as with a server on stdio.
    let stray = rustix::process::Pid::from_raw(stray as i32).unwrap();
    let _ = rustix::process::kill_process(stray, rustix::process::Signal::KILL);
}

#[test]
fn the_arguments_of_one_kind_of_session_do_not_go_with_the_other() {
    let environment = TestEnvironment::empty();
    for arguments in [
        &["monitor", "--http", ":0"][..],
        &["monitor", "--upstream", "http://localhost"],
        &["monitor", "--http", ":0", "--upstream", "http://localhost", "--", "cat"],
        &["monitor", "--http", ":0", "--upstream", "localhost:80"],
        &["monitor", "--http", "example.com:80", "--upstream", "http://localhost"],
    ] {
        environment.km(arguments.iter().copied()).expect(2);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failed = environment.km(["monitor", "--http", &address, "--upstream", "http://localhost"]).expect(9);
    assert!(failed.stderr.contains(&format!("cannot listen on {address}")), "{}", failed.stderr);
}
