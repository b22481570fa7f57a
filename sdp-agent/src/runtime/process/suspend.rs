//! Ends an instance for a while, and starts it again: with its port, its folder and its build. Between the two nothing of it runs,
//! and its record says so, so that the agent's next life does not start it either.

use std::sync::Arc;

use sdp_core::id::InstanceId;

use super::{Entry, ProcessRuntime, end};

impl ProcessRuntime {
    pub(super) async fn suspend(&self, instance: InstanceId, why: &str) {
        let Some(entry) = self.entry(instance).filter(|entry| entry.is_running()) else { return };
        *entry.suspended.lock() = Some(why.to_owned());
        end(&entry).await;
    }

    pub(super) fn is_suspended(&self, instance: InstanceId) -> bool {
        self.entry(instance).is_some_and(|entry| !entry.is_running() && entry.suspended.lock().is_some())
    }

    pub(super) async fn wake(&self, instance: InstanceId) {
        let _one_by_one = self.0.starting.lock().await;
        if self.0.tasks.is_closed() || !self.is_suspended(instance) {
            return;
        }
        let Some(old) = self.entry(instance) else { return };
        let mut record = old.record.lock().await.clone();
        if !record.wake() {
            return;
        }
        // Its life and what it printed are over: this is another.
        let entry = Entry::new(record, old.address, self.0.folder(instance));
        {
            let mut entries = self.entries();
            match entries.get_mut(&instance) {
                Some(known) if Arc::ptr_eq(known, &old) => *known = entry.clone(),
                // Forgotten meanwhile.
                _ => return,
            }
        }
        self.keep(&entry, |_| ()).await;
        tracing::info!(instance.id = %instance, "a suspended instance is started again");
        self.changed();
        self.begin(entry, None);
    }
}
