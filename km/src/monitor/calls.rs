//! How often each method was called in a session, how it ended, and how long that took.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use km_proto::Direction;
use serde::Serialize;

/// Methods and tools that are counted by themselves. What comes after them is counted as [`OTHER`].
const ROWS: usize = 128;
const OTHER: &str = "other";
/// Longest name that is counted by itself.
const NAME: usize = 128;
/// A day in microseconds: longer calls count as this long.
const LONGEST: u64 = 24 * 60 * 60 * 1_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 2;

/// The calls of a session.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    rows: Vec<Row>,
}

/// Where a call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: usize,
    tool: Option<usize>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) latency: Duration,
    pub(super) failed: bool,
    pub(super) was_cancelled: bool,
}

#[derive(Debug)]
struct Row {
    from: Direction,
    method: String,
    tool: Option<String>,
    count: u64,
    errors: u64,
    cancelled: u64,
    /// Neither answered nor cancelled.
    open: u64,
    /// In microseconds. None where there can be none.
    latency: Option<Histogram<u32>>,
}

/// The calls of one method, or of one tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CallReport {
    /// Who called: `client` or `server`.
    pub(crate) from: &'static str,
    pub(crate) method: String,
    /// Of `tools/call`; the method's own report is over all tools.
    pub(crate) tool: Option<String>,
    pub(crate) count: u64,
    /// Errors of JSON-RPC, and results with `isError`.
    pub(crate) errors: u64,
    /// Neither answered nor cancelled, so far.
    pub(crate) unanswered: u64,
    pub(crate) cancelled: u64,
    /// From request to answer. None without an answer.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

impl Calls {
    /// Counts a call that begins.
    pub(super) fn begin(&mut self, from: Direction, method: &str, tool: Option<&str>) -> Call {
        let row = self.row(from, method, None);
        let tool = tool.filter(|_| method == "tools/call").map(|tool| self.row(from, method, Some(tool)));
        let call = Call { method: row, tool: tool.filter(|tool| *tool != row) };
        self.each(call, |row| {
            row.count += 1;
            row.open += 1;
        });
        call
    }

    /// Counts a call as cancelled.
    pub(super) fn cancel(&mut self, call: Call) {
        self.each(call, |row| {
            row.cancelled += 1;
            row.open = row.open.saturating_sub(1);
        });
    }

    /// Counts a call as answered.
    pub(super) fn end(&mut self, call: Call, ending: Ending) {
        let micros = ending.latency.as_micros().try_into().unwrap_or(u64::MAX);
        self.each(call, |row| {
            row.errors += u64::from(ending.failed);
            row.open = row.open.saturating_sub(u64::from(!ending.was_cancelled));
            if let Some(latency) = &mut row.latency {
                latency.saturating_record(micros);
            }
        });
    }

    /// What was counted, by who called, method and tool.
    pub(crate) fn reports(&self) -> Vec<CallReport> {
        let mut reports: Vec<_> = self.rows.iter().map(Row::report).collect();
        reports.sort_by(|a, b| (a.from, &a.method, &a.tool).cmp(&(b.from, &b.method, &b.tool)));
        reports
    }

    fn each(&mut self, call: Call, mut change: impl FnMut(&mut Row)) {
        for row in std::iter::once(call.method).chain(call.tool) {
            if let Some(row) = self.rows.get_mut(row) {
                change(row);
            }
        }
    }

    /// Where this method or tool is counted.
    fn row(&mut self, from: Direction, method: &str, tool: Option<&str>) -> usize {
        let is_row = |row: &Row| row.from == from && row.method == method && row.tool.as_deref() == tool;
        if let Some(found) = self.rows.iter().position(is_row) {
            return found;
        }
        let long = [Some(method), tool].into_iter().flatten().any(|name| name.len() > NAME);
        let is_other = (method, tool) == (OTHER, None);
        if !is_other && (long || self.rows.len() >= ROWS) {
            return self.row(from, OTHER, None);
        }
        self.rows.push(Row::new(from, method, tool));
        self.rows.len() - 1
    }
}

impl Row {
    fn new(from: Direction, method: &str, tool: Option<&str>) -> Self {
        Self {
            from,
            method: method.to_owned(),
            tool: tool.map(str::to_owned),
            count: 0,
            errors: 0,
            cancelled: 0,
            open: 0,
            latency: Histogram::new_with_max(LONGEST, DIGITS).ok(),
        }
    }

