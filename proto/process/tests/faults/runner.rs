//! The seam: a plugin that runs in this very process, as far as the host can tell like any other.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use go_plugin::host::{Grace, Instance, PluginProcess, Runner, Running, StoppedBy, Tls};
use libtest_mimic::Trial;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::ground::{Ground, greet, trial};
use crate::plugin::greeter::greeter_server::{Greeter, GreeterServer};
use crate::plugin::greeter::{GreetRequest, GreetResponse};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("runner::a_plugin_can_run_in_this_process", in_process)]
}

/// Serves on a task.
struct InProcess;

#[derive(Debug)]
struct Task {
    order: watch::Sender<bool>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Runner for InProcess {
    async fn start(self, environment: Vec<(OsString, OsString)>) -> io::Result<Running> {
        let folder = environment.iter().find(|(name, _)| name == "PLUGIN_UNIX_SOCKET_DIR");
        let (_, folder) = folder.expect("the host says where to listen");
        let path = std::path::Path::new(folder).join("socket");
        let listener = tokio::net::UnixListener::bind(&path)?;
        let (stdout, mut plugin_stdout) = tokio::io::duplex(1024);
        let (stderr, plugin_stderr) = tokio::io::duplex(1024);
        let (order, mut asked) = watch::channel(false);
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            let line = format!("1|1|unix|{}|grpc|\n", path.display());
            plugin_stdout.write_all(line.as_bytes()).await.expect("the host reads");
            let served = tonic::transport::Server::builder()
                .add_service(GreeterServer::new(Polite))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                    let _ = asked.wait_for(|asked| *asked).await;
                });
            served.await.expect("it serves");
            drop((plugin_stdout, plugin_stderr));
            ended.send_replace(Some(ExitStatus::from_raw(0)));
        });
        Ok(Running {
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            instance: Box::new(Task { order, exit }),
        })
    }
}

impl Instance for Task {
    fn id(&self) -> Option<u32> {
        None
    }

    fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exit.clone()
    }

    fn terminate(&self) {
        self.order.send_replace(true);
    }

    fn kill(&self) {
        self.terminate();
    }
}

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let name = request.into_inner().name;
        Ok(Response::new(GreetResponse { greeting: format!("Good morning, {name}.") }))
    }
}

async fn in_process() {
    let ground = Ground::with(|host| host.tls = Tls::Off);
    let plugin = PluginProcess::start(&ground.host, InProcess, ground.sink()).await.unwrap();
    assert_eq!(plugin.id(), None);
    assert_eq!(greet(&plugin).await.unwrap(), "Good morning, you.");
    // It has no controller: the host goes on to the next step.
    let grace = Grace { shutdown: std::time::Duration::from_millis(100), ..Grace::default() };
    let (by, status) = plugin.stop(grace).await;
    assert_eq!((by, status.unwrap().code()), (StoppedBy::Terminate, Some(0)));
    assert!(ground.is_empty());
}
