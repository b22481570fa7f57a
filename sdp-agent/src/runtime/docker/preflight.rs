//! What the runtime finds out about the engine and the machine: shown by `/sdp agents`, so that what will not work is known before
//! somebody deploys. Asked by the agent each minute or so, and when the engine goes away or comes back.

use std::path::Path;

use bollard::models::SystemInfo;
use rustix::fs::StatVfsMountFlags;
use sdp_core::wire::Preflight;

use super::DockerRuntime;
use super::engine::said;

fn item(check: &str, ok: bool, detail: impl Into<String>) -> Preflight {
    Preflight { check: check.to_owned(), ok, detail: detail.into() }
}

impl DockerRuntime {
    pub(super) async fn preflight(&self) -> Vec<Preflight> {
        let config = &self.0.config;
        let mut found = Vec::new();
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(why) => return vec![item("docker", false, why)],
        };
        match engine.check_version().await {
            Ok(version) => match engine.quick().info().await {
                Ok(info) => found.extend(of_engine(&version, &info)),
                Err(error) => found.push(item("docker", false, said(&error))),
            },
            Err(why) => return vec![item("docker", false, why)],
        }
        for image in &config.engine.images {
            let check = format!("image {image}");
            found.push(match engine.image(image.as_str()).await {
                Ok(Some(id)) => {
                    let id = id.strip_prefix("sha256:").unwrap_or(&id);
                    item(&check, true, id.get(..12).unwrap_or(id))
                }
                Ok(None) => item(&check, false, "not here; bring it with docker load or docker pull"),
                Err(error) => item(&check, false, said(&error)),
            });
        }
        let work = config.work_dir.clone();
        found.extend(tokio::task::spawn_blocking(move || of_folder(&work)).await.ok().flatten());
        found
    }
}

/// What the engine says of itself. Pure.
fn of_engine(version: &str, info: &SystemInfo) -> Vec<Preflight> {
    let unknown = || "unknown".to_owned();
    let driver = info.driver.clone().unwrap_or_else(unknown);
    let cgroup = info.cgroup_version.map_or_else(unknown, |version| version.to_string());
    let mut found = vec![item(
        "docker",
        true,
        format!("engine {version}, storage {driver}, cgroup v{cgroup}, {} cores", info.ncpu.unwrap_or(0)),
    )];
    // What it says no to, it ignores in silence.
    let limits = [
        ("memory", info.memory_limit),
        ("swap", info.swap_limit),
        ("processes", info.pids_limit),
        ("processor time", info.cpu_cfs_quota),
    ];
    let missing: Vec<_> =
        limits.iter().filter(|(_, can)| *can == Some(false)).map(|(name, _)| *name).collect();
    found.push(if missing.is_empty() {
        item("docker limits", true, "memory, swap, processes and processor time are enforced")
    } else {
        let detail = format!("the kernel does not let the engine limit: {}", missing.join(", "));
        item("docker limits", false, detail)
    });
    let options = info.security_options.clone().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option.contains(&format!("name={name}")));
    if !has("seccomp") {
        found.push(item(
            "docker seccomp",
            false,
            "the engine has no seccomp profile: system calls are not filtered",
        ));
    }
    if has("rootless") {
        found.push(item(
            "docker",
            false,
            "a rootless engine does not let this agent reach containers at their own address",
        ));
    }
    if has("userns") {
        let detail = "user namespaces are on: files of builds may not be readable in containers";
        found.push(item("docker userns", false, detail));
    }
    if info.live_restore_enabled == Some(false) {
        let detail = "live-restore is off: containers go down with the engine and are started again after it";
        found.push(item("docker live-restore", true, detail));
    }
    found
}

/// Whether what a container writes could harm the machine: programs that make somebody else of who runs them.
fn of_folder(work: &Path) -> Option<Preflight> {
    let flags = rustix::fs::statvfs(work).ok()?.f_flag;
    let missing: Vec<_> = [(StatVfsMountFlags::NOSUID, "nosuid"), (StatVfsMountFlags::NODEV, "nodev")]
        .into_iter()
        .filter(|(flag, _)| !flags.contains(*flag))
        .map(|(_, name)| name)
        .collect();
    (!missing.is_empty()).then(|| {
        let detail = format!(
            "the data folder's file system is mounted without {}; better with",
            missing.join(" and ")
        );
        item("data folder", true, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_cannot_enforce_is_said() {
        let good = SystemInfo {
            driver: Some("overlay2".into()),
            ncpu: Some(2),
            memory_limit: Some(true),
            swap_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            live_restore_enabled: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            ..SystemInfo::default()
        };
        let poor = SystemInfo {
            swap_limit: Some(false),
            pids_limit: Some(false),
            live_restore_enabled: Some(false),
            security_options: Some(vec!["name=userns".into()]),
            ..good.clone()
        };
        let said = |info| {
            let lines = of_engine("20.10.24", info).into_iter();
            lines
                .map(|item| format!("{} {}: {}", item.ok, item.check, item.detail))
                .collect::<Vec<_>>()
                .join("\n")
        };
        insta::assert_snapshot!(format!("{}\n--\n{}", said(&good), said(&poor)), @r"
        true docker: engine 20.10.24, storage overlay2, cgroup vunknown, 2 cores
        true docker limits: memory, swap, processes and processor time are enforced
        --
        true docker: engine 20.10.24, storage overlay2, cgroup vunknown, 2 cores
        false docker limits: the kernel does not let the engine limit: swap, processes
        false docker seccomp: the engine has no seccomp profile: system calls are not filtered
        false docker userns: user namespaces are on: files of builds may not be readable in containers
        true docker live-restore: live-restore is off: containers go down with the engine and are started again after it
        ");
    }
}
