use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_a_user_can_read_follows_from_the_modes_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("inner/secret");
    fs::create_dir(folder.path().join("inner")).unwrap();
    fs::write(&secret, "x").unwrap();
    let stranger = User { uid: 64100, gid: 64100 };
    for (top, inner, file, readable) in [
        (0o755, 0o755, 0o644, true),
        (0o755, 0o755, 0o600, false),
        (0o755, 0o700, 0o644, false),
        (0o711, 0o711, 0o604, true),
        (0o700, 0o755, 0o644, false),
    ] {
        mode(&secret, file);
        mode(&folder.path().join("inner"), inner);
        mode(folder.path(), top);
        assert_eq!(may_read(&secret, stranger), readable, "{top:o} {inner:o} {file:o}");
        let bar = barred(secret.parent().unwrap(), stranger);
        assert_eq!(bar.is_some(), top == 0o700 || inner == 0o700);
    }
    assert!(!may_read(&folder.path().join("missing"), stranger));
}

#[test]
fn hidepid_is_read_from_the_last_mount_of_proc() {
    let mount = |options: &str| format!("23 28 0:21 / /proc rw,nosuid - proc proc {options}\n");
    let ok = |mounts: &str| processes(mounts, Processes::Children).ok;
    assert!(!ok(&mount("rw")));
    assert!(!ok(&mount("rw,hidepid=0")));
    assert!(ok(&mount("rw,gid=4,hidepid=invisible")));
    assert!(ok(&(mount("rw") + &mount("rw,hidepid=2"))));
    assert!(!ok(&(mount("rw,hidepid=2") + &mount("rw"))));
    assert!(processes(&mount("rw"), Processes::Namespace).ok, "nobody looks at that one");
}

#[test]
fn how_builds_are_held_together_is_said_and_a_fault_only_where_they_would_go_on_without_the_agent() {
    let all = [
        Processes::Namespace,
        Processes::Subreaper { why: "the agent lacks CAP_SYS_ADMIN" },
        Processes::Children,
    ];
    let said = all.map(|how| {
        let Preflight { ok, detail, .. } = build_processes(how, true);
        assert!(build_processes(how, false).ok, "a program that holds an agent trusts its own people");
        format!("{ok}: {detail}\n")
    });
    insta::assert_snapshot!(said.concat(), @r"
    true: each build has a PID namespace of its own: it sees no other processes, and ends with the agent
    true: builds end with the agent, found by their parents; they have no PID namespaces, because the agent lacks CAP_SYS_ADMIN
    false: if the agent is killed its builds go on until it starts again: its program is not one that runs them (shim in BuildConfig)
    ");
}

#[test]
fn without_a_build_user_it_is_said_what_builds_can_read() {
    let mut config = Config::new("/nowhere");
    assert!(
        build_user(&config, Processes::Children, false).ok,
        "a program that holds an agent trusts its own people"
    );
    let said = build_user(&config, Processes::Children, true);
    assert!(!said.ok && said.detail.contains("token"), "{}", said.detail);
    // With one that can read what it should not, that is named.
    let folder = tempfile::tempdir().unwrap();
    config.data_dir = folder.path().join("data");
    fs::create_dir_all(config.data_dir.join("spool")).unwrap();
    config.build.user = Some(User { uid: 64100, gid: 64100 });
    for path in [folder.path(), &config.data_dir, &config.data_dir.join("spool")] {
        mode(path, 0o755);
    }
    let said = build_user(&config, Processes::Children, true);
    assert!(!said.ok && said.detail.contains("/data/spool"), "{}", said.detail);
    // So is a file of the configuration.
    mode(&config.data_dir.join("spool"), 0o700);
    let composer = folder.path().join("composer.json");
    fs::write(&composer, "{}").unwrap();
    mode(&composer, 0o644);
    config.secret_files = vec![composer];
    let said = build_user(&config, Processes::Children, true);
    assert!(!said.ok && said.detail.contains("/composer.json; chmod it to 0600"), "{}", said.detail);
    mode(&config.data_dir, 0o700);
    let said = build_user(&config, Processes::Children, true);
    assert!(!said.ok && said.detail.contains("does not let it through"), "{}", said.detail);
}
