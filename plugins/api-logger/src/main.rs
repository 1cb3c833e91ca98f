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

/// The sender of the session, when there is one.
#[derive(Debug, Default)]
struct ApiLogger(Option<Sender>);

impl Plugin for ApiLogger {
    fn start(&mut self, session: &Session) -> Result {
        let sender = Sender::new(Bounds::default(), Arc::new(say))?;
        sender.set_access(&session.access);
        self.0 = Some(sender);
        Ok(())
    }

    fn access(&mut self, access: &Access) -> Result {
        if let Some(sender) = &self.0 {
            sender.set_access(access);
        }
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result {
        match &mut self.0 {
            Some(sender) => sender.message(message),
            None => Ok(()),
        }
    }

    fn stop(&mut self) -> Result {
        if let Some(mut sender) = self.0.take() {
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
