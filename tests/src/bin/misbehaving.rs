//! A plugin that behaves as badly as its name says: copied to `km-plugin-<mode>`, it finds its mode
//! in its own file name.

use std::process::ExitCode;
use std::time::Duration;

use km_plugin::{About, Message, Plugin, Result, Tier};

/// How it misbehaves.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// Takes ten seconds for each message.
    Sleeps,
    /// Dies at the third message.
    Crashes,
    /// Says that each message failed.
    Fails,
    /// Writes a lot to stderr for each message.
    Floods,
    /// Ends before the handshake, with a word.
    ExitsEarly,
    /// Needs a tier that nobody has here.
    NeedsPro,
    /// Behaves.
    Counts,
}

impl Mode {
    const ALL: [(&'static str, Self); 7] = [
        ("sleeps", Self::Sleeps),
        ("crashes", Self::Crashes),
        ("fails", Self::Fails),
        ("floods", Self::Floods),
        ("exits-early", Self::ExitsEarly),
        ("needs-pro", Self::NeedsPro),
        ("counts", Self::Counts),
    ];
}

struct Misbehaving {
    mode: Mode,
    messages: u64,
}

impl Plugin for Misbehaving {
    fn message(&mut self, message: &Message) -> Result {
        self.messages += 1;
        match self.mode {
            Mode::Sleeps => std::thread::sleep(Duration::from_secs(10)),
            Mode::Crashes if self.messages == 3 => std::process::abort(),
            Mode::Crashes | Mode::Counts => {
                println!(
                    "message {} {} {}",
                    message.correlation_id,
                    message.direction.as_str(),
                    message.size()
                );
            }
            Mode::Fails => return Err("it always fails".into()),
            Mode::Floods => eprint!("{}", "noise without end ".repeat(20_000)),
            Mode::ExitsEarly | Mode::NeedsPro => {}
        }
        Ok(())
    }

    fn stop(&mut self) -> Result {
        println!("{} messages", self.messages);
        Ok(())
    }
}

fn main() -> ExitCode {
    let path = std::env::args().next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = file.strip_prefix("km-plugin-").unwrap_or_default();
    let Some((_, mode)) = Mode::ALL.into_iter().find(|(known, _)| *known == name) else {
        eprintln!("copy this program to km-plugin-<mode>");
        return ExitCode::FAILURE;
    };
    let required_tier = match mode {
        Mode::NeedsPro => Tier::Pro,
        Mode::Sleeps | Mode::Crashes | Mode::Fails | Mode::Floods | Mode::ExitsEarly | Mode::Counts => {
            Tier::Free
        }
    };
    if let Mode::ExitsEarly = mode {
        eprintln!("I would rather not");
        return ExitCode::from(7);
    }
    let about = About { package: file.leak(), version: "0.0.0", description: "misbehaves", required_tier };
    km_plugin::serve(about, Misbehaving { mode, messages: 0 })
}
