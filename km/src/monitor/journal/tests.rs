use std::time::{Duration, SystemTime};

use km_package::digest::Digest;
use km_proto::Direction;
use km_proto::jsonrpc::Summary;

use super::super::message::{Cut, Exchange};
use super::*;

fn message(sequence: u64, size: usize) -> Message {
    let text = format!("{{\"id\":{sequence},\"x\":\"{}\"}}", "x".repeat(size));
    Message {
        sequence,
        direction: if sequence.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound },
        received: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_305_600_123_456_789),
        elapsed: Duration::from_nanos(sequence),
        channel: sequence.is_multiple_of(3).then(|| "channel".into()),
        summary: Summary::of(br#"{"id":"a","result":1}"#),
        exchange: Exchange {
            first: sequence / 2,
            request: Some(sequence / 2 + 1),
            method: Some("m".into()),
            latency: Some(Duration::from_millis(sequence)),
            cancelled: true,
            retry_of: None,
        },
        data: text.into(),
        cut: sequence.is_multiple_of(5).then(|| Cut { size: sequence << 30, sha256: Digest::of(b"x") }),
    }
}

struct Session {
    folder: tempfile::TempDir,
    journal: Arc<Journal>,
}

impl Session {
    fn new(memory: usize, disk: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(SessionId::new(), memory, Arc::new(Allowance::new(disk)), folder.path());
        Self { folder, journal }
    }

    fn push(&self, numbers: impl Iterator<Item = u64>, size: usize) {
        numbers.for_each(|n| self.journal.push(message(n, size)));
        self.journal.settle();
    }

    fn reader(&self, name: &str) -> Reader {
        self.journal.subscribe(name.parse().unwrap())
    }

    /// How many files there are in the spool.
    fn files(&self) -> usize {
        let folders = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        folders.map(|folder| std::fs::read_dir(folder.path()).unwrap().count()).sum()
    }
}

/// Takes and acknowledges all there is; the numbers.
async fn drain(reader: &Reader) -> Vec<u64> {
    let mut numbers = Vec::new();
    while reader.counters().waiting > 0 {
        let entries = reader.take(7).await;
        numbers.extend(entries.iter().map(|entry| entry.message.sequence));
        reader.acknowledge(*numbers.last().unwrap());
    }
    numbers
}

fn count(reader: &Reader) -> (u64, u64, u64, u64) {
    let Counters { delivered, failed, dropped, waiting, .. } = reader.counters();
    (delivered, failed, dropped, waiting)
}

