//! Ends an instance for a while, and starts it again: its container is stopped, and kept with all that is in it. A note in the
//! instance's folder says so to the agent's next life, which starts what is down without one.
//!
//! The note is there before the container is stopped; beside one that runs it means nothing.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sdp_core::id::InstanceId;
use sdp_core::wire::{Exit, Health, InstanceStatus};

use super::engine::said;
use super::watch::Why;
use super::{DockerRuntime, Entry};

/// The note's name in the instance's folder.
const FILE: &str = "suspended";
/// The longest that is read, in bytes.
const LONGEST: u64 = 1024;

/// Why an instance was suspended, if it was. Blocking.
pub(super) fn note(folder: &Path) -> Option<String> {
    let mut why = String::new();
    fs::File::open(folder.join(FILE)).ok()?.take(LONGEST).read_to_string(&mut why).ok()?;
    (!why.is_empty()).then_some(why)
}

/// Takes a note. Blocking.
fn write(folder: &Path, why: &str) -> io::Result<()> {
    let unfinished = folder.join("suspended.new");
    let mut file = fs::File::create(&unfinished)?;
    file.write_all(why.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))?;
    fs::File::open(folder)?.sync_all()
}

impl Entry {
    /// It is down, and stays so.
    pub(super) fn suspend(&self, why: String) {
        let exit = Exit { not_started: Some(why.clone()), ..Exit::default() };
        *self.suspended.lock() = Some(why);
        self.checking.lock().cancel();
        self.status.send_replace(InstanceStatus::Exited { exit });
        self.pulse.send_modify(|pulse| *pulse += 1);
    }
}

impl DockerRuntime {
    pub(super) async fn suspend(&self, instance: InstanceId, why: &str) {
        let gate = self.gate(instance);
        let _one_by_one = gate.lock().await;
        let running = |entry: &Arc<Entry>| entry.is_running() && !entry.is_unwanted();
        let Some(entry) = self.entry(instance).filter(running) else { return };
        let failed = |why: String| {
            tracing::warn!(instance.id = %instance, %why, "failed to suspend a container; it goes on");
        };
        let (folder, text) = (self.0.config.folder(instance), why.to_owned());
        match tokio::task::spawn_blocking(move || write(&folder, &text)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return failed(error.to_string()),
            Err(_) => return,
        }
        *entry.suspended.lock() = Some(why.to_owned());
        let stopped = match self.engine() {
            Ok(engine) => {
                let stopped = engine.stop(&entry.container, self.0.config.stop_grace).await;
                stopped.map_err(|error| said(&error))
            }
            Err(why) => Err(why),
        };
        match stopped {
            Ok(()) => {
                entry.suspend(why.to_owned());
                self.changed();
            }
            Err(why) => {
                *entry.suspended.lock() = None;
                self.remove_note(instance).await;
                failed(why);
            }
        }
    }

    pub(super) async fn wake(&self, instance: InstanceId) {
        let gate = self.gate(instance);
        let _one_by_one = gate.lock().await;
        let suspended = |entry: &Arc<Entry>| !entry.is_running() && entry.suspended.lock().is_some();
        let Some(entry) = self.entry(instance).filter(suspended) else { return };
        if entry.forgotten.load(Ordering::Acquire) {
            return;
        }
        match self.start_again(&entry).await {
            Ok(()) => tracing::info!(instance.id = %instance, "a suspended container was started again"),
            Err(why) => {
                tracing::error!(instance.id = %instance, %why, "failed to start a suspended container again");
                *entry.suspended.lock() = None;
                let exit = Exit { not_started: Some(why), ..Exit::default() };
                entry.status.send_replace(InstanceStatus::Exited { exit });
            }
        }
        self.changed();
    }

    async fn start_again(&self, entry: &Arc<Entry>) -> Result<(), String> {
        let engine = self.engine()?;
        let found = engine.inspect(&entry.container).await.map_err(|error| said(&error))?;
        let counted = found.ok_or("its container is gone")?.restart_count;
        let counted = counted.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        self.count(entry, |known| known.woken(counted)).await;
        {
            let mut facts = entry.facts.lock();
            (facts.exits, facts.out_of_memory, facts.signalled, facts.last_exit) = (0, false, false, None);
        }
        engine.api().start_container(&entry.container, None).await.map_err(|error| said(&error))?;
        self.remove_note(entry.found.instance).await;
        let restarts = entry.facts.lock().restarts;
        entry.status.send_replace(InstanceStatus::Running {
            address: entry.address,
            restarts: restarts.total(),
            last_restart: restarts.cause(None),
            health: Health::Checking {},
        });
        *entry.suspended.lock() = None;
        // Whatever it says, it is said with the next look.
        drop(self.look(entry, Why::List).await);
        Ok(())
    }

    async fn remove_note(&self, instance: InstanceId) {
        let note: PathBuf = self.0.config.folder(instance).join(FILE);
        let removed = tokio::task::spawn_blocking(move || fs::remove_file(note)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(instance.id = %instance, %error, "failed to remove a note in an instance's folder");
        }
    }
}
