//! Builds and services as a user of their own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::config::User;

const BUILDER: User = User { uid: 64100, gid: 64100 };

/// Looks around in the agent's folder, and leaves what only its owner could remove.
const NOSY: &str = r#"#!/bin/sh
echo "uid $(id -u), home $(basename "$HOME")"
touch made "$HOME/made" "$TMPDIR/made" ../output/made && echo wrote its own
for name in . spool mirrors instances work lock; do
    ls ../../../$name/ >/dev/null 2>&1 && echo "listed $name"
done
touch ../made ../../made ../../../made 2>/dev/null && echo wrote elsewhere
mkdir -p closed/inner && touch closed/inner/file && chmod 0 closed/inner closed
exit "$(cat verdict)"
"#;

#[tokio::test]
#[ignore = "needs root to run builds as another user; scripts/test runs it"]
async fn builds_and_services_run_as_their_user_and_what_they_leave_is_removed() {
    let mut world = World::start_with(|config| {
        config.build.user = Some(BUILDER);
        config.build.limits.enforce = true;
        let above = config.data_dir.parent().unwrap();
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o711)).unwrap();
    })
    .await;
    let Some(FromAgent::Hello { preflight, .. }) = &world.server.hello else { panic!("no hello") };
    let check = |name: &str| preflight.iter().find(|check| check.check == name).unwrap();
    assert!(check("build_user").ok, "{}", check("build_user").detail);
    let limits = check("build_limits");
    assert!(limits.ok || limits.detail.contains("not enforced, because"), "{}", limits.detail);

    let service = ["sh", "-c", "id -u >\"$HOME/who\"; exec sleep 1000"];
    for (verdict, ready) in [("3", false), ("0", true)] {
        world.commit(&[("!build", NOSY), ("verdict", verdict)]);
        let mut spec = world.spec(&["./build"], &service);
        let release = "touch \"$HOME/made\" \"$TMPDIR/made\" && echo released as $(id -u)";
        spec.release = Some(["sh", "-c", release].map(str::to_owned).to_vec());
        let deployment = DeploymentId::new();
        world.server.say(deploy(deployment, &spec)).await;
        let job = world.server.until_done(deployment).await;
        let said: Vec<_> =
            job.lines.iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect();
        let printed: Vec<_> = said
            .iter()
            .filter(|line| {
                ["uid", "wrote", "listed", "released as"].iter().any(|word| line.starts_with(word))
            })
            .collect();
        let released = ready.then_some("released as 64100");
        let expected: Vec<_> =
            ["uid 64100, home home", "wrote its own"].into_iter().chain(released).collect();
        assert_eq!(printed, expected, "{said:?}");
        assert_eq!(job.result() == Some(&JobResult::Ready {}), ready, "{said:?}");
        assert_eq!(world.workspaces(), usize::from(ready));
        let who = world.folder.path().join("data/instances").join(spec.instance.to_string()).join("home/who");
        if ready {
            assert_eq!(std::fs::read_to_string(&who).unwrap(), "64100\n");
            assert_eq!(std::fs::metadata(&who).unwrap().uid(), BUILDER.uid);
        }
    }
    world.stop().await;
}