    fn report(&self) -> CallReport {
        let answered = self.latency.as_ref().filter(|latency| !latency.is_empty());
        let quantile = |q| answered.map(|latency| latency.value_at_quantile(q) as f64 / 1e3);
        CallReport {
            from: match self.from {
                Direction::Inbound => "client",
                Direction::Outbound => "server",
            },
            method: self.method.clone(),
            tool: self.tool.clone(),
            count: self.count,
            errors: self.errors,
            unanswered: self.open,
            cancelled: self.cancelled,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

/// What is said of a session at its end.
pub(super) fn summary(calls: &Mutex<Calls>) -> String {
    let reports = calls.lock().unwrap_or_else(PoisonError::into_inner).reports();
    match reports.len() {
        0 => "no calls in this session".to_owned(),
        _ => format!("calls in this session\n{}", table(&reports).trim_end()),
    }
}

fn table(reports: &[CallReport]) -> String {
    let row = |report: &CallReport| {
        let tool = report.tool.iter().map(String::as_str);
        let name = std::iter::once(report.method.as_str()).chain(tool).collect::<Vec<_>>().join(" ");
        let counts = [report.count, report.errors, report.unanswered, report.cancelled];
        let texts = [report.from.to_owned(), km_cli::printable_line(&name)];
        let latencies = [report.p50_ms, report.p99_ms].map(duration);
        texts.into_iter().chain(counts.map(|count| count.to_string())).chain(latencies).collect()
    };
    let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
    km_cli::table(&["FROM", "METHOD", "CALLS", "ERRORS", "UNANSWERED", "CANCELLED", "P50", "P99"], &rows)
}

fn duration(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        Some(ms) if ms < 1e3 => format!("{ms:.1} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use km_proto::Direction::{Inbound, Outbound};

    use super::*;

    fn ending(ms: u64) -> Ending {
        Ending { latency: Duration::from_millis(ms), failed: false, was_cancelled: false }
    }

    #[test]
    fn calls_are_counted_by_who_called_method_and_tool() {
        let mut calls = Calls::default();
        for ms in 1..=100 {
            let call = calls.begin(Inbound, "tools/call", Some("echo"));
            calls.end(call, ending(ms));
        }
        let failed = calls.begin(Inbound, "tools/call", Some("fail\u{1b}[2J"));
        calls.end(failed, Ending { failed: true, ..ending(2500) });
        let late = calls.begin(Inbound, "resources/read", Some("not a tool"));
        calls.cancel(late);
        calls.end(late, Ending { was_cancelled: true, ..ending(0) });
        let gone = calls.begin(Inbound, "resources/read", None);
        calls.cancel(gone);
        calls.begin(Outbound, "roots/list", None);

        let reports = calls.reports();
        let rows: Vec<_> = reports
            .iter()
            .map(|r| (r.from, &*r.method, r.tool.as_deref(), [r.count, r.errors, r.unanswered, r.cancelled]))
            .collect();
        assert_eq!(
            rows,
            [
                ("client", "resources/read", None, [2, 0, 0, 2]),
                ("client", "tools/call", None, [101, 1, 0, 0]),
                ("client", "tools/call", Some("echo"), [100, 0, 0, 0]),
                ("client", "tools/call", Some("fail\u{1b}[2J"), [1, 1, 0, 0]),
                ("server", "roots/list", None, [1, 0, 1, 0]),
            ]
        );
        let echo = &reports[2];
        assert!((49.0..52.0).contains(&echo.p50_ms.unwrap()), "{echo:?}");
        assert!((98.0..101.0).contains(&echo.p99_ms.unwrap()), "{echo:?}");
        let text = table(&reports);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(
            text.lines().nth(4).unwrap().ends_with("1      1       0           0          2.5 s    2.5 s"),
            "{text}"
        );
        assert!(text.ends_with("1      0       1           0          -        -\n"), "{text}");
        assert_eq!(summary(&Mutex::default()), "no calls in this session");
    }

    #[test]
    fn names_without_end_take_no_memory_without_end() {
        let mut calls = Calls::default();
        let long = "x".repeat(NAME + 1);
        for n in 0..10_000 {
            let call = calls.begin(Inbound, "tools/call", Some(&format!("tool {n}")));
            calls.end(call, ending(1));
            calls.begin(Outbound, &format!("method {n}"), None);
        }
        calls.begin(Inbound, &long, None);
        assert_eq!(calls.rows.len(), ROWS + 2);
        let reports = calls.reports();
        let count = |from, method| {
            reports.iter().find(|r| (r.from, &*r.method) == (from, method) && r.tool.is_none()).unwrap().count
        };
        assert_eq!(count("client", "tools/call"), 10_000);
        let tools = reports.iter().filter(|r| r.tool.is_some()).count() as u64;
        assert_eq!(count("client", OTHER), 10_000 - tools + 1);
        let methods = reports.iter().filter(|r| r.from == "server").count() as u64 - 1;
        assert_eq!(count("server", OTHER), 10_000 - methods);
    }
}
