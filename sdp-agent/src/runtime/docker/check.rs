//! Whether a container is well: asked by the job before it serves, and by the watch whenever it was started again or found again.
//!
//! It is asked at its own address on its network, which may be another with each run. A question goes on until it is answered, the
//! container ends, or a newer run is asked about.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sdp_core::catalog::HealthCheck;
use sdp_core::id::InstanceId;
use sdp_core::wire::{Health, InstanceStatus, RestartCause};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::engine::said;
use super::{DockerRuntime, Entry};
use crate::runtime::health::{CheckError, Judge, inside, until_healthy, until_well};

/// Between two tries to find out where a container is.
const PLACE_AGAIN: Duration = Duration::from_secs(1);

impl DockerRuntime {
    pub(super) async fn check(
        &self,
        instance: InstanceId,
        check: &HealthCheck,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<Duration, CheckError> {
        let begin = Instant::now();
        let Some(entry) = self.entry(instance) else {
            return Err(CheckError::NotHealthy { detail: "there is no such instance on this agent".into() });
        };
        let mut status = entry.status.subscribe();
        let over = async {
            // Whoever ended and is started again has not been healthy; whoever was started again with the engine may be.
            let over = status.wait_for(|status| match status {
                InstanceStatus::Running { last_restart, .. } => {
                    matches!(last_restart, Some(RestartCause::Exited { .. }))
                }
                _ => true,
            });
            match over.await.as_deref() {
                Ok(
                    InstanceStatus::Exited { exit }
                    | InstanceStatus::Running { last_restart: Some(RestartCause::Exited { exit }), .. },
                ) => CheckError::Exited(exit.clone()),
                _ => CheckError::Cancelled,
            }
        };
        let healthy = async {
            let (address, judge) = self.question(&entry).await?;
            until_healthy(check, address, judge, limit).await
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(CheckError::Cancelled),
            error = over => Err(error),
            healthy = healthy => match healthy {
                Ok(()) => {
                    entry.passed.store(true, Ordering::Release);
                    self.health_is(&entry, Health::Healthy {});
                    Ok(begin.elapsed())
                }
                Err(detail) => Err(CheckError::NotHealthy { detail }),
            },
        }
    }

    /// Asks anew whether a container is well, beside whatever else happens to it.
    pub(super) fn check_again(&self, entry: &Arc<Entry>) {
        if !entry.passed.load(Ordering::Acquire) {
            return;
        }
        let Some((check, limit)) = entry.found.check.clone() else { return };
        let newer = CancellationToken::new();
        std::mem::replace(&mut *entry.checking.lock(), newer.clone()).cancel();
        let (runtime, entry) = (self.clone(), entry.clone());
        self.0.tasks.spawn(async move {
            let mut status = entry.status.subscribe();
            let asked = async {
                let (address, judge) = loop {
                    match runtime.question(&entry).await {
                        Ok(question) => break question,
                        Err(why) => {
                            tracing::debug!(instance.id = %entry.found.instance, %why, "cannot tell where a container is");
                            sleep(PLACE_AGAIN).await;
                        }
                    }
                };
                let tell = |health| {
                    if !newer.is_cancelled() {
                        runtime.health_is(&entry, health);
                    }
                };
                until_well(&check, address, judge, limit, tell).await;
            };
            tokio::select! {
                () = runtime.0.closing.cancelled() => {}
                () = newer.cancelled() => {}
                _ = status.wait_for(|status| !matches!(status, InstanceStatus::Running { .. })) => {}
                () = asked => {}
            }
        });
    }

    fn health_is(&self, entry: &Entry, health: Health) {
        let changed = entry.status.send_if_modified(|status| match status {
            InstanceStatus::Running { health: known, .. } if *known != health => {
                *known = health;
                true
            }
            _ => false,
        });
        if changed {
            self.changed();
        }
    }

    /// Where a container is asked, and what says that it is itself that answers.
    async fn question(&self, entry: &Entry) -> Result<(SocketAddr, Judge), String> {
        let (ip, pid) = self.place(entry).await?;
        let address = SocketAddr::new(ip, entry.found.port);
        let container = entry.container.clone();
        Ok((address, inside(address, pid, move || is_of(pid, &container))))
    }

    /// Where a container is on its network, and its first process.
    pub(super) async fn place(&self, entry: &Entry) -> Result<(IpAddr, i32), String> {
        let found = self.engine()?.inspect(&entry.container).await.map_err(|error| said(&error))?;
        let found = found.ok_or("its container has been removed")?;
        let pid =
            found.state.and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let ip = networks.get(&self.0.agent.network()).and_then(|network| network.ip_address.as_deref());
        match ip.and_then(|ip| ip.parse::<Ipv4Addr>().ok()) {
            Some(ip) => Ok((ip.into(), pid)),
            // It has ended: its end, which is on its way here, says more.
            None => std::future::pending().await,
        }
    }
}

/// Whether a process is still of that container: its number may be somebody else's by now, or in another namespace.
fn is_of(pid: i32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
}
