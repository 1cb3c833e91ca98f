//! console-logger: what it does with each message. Change `message` below and `line.rs`; the handshake,
//! authentication, delivery and the end are the SDK's.

mod line;

use km_plugin::{Message, Plugin, Result};

struct Logger;

impl Plugin for Logger {
    fn message(&mut self, message: &Message) -> Result {
        println!("{}", line::of(message));
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    km_plugin::serve(km_plugin::about!(), Logger)
}
