//! The SDP agent: builds and runs branches on a VM, and says all that happens to its server.
//!
//! ```text
//!   link ──▶ agent ──▶ job: resolve → fetch (git) → build (builder, exec) → start, check (runtime)
//!     ▲        │        │
//!     │        │        └─ every line and step ─▶ spool ─▶ link, until acknowledged
//!     │        └─ route table ─▶ router (where the agent has one)
//! ```
//! [`run`] is the whole agent. The `sdp-agent` program gives it a WebSocket; the quickstart and tests give it a server in
//! the same process. The conversation is described in [`sdp_core::wire`].

mod agent;
pub mod builder;
pub mod config;
mod disk;
pub mod enrol;
pub mod exec;
pub mod git;
mod job;
pub mod link;
pub mod network;
pub mod redact;
pub mod router;
pub mod runtime;
mod secrets;
mod spool;
mod sync;
mod tools;
pub mod workspace;

pub use agent::{AgentError, run, run_on};
pub use config::Config;
pub use link::Connector;
