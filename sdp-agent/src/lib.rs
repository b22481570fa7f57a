//! Sandbox Deployment Platform.

pub mod builder;
pub mod exec;
pub mod git;
pub mod redact;
pub mod router;
pub mod runtime;
pub mod workspace;
