//! How plugins end: asked, killed, crashed, orphaned.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use go_plugin::host::{Executable, Grace, PluginProcess, StoppedBy, Trouble, sweep_sockets};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::ground::{Ground, alive, gone, greet, hold, signal, trial};
use crate::plugin::Fault;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("life::a_stopped_plugin_is_gone_within_5_s_of_the_order", stopped),
        trial("life::a_killed_host_leaves_no_plugin_and_no_socket", killed_host),
        trial("life::no_socket_is_left_after_any_of_100_crashes", hundred_crashes),
        trial("life::a_crash_is_told_at_once_with_the_last_words", crash),
        trial("life::a_certificate_in_the_host_s_environment_does_no_harm", inherited_certificate),
        trial("life::sigterm_is_a_clean_exit_and_sigint_is_ignored", signals),
        trial("life::calls_in_flight_are_answered_before_the_end", drained),
        trial("life::a_dropped_plugin_is_killed", dropped),
        trial("life::what_a_plugin_leaves_running_goes_with_it", forks),
        trial("life::a_script_can_be_a_plugin", script),
        trial("life::a_plugin_has_a_folder_for_temporary_files", temporary),
        trial("life::a_broker_s_waiters_do_not_hinder_each_other", waiters),
        trial("life::a_file_that_is_just_written_is_waited_for", busy),
        trial("life::a_connection_that_nobody_offered_is_not_waited_for", broker),
    ]
}

