//! api-logger sends what passes to the API, as events in batches and without secrets. Without the
//! feature `api_logging` it only counts.

mod api;
mod event;
mod pause;
mod queue;
mod redact;
mod sender;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use km_plugin::{Access, Message, Permissions, Plugin, Result, Session, Tier, feature};

use sender::{Bounds, Sender};

/// Has nothing to do, and to say, before the first message.
#[derive(Debug, Default)]
struct ApiLogger {
    access: Access,
    sender: Option<Sender>,
}

impl Plugin for ApiLogger {
    fn start(&mut self, session: &Session) -> Result {
        self.access(&session.access)
    }

    fn access(&mut self, access: &Access) -> Result {
        self.access = access.clone();
        if let Some(sender) = &self.sender {
            sender.set_access(access);
        }
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result {
        if let Some(sender) = &mut self.sender {
            return sender.message(message);
        }
        let sender = self.sender.insert(Sender::new(Bounds::default(), Arc::new(say))?);
        sender.set_access(&self.access);
        sender.message(message)
    }

    fn stop(&mut self) -> Result {
        if let Some(mut sender) = self.sender.take() {
            sender.stop();
        }
        Ok(())
    }
}

/// Nobody may be listening any more; that is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let about = km_plugin::about!(Tier::Pro).features(&[feature::API_LOGGING]).permissions(Permissions {
        network: &["@api"],
        read: &[],
        write: &[],
    });
    km_plugin::serve(about, ApiLogger::default())
}
