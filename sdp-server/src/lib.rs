//! The SDP server as a library: REST API, WebSockets and pages around a [`Platform`](sdp_core::platform::Platform).
//!
//! The binary, the quickstart and the tests start it with [`start`]. Everything is thin: a handler parses, asks the core
//! and answers; what is decided is decided in the core.
//!
//! ```text
//! connection ─▶ edge: request id, time limit, who may ─▶ rest | socket | pages ─▶ sdp-core
//! ```

mod app;
pub mod config;
mod edge;
mod metrics;
mod openapi;
mod pages;
mod problem;
mod rest;
mod router;
mod serve;
mod socket;

pub use app::{Server, StartError, start};
pub use config::{Config, ConfigError};
pub use router::openapi_json;