#[tokio::test]
async fn each_reader_gets_all_in_order_at_its_own_pace() {
    for memory in [0, 5_000, 1 << 20] {
        let session = Session::new(memory, 1 << 30);
        let (fast, slow) = (session.reader("fast"), session.reader("slow"));
        for round in 0..10 {
            session.push(round * 100 + 1..=round * 100 + 100, 1000);
            assert_eq!(drain(&fast).await, (round * 100 + 1..=round * 100 + 100).collect::<Vec<_>>());
        }
        let late = session.reader("late");
        session.push(1001..=1010, 3 << 20);
        session.journal.close();
        let weight = session.journal.lock().weight;
        assert!(weight <= memory, "{weight}");
        assert_eq!(drain(&slow).await, (1..=1010).collect::<Vec<_>>());
        for reader in [&fast, &late] {
            assert_eq!(drain(reader).await, (1001..=1010).collect::<Vec<_>>());
            assert!(!reader.ready(1).await && reader.is_finished());
        }
        assert_eq!(count(&slow), (1010, 0, 0, 0));
        assert_eq!(slow.closing_words(false), None);
        session.journal.finish();
        assert_eq!(std::fs::read_dir(session.folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn messages_come_back_from_disk_as_they_were() {
    let session = Session::new(0, 1 << 30);
    let reader = session.reader("a");
    let sizes = [0, 10, 1000, PIECE, 3 * PIECE + 1, 7];
    for (n, size) in (1..).zip(sizes) {
        session.journal.push(message(n, size));
        session.journal.settle();
    }
    let mut taken = Vec::new();
    while taken.len() < sizes.len() {
        taken.extend(reader.take(4).await);
    }
    for (entry, (n, size)) in taken.iter().zip((1..).zip(sizes)) {
        let expected = message(n, size);
        let mut data = Vec::new();
        while (data.len() as u64) < entry.length() {
            data.extend_from_slice(&entry.piece(data.len() as u64).unwrap());
        }
        assert!(data == expected.data, "{n}");
        assert_eq!(entry.size(), expected.size());
        assert_eq!(entry.sha256().unwrap(), expected.cut.map_or_else(|| Digest::of(&data), |cut| cut.sha256));
        let found = Message { data: data.into(), ..(*entry.message).clone() };
        assert!(found == expected, "{n}");
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    for memory in [0, 1 << 20] {
        let session = Session::new(memory, 1 << 30);
        let reader = session.reader("a");
        session.push(1..=20, 100);
        assert_eq!(reader.take(10).await.len(), 10);
        reader.acknowledge(4);
        assert_eq!(count(&reader), (4, 0, 0, 16));
        assert_eq!(reader.died(), None);
        // What may have been deadly goes alone, the rest together.
        for n in 5..=10 {
            assert!(reader.is_careful());
            let numbers: Vec<_> = reader.take(10).await.iter().map(|entry| entry.message.sequence).collect();
            assert_eq!(numbers, [n]);
            reader.acknowledge(n);
        }
        assert!(!reader.is_careful());
        assert_eq!(reader.take(100).await.len(), 10);
        reader.fail(12);
        reader.acknowledge(20);
        assert_eq!(count(&reader), (19, 1, 0, 0));
        let words = "plugin a: at least 1 of 20 messages were not delivered (1 failed, 0 dropped, 0 still waited at the end): 12";
        assert_eq!(reader.closing_words(false).unwrap(), words);
    }
}

#[tokio::test]
async fn the_message_that_a_plugin_without_acknowledgements_died_of_does_not_come_again() {
    let session = Session::new(1 << 20, 1 << 30);
    let reader = session.reader("a");
    session.push(1..=5, 100);
    assert_eq!(reader.take(10).await.len(), 5);
    reader.acknowledge(1);
    reader.fail_first();
    // There is nothing left in its hands that could be failed.
    reader.fail_first();
    assert_eq!(drain(&reader).await, [3, 4, 5]);
    assert_eq!(count(&reader), (4, 1, 0, 0));
}

#[tokio::test]
async fn a_message_that_killed_twice_is_skipped() {
    let session = Session::new(1 << 20, 1 << 30);
    let reader = session.reader("a");
    session.push(1..=3, 100);
    assert_eq!(reader.take(10).await.len(), 3);
    assert_eq!(reader.died(), None);
    for expected in [None, Some(1)] {
        assert_eq!(reader.take(10).await.len(), 1);
        assert_eq!(reader.died(), expected);
    }
    assert_eq!(drain(&reader).await, [2, 3]);
    assert_eq!(count(&reader), (2, 1, 0, 0));
}

#[tokio::test]
async fn what_a_plugin_has_kept_is_not_sent_again() {
    let session = Session::new(1 << 20, 1 << 30);
    let reader = session.reader("a");
    session.push(1..=10, 100);
    reader.skip_to(6);
    let numbers: Vec<_> = reader.take(100).await.iter().map(|entry| entry.message.sequence).collect();
    assert_eq!(numbers, [7, 8, 9, 10]);
    reader.acknowledge(10);
    assert_eq!(count(&reader), (10, 0, 0, 0));
}

#[tokio::test]
async fn past_the_limit_of_the_disk_the_oldest_go_and_are_counted() {
    let session = Session::new(0, 100_000);
    let reader = session.reader("a");
    (1..=1000).for_each(|n| session.push(n..=n, 1000));
    let (_, _, dropped, waiting) = count(&reader);
    assert!(dropped > 800 && waiting > 50 && dropped + waiting == 1000, "{dropped} {waiting}");
    assert_eq!(drain(&reader).await, (dropped + 1..=1000).collect::<Vec<_>>());
    assert_eq!(count(&reader), (waiting, 0, dropped, 0));
    assert!(reader.closing_words(false).unwrap().ends_with(&format!(": 1-{dropped}")));
}

#[tokio::test]
async fn messages_in_flight_that_are_dropped_cannot_come_again() {
    let session = Session::new(0, 100_000);
    let reader = session.reader("a");
    session.push(1..=10, 1000);
    assert_eq!(reader.take(10).await.len(), 10);
    (11..=1000).for_each(|n| session.push(n..=n, 1000));
    reader.rewind();
    let numbers = drain(&reader).await;
    let (delivered, _, dropped, _) = count(&reader);
    assert_eq!((numbers.len() as u64, delivered + dropped), (delivered, 1000));
    assert_eq!(*numbers.last().unwrap(), 1000);
}

#[tokio::test]
async fn without_a_disk_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: the disk takes nothing.
    let blocked = folder.path().join("spool");
    std::fs::write(&blocked, "").unwrap();
    let journal = Journal::new(SessionId::new(), 3000, Arc::new(Allowance::new(1 << 30)), &blocked);
    let reader = journal.subscribe("a".parse().unwrap());
    for n in 1..=5 {
        journal.push(message(n, 1000));
        journal.settle();
    }
    let (_, _, dropped, waiting) = count(&reader);
    assert!(dropped + waiting == 5 && waiting > 0, "{dropped} {waiting}");
    // One message in any case, however large.
    journal.push(message(6, 1 << 20));
    journal.settle();
    assert_eq!(count(&reader), (0, 0, 5, 1));
    journal.lost(7, 3);
    assert_eq!(
        reader.closing_words(false).unwrap(),
        "plugin a: at least 9 of 9 messages were not delivered (0 failed, 8 dropped, 1 still waited at the end): 1-9"
    );
}

#[tokio::test]
async fn who_refuses_gets_nothing_until_it_accepts() {
    let session = Session::new(1000, 1 << 30);
    let reader = session.reader("a");
    session.push(1..=3, 100);
    assert_eq!(reader.take(1).await.len(), 1);
    reader.refuse();
    session.push(4..=6, 1000);
    assert_eq!(count(&reader), (0, 0, 6, 0));
    reader.accept();
    session.push(7..=8, 100);
    assert_eq!(drain(&reader).await, [7, 8]);
    session.journal.settle();
    assert_eq!(session.journal.lock().memory.len(), 0);
}

#[tokio::test]
async fn what_durable_plugins_were_not_given_is_there_in_the_next_session() {
    for memory in [0, 1 << 20] {
        let session = Session::new(memory, 1 << 30);
        let (durable, other) = (session.reader("durable"), session.reader("other"));
        durable.set_durable(true);
        session.push(1..=10, 1000);
        assert_eq!(durable.take(4).await.len(), 4);
        durable.acknowledge(2);
        session.journal.close();
        session.journal.finish();
        let words = durable.closing_words(false).unwrap();
        assert_eq!(words, "plugin durable: 8 of 10 messages are kept for the next session");
        // While the session lives nobody else takes it over.
        assert!(claim(session.folder.path()).is_empty());
        let name = session.journal.session().clone();
        let Session { folder, journal } = session;
        drop((durable, other, journal));
        let mut leftovers = claim(folder.path());
        let leftover = leftovers.pop().unwrap();
        assert!(leftovers.is_empty() && *leftover.journal().session() == name);
        assert!(leftover.reader(&"other".parse().unwrap()).is_none());
        let reader = leftover.reader(&"durable".parse().unwrap()).unwrap();
        assert_eq!(reader.take(3).await.len(), 3);
        reader.acknowledge(5);
        leftover.journal().finish();
        drop((reader, leftover));
        let leftover = claim(folder.path()).pop().unwrap();
        let reader = leftover.reader(&"durable".parse().unwrap()).unwrap();
        assert_eq!(drain(&reader).await, (6..=10).collect::<Vec<_>>());
        leftover.journal().finish();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_session_that_was_killed_leaves_its_messages_to_durable_plugins_only() {
    let session = Session::new(1 << 20, 1 << 30);
    let reader = session.reader("durable");
    reader.set_durable(true);
    session.push(1..=10, 100);
    assert_eq!(session.files(), 3);
    // As the kernel does it: nothing is finished, the lock goes.
    let Session { folder, journal } = session;
    drop((reader, journal));
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(&path).unwrap().flatten().map(|file| file.path());
    let file = files.find(|file| file.extension().is_some_and(|extension| extension == "messages")).unwrap();
    // The last record is not whole.
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(length - 1).unwrap();
    let leftover = claim(folder.path()).pop().unwrap();
    let reader = leftover.reader(&"durable".parse().unwrap()).unwrap();
    assert_eq!(drain(&reader).await, (1..=9).collect::<Vec<_>>());
    leftover.journal().finish();
    drop((reader, leftover));

    let session = Session::new(0, 1 << 30);
    let reader = session.reader("other");
    session.push(1..=10, 100);
    let Session { folder, journal } = session;
    drop((reader, journal));
    assert!(claim(folder.path()).is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What is left of a session of ten messages, after somebody was at it.
async fn tampered(with: impl FnOnce(&std::path::Path, &std::path::Path)) -> Option<Vec<u64>> {
    let session = Session::new(0, 1 << 30);
    let reader = session.reader("durable");
    reader.set_durable(true);
    session.push(1..=10, 100);
    let Session { folder, journal } = session;
    let own = folder.path().join(journal.session().as_str());
    drop((reader, journal));
    let mut files = std::fs::read_dir(&own).unwrap().flatten().map(|file| file.path());
    let file = files.find(|file| file.extension().is_some_and(|extension| extension == "messages")).unwrap();
    with(&own, &file);
    let leftover = claim(folder.path()).pop()?;
    let reader = leftover.reader(&"durable".parse().unwrap())?;
    Some(drain(&reader).await)
}

#[tokio::test]
async fn whoever_was_at_the_spool_stops_nothing() {
    use std::os::unix::fs::FileExt as _;
    let header = |file: &std::path::Path, length: u64| {
        let header = [60_u32.to_le_bytes().as_slice(), &length.to_le_bytes()].concat();
        std::fs::File::options().write(true).open(file).unwrap().write_all_at(&header, 0).unwrap();
    };
    for length in [u64::MAX, u64::MAX - 71, u64::MAX - 11, 1 << 40] {
        assert_eq!(tampered(|_, file| header(file, length)).await, None, "{length}");
    }
    let fifo = |file: &std::path::Path| {
        std::fs::remove_file(file).unwrap();
        let made = std::process::Command::new("mkfifo").arg(file).status().unwrap();
        assert!(made.success());
    };
    assert_eq!(tampered(|_, file| fifo(file)).await, None);
    assert_eq!(tampered(|folder, _| fifo(&folder.join("lock"))).await, None);
    assert_eq!(tampered(|folder, _| fifo(&folder.join("waiting.json"))).await, None);
    let renamed = |folder: &std::path::Path, file: &std::path::Path| {
        std::fs::rename(file, folder.join("18446744073709551615.messages")).unwrap();
    };
    assert_eq!(tampered(renamed).await, None);
    let linked = |folder: &std::path::Path, _: &std::path::Path| {
        let elsewhere = folder.with_extension("elsewhere");
        std::fs::rename(folder, &elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, folder).unwrap();
    };
    assert_eq!(tampered(linked).await, None);
    for (position, expected) in
        [("50000000", vec![]), ("18446744073709551615", vec![]), ("7", vec![8, 9, 10])]
    {
        let waits = |folder: &std::path::Path, _: &std::path::Path| {
            std::fs::write(
                folder.join("waiting.json"),
                format!("{{\"plugins\":{{\"durable\":{position}}}}}"),
            )
            .unwrap();
        };
        assert_eq!(tampered(waits).await, Some(expected), "{position}");
    }
}
