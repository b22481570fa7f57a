//! Sandbox Deployment Platform.
pub mod router;
