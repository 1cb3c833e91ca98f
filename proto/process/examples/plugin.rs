//! A complete plugin. Its host starts it: `cargo run -p go-plugin --example host`.

use std::process::ExitCode;

use go_plugin::handshake::Cookie;
use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{GreetRequest, GreetResponse};
use tonic::{Request, Response, Status};

/// Generated from `greeter.proto` by tonic-prost-build.
#[allow(unreachable_pub, dead_code)]
mod greeter {
    include!("greeter/greeter.rs");
}

/// Host and plugin agree on it.
const COOKIE: Cookie = Cookie { key: "GREETER_PLUGIN", value: "hello" };

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let name = request.into_inner().name;
        // It reaches the host as a line of output.
        println!("greeting {name}");
        Ok(Response::new(GreetResponse { greeting: format!("Good morning, {name}.") }))
    }
}

fn main() -> ExitCode {
    let served = go_plugin::plugin::serve(COOKIE, &[1], |_, routes| {
        routes.add_service(GreeterServer::new(Polite));
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
