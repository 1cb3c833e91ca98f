//! `km monitor`: the relay, and the messages on their way to the plugins.
//!
//! ```text
//! client ──► pump ──► server        relay: two threads that know nothing but two pipes and a tap
//!    ▲         │tap      │
//!    └── pump ─┼─────────┘
//!              ▼
//!          framer ──► queue per plugin (memory, then disk) ──► supervisor ──► plugin process
//! ```
//!
//! Nothing on the right of the tap can hold up what is on its left: the tap takes copies within a
//! budget of memory, and past it leaves out, and counts, what nobody takes away.

mod control;
mod frames;
mod http;
mod message;
mod observe;
mod queue;
mod relay;
mod remarks;
mod session;
mod spool;
mod tap;
mod watchers;

pub(crate) use control::{Session as SessionReport, sessions};
pub(crate) use http::{HttpOptions, Listen, UpstreamUrl, run as run_http};
pub(crate) use message::Message;
pub(crate) use queue::Queue;
pub(crate) use remarks::Remarks;
pub(crate) use session::{MonitorOptions, run};
pub(crate) use watchers::Selection;
