//! The server as its clients see it: a real one on a port of its own, driven over HTTP and WebSockets. Where a test needs an
//! agent, it plays one.

mod access;
mod account;
mod agents;
mod apply;
mod audit;
mod batches;
mod data_dir;
mod deployments;
mod events;
mod harness;
mod hostile;
mod hostile_places;
mod limits;
mod locks;
mod login;
mod metrics;
mod nginx;
mod pages;
mod places;
mod problems;
mod program;
mod ready;
mod roles;
mod routes;
mod secrets;
mod services;
mod sign_in;
mod sockets;
mod tls;
mod viewers;
