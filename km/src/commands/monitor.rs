//! `km monitor`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use go_plugin::host::RestartPolicy;
use jiff::{Span, SpanRelativeTo};
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use crate::environment::Environment;
use crate::monitor::{self, Audience, HttpOptions, Limits, Listen, MonitorOptions, Selection, UpstreamUrl};

/// Run an MCP server and show its messages to the plugins
///
/// Between client and server nothing changes: every byte passes as it is, and the exit status is
/// the server's. What plugins print goes to stderr.
///
/// With --http it stands in front of a server that speaks HTTP, and runs until a signal ends it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km monitor -- npx -y @modelcontextprotocol/server-everything\n  km monitor --plugin console-logger --server -- uvx mcp-server-time\n  km monitor --http 127.0.0.1:8080 --upstream https://mcp.example.com"
)]
pub(super) struct Monitor {
    /// What follows `--` is the server (it is in any case)
    #[arg(long)]
    server: bool,
    /// Run no plugins
    #[arg(long, conflicts_with = "plugin")]
    no_plugins: bool,
    /// Run only this plugin; repeat for more
    #[arg(long, value_name = "NAME")]
    plugin: Vec<PluginName>,
    /// Memory for messages that wait for one plugin; past it they wait on disk
    #[arg(long, value_name = "SIZE", default_value = "1MB", value_parser = parse_size)]
    buffer_size: usize,
    /// Disk for messages that do not fit into memory; past it the oldest are dropped, and counted
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    spool_limit: usize,
    /// The longest message that plugins see whole; of a longer one the beginning, its size and digest
    #[arg(long, value_name = "SIZE", default_value = "64MB", value_parser = parse_size)]
    max_message: usize,
    /// Memory that the process of one plugin may take; past it the plugin is started anew
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    plugin_memory: usize,
    /// So many deaths within a minute, and a plugin is given up for the session
    #[arg(long, value_name = "COUNT", default_value_t = RestartPolicy::default().deaths)]
    max_deaths: usize,
    /// How long plugins have at the end for messages that still wait: `500ms`, `1s`, `2min`
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    drain_timeout: Duration,
    /// Print at the end which methods were called, how often, and how long answers took
    #[arg(long)]
    summary: bool,
    /// Record every byte, with its time, in this new file
    #[arg(long, value_name = "FILE.jsonl.zst")]
    record: Option<PathBuf>,
    /// Listen here (a port of this machine, or IP:PORT; port 0 takes a free one) for clients that speak HTTP
    #[arg(long, value_name = "ADDRESS", requires = "upstream", conflicts_with_all = ["command", "server", "record"])]
    http: Option<Listen>,
    /// The MCP server that --http stands in front of; paths go on where this URL ends
    #[arg(long, value_name = "URL", requires = "http")]
    upstream: Option<UpstreamUrl>,
    /// The server's command and its arguments
    #[arg(
        last = true,
        required_unless_present = "http",
        value_name = "COMMAND",
        help = "The server's command and its arguments, after `--`"
    )]
    command: Vec<OsString>,
}

impl Monitor {
    pub(super) fn run(&self, environment: Environment, output: &Output) -> Result<ExitCode, Failure> {
        if output.is_json() {
            return Err(Failure::new(Kind::Usage, "monitor has no document: its stdout is the server's")
                .help("leave out --json"));
        }
        let selection = Selection {
            names: self.plugin.clone(),
            limits: Limits { memory: self.buffer_size, disk: self.spool_limit as u64 },
            max_message: self.max_message,
            drain_timeout: self.drain_timeout,
            plugin_memory: self.plugin_memory as u64,
            max_deaths: self.max_deaths,
        };
        let plugins = (!self.no_plugins).then_some(selection);
        let audience = Audience { plugins, summary: self.summary, verbose: output.verbose() > 0 };
        if let (Some(listen), Some(upstream)) = (self.http, self.upstream.clone()) {
            let options = HttpOptions { listen, upstream, audience };
            return monitor::run_http(options, environment);
        }
        let options = MonitorOptions { command: self.command.clone(), audience, record: self.record.clone() };
        monitor::run(options, environment)
    }
}

/// `1MB`, `512 KiB`, `65536`: decimal and binary units are both taken as powers of 1024.
fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("{unit:?} is not a unit of size: use KB, MB or GB")),
    };
    let number: usize = number.parse().map_err(|_| "a size is a number with a unit, as 1MB".to_owned())?;
    number.checked_shl(shift).filter(|size| size >> shift == number).ok_or_else(|| "too large".to_owned())
}

/// `500ms`, `1s`, `2min`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: use 500ms, 1s, 2min");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(time).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, size) in [("0", 0), ("7b", 7), ("1MB", 1 << 20), ("2 kib", 2048), ("3G", 3 << 30)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for bad in ["", "MB", "1XB", "-1", "1.5MB", "99999999999999999999", "99999999999GB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
