//! `km monitor`: the relay, and the messages on their way to the plugins.
//!
//! ```text
//! client ──► pump ──► server        relay: two threads that know nothing but two pipes and a tap
//!    ▲         │tap      │
//!    └── pump ─┼─────────┘
//!              ▼
//!          observer ──► journal (memory, then disk) ──► a reader per plugin ──► plugin process
//! ```
//!
//! `--record` copies it beside that ([`record`]); [`replay`] stands in for the left side, or the right.
//!
//! Nothing on the right of the tap can hold up what is on its left: the tap takes copies within a
//! budget of memory, and past it leaves out, and counts, what nobody takes away.

mod allowance;
mod calls;
mod control;
mod exchanges;
mod frames;
mod http;
mod journal;
mod message;
mod observe;
mod record;
mod relay;
mod remarks;
mod replay;
mod session;
mod session_id;
mod tap;
mod watchers;

pub(crate) use control::{Session as SessionReport, sessions};
pub(crate) use http::{HttpOptions, Listen, UpstreamUrl, run as run_http};
pub(crate) use journal::{Entry, PIECE, Reader};
pub(crate) use remarks::Remarks;
pub(crate) use replay::{Delivered, DeliveredTo, Speed, answer, deliver};
pub(crate) use session::{MonitorOptions, run};
pub(crate) use watchers::{Audience, Limits, Selection};
