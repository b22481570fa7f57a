use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// `service/sandbox kept used`, with `*` in front of what runs.
fn builds(text: &str) -> (Vec<Build>, BTreeMap<DeploymentId, String>) {
    let mut names = BTreeMap::new();
    let builds = text
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| {
            let (in_use, rest) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
            let [group, kept, used] = rest.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
            let (service, sandbox) = group.split_once('/').unwrap();
            let deployment = DeploymentId::new();
            names.insert(deployment, format!("{group} {kept}"));
            Build {
                deployment,
                service: ServiceName::parse(service).unwrap(),
                sandbox: SandboxName::parse(sandbox).unwrap(),
                kept_at: at(kept.parse().unwrap()),
                used_at: at(used.parse().unwrap()),
                in_use,
            }
        })
        .collect();
    (builds, names)
}

fn ordered(text: &str) -> String {
    let (builds, names) = builds(text);
    let cache = |name: &str, used| Cache { builder: "go".into(), name: name.into(), used_at: at(used) };
    let mirror = |name: &str, used| KeptMirror { name: name.into(), used_at: at(used) };
    let order =
        order(&builds, vec![cache("build", 9), cache("mod", 3)], vec![mirror("new", 8), mirror("old", 1)]);
    let say = |candidate: &Candidate| match candidate {
        Candidate::Build(id) => names[id].clone(),
        Candidate::Cache(cache) => cache.name.clone(),
        Candidate::Mirror(name) => name.clone(),
    };
    order.iter().map(say).collect::<Vec<_>>().join(", ")
}

#[test]
fn builds_go_first_then_caches_then_mirrors_each_the_least_recently_used_first() {
    let table = [
        // Nothing kept.
        ("", "mod, build, old, new"),
        // By last use, not by when it was kept.
        ("a/x 1 9, b/x 2 5, a/y 3 7", "b/x 2, a/y 3, a/x 1, mod, build, old, new"),
        // What runs stays, and the one before it; older ones and newer ones that do not run go.
        ("a/x 1 1, a/x 2 2, *a/x 3 3, a/x 4 4", "a/x 1, a/x 4, mod, build, old, new"),
        // Another sandbox's is no predecessor, nor another service's.
        ("a/y 1 1, b/x 2 2, *a/x 3 3", "a/y 1, b/x 2, mod, build, old, new"),
        // While one replaces the other both run, and the older's predecessor stays, too.
        ("a/x 1 1, a/x 2 2, *a/x 3 3, *a/x 4 4", "a/x 1, mod, build, old, new"),
        // The predecessor of what runs stays even if it was never used again.
        ("a/x 1 0, *a/x 9 9, b/x 5 5", "b/x 5, mod, build, old, new"),
    ];
    for (kept, expected) in table {
        assert_eq!(ordered(kept), expected, "{kept}");
    }
}

#[test]
fn a_cache_is_as_old_as_its_newest_file_and_links_are_none() {
    let root = tempfile::tempdir().unwrap();
    let make = |path: &str, second: i64| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        let time = rustix::fs::Timespec { tv_sec: second, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    };
    make("go/build/00/a", 4_000_000_000);
    make("go/build/00/b", 4_000_000_100);
    make("go/mod/x@v1/x.go", 4_000_000_050);
    std::os::unix::fs::symlink("/etc", root.path().join("go/etc")).unwrap();
    std::os::unix::fs::symlink("/", root.path().join("evil")).unwrap();
    let mut found: Vec<_> =
        caches(root.path()).into_iter().map(|c| (c.name, c.used_at.as_second())).collect();
    found.sort();
    assert_eq!(found, [("build".to_owned(), 4_000_000_100), ("mod".to_owned(), 4_000_000_050)]);
}
