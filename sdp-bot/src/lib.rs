//! Sandbox Deployment Platform.
