//! Says what the agent holds and has room for, so that people and monitoring see a spool or a disk fill up in time.
//!
//! Called for each connection. A word comes after the welcome, then when something has changed noticeably (looked at each
//! [`LOOK_EACH`]), and for smaller changes each [`SAY_EACH`]. Lost words are no loss: each says all.

use std::time::Duration;

use sdp_core::wire::{FromAgent, Load};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::Agent;
use crate::disk;

const LOOK_EACH: Duration = Duration::from_secs(10);
const SAY_EACH: Duration = Duration::from_secs(60);

impl Agent {
    pub(super) async fn report_load(&self, outbox: &mpsc::Sender<FromAgent>) {
        let mut said: Option<(Load, Instant)> = None;
        loop {
            let load = self.load().await;
            let worth_it = said.as_ref().is_none_or(|(before, at)| {
                load.differs_noticeably(before) || (load != *before && at.elapsed() >= SAY_EACH)
            });
            if worth_it {
                if outbox.send(FromAgent::Load { load }).await.is_err() {
                    return;
                }
                said = Some((load, Instant::now()));
            }
            sleep(LOOK_EACH).await;
        }
    }

    async fn load(&self) -> Load {
        let folder = self.config.data_dir.clone();
        let room = tokio::task::spawn_blocking(move || disk::room(&folder)).await;
        let room = room.ok().and_then(Result::ok);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (jobs, bytes) = self.spool.held();
        Load {
            running: count(self.running.lock().len()),
            spool_jobs: count(jobs),
            spool_bytes: bytes,
            disk_free: room.map(|(free, _)| free),
            disk_total: room.map(|(_, total)| total),
        }
    }
}
