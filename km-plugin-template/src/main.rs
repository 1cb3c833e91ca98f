//! console-logger prints one line for each MCP message. It is the model plugin: copy this folder,
//! change `line.rs` and `message`, and build it with `km-pack build`.

mod line;

use km_plugin::{Message, Plugin, Result};

struct ConsoleLogger;

impl Plugin for ConsoleLogger {
    fn message(&mut self, message: &Message) -> Result {
        println!("{}", line::of(message));
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    km_plugin::serve(km_plugin::about!(), ConsoleLogger)
}
