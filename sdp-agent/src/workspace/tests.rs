use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::fs::FileType;

use super::*;
use crate::builder::{ContainerPlan, Mount};
use sdp_core::name::ImageRef;

fn workspaces() -> (tempfile::TempDir, Workspaces) {
    let folder = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::new(folder.path().join("work")).unwrap();
    (folder, workspaces)
}

fn kept(workspaces: &Workspaces, id: DeploymentId, sandbox: &str, at: i64) -> KeptBuild {
    KeptBuild {
        service: ServiceName::parse("hello").unwrap(),
        sandbox: SandboxName::parse(sandbox).unwrap(),
        commit: CommitId::parse("a".repeat(40)).unwrap(),
        spec_hash: "h".into(),
        run: RunPlan { argv: vec!["./run".into()], cwd: workspaces.source_dir(id), container: None },
        kept_at: Timestamp::from_second(at).unwrap(),
    }
}

fn keep(workspaces: &Workspaces, sandbox: &str, at: i64) -> DeploymentId {
    let id = DeploymentId::new();
    workspaces.create(id).unwrap();
    workspaces.keep(id, kept(workspaces, id, sandbox, at)).unwrap();
    id
}

#[test]
fn folders_that_lead_out_of_the_tree_are_refused() {
    let (folder, workspaces) = workspaces();
    let id = DeploymentId::new();
    workspaces.create(id).unwrap();
    let tree = workspaces.source_dir(id);
    fs::create_dir_all(tree.join("real/inner")).unwrap();
    fs::write(tree.join("file"), "").unwrap();
    symlink("real", tree.join("inside")).unwrap();
    symlink("/", tree.join("root")).unwrap();
    symlink("/var/run", tree.join("run")).unwrap();
    symlink("../../..", tree.join("up")).unwrap();
    symlink(folder.path(), tree.join("abs")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    symlink("/proc/self/cwd", tree.join("magic")).unwrap();
    let ask = |subdir: &str| workspaces.service_dir(&tree, &RepoPath::parse(subdir).unwrap());
    let tree = tree.canonicalize().unwrap();
    assert_eq!(ask(".").unwrap(), tree);
    assert_eq!(ask("real/inner").unwrap(), tree.join("real/inner"));
    assert_eq!(ask("inside/inner").unwrap(), tree.join("real/inner"), "a link that stays inside is followed");
    for (subdir, says) in [
        ("root", "the folder root is a link that leads out of the repository"),
        ("root/etc", "the folder root/etc is a link that leads out of the repository"),
        ("run", "the folder run is a link that leads out of the repository"),
        ("up", "the folder up is a link that leads out of the repository"),
        ("abs/work", "the folder abs/work is a link that leads out of the repository"),
        ("loop", "the folder loop is a link that leads out of the repository"),
        ("magic", "the folder magic is a link that leads out of the repository"),
        ("file", "the folder file is not a folder"),
        ("nothing", "the folder nothing is not in this commit"),
    ] {
        let failure = ask(subdir).unwrap_err();
        assert_eq!((failure.reason, failure.detail.as_str()), (FailureReason::UnsafeTree, says));
    }
    // Where the kernel cannot help, the answer is the same.
    for subdir in ["root", "run", "up", "abs/work", "loop", "magic", "file", "nothing"] {
        assert!(beneath_by_name(&tree, subdir).is_err(), "{subdir}");
    }
    assert_eq!(beneath_by_name(&tree, "inside/inner").unwrap(), tree.join("real/inner"));
}

#[test]
fn a_tree_that_was_swapped_for_a_link_is_refused() {
    let (folder, workspaces) = workspaces();
    let tree = folder.path().join("tree");
    symlink("/", &tree).unwrap();
    assert!(workspaces.service_dir(&tree, &RepoPath::parse("etc").unwrap()).is_err());
}

#[test]
fn removing_follows_no_link_and_stops_at_nothing() {
    let (folder, workspaces) = workspaces();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let id = DeploymentId::new();
    let path = workspaces.create(id).unwrap();
    let tree = workspaces.source_dir(id);
    symlink(&outside, tree.join("link")).unwrap();
    symlink(outside.join("precious"), tree.join("file-link")).unwrap();
    fs::hard_link(outside.join("precious"), tree.join("hard")).unwrap();
    fs::create_dir(tree.join("closed")).unwrap();
    fs::write(tree.join("closed/file"), "x").unwrap();
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    // Deeper than a path may be long, and than is held open at once.
    let name = "d".repeat(20);
    let mut at = rustix::fs::open(&tree, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..300 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    workspaces.remove(id).unwrap();
    assert!(!path.exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "x");
    assert_eq!(fs::read_dir(folder.path().join("work")).unwrap().count(), 0, "nothing was left aside");
    workspaces.remove(id).unwrap();
}

#[test]
fn a_kept_build_is_found_after_a_restart_and_only_if_it_is_the_same() {
    let (folder, workspaces) = workspaces();
    let old = keep(&workspaces, "alice", 1);
    let new = keep(&workspaces, "bob", 2);
    let wanted = kept(&workspaces, new, "bob", 2);
    for workspaces in [workspaces.clone(), Workspaces::new(folder.path().join("work")).unwrap()] {
        assert_eq!(workspaces.find(&wanted.service, &wanted.commit, "h"), Some((new, wanted.clone())));
        assert_eq!(workspaces.find(&wanted.service, &wanted.commit, "other"), None);
        let other = CommitId::parse("b".repeat(40)).unwrap();
        assert_eq!(workspaces.find(&wanted.service, &other, "h"), None);
    }
    workspaces.remove(new).unwrap();
    assert_eq!(workspaces.find(&wanted.service, &wanted.commit, "h").map(|(id, _)| id), Some(old));
    fs::remove_dir_all(workspaces.source_dir(old)).unwrap();
    assert_eq!(workspaces.find(&wanted.service, &wanted.commit, "h"), None, "its folder is gone");
}

#[test]
fn records_that_are_not_ours_are_not_believed() {
    let (folder, workspaces) = workspaces();
    let id = keep(&workspaces, "alice", 1);
    let record = workspaces.folder(id).join(RECORD);
    let root = folder.path().join("work");
    let text = fs::read_to_string(&record).unwrap();
    let found = |text: &str| {
        fs::write(&record, text).unwrap();
        !Workspaces::new(&root).unwrap().kept().is_empty()
    };
    assert!(found(&text));
    assert!(!found(&text[..text.len() / 2]), "torn");
    assert!(!found(&text.replace(&root.canonicalize().unwrap().display().to_string(), "/etc")), "elsewhere");
    fs::write(folder.path().join("elsewhere.json"), &text).unwrap();
    fs::remove_file(&record).unwrap();
    symlink(folder.path().join("elsewhere.json"), &record).unwrap();
    assert!(Workspaces::new(&root).unwrap().kept().is_empty(), "a link");
    fs::remove_file(&record).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &record, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(Workspaces::new(&root).unwrap().kept().is_empty(), "a pipe that nobody writes to");
}

#[test]
fn a_kept_container_is_shown_nothing_but_its_own_workspace() {
    let (folder, workspaces) = workspaces();
    let root = folder.path().join("work");
    let (id, other) = (keep(&workspaces, "alice", 1), keep(&workspaces, "bob", 1));
    let (source, output) = (workspaces.source_dir(id), workspaces.output_dir(id));
    let believed = |mounts: &[PathBuf], source: PathBuf| {
        let mounts = mounts.iter().map(|source| Mount { source: source.clone(), target: "/src".into() });
        let mut build = kept(&workspaces, id, "alice", 1);
        build.run.cwd = "/src".into();
        build.run.container = Some(ContainerPlan {
            image: ImageRef::parse("alpine:3.20").unwrap(),
            mounts: mounts.collect(),
            source,
            tmpfs: Vec::new(),
            capabilities: Vec::new(),
            env: BTreeMap::new(),
        });
        fs::write(workspaces.folder(id).join(RECORD), serde_json::to_vec(&build).unwrap()).unwrap();
        Workspaces::new(&root).unwrap().kept().contains_key(&id)
    };
    assert!(believed(&[source.clone(), output], source.clone()));
    for elsewhere in ["/etc".into(), source.join("../../../.."), workspaces.source_dir(other)] {
        assert!(!believed(&[source.clone(), elsewhere.clone()], source.clone()), "{elsewhere:?}");
        assert!(!believed(std::slice::from_ref(&source), elsewhere.clone()), "{elsewhere:?}");
    }
}

#[test]
fn the_agents_own_files_replace_links_and_are_readable_by_whom_they_are_for() {
    let (folder, workspaces) = workspaces();
    let id = DeploymentId::new();
    let path = workspaces.create(id).unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "x").unwrap();
    symlink(&precious, path.join("output/apache.conf")).unwrap();
    let file = |name: &str, secret| PlannedFile { path: path.join(name), text: "text".into(), secret };
    let mode = |name: &str| fs::symlink_metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    write_file(&file("output/apache.conf", false), None).unwrap();
    write_file(&file("home/composer/config.json", true), None).unwrap();
    assert_eq!((mode("output/apache.conf"), mode("home/composer/config.json")), (0o644, 0o600));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    fs::remove_dir_all(path.join("output")).unwrap();
    symlink(folder.path(), path.join("output")).unwrap();
    assert!(write_file(&file("output/precious", false), None).is_err(), "its folder is a link");
    assert!(remove_file(&path.join("output/precious")).is_err(), "its folder is a link");
    remove_file(&path.join("home/composer/config.json")).unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
}

#[test]
fn sweeping_keeps_the_newest_of_each_and_what_is_in_use_and_what_is_not_ours() {
    let (folder, workspaces) = workspaces();
    let alice: Vec<_> = (0..4).map(|at| keep(&workspaces, "alice", at)).collect();
    let bob = keep(&workspaces, "bob", 0);
    let unfinished = DeploymentId::new();
    workspaces.create(unfinished).unwrap();
    let running = DeploymentId::new();
    workspaces.create(running).unwrap();
    fs::create_dir(folder.path().join("work/lost+found")).unwrap();
    let in_use = HashSet::from([running, alice[0]]);
    assert_eq!(workspaces.sweep(&in_use, 2), 2);
    let there = |id: DeploymentId| workspaces.folder(id).is_dir();
    assert_eq!(alice.iter().map(|id| there(*id)).collect::<Vec<_>>(), [true, false, true, true]);
    assert!(there(bob) && there(running) && !there(unfinished));
    assert!(folder.path().join("work/lost+found").is_dir());
}

#[test]
fn what_a_crash_left_half_removed_goes_at_the_next_start() {
    let (folder, _) = workspaces();
    let root = folder.path().join("work");
    let left = root.join(format!("{REMOVING}{}-1", DeploymentId::new()));
    fs::create_dir_all(left.join("source/a")).unwrap();
    Workspaces::new(&root).unwrap();
    assert!(!left.exists());
}

#[test]
fn workspaces_are_closed_to_others() {
    let (_folder, workspaces) = workspaces();
    let path = workspaces.create(DeploymentId::new()).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for path in [path.clone(), path.join(HOME), path.join(TMP)] {
        assert_eq!(mode(&path), 0o700);
    }
    // A container is shown these, and may run as somebody else.
    for name in [SOURCE, OUTPUT] {
        assert_eq!(mode(&path.join(name)), 0o755);
    }
}

#[test]
fn nobody_else_gets_into_a_workspace_before_its_tree_is_written_and_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::owned_by(folder.path().join("work"), Some(User::own())).unwrap();
    let id = DeploymentId::new();
    let path = workspaces.create(id).unwrap();
    let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700, "another build of that user could change the tree while it is written");
    let tree = workspaces.source_dir(id);
    fs::create_dir(tree.join("d")).unwrap();
    workspaces.hand_over(&tree).unwrap();
    assert_eq!(mode(), 0o710);
}

