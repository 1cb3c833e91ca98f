//! The plugins that the tests start.

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use go_plugin::handshake::Cookie;
use tonic::{Request, Response, Status};

use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{GreetRequest, GreetResponse};

#[allow(unreachable_pub, dead_code)]
pub(crate) mod greeter {
    include!("../../examples/greeter/greeter.rs");
}

pub(crate) const COOKIE: Cookie = Cookie { key: "FAULTS_PLUGIN", value: "faults" };
/// Names the plugin to be.
pub(crate) const VARIABLE: &str = "FAULT";
/// Longer than what go-plugin's reader of stdout survives.
const LONG: usize = 70_000;

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing wrong.
    None,
    /// Writes what brings Go hosts down, before and after the handshake.
    Junk,
    /// Prints a megabyte in each call.
    Prints,
    /// Never says anything.
    NeverStarts,
    /// Says a word and exits with 7.
    ExitsEarly,
    /// Exits with 0 and says nothing, as Go plugins that cannot listen do.
    ExitsWell,
    /// Says this instead of a handshake, and stays.
    Says(&'static str),
    /// Writes without end, without a newline.
    EndlessLine,
    /// Claims to listen where somebody else does.
    Elsewhere,
    /// Leaves a child behind that holds its pipes open, and exits in the first call.
    Forks,
    /// Panics in the first call.
    Panics,
    /// Takes 300 ms for a call.
    Slow,
}

impl Fault {
    const ALL: [(&'static str, Self); 18] = [
        ("none", Self::None),
        ("junk", Self::Junk),
        ("prints", Self::Prints),
        ("never-starts", Self::NeverStarts),
        ("exits-early", Self::ExitsEarly),
        ("exits-well", Self::ExitsWell),
        ("garbage", Self::Says("1|one|unix|/x|grpc|")),
        ("few-fields", Self::Says("1|1")),
        ("core-2", Self::Says("2|1|unix|/x|grpc|")),
        ("version-9", Self::Says("1|9|unix|/x|grpc|")),
        ("netrpc", Self::Says("1|1|unix|/x|netrpc|")),
        ("remote", Self::Says("1|1|tcp|192.0.2.1:9|grpc|")),
        ("tcp", Self::Says("1|1|tcp|127.0.0.1:9|grpc|")),
        ("endless-line", Self::EndlessLine),
        ("elsewhere", Self::Elsewhere),
        ("forks", Self::Forks),
        ("panics", Self::Panics),
        ("slow", Self::Slow),
    ];

    pub(crate) fn name(self) -> &'static str {
        let (name, _) = Self::ALL.iter().find(|(_, fault)| *fault == self).expect("every fault has a name");
        name
    }
}

/// Is the plugin that the environment names.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let name = std::env::var(VARIABLE).ok()?;
    let (_, fault) = Fault::ALL.into_iter().find(|(known, _)| *known == name).expect("a known fault");
    Some(run(fault))
}

fn run(fault: Fault) -> ExitCode {
    match fault {
        Fault::None | Fault::Prints | Fault::Forks | Fault::Panics | Fault::Slow => {}
        Fault::Junk => junk_before_the_handshake(),
        Fault::NeverStarts => stay(),
        Fault::ExitsEarly => {
            eprintln!("I would rather not");
            return ExitCode::from(7);
        }
        Fault::ExitsWell => return ExitCode::SUCCESS,
        Fault::Says(line) => {
            println!("{line}");
            stay();
        }
        Fault::EndlessLine => loop {
            if std::io::stdout().write_all(&[b'x'; 4096]).is_err() {
                return ExitCode::FAILURE;
            }
        },
        Fault::Elsewhere => {
            println!("1|1|unix|{}|grpc|", std::env::var("ELSEWHERE").expect("a socket"));
            stay();
        }
    }
    // Kept from before the claim: what a program may write to although it should not.
    let raw = File::from(rustix::io::dup(rustix::stdio::stdout()).expect("stdout"));
    let served = go_plugin::plugin::serve(COOKIE, &[1], |_, routes| {
        routes.add_service(GreeterServer::new(Polite { fault, raw }));
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn stay() {
    std::thread::sleep(Duration::from_secs(600));
}

fn junk_before_the_handshake() {
    println!("hello\n{{\"@message\":1}}\n{}", "x".repeat(LONG / 2));
    eprintln!("{{\"@message\":1}}");
    eprintln!("{}", "y".repeat(LONG));
}

/// Writes a long line and much more, and fails when nobody reads it.
fn junk(mut raw: &File) -> std::io::Result<()> {
    let long = [vec![b'x'; LONG], b"\n".to_vec(), b"{\"@message\":1}\n".repeat(20_000)].concat();
    raw.write_all(&long)?;
    std::io::stderr().write_all(&long)?;
    std::io::stdout().write_all(&long)
}

struct Polite {
    fault: Fault,
    raw: File,
}

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        match self.fault {
            Fault::Junk => junk(&self.raw).map_err(|e| Status::internal(e.to_string()))?,
            Fault::Prints => println!("{}", "a megabyte".repeat(100_000)),
            Fault::Slow => tokio::time::sleep(Duration::from_millis(300)).await,
            Fault::Panics => {
                eprintln!("panic: the sky fell");
                std::process::abort();
            }
            Fault::Forks => {
                // It inherits stderr, and holds it open.
                let child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
                eprintln!("child {}", child.id());
                #[expect(clippy::disallowed_methods, reason = "this is the fault")]
                std::process::exit(3);
            }
            Fault::None
            | Fault::NeverStarts
            | Fault::ExitsEarly
            | Fault::ExitsWell
            | Fault::Says(_)
            | Fault::EndlessLine
            | Fault::Elsewhere => {}
        }
        let name = request.into_inner().name;
        Ok(Response::new(GreetResponse { greeting: format!("Good morning, {name}.") }))
    }
}
