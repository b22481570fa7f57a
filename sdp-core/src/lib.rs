//! SDP, the Sandbox Deployment Platform, as a library: what a deployment is, how it is orchestrated, and where its
//! story is kept.
//!
//! A **deployment** is a finite job: a branch is resolved to a commit, fetched, built, started, checked, and its
//! **sandbox**'s traffic for that **service** is switched to it. What it leaves running is an **instance**. Everything
//! that happens is an [`event::Event`] with a place in one global sequence; readers follow it through a feed.
//!
//! | feature | gives |
//! | --- | --- |
//! | none | ids, names, events, domain types, [`wire`] (agent protocol) and [`api`] (REST types) |
//! | `platform` (default) | the orchestrator (`Platform`), its SQLite store and the job logs |
//! | `client` | a typed client of the REST API |
//! | `openapi` | `utoipa` schemas of the REST types |
//!
//! This crate knows no HTTP server, no chat, no git and no Docker, and reads no environment variables.
//!
//! Minimum supported Rust version: 1.92.
#![warn(missing_docs)]

#[cfg(feature = "platform")]
pub mod access;
pub mod api;
#[cfg(feature = "platform")]
pub mod backup;
pub mod catalog;
#[cfg(feature = "client")]
pub mod client;
pub mod deployment;
pub mod event;
pub mod failure;
#[cfg(feature = "platform")]
pub mod feed;
pub mod id;
#[cfg(feature = "platform")]
pub mod logs;
pub mod name;
#[cfg(feature = "platform")]
pub mod platform;
pub mod principal;
pub mod sandbox;
pub mod secret;
#[cfg(feature = "platform")]
mod store;
pub mod wire;
