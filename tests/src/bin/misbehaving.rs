//! A plugin that behaves as badly as its name says: copied to `km-plugin-<mode>`, it finds its mode
//! in its own file name.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use go_plugin::handshake::Cookie;
use km_plugin::{About, Message, Permissions, Plugin, Result, Session, Tier};
use km_proto::v1::kilometers_plugin_server::{KilometersPlugin, KilometersPluginServer};
use km_proto::v1::{
    AuthResponse, AuthenticateRequest, AuthenticateResponse, Empty, HandleErrorRequest, HandleErrorResponse,
    HandleMessageRequest, HandleMessageResponse, HandleStreamEventRequest, HandleStreamEventResponse,
    InitializeRequest, InitializeResponse, ShutdownRequest, ShutdownResponse, StringResponse,
};
use km_proto::v2;
use km_proto::v2::kilometers_plugin_server::{
    KilometersPlugin as Protocol2, KilometersPluginServer as Protocol2Server,
};
use km_tests::Mode;
use tonic::{Request, Response, Status, Streaming};

fn main() -> ExitCode {
    let path = std::env::args().next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = file.strip_prefix("km-plugin-").unwrap_or_default();
    let Some(mode) = Mode::ALL.into_iter().find(|mode| mode.name() == name) else {
        eprintln!("copy this program to km-plugin-<mode>");
        return ExitCode::FAILURE;
    };
    match mode {
        Mode::NeverStarts => stay(),
        Mode::ExitsEarly => {
            eprintln!("I would rather not");
            ExitCode::from(7)
        }
        Mode::GarbageLine => say("1|one|unix|/nowhere|grpc|"),
        Mode::WrongVersion => say("1|7|unix|/nowhere|grpc|"),
        Mode::EndlessLine => loop {
            if std::io::stdout().write_all(&[b'x'; 4096]).is_err() {
                return ExitCode::FAILURE;
            }
        },
        Mode::WrongCertificate => announce_another_certificate(),
        Mode::RefusesAuthentication | Mode::AcceptsAnyone | Mode::ErrorsOut => serve_by_hand(mode),
        Mode::LacksDeliver => serve_protocol_2_by_hand(mode),
        Mode::IgnoresStop => {
            serve(file, mode, Tier::Free);
            // The SDK has left by now, and keeps SIGTERM from being noticed.
            stay()
        }
        Mode::NeedsPro => serve(file, mode, Tier::Pro),
        Mode::Counts
        | Mode::Hangs
        | Mode::AnswersLate
        | Mode::Crashes
        | Mode::Forks
        | Mode::Poisoned
        | Mode::Eats
        | Mode::FloodsStderr
        | Mode::ForgesLines
        | Mode::Fails => serve(file, mode, Tier::Free),
    }
}

fn stay() -> ExitCode {
    std::thread::sleep(Duration::from_secs(600));
    ExitCode::SUCCESS
}

fn say(line: &str) -> ExitCode {
    println!("{line}");
    stay()
}

fn serve(file: String, mode: Mode, required_tier: Tier) -> ExitCode {
    let about = About {
        package: file.leak(),
        version: "0.0.0",
        description: "misbehaves",
        required_tier,
        features: &[],
        permissions: Permissions::default(),
        durable: false,
    };
    km_plugin::serve(about, Misbehaving { mode, messages: 0, eaten: Vec::new() })
}

struct Misbehaving {
    mode: Mode,
    messages: u64,
    eaten: Vec<Vec<u8>>,
}

