//! Against a real engine, with the base images: `scripts/test` makes them and runs these.

mod fixture;
mod lives;
mod makes;
mod reboot;
mod says;
