//! What the agent says of itself: its hello, and what it found on its machine.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use sdp_core::wire::bound::json_length;
use sdp_core::wire::{FromAgent, InstanceReport, PROTOCOL, Preflight};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Agent, host};
use crate::builder::find_program;
use crate::config::{BuildConfig, Config};
use crate::disk;
use crate::exec::Isolation;

/// Fewer free files than this, or than a fiftieth of all, are too few.
const LEAST_INODES: u64 = 50_000;

/// The most bytes of last lines in a hello, as JSON; each instance is reported once more after the welcome.
const LAST_LINES: usize = 1 << 20;

/// So often the agent looks at its machine again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The same reports; where their last lines are too many together, the oldest instances go without.
fn within_hello(mut reports: Vec<InstanceReport>) -> Vec<InstanceReport> {
    let mut room = LAST_LINES;
    let mut newest_first: Vec<&mut InstanceReport> = reports.iter_mut().collect();
    newest_first.sort_by_key(|report| Reverse(report.instance));
    for exit in newest_first.into_iter().filter_map(|report| report.status.exit_mut()) {
        let takes = exit.last_lines.iter().map(|line| json_length(line) + 3).sum::<usize>();
        if takes > room {
            room = 0;
            exit.last_lines.clear();
        }
        room -= takes.min(room);
    }
    reports
}

impl Agent {
    pub(super) fn hello(&self) -> FromAgent {
        let mut preflight = self.preflight.lock().clone();
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
            instances: within_hello(self.tools.runtime.reports()),
            degraded: self.tools.runtime.degraded(),
            router: self.router.as_ref().map(|router| router.report()),
        }
    }

    /// Looks at the machine again, each [`LOOK_AGAIN`] and when the engine goes away or comes back, or the router has something to say; says what has changed.
    pub(super) async fn report_preflight(&self, outbox: &mpsc::Sender<FromAgent>) {
        let runtime = &self.tools.runtime;
        let (mut seen, mut degraded) = (0, runtime.degraded());
        let mut router_seen = 0;
        let mut disk_was_fine = self.disk().ok;
        loop {
            let changed = async {
                let runtime_changed = async {
                    while runtime.degraded() == degraded {
                        runtime.next_change(&mut seen).await;
                    }
                };
                let router_changed = async {
                    match &self.router {
                        Some(router) => router.next_change(&mut router_seen).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = runtime_changed => {}
                    () = router_changed => {}
                }
            };
            // Either way it is looked at.
            drop(timeout(LOOK_AGAIN, changed).await);
            degraded = runtime.degraded();
            let mut checks = tools_found(&self.config, &self.tools.isolation).await;
            checks.extend(runtime.preflight().await);
            checks.extend(self.router.iter().flat_map(|router| router.preflight()));
            let disk = self.disk();
            // How much is free changes all the time; whether it is enough, seldom.
            if *self.preflight.lock() == checks && disk.ok == disk_was_fine {
                continue;
            }
            disk_was_fine = disk.ok;
            self.preflight.lock().clone_from(&checks);
            checks.push(disk);
            if outbox.send(FromAgent::Preflight { checks }).await.is_err() {
                return;
            }
        }
    }

    fn disk(&self) -> Preflight {
        let folder = &self.config.data_dir;
        let (mut ok, mut detail) = match disk::free(folder) {
            Ok(free) => {
                let least = self.config.min_free;
                let detail = format!(
                    "{} MiB free in the data folder, at least {} MiB wanted; room is made below {} MiB",
                    free >> 20,
                    least >> 20,
                    self.config.disk.low.max(least) >> 20
                );
                (free >= least, detail)
            }
            Err(error) => (false, format!("cannot tell how much is free: {error}")),
        };
        if let Ok(Some((free, all))) = disk::free_inodes(folder)
            && free < (all / 50).min(LEAST_INODES)
        {
            ok = false;
            detail += &format!("; only {free} more files can be made");
        }
        if let Some(sweep) = self.tools.last_sweep() {
            detail += &format!("; {sweep}");
        }
        Preflight { check: "disk".to_owned(), ok, detail }
    }

    /// Whether there is room for more work.
    ///
    /// # Errors
    /// How much there is, and how much there should be.
    pub(super) async fn room(&self) -> Result<(), String> {
        let least = self.config.min_free;
        match self.tools.free().await {
            Some(free) if free < least => Err(format!(
                "its disk is full: {} MiB are free in its data folder, and it takes work from {} MiB on",
                free >> 20,
                least >> 20
            )),
            _ => Ok(()),
        }
    }
}

