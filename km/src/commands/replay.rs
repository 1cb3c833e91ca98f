//! `km replay`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use crate::environment::Environment;
use crate::monitor::{self, Delivered, Speed};

/// Give a recorded session to plugins, or answer a client from it
///
/// Recordings are made by `km monitor --record`. Plugins get every message with the times of the
/// recording, as fast as they take them. With `--as-server` a client gets for each request what the
/// server answered in the recording.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km replay session.jsonl.zst --plugin console-logger\n  km replay session.jsonl.zst --as-server"
)]
pub(super) struct Replay {
    /// The recording
    file: PathBuf,
    /// Only to this plugin; repeat for more
    #[arg(long, value_name = "NAME")]
    plugin: Vec<PluginName>,
    /// Answer a client on stdin and stdout, as the recorded server did
    #[arg(long, conflicts_with = "plugin")]
    as_server: bool,
    /// How fast the answers come: with the pauses of the recording (1), or without (max)
    #[arg(long, requires = "as_server", default_value = "max", hide_possible_values = true)]
    speed: Speed,
}

impl Replay {
    pub(super) fn run(&self, environment: Environment, output: &Output) -> Result<ExitCode, Failure> {
        match self.as_server {
            true if output.is_json() => Err(Failure::new(
                Kind::Usage,
                "a replayed server has no document: its stdout is the client's",
            )
            .help("leave out --json")),
            true => monitor::answer(&self.file, self.speed).map(|()| ExitCode::SUCCESS),
            false => self.deliver(environment, output),
        }
    }

    fn deliver(&self, environment: Environment, output: &Output) -> Result<ExitCode, Failure> {
        let delivered = monitor::deliver(&self.file, self.plugin.clone(), environment, output.verbose() > 0)?;
        if let Some(damage) = &delivered.damage {
            output.warn(format_args!("the recording {} is not whole: {damage}", self.file.display()));
        }
        let missing = self.plugin.iter().find(|name| delivered.plugins.iter().all(|to| to.name != **name));
        if let Some(name) = missing {
            return Err(Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed"))
                .help("`km plugins list` shows what is"));
        }
        if delivered.plugins.is_empty() {
            return Err(Failure::new(Kind::NotFound, "no plugin is installed that could take the recording")
                .help("`km plugins install <package>` installs one"));
        }
        output.result(&delivered, text(&delivered));
        Ok(match is_complete(&delivered) {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(Kind::Plugin.code()),
        })
    }
}

fn is_complete(delivered: &Delivered) -> bool {
    delivered.plugins.iter().all(|to| to.counters.failed + to.counters.dropped + to.counters.waiting == 0)
}

fn text(delivered: &Delivered) -> String {
    let line = |to: &monitor::DeliveredTo| {
        let (name, counters) = (&to.name, &to.counters);
        let missed = counters.failed + counters.dropped + counters.waiting;
        match missed {
            0 => format!("{name}: {} messages delivered", counters.delivered),
            _ => format!("{name}: {} messages delivered, {missed} not", counters.delivered),
        }
    };
    delivered.plugins.iter().map(line).collect::<Vec<_>>().join("\n")
}
