//! A plugin that counts: copied to `km-plugin-<name>`, it says at the end how many messages it was
//! given, and how long it was from the first to the last.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use km_plugin::{About, Message, Permissions, Plugin, Result, Tier};

#[derive(Default)]
struct Counting {
    messages: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Plugin for Counting {
    fn message(&mut self, message: &Message) -> Result {
        self.messages += 1;
        self.bytes += message.size();
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        Ok(())
    }

    fn stop(&mut self) -> Result {
        let took = self.last.zip(self.first).map_or(Duration::ZERO, |(last, first)| last - first);
        println!("counted {} messages, {} bytes, {} us", self.messages, self.bytes, took.as_micros());
        Ok(())
    }
}

fn main() -> ExitCode {
    let path = std::env::args().next().unwrap_or_default();
    let package = path.rsplit('/').next().unwrap_or_default().to_owned();
    let about = About {
        package: package.leak(),
        version: "0.0.0",
        description: "counts messages",
        required_tier: Tier::Free,
        features: &[],
        permissions: Permissions::default(),
        durable: false,
    };
    km_plugin::serve(about, Counting::default())
}