/// The tools that builds need, and what the machine keeps them from.
pub(super) async fn tools_found(config: &Config, isolation: &Isolation) -> Vec<Preflight> {
    let version = git2::Version::get().libgit2_version();
    let (major, minor, patch) = version;
    let mut found = vec![Preflight {
        check: "git".to_owned(),
        ok: true,
        detail: format!("built in (libgit2 {major}.{minor}.{patch})"),
    }];
    let build = config.build.clone();
    let looked = tokio::task::spawn_blocking(move || programs(&build)).await;
    found.extend(looked.unwrap_or_default());
    let labelled = config.labels.iter().any(|label| label.as_str().starts_with("go"));
    if labelled && !found.iter().any(|check| check.check == "go" || check.check.starts_with("toolchain ")) {
        let detail = "this agent is labelled with go, but there is none in build.path".to_owned();
        found.push(Preflight { check: "go".into(), ok: false, detail });
    }
    let (config, isolation) = (config.clone(), isolation.clone());
    let host = tokio::task::spawn_blocking(move || host::checks(&config, &isolation)).await;
    found.extend(host.unwrap_or_default());
    found
}

/// The programs that builders need, and the toolchains' folders. Blocking.
fn programs(build: &BuildConfig) -> Vec<Preflight> {
    let path = OsStr::new(&build.path);
    let programs = ["go", "composer"].into_iter().filter_map(|name| {
        let file = find_program(path, name)?;
        let (ok, detail) = match name {
            "composer" if find_program(path, "php").is_none() => {
                (false, format!("{} needs php, which is not in build.path", file.display()))
            }
            _ => (true, file.display().to_string()),
        };
        Some(Preflight { check: name.to_owned(), ok, detail })
    });
    let toolchains = build.toolchains.iter().map(|toolchain| {
        let missing = toolchain.path.split(':').find(|folder| !Path::new(folder).is_dir());
        let (ok, detail) = match missing {
            Some(folder) => (false, format!("there is no folder {folder}")),
            None => (true, toolchain.path.clone()),
        };
        Preflight { check: format!("toolchain {}", toolchain.label), ok, detail }
    });
    programs.chain(toolchains).collect()
}

#[cfg(test)]
mod tests {
    use sdp_core::id::{DeploymentId, InstanceId};
    use sdp_core::wire::{Exit, InstanceStatus, MAX_CONTROL_FRAME};

    use super::*;

    #[test]
    fn a_hello_fits_into_a_frame_however_much_was_printed() {
        let exit = Exit::new(Some(1), None, false, vec!["\0".repeat(5000); 20]);
        let report = |n: u128| {
            let (instance, deployment) = (InstanceId::from(uuid::Uuid::from_u128(n)), DeploymentId::new());
            InstanceReport { instance, deployment, status: InstanceStatus::Exited { exit: exit.clone() } }
        };
        let reports = within_hello((1..=200).map(report).collect());
        let length = serde_json::to_string(&reports).unwrap().len();
        assert!((LAST_LINES / 2..MAX_CONTROL_FRAME / 2).contains(&length), "{length}");
        let has_lines = |report: &InstanceReport| match &report.status {
            InstanceStatus::Exited { exit } => !exit.last_lines.is_empty(),
            _ => false,
        };
        let first = reports.iter().position(has_lines).expect("some have");
        assert_eq!(reports.len(), 200);
        assert!(first > 0 && reports[first..].iter().all(has_lines), "the newest have theirs");
    }
}