/// go-plugin's own Kill waits for ever here.
async fn stopped() {
    let ground = Ground::new();
    let plugin = ground.start(Fault::None).await.unwrap();
    let pid = plugin.id().unwrap();
    signal(pid, Signal::STOP);
    let begun = Instant::now();
    let (by, status) = plugin.stop(Grace::default()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(by, StoppedBy::Kill);
    assert!(status.is_some() && !alive(pid) && ground.is_empty());
}

/// There, plugins live on for ever.
async fn killed_host() {
    let ground = Ground::new();
    let (mut host, plugin) = hold(ground.folder.path(), Fault::None, &[]);
    assert!(alive(plugin));
    host.kill().unwrap();
    host.wait().unwrap();
    let time = gone(plugin).await;
    assert!(time < Duration::from_secs(2), "{time:?}");
    sweep_sockets(ground.folder.path());
    assert!(ground.is_empty());
}

async fn hundred_crashes() {
    // With the broker, the folder lives as long as the plugin.
    for broker in [false, true] {
        let ground = Ground::with(|host| host.broker = broker);
        for _ in 0..50 {
            let mut plugin = ground.start(Fault::None).await.unwrap();
            signal(plugin.id().unwrap(), Signal::KILL);
            let error = plugin.explain(Trouble::Call("none".to_owned())).await;
            assert_eq!(error.to_string(), "it ended (signal 9)");
            drop(plugin);
            assert!(ground.is_empty());
        }
    }
}

async fn crash() {
    let ground = Ground::new();
    let mut plugin = ground.start(Fault::Panics).await.unwrap();
    let begun = Instant::now();
    let status = greet(&plugin).await.unwrap_err();
    let error = plugin.explain(status.into()).await.to_string();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(error, "it ended (signal 6); it said last: panic: the sky fell");
    // No reconnection to whoever may listen there by now.
    assert!(greet(&plugin).await.is_err());
}

/// A Go host crashes when a plugin answers with a certificate that it did not ask for.
async fn inherited_certificate() {
    let ground = Ground::new();
    let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let inherited = [("PLUGIN_CLIENT_CERT", certificate), ("PLUGIN_MULTIPLEX_GRPC", "true")];
    let (mut host, plugin) = hold(ground.folder.path(), Fault::None, &inherited);
    assert!(alive(plugin));
    host.kill().unwrap();
    host.wait().unwrap();
    gone(plugin).await;
}

async fn signals() {
    let ground = Ground::new();
    let plugin = ground.start(Fault::None).await.unwrap();
    signal(plugin.id().unwrap(), Signal::INT);
    greet(&plugin).await.unwrap();
    plugin.check_health(Duration::from_secs(1)).await.unwrap();
    plugin.terminate();
    assert_eq!(plugin.wait().await.code(), Some(0));
}

async fn drained() {
    let ground = Ground::new();
    let plugin = ground.start(Fault::Slow).await.unwrap();
    let mut client = crate::plugin::greeter::greeter_client::GreeterClient::new(plugin.channel());
    let call = tokio::spawn(async move {
        let request = crate::plugin::greeter::GreetRequest { name: "you".to_owned() };
        client.greet(request).await.map(|answer| answer.into_inner().greeting)
    });
    // The request is on its way when the order is.
    tokio::task::yield_now().await;
    plugin.check_health(Duration::from_secs(1)).await.unwrap();
    let (by, status) = plugin.stop(Grace::default()).await;
    assert_eq!((by, status.unwrap().code()), (StoppedBy::Request, Some(0)));
    assert_eq!(call.await.unwrap().unwrap(), "Good morning, you.");
}

async fn dropped() {
    let ground = Ground::new();
    let plugin = ground.start(Fault::None).await.unwrap();
    let pid = plugin.id().unwrap();
    drop(plugin);
    gone(pid).await;
    assert!(ground.is_empty());
}

/// The child holds stderr open: nobody waits for its end, and it goes with its group.
async fn forks() {
    let ground = Ground::new();
    let mut plugin = ground.start(Fault::Forks).await.unwrap();
    let status = greet(&plugin).await.unwrap_err();
    let error = plugin.explain(status.into()).await.to_string();
    let child = error.strip_prefix("it ended (exit 3); it said last: child ");
    let child: u32 = child.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
    gone(child).await;
}

async fn broker() {
    let ground = Ground::with(|host| host.broker = true);
    let plugin = ground.start(Fault::None).await.unwrap();
    let broker = plugin.broker().unwrap().clone();
    let error = broker.dial(7).await.unwrap_err().to_string();
    assert_eq!(error, "connection 7 was not announced within 5s");
    // With the plugin the connection ends over which it would be announced.
    let begun = Instant::now();
    let (error, _) = tokio::join!(broker.dial(8), async { plugin.stop(Grace::default()).await });
    let closed = "the connection that further connections are announced over has ended";
    assert_eq!(error.unwrap_err().to_string(), closed);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// A wrapper that starts the plugin proper, which then listens.
async fn script() {
    let ground = Ground::new();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("wrapper");
    let own = std::env::current_exe().unwrap();
    std::fs::write(&path, format!("#!/bin/sh\n'{}'\n", own.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let host = ground.host_for(Fault::None);
    let plugin = PluginProcess::start(&host, Executable::open(&path).unwrap(), ground.sink()).await.unwrap();
    assert_eq!(greet(&plugin).await.unwrap(), "Good morning, you.");
    assert_eq!(plugin.stop(Grace::default()).await.0, StoppedBy::Request);
}

async fn temporary() {
    let ground = Ground::with(|host| host.environment.push(("TMPDIR".into(), "/nowhere".into())));
    let plugin = ground.start(Fault::None).await.unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", plugin.id().unwrap())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    let folders: Vec<&str> =
        environment.split('\0').filter_map(|line| line.strip_prefix("TMPDIR=")).collect();
    let [folder] = folders[..] else { panic!("{environment}") };
    // The socket is gone from it, and the folder goes with the plugin.
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    plugin.stop(Grace::default()).await;
    assert!(ground.is_empty());
}

async fn waiters() {
    let ground = Ground::with(|host| host.broker = true);
    let plugin = ground.start(Fault::None).await.unwrap();
    let broker = plugin.broker().unwrap();
    // One that gives up leaves nothing behind: the next waits anew.
    let cut = tokio::time::timeout(Duration::from_millis(10), broker.dial(3)).await;
    assert!(cut.is_err());
    let (first, second) = tokio::join!(broker.dial(3), broker.dial(3));
    assert_eq!(first.unwrap_err().to_string(), "connection 3 was not announced within 5s");
    assert_eq!(second.unwrap_err().to_string(), "connection 3 is dialled already");
}

async fn busy() {
    let ground = Ground::new();
    let path = ground.folder.path().join("plugin");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let writing = std::fs::File::options().append(true).open(&path).unwrap();
    let host = ground.host_for(Fault::None);
    let start = PluginProcess::start(&host, Executable::open(&path).unwrap(), ground.sink());
    let (plugin, ()) = tokio::join!(start, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(writing);
    });
    assert_eq!(greet(&plugin.unwrap()).await.unwrap(), "Good morning, you.");
}
