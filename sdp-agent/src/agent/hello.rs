//! What the agent says of itself: its hello, and what it found on its machine.

use std::path::Path;

use sdp_core::wire::{FromAgent, PROTOCOL, Preflight};

use super::Agent;
use crate::config::Config;

impl Agent {
    pub(super) fn hello(&self) -> FromAgent {
        let mut preflight = self.preflight.clone();
        preflight.push(self.disk());
        FromAgent::Hello {
            protocol: PROTOCOL,
            boot_id: self.boot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: self.config.labels.clone(),
            capacity: self.config.capacity,
            runtimes: vec![self.tools.runtime.kind().to_owned()],
            preflight,
            jobs: self.spool.reports(),
            instances: self.tools.runtime.reports(),
            degraded: self.tools.runtime.degraded(),
            router: self.router.as_ref().map(|router| router.report()),
        }
    }

    fn disk(&self) -> Preflight {
        let (ok, detail) = match free_bytes(&self.config.data_dir) {
            Ok(free) => {
                let least = self.config.min_free;
                let free_mib = free >> 20;
                let detail =
                    format!("{free_mib} MiB free in the data folder, at least {} MiB wanted", least >> 20);
                (free >= least, detail)
            }
            Err(error) => (false, format!("cannot tell how much is free: {error}")),
        };
        Preflight { check: "disk".to_owned(), ok, detail }
    }

    /// Whether there is room for more work.
    pub(super) fn has_room(&self) -> bool {
        // Where the system cannot say, the work itself will find out.
        free_bytes(&self.config.data_dir).map_or(true, |free| free >= self.config.min_free)
    }
}

fn free_bytes(folder: &Path) -> rustix::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What does not change while the agent lives.
pub(super) async fn tools_found(config: &Config) -> Vec<Preflight> {
    let version = git2::Version::get().libgit2_version();
    let (major, minor, patch) = version;
    let mut found = vec![Preflight {
        check: "git".to_owned(),
        ok: true,
        detail: format!("built in (libgit2 {major}.{minor}.{patch})"),
    }];
    let path = config.build.path.clone();
    let go = tokio::task::spawn_blocking(move || {
        path.split(':').map(|folder| Path::new(folder).join("go")).find(|file| file.is_file())
    });
    match go.await.ok().flatten() {
        Some(file) => {
            found.push(Preflight { check: "go".into(), ok: true, detail: file.display().to_string() });
        }
        None if config.labels.iter().any(|label| label.as_str().starts_with("go")) => {
            let detail = "this agent is labelled with go, but there is none in build.path".to_owned();
            found.push(Preflight { check: "go".into(), ok: false, detail });
        }
        None => {}
    }
    found
}
