//! `Deliver`, with a plugin of the SDK in a process of its own: this program. Nothing here sleeps; every
//! test has a deadline.

mod author;
mod host;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use author::Way;
use go_plugin::host::{Grace, StoppedBy};
use host::{Ground, Stream, authenticate, in_pieces, initialize, message};
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient as Protocol1;
use km_proto::v1::{Empty, HandleMessageRequest, ShutdownRequest};
use km_proto::v2::{DeliverRequest, Direction, Exchange, Message};
use libtest_mimic::{Arguments, Trial};
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    if let Some(exit) = author::main() {
        return exit;
    }
    let trials = vec![
        trial("what_passed_is_what_the_author_sees", what_passed),
        trial("nothing_is_delivered_before_authentication_and_initialize", too_early),
        trial("ten_thousand_messages_arrive_in_order", many),
        trial("large_messages_come_in_pieces", pieces),
        trial("the_progress_of_a_slow_plugin_is_seen", slow),
        trial("what_a_crash_left_is_delivered_again", crash),
        trial("a_plugin_that_keeps_its_position_sees_each_message_once", position),
        trial("a_stream_that_was_cut_goes_on_where_it_was", cut_stream),
        trial("failures_are_told_and_count_as_handled", failures),
        trial("a_batch_is_all_that_came_meanwhile", batches),
        trial("a_batch_that_fails_fails_what_was_not_handled", failing_batch),
        trial("sessions_come_one_after_the_other", sessions),
        trial("access_that_ends_ends_the_stream", access),
        trial("a_plugin_that_is_asked_to_leave_says_how_far_it_came", leaving),
        trial("shutdown_waits_for_what_was_delivered", shutdown),
        trial("a_host_that_breaks_the_contract_is_told", broken),
        trial("protocol_1_brings_batches_of_one", protocol1),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn(Ground) -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(DEADLINE, test(Ground::new())).await })?;
        Ok(())
    })
}

async fn what_passed(ground: Ground) {
    let plugin = ground.begin(Way::Messages).await;
    let mut stream = Stream::open(&plugin, "s").await;
    assert_eq!((stream.first.acknowledged, stream.first.window), (0, 4 << 20));
    let request = Message {
        monotonic_ns: 5,
        kind: "request".to_owned(),
        method: "tools/call".to_owned(),
        id: "7".to_owned(),
        exchange: Some(Exchange { retry_of: 1, ..Exchange::default() }),
        ..message(3, "{}")
    };
    let answer = Message {
        direction: Direction::Outbound.into(),
        correlation_id: "3".to_owned(),
        kind: "result".to_owned(),
        method: "tools/call".to_owned(),
        exchange: Some(Exchange { request: 3, latency_ns: 9, cancelled: true, retry_of: 0 }),
        channel: "c".to_owned(),
        sha256: vec![0xab; 32].into(),
        size: 10,
        ..message(4, "{}")
    };
    stream.send(vec![request, answer, Message { kind: "later".to_owned(), ..message(5, "") }]).await;
    stream.wait_for(5).await;
    let seen = ground.seen();
    for (line, expected) in [
        (0, "s 3 2 "),
        (0, "session: Some(SessionId(\"s\")), sequence: 3, received: SystemTime { tv_sec: 1795305600"),
        (0, "elapsed: Some(5ns), direction: Inbound, correlation_id: \"3\", request: None, latency: None"),
        (0, "retry_of: Some(1), channel: None, body: Bytes(b\"{}\")"),
        (0, "kind: Request, method: Some(\"tools/call\"), id: Some(\"7\")"),
        (
            1,
            "direction: Outbound, correlation_id: \"3\", request: Some(3), latency: Some(9ns), cancelled: true",
        ),
        (1, "channel: Some(\"c\"), body: Cut { first: b\"{}\", size: 10, sha256: \"abab"),
        (1, "kind: Result, method: Some(\"tools/call\"), id: None"),
        (2, "body: Bytes(b\"\"), summary: Summary { kind: Other, method: None, id: None }"),
    ] {
        assert!(seen[line].contains(expected), "{expected}: {}", seen[line]);
    }
}

async fn too_early(ground: Ground) {
    let plugin = ground.start(Way::Messages).await;
    let refusal = async || Stream::try_open(plugin.channel(), "s").await.map(|_| ()).expect_err("refused");
    assert_eq!(refusal().await.code(), Code::Unauthenticated);
    assert!(authenticate(&plugin, "").await.authorized);
    assert_eq!(refusal().await.code(), Code::FailedPrecondition);
    assert!(initialize(&plugin).await.success);
    assert!(!authenticate(&plugin, "no token").await.authorized);
    assert_eq!(refusal().await.code(), Code::Unauthenticated);
    assert!(ground.seen().is_empty());
}

