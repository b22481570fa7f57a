use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::name::{RepoUrl, SandboxName};

use super::*;
use crate::builder::RunPlan;
use crate::config::DiskConfig;
use crate::git::GitConfig;
use crate::runtime::{ProcessRuntime, RuntimeConfig};

const MIB: u64 = 1 << 20;

/// A small file system of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size}");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(&at)
            .status();
        assert!(mount.unwrap().success());
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(&self.0).status());
    }
}

fn fill(file: &Path) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, vec![7; 8 << 20]).unwrap();
}

/// Tools whose disk holds 60 MiB, and whose marks are at 4, 24 and 40 MiB.
fn tools(folder: &Path) -> Tools {
    let mut config = Config::new(folder);
    config.min_free = 4 * MIB;
    config.disk = DiskConfig { low: 24 * MIB, target: 40 * MIB };
    let isolation = Isolation::default();
    let runtime = RuntimeConfig {
        data_dir: folder.join("instances"),
        ports: 40_000..=60_000,
        advertise: [127, 0, 0, 1].into(),
        stop_grace: Duration::from_secs(1),
        restart_pause: Duration::from_millis(10),
        isolation: isolation.clone(),
        base_env: BTreeMap::new(),
    };
    let runtime = ProcessRuntime::new(runtime).unwrap();
    let git = GitConfig { origins: vec!["https://git.example".parse().unwrap()], ..GitConfig::default() };
    let git = Git::new(git, folder.join("mirrors")).unwrap();
    let workspaces = Workspaces::new(folder.join("work")).unwrap();
    Tools::new(&config, git, Arc::new(runtime), workspaces, isolation)
}

/// Builds of one service in one sandbox, the oldest first, 8 MiB each; each of a commit of its own.
async fn keep_builds(tools: &Tools, commits: &[char]) -> Vec<DeploymentId> {
    let mut ids = Vec::new();
    for (at, digit) in commits.iter().enumerate() {
        let (id, instance) = (DeploymentId::new(), InstanceId::new());
        let folder = tools.create_workspace(id, instance).await.unwrap();
        fill(&folder.join("output/app"));
        let kept = KeptBuild {
            service: ServiceName::parse("hello").unwrap(),
            sandbox: SandboxName::parse("mine").unwrap(),
            commit: commit(*digit),
            spec_hash: "h".into(),
            run: RunPlan { argv: vec!["app".into()], cwd: folder.join("source"), container: None },
            kept_at: Timestamp::from_second(i64::try_from(at).unwrap()).unwrap(),
        };
        tools.keep(id, kept).await.unwrap();
        tools.release(instance).await;
        ids.push(id);
    }
    ids
}

fn commit(digit: char) -> CommitId {
    CommitId::parse(digit.to_string().repeat(40)).unwrap()
}

#[tokio::test]
async fn a_removal_that_nobody_waits_for_any_more_still_keeps_others_from_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let tools = tools(dir.path());
    let builds = keep_builds(&tools, &['1']).await;
    let folder = dir.path().join("work").join(builds[0].to_string());
    for n in 0..2000 {
        fs::write(folder.join("source").join(n.to_string()), "").unwrap();
    }
    // Begun, and dropped while the files go, as a timeout or the agent's end does.
    let _ = futures_util::FutureExt::now_or_never(tools.remove_spare(builds[0]));
    let service = ServiceName::parse("hello").unwrap();
    let found = tools.find_kept(&service, &commit('1'), "h", InstanceId::new()).await;
    assert!(found.is_none() && !folder.exists());
}

#[tokio::test]
#[ignore = "needs root to mount a small tmpfs; scripts/test runs it"]
async fn room_is_made_in_order_and_what_runs_its_predecessor_and_what_is_used_stay() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path().join("data"), "60m");
    let tools = tools(&disk.0);
    let builds = keep_builds(&tools, &['1', '2', '3', '4']).await;
    let exists = |id: DeploymentId| disk.0.join("work").join(id.to_string()).is_dir();
    // The third runs.
    let (service, instance) = (ServiceName::parse("hello").unwrap(), InstanceId::new());
    assert!(tools.find_kept(&service, &commit('3'), "h", instance).await.is_some());
    tools.make_room().await;
    assert!(builds.iter().all(|id| exists(*id)), "28 MiB are free: enough");

    fill(&disk.0.join("caches/go/build/00/x"));
    fill(&disk.0.join("mirrors/idle.git/objects/pack/x"));
    let repo = RepoUrl::parse("https://git.example/team/used.git").unwrap();
    let used = tools.git.hold(&repo).await;
    // A build runs, so its caches stay, though builds are not enough.
    let building = tools.use_caches().await;
    tools.make_room().await;
    assert_eq!(builds.iter().map(|id| exists(*id)).collect::<Vec<_>>(), [false, true, true, false]);
    assert!(disk.0.join("caches/go/build").is_dir());
    assert!(!disk.0.join("mirrors/idle.git").exists(), "36 MiB were not the target");
    let said = tools.last_sweep().unwrap();
    assert!(said.starts_with("removed 2 kept builds, 0 caches, 1 mirrors: "), "{said}");

    // Above the low mark nothing is touched; below it the cache goes as soon as nobody builds.
    tools.make_room().await;
    assert!(disk.0.join("caches/go/build").is_dir());
    drop(building);
    for name in ["a", "b", "c"] {
        fill(&disk.0.join("ballast").join(name));
    }
    fill(&disk.0.join("mirrors").join(mirror_name(&tools, &repo)).join("objects/pack/x"));
    tools.make_room().await;
    assert!(!disk.0.join("caches/go/build").exists());
    assert!(disk.0.join("mirrors").join(mirror_name(&tools, &repo)).is_dir(), "somebody uses it");
    drop(used);
    tools.make_room().await;
    assert_eq!(tools.git.mirrors(), []);
    assert_eq!(builds.iter().map(|id| exists(*id)).collect::<Vec<_>>(), [false, true, true, false]);
    // It has ended: now it may go, and so may the one before it.
    tools.release(instance).await;
    tools.make_room().await;
    assert!(builds.iter().all(|id| !exists(*id)));
    drop(disk);
}

/// As git calls the mirror.
fn mirror_name(tools: &Tools, repo: &RepoUrl) -> String {
    tools.git.mirror_name(repo).unwrap()
}
