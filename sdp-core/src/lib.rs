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
//! # Logging
//!
//! What SDP's programs write about themselves, in the words of `tracing`; `--log-format json` (or `SDP_SERVER_LOG_FORMAT`,
//! `SDP_AGENT_LOG_FORMAT`, `SDP_BOT_LOG_FORMAT`) makes one JSON object of each line. The rule:
//!
//! - An error is logged once, where it is handled, with its causes. What is the user's own (a refused request, a failed
//!   build) is no error; it is answered, or stands in the deployment's log.
//! - A line about something that has an id carries the id, in these fields and no others:
//!
//! | field | is | on |
//! | --- | --- | --- |
//! | `deployment.id`, `.number`, `.attempt`, `.step`, `.outcome`, `.reason` | a deployment; codes, not sentences | server, agent, bot |
//! | `instance.id`, `instance.restarts` | an instance | server, agent, bot |
//! | `agent.name`, `agent.epoch` | an agent, and which of its connections | server; the agent itself knows the epoch |
//! | `service.name`, `sandbox.name` | what it is about | server, agent |
//! | `request.id` | a request to the server, as the answer's header `x-request-id` has it | server |
//! | `container.id`, `route.version`, `event.seq` | an engine's container, a route table, an event | agent, server |
//! | `error`, `code` | what went wrong | all |
//!
//! - Spans give them to whatever is logged inside: `request` (server), `agent_session` (server), `job` (agent).
//! - How a deployment goes is told by the server once for each event, by the agent where a job begins and ends.
//! - Never logged: tokens, credentials, cookies, headers, queries, bodies, variables of a service, addresses of sign-in links,
//!   lines that a build or a service printed; nor, whatever the filter, what libraries say at `TRACE` ([`logging`]). Branches and commit subjects are people's words: they stand in the store.
//!
//! Minimum supported Rust version: 1.92.
#![warn(missing_docs)]

#[cfg(feature = "platform")]
pub mod access;
pub mod api;
#[cfg(feature = "platform")]
pub mod audit;
#[cfg(feature = "platform")]
pub mod backup;
pub mod batch;
pub mod catalog;
#[cfg(feature = "client")]
pub mod client;
pub mod deployment;
pub mod event;
pub mod failure;
#[cfg(feature = "platform")]
pub mod feed;
pub mod id;
pub mod lock;
pub mod logging;
#[cfg(feature = "platform")]
pub mod logs;
pub mod name;
#[cfg(feature = "platform")]
pub mod platform;
pub mod principal;
pub mod routing;
pub mod sandbox;
pub mod secret;
#[cfg(feature = "platform")]
mod store;
#[cfg(feature = "platform")]
pub mod vault;
pub mod wire;
