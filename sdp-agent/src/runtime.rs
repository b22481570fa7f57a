//! Where instances run. Today as plain processes ([`process`]); another runtime (containers) will stand beside it, and
//! what both do becomes a trait then.
//!
//! Shared by them: which ports are free, and how an instance is [checked](health).

pub mod health;
mod output;
mod ports;
pub mod process;

pub use health::CheckError;
pub use process::{ProcessRuntime, RuntimeConfig, StartError, StartSpec};
