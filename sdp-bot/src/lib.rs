//! The chat bot: a client of SDP's public API that speaks for the people in a chat.
//!
//! ```text
//!   what somebody typed ─▶ command (grammar, pure) ─▶ answer (asks the server) ─▶ message (every word, pure) ─▶ chat
//!   one event feed ─▶ follow ─▶ thread (fold, pure) ─▶ message ──────────────────────────────────────────────▶ chat
//! ```
//! [`chat`] is the seam: the [`console`] is a chat, and [`slack`] is one. [`store`] keeps where messages sit, so that a
//! restarted bot brings every unfinished message up to date.

pub mod answer;
pub mod bot;
pub mod chat;
pub mod command;
pub mod config;
pub mod console;
pub mod follow;
pub mod message;
pub mod output;
mod people;
pub mod slack;
pub mod store;
pub mod story;
pub mod text;
pub mod thread;