async fn many(ground: Ground) {
    let plugin = ground.begin(Way::Messages).await;
    let mut stream = Stream::open(&plugin, "s").await;
    for chunk in 0..10 {
        stream.send_numbers(chunk * 1000 + 1..=chunk * 1000 + 1000).await;
    }
    stream.half_close();
    stream.end().await.expect("no error");
    assert_eq!(stream.acknowledged, 10_000);
    assert_eq!(ground.numbers("s"), (1..=10_000).collect::<Vec<_>>());
}

async fn pieces(ground: Ground) {
    let plugin = ground.begin(Way::Messages).await;
    let mut stream = Stream::open(&plugin, "s").await;
    let data = |size: usize| (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    for (number, size) in [(1, MIB * 39 / 10), (2, 20 * MIB)] {
        for piece in in_pieces(message(number, data(size)), MIB) {
            stream.send(vec![piece]).await;
        }
        stream.wait_for(number).await;
        let digest = km_package::digest::Digest::of(&data(size)).prefix(8);
        let line = ground.seen().pop().expect("a line");
        assert!(line.starts_with(&format!("s {number} {size} {digest} ")), "{}", &line[..100]);
    }
    // All of it at once, and pieces that end with the stream.
    stream.send(vec![message(3, data(5 * MIB))]).await;
    stream.wait_for(3).await;
    stream.send(in_pieces(message(4, "abc"), 2)[..1].to_vec()).await;
    stream.half_close();
    assert_eq!(stream.end().await.expect_err("half a message").code(), Code::InvalidArgument);
    assert_eq!(ground.numbers("s"), [1, 2, 3]);
}

async fn slow(ground: Ground) {
    let plugin = ground.begin(Way::Waits).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=6).await;
    stream.wait_for(3).await;
    ground.open_the_door().await;
    stream.wait_for(6).await;
}

async fn crash(ground: Ground) {
    let plugin = ground.begin(Way::Dies).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=8).await;
    stream.end().await.expect_err("it died");
    let acknowledged = stream.acknowledged;
    assert!(acknowledged <= 4);
    plugin.wait().await;

    let plugin = ground.begin(Way::Dies).await;
    let mut stream = Stream::open(&plugin, "s").await;
    assert_eq!(stream.first.acknowledged, 0);
    stream.send_numbers(acknowledged + 1..=8).await;
    stream.wait_for(8).await;
    let expected: Vec<_> = (1..=4).chain(acknowledged + 1..=8).collect();
    assert_eq!(ground.numbers("s"), expected);
}

async fn position(ground: Ground) {
    let plugin = ground.begin(Way::DiesAndKnows).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=8).await;
    stream.end().await.expect_err("it died");
    plugin.wait().await;

    let plugin = ground.begin(Way::DiesAndKnows).await;
    let mut other = Stream::open(&plugin, "t").await;
    assert_eq!(other.first.acknowledged, 0);
    other.half_close();
    other.end().await.expect("no error");
    let mut stream = Stream::open(&plugin, "s").await;
    assert_eq!(stream.first.acknowledged, 5);
    // A host that does not listen changes nothing.
    stream.send_numbers(1..=8).await;
    stream.wait_for(8).await;
    assert_eq!(ground.numbers("s"), (1..=8).collect::<Vec<_>>());
}

async fn cut_stream(ground: Ground) {
    let plugin = ground.begin(Way::Waits).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=6).await;
    stream.wait_for(3).await;
    drop(stream);
    // The fourth is in work; the new stream is answered when that is done.
    let (mut stream, ()) = tokio::join!(Stream::open(&plugin, "s"), ground.open_the_door());
    assert!((4..=6).contains(&stream.first.acknowledged));
    stream.send_numbers(stream.first.acknowledged + 1..=8).await;
    stream.wait_for(8).await;
    assert_eq!(ground.numbers("s"), (1..=8).collect::<Vec<_>>());
}

async fn failures(ground: Ground) {
    let plugin = ground.begin(Way::Fails).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=5000).await;
    stream.half_close();
    stream.end().await.expect("no error");
    assert_eq!(stream.acknowledged, 5000);
    assert_eq!(stream.failures.len(), 2500);
    assert!(stream.failures.iter().all(|(number, error)| *error == format!("{number} is even")));
}

async fn batches(ground: Ground) {
    let plugin = ground.begin(Way::Batches).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers([1]).await;
    stream.send_numbers(2..=500).await;
    ground.open_the_door().await;
    stream.wait_for(500).await;
    assert_eq!(ground.numbers("s"), (1..=500).collect::<Vec<_>>());
    let batches: Vec<_> = ground.seen().into_iter().filter(|line| line.starts_with("batch")).collect();
    assert_eq!(batches, ["batch of 1", "batch of 499"]);
}

