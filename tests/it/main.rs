//! The integration tests: everything real but the chat's far side. One binary; a file for each verb or trouble.

#[path = "../../examples/quickstart/samples.rs"]
#[expect(dead_code, reason = "shared with the quickstart, which uses more of it")]
mod samples;

mod again;
mod agents;
mod backup;
mod bad_input;
mod branches;
mod cancel;
mod changes;
mod chat;
mod containers;
mod deploy;
mod examples;
mod git_host;
mod go;
mod harness;
mod hunt;
mod identity;
mod links;
mod logging;
mod notify;
mod output;
mod people;
mod propagation;
mod restart;
mod routing;
mod secrets;
mod slack;
mod tls;