#[test]
fn the_hash_changes_with_what_the_build_depends_on() {
    let hash = |change: fn(&mut serde_json::Value)| {
        let mut spec = serde_json::json!({
            "number": 1, "service": "shop", "sandbox": "alice", "instance": sdp_core::id::InstanceId::new(),
            "repo": "/srv/git/shop.git", "git_ref": "main", "commit": null, "reuse_build": true, "subdir": ".",
            "builder": { "type": "go" }, "health": { "type": "tcp" }, "env": {}, "port": null, "image": null,
            "limits": {}, "writable": [], "release": null, "labels": [], "step_limits": {},
        });
        change(&mut spec);
        spec_hash(&serde_json::from_value(spec).unwrap(), Target::Container, &[])
    };
    let a = hash(|_| {});
    assert_eq!(a.len(), 64);
    assert_eq!(a, hash(|spec| spec["builder"]["main_package"] = ".".into()));
    assert_eq!(a, hash(|spec| spec["limits"]["memory_mib"] = 64.into()), "only the start depends on it");
    let others = [
        hash(|spec| spec["builder"]["main_package"] = "cmd".into()),
        hash(|spec| spec["subdir"] = "x".into()),
        hash(|spec| spec["image"] = "debian:12".into()),
        hash(|spec| spec["builder"] = serde_json::json!({ "type": "php" })),
        hash(|spec| {
            spec["builder"] = serde_json::json!({ "type": "php" });
            spec["limits"]["memory_mib"] = 64.into();
        }),
    ];
    let all: std::collections::BTreeSet<_> = others.iter().chain([&a]).collect();
    assert_eq!(all.len(), 6, "{all:?}");
}
