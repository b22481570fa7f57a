//! SDP in Slack, against a Slack of our own ([`fake`]) that somebody else's client has checked ([`sdk_check`]).

mod fake;
mod sdk_check;
