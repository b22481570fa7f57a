//! Selected services to the sandbox, the rest to the baseline: everything real, with the built-in router and with nginx, two agents
//! and a baseline that answers only to its own name.

mod chain;
mod ends;
mod ground;
mod selected;
mod switching;
