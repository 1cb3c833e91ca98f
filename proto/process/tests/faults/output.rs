//! What plugins write.

use std::time::Duration;

use go_plugin::host::{Grace, Source};
use libtest_mimic::Trial;

use crate::ground::{Ground, greet, trial};
use crate::plugin::Fault;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("output::junk_and_long_lines_do_no_harm", junk),
        trial("output::what_nobody_takes_does_not_block_the_plugin", nobody_reads),
    ]
}

/// The first line brings Go hosts down, the second wedges their plugins.
async fn junk() {
    let ground = Ground::new();
    let plugin = ground.start(Fault::Junk).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), greet(&plugin)).await;
    assert_eq!(answer.expect("the plugin is not blocked").unwrap(), "Good morning, you.");
    plugin.check_health(Duration::from_secs(1)).await.unwrap();
    plugin.stop(Grace::default()).await;
    // Nothing of it is lost: what the program wrote by stderr, by println and around it.
    let (stdout, stderr) = (ground.read(Source::Stdout), ground.read(Source::Stderr));
    assert!(stdout.starts_with(b"hello{\"@message\":1}xxx"));
    assert_eq!(stdout.len(), 5 + 14 + 35_000 + 70_000 + 20_000 * 14);
    assert_eq!(stderr.len(), 14 + 70_000 + 2 * (70_000 + 20_000 * 14));
}

/// A host that is no host of ours: it shakes hands, calls, and takes no output but the handshake.
async fn nobody_reads() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use go_plugin::handshake::{Address, HandshakeLine};

    use crate::plugin::greeter::GreetRequest;
    use crate::plugin::greeter::greeter_client::GreeterClient;
    use crate::plugin::{COOKIE, VARIABLE};

    let folder = tempfile::tempdir().unwrap();
    let mut plugin = Command::new(std::env::current_exe().unwrap())
        .env(VARIABLE, Fault::Prints.name())
        .env(COOKIE.key, COOKIE.value)
        .env("PLUGIN_UNIX_SOCKET_DIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(plugin.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let Address::Unix(path) = HandshakeLine::parse(line.as_bytes()).unwrap().address else {
        panic!("{line}")
    };
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .unwrap();
    let mut client = GreeterClient::new(channel);
    for _ in 0..3 {
        let call = client.greet(GreetRequest { name: "you".to_owned() });
        let answer = tokio::time::timeout(Duration::from_secs(10), call).await;
        assert_eq!(
            answer.expect("printing does not block").unwrap().into_inner().greeting,
            "Good morning, you."
        );
    }
    // The host is gone when nobody reads its pipe: the plugin notices, without any signal.
    drop(stdout);
    let ended = tokio::task::spawn_blocking(move || plugin.wait());
    let status = tokio::time::timeout(Duration::from_secs(2), ended).await.expect("it leaves").unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}