impl Plugin for Misbehaving {
    fn start(&mut self, _: &Session) -> Result {
        if self.mode == Mode::Hangs {
            stay();
        }
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result {
        self.messages += 1;
        match self.mode {
            Mode::AnswersLate => std::thread::sleep(Duration::from_secs(10)),
            Mode::Crashes if self.messages == 3 => std::process::abort(),
            Mode::Crashes | Mode::Counts => {
                let direction = message.direction.as_str();
                println!("message {} {direction} {}", message.sequence, message.size());
            }
            Mode::Fails => return Err("it always fails".into()),
            Mode::Poisoned if message.data().windows(6).any(|word| word == b"poison") => {
                std::process::abort()
            }
            Mode::Eats if self.eaten.len() < 12 => self.eaten.push(vec![1; 64 << 20]),
            Mode::FloodsStderr => eprint!("{}", "noise without end ".repeat(20_000)),
            Mode::ForgesLines => {
                println!("plain\x1b[2K");
                let forged = "x\\nkm: plugin other is trusted\\u001b[2K";
                eprintln!("{{\"@level\":\"error\",\"@message\":\"{forged}\"}}");
            }
            Mode::Forks if self.messages == 1 => {
                // Both hold the plugin's pipes open.
                let child = Command::new("sleep").arg("600").spawn()?;
                let stray = Command::new("setsid").args(["sleep", "600"]).spawn()?;
                println!("child {}\nstray {}", child.id(), stray.id());
            }
            Mode::NeverStarts
            | Mode::ExitsEarly
            | Mode::GarbageLine
            | Mode::EndlessLine
            | Mode::WrongVersion
            | Mode::WrongCertificate
            | Mode::RefusesAuthentication
            | Mode::AcceptsAnyone
            | Mode::ErrorsOut
            | Mode::Hangs
            | Mode::Poisoned
            | Mode::Eats
            | Mode::IgnoresStop
            | Mode::Forks
            | Mode::NeedsPro
            | Mode::LacksDeliver => {}
        }
        Ok(())
    }

    fn stop(&mut self) -> Result {
        println!("{} messages", self.messages);
        Ok(())
    }
}

/// Two plugins that behave, of which one listens and the other's certificate is announced.
fn announce_another_certificate() -> ExitCode {
    let (mut listening, line) = behaving();
    let (mut other, announced) = behaving();
    let mut fields: Vec<&str> = line.split('|').collect();
    if let (Some(field), Some(certificate)) = (fields.get_mut(5), announced.split('|').nth(5)) {
        *field = certificate;
    }
    println!("{}", fields.join("|"));
    let _ = listening.wait();
    let _ = other.kill();
    ExitCode::SUCCESS
}

fn behaving() -> (Child, String) {
    let mut child = Command::new("/proc/self/exe")
        .arg0(format!("km-plugin-{}", Mode::Counts.name()))
        // The socket is named after the process: two fit into one folder.
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a handshake");
    // Closing it would tell the child that its host is gone.
    std::mem::forget(stdout);
    (child, line.trim().to_owned())
}

fn serve_by_hand(mode: Mode) -> ExitCode {
    let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
    let served = go_plugin::plugin::serve(cookie, &[1], |_, routes| {
        routes.add_service(KilometersPluginServer::new(ByHand { mode }));
    });
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve_protocol_2_by_hand(mode: Mode) -> ExitCode {
    let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
    let served = go_plugin::plugin::serve(cookie, &km_proto::PROTOCOL_VERSIONS, |startup, routes| {
        routes.add_service(KilometersPluginServer::new(ByHand { mode }));
        if startup.version() >= 2 {
            routes.add_service(Protocol2Server::new(ByHand { mode }));
        }
    });
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Both protocols without the SDK, which would not let it.
struct ByHand {
    mode: Mode,
}

#[tonic::async_trait]
impl Protocol2 for ByHand {
    type DeliverStream = tokio_stream::Empty<std::result::Result<v2::DeliverResponse, Status>>;

    async fn describe(&self, _: Request<v2::DescribeRequest>) -> Answer<v2::DescribeResponse> {
        Ok(Response::new(v2::DescribeResponse {
            name: self.mode.name().to_owned(),
            version: "0.0.0".to_owned(),
            required_tier: "Free".to_owned(),
            ..v2::DescribeResponse::default()
        }))
    }

    async fn authenticate(&self, _: Request<v2::AuthenticateRequest>) -> Answer<v2::AuthenticateResponse> {
        let tier = "Free".to_owned();
        Ok(Response::new(v2::AuthenticateResponse {
            authorized: true,
            tier,
            ..v2::AuthenticateResponse::default()
        }))
    }

    async fn deliver(&self, _: Request<Streaming<v2::DeliverRequest>>) -> Answer<Self::DeliverStream> {
        Err(Status::unimplemented("what is that?"))
    }
}

impl ByHand {
    fn error_out(&self) -> std::result::Result<(), Status> {
        if self.mode == Mode::ErrorsOut { Err(Status::internal("my database is gone")) } else { Ok(()) }
    }
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn text(value: &str) -> Answer<StringResponse> {
    Ok(Response::new(StringResponse { value: value.to_owned() }))
}

#[tonic::async_trait]
impl KilometersPlugin for ByHand {
    async fn get_name(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text(self.mode.name())
    }

    async fn get_version(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text("0.0.0")
    }

    async fn get_required_tier(&self, _: Request<Empty>) -> Answer<StringResponse> {
        text("Free")
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        eprintln!("an API key of {} characters", request.into_inner().api_key.len());
        let authorized = self.mode != Mode::RefusesAuthentication;
        let error = if authorized { "" } else { "I do not like you" };
        let response = AuthResponse { authorized, user_tier: "Free".to_owned(), ..AuthResponse::default() };
        let error = error.to_owned();
        Ok(Response::new(AuthenticateResponse { success: authorized, error, auth_response: Some(response) }))
    }

    async fn initialize(&self, _: Request<InitializeRequest>) -> Answer<InitializeResponse> {
        Ok(Response::new(InitializeResponse { success: true, error: String::new() }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        Ok(Response::new(ShutdownResponse { success: true, error: String::new() }))
    }

    async fn handle_message(&self, _: Request<HandleMessageRequest>) -> Answer<HandleMessageResponse> {
        self.error_out()?;
        Ok(Response::new(HandleMessageResponse { success: true, error: String::new() }))
    }

    async fn handle_error(&self, _: Request<HandleErrorRequest>) -> Answer<HandleErrorResponse> {
        Ok(Response::new(HandleErrorResponse { success: true, error: String::new() }))
    }

    async fn handle_stream_event(
        &self,
        _: Request<HandleStreamEventRequest>,
    ) -> Answer<HandleStreamEventResponse> {
        self.error_out()?;
        Ok(Response::new(HandleStreamEventResponse { success: true, error: String::new() }))
    }
}