async fn failing_batch(ground: Ground) {
    let plugin = ground.begin(Way::FailsInBatch).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers([1]).await;
    ground.open_the_door().await;
    stream.wait_for(1).await;
    stream.send_numbers(2..=5).await;
    stream.wait_for(5).await;
    let failures: Vec<_> = stream.failures.iter().map(|(number, error)| (*number, error.as_str())).collect();
    assert_eq!(failures, [(3, "the second"), (4, "the rest"), (5, "the rest")]);
}

async fn sessions(ground: Ground) {
    let plugin = ground.begin(Way::Messages).await;
    let mut old = Stream::open(&plugin, "old").await;
    old.send_numbers(7..=9).await;
    old.wait_for(9).await;
    let refused = Stream::try_open(plugin.channel(), "new").await.map(|_| ()).expect_err("refused");
    assert_eq!(refused.code(), Code::AlreadyExists);
    old.send_numbers([10]).await;
    old.half_close();
    old.end().await.expect("no error");
    assert_eq!(old.acknowledged, 10);
    let mut new = Stream::open(&plugin, "new").await;
    assert_eq!(new.first.acknowledged, 0);
    new.send_numbers(1..=2).await;
    new.wait_for(2).await;
    assert_eq!((ground.numbers("old"), ground.numbers("new")), (vec![7, 8, 9, 10], vec![1, 2]));
}

async fn access(ground: Ground) {
    let plugin = ground.begin(Way::Waits).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=6).await;
    stream.wait_for(3).await;
    assert!(!authenticate(&plugin, "no token").await.authorized);
    ground.open_the_door().await;
    assert_eq!(stream.end().await.expect_err("no access").code(), Code::Unauthenticated);
    assert_eq!((stream.acknowledged, ground.numbers("s")), (4, vec![1, 2, 3, 4]));
    // Given again, it goes on.
    assert!(authenticate(&plugin, "").await.authorized);
    let mut stream = Stream::open(&plugin, "s").await;
    assert_eq!(stream.first.acknowledged, 4);
    stream.send_numbers(5..=6).await;
    stream.wait_for(6).await;
}

async fn leaving(ground: Ground) {
    let plugin = ground.begin(Way::Waits).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=6).await;
    stream.wait_for(3).await;
    let mut client = Protocol1::new(plugin.channel());
    let once_it_was_asked = async {
        // From then on it takes no calls.
        while client.get_name(Empty {}).await.is_ok() {}
        ground.open_the_door().await;
    };
    let (stopped, ended, ()) = tokio::join!(plugin.stop(Grace::default()), stream.end(), once_it_was_asked);
    assert_eq!(stopped.0, StoppedBy::Request);
    assert_eq!(ended.expect_err("not all of them").code(), Code::Unavailable);
    assert_eq!((stream.acknowledged, ground.numbers("s")), (4, vec![1, 2, 3, 4]));
}

async fn shutdown(ground: Ground) {
    let plugin = ground.begin(Way::Waits).await;
    let mut stream = Stream::open(&plugin, "s").await;
    stream.send_numbers(1..=6).await;
    stream.wait_for(3).await;
    let mut client = Protocol1::new(plugin.channel());
    let (answer, ()) = tokio::join!(client.shutdown(ShutdownRequest {}), ground.open_the_door());
    assert!(answer.expect("an answer").into_inner().success);
    assert_eq!(ground.numbers("s"), (1..=6).collect::<Vec<_>>());
}

async fn broken(ground: Ground) {
    let plugin = ground.begin(Way::Messages).await;
    let nameless = DeliverRequest { session: None, messages: vec![message(1, "{}")] };
    let refused = Stream::begin(plugin.channel(), nameless).await.map(|_| ()).expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let directionless = Message { direction: 0, ..message(1, "{}") };
    let shorter = Message { size: 3, ..message(1, "{}") };
    for messages in [vec![directionless], vec![shorter], vec![message(2, ""), message(1, "")]] {
        let mut stream = Stream::open(&plugin, "s").await;
        stream.send(messages).await;
        let status: Status = stream.end().await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with("message 1: "), "{status:?}");
    }
    // It lives, and takes what is well-formed.
    let mut stream = Stream::open(&plugin, "t").await;
    stream.send_numbers([1]).await;
    stream.wait_for(1).await;
}

async fn protocol1(ground: Ground) {
    let plugin = ground.begin(Way::FailsInBatch).await;
    let mut client = Protocol1::new(plugin.channel());
    let request = HandleMessageRequest {
        data: r#"{"id":1,"method":"m"}"#.into(),
        direction: "inbound".to_owned(),
        correlation_id: "12".to_owned(),
    };
    let (handled, ()) = tokio::join!(client.handle_message(request), ground.open_the_door());
    assert!(handled.expect("an answer").into_inner().success);
    let line = ground.seen().remove(0);
    assert!(line.starts_with("- 12 21 "), "{line}");
    assert!(line.contains("session: None, sequence: 12"), "{line}");
    assert!(line.contains("kind: Request, method: Some(\"m\"), id: Some(\"1\")"), "{line}");
}
