//! Builds as jobs do them, with programs that play the compiler.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::Toolchain;
use sdp_core::name::Label;

/// A folder with a program `go` that does this.
fn go_that(script: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("go");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn path_with(folder: &TempDir) -> String {
    format!("{}:/usr/bin:/bin", folder.path().display())
}

fn go_service(world: &World) -> JobSpec {
    let builder = serde_json::from_value(serde_json::json!({ "type": "go" })).unwrap();
    JobSpec { builder, ..world.spec(&[], &["x"]) }
}

/// Deploys, and returns what came of it and the log.
async fn outcome(world: &mut World, spec: &JobSpec) -> (JobResult, Vec<String>) {
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, spec)).await;
    let job = world.server.until_done(deployment).await;
    let lines = job.text().lines().map(str::to_owned).collect();
    (job.result().unwrap().clone(), lines)
}

#[tokio::test]
async fn a_module_that_cannot_be_fetched_is_named_with_its_line_and_no_secret_is_shown() {
    let go = go_that(
        "echo \"asking $GOPROXY\"\necho 'go: downloading example.org/left/pad v1.2.3' >&2\n\
         echo \"main.go:3:8: example.org/left/pad@v1.2.3: reading $GOPROXY/example.org/left/pad/@v/v1.2.3.zip: 404 Not Found\" >&2\n\
         exit 1",
    );
    let path = path_with(&go);
    let mut world = World::start_with(move |config| {
        config.build.path = path;
        let proxy = "https://me:hunter2-hunter2@mirror.example/go".to_owned();
        config.build.env.insert("GOPROXY".to_owned(), proxy);
    })
    .await;
    world.commit(&[("main.go", "package main")]);
    let spec = go_service(&world);
    let (result, lines) = outcome(&mut world, &spec).await;
    let failure = failure(&result);
    assert_eq!(failure.reason, FailureReason::DependencyUnreachable);
    assert_eq!(failure.exit_code, Some(1));
    insta::assert_snapshot!(failure.detail, @"example.org/left/pad v1.2.3 could not be fetched: reading https://me:[redacted]@mirror.example/go/example.org/left/pad/@v/v1.2.3.zip: 404 Not Found; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is https://mirror.example/go)");
    let line = usize::try_from(failure.line.unwrap()).unwrap();
    assert!(lines[line - 1].starts_with("main.go:3:8: example.org/left/pad@v1.2.3: reading"), "{lines:?}");
    assert!(!format!("{result:?}{lines:?}").contains("hunter2"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "asking https://me:[redacted]@mirror.example/go"), "{lines:?}");
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_service_chooses_its_toolchain_by_its_labels() {
    let makes = |name: &str| {
        go_that(&format!(
            "echo \"{name} in $TOOLCHAIN\"\nprintf '#!/bin/sh\\nexec sleep 1000\\n' > \"$4\"\nchmod +x \"$4\""
        ))
    };
    let (usual, old, new) = (makes("usual"), makes("old"), makes("new"));
    let path = path_with(&usual);
    let toolchain = |label: &str, folder: &TempDir| Toolchain {
        label: Label::parse(label).unwrap(),
        path: folder.path().display().to_string(),
        env: [("TOOLCHAIN".to_owned(), label.to_owned())].into(),
    };
    let toolchains = vec![toolchain("go-1.98", &old), toolchain("go-1.99", &new)];
    let mut world = World::start_with(move |config| {
        config.build.path = path;
        config.build.toolchains = toolchains;
    })
    .await;
    let commit = world.commit(&[("main.go", "package main")]);
    for (labels, says) in [
        (&[][..], "usual in "),
        (&["go-1.99"], "new in go-1.99"),
        (&["go-1.99", "go-1.98"], "old in go-1.98"),
    ] {
        let mut spec = go_service(&world);
        spec.labels = labels.iter().map(|label| Label::parse(*label).unwrap()).collect();
        // A build of another toolchain is not used again.
        (spec.reuse_build, spec.commit) = (true, Some(commit.clone()));
        let (result, lines) = outcome(&mut world, &spec).await;
        assert_eq!(result, JobResult::Ready {}, "{lines:?}");
        assert!(lines.iter().any(|line| line == says), "{says}: {lines:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_build_that_swaps_its_folders_for_links_is_refused() {
    let go = go_that(
        "case \"$(cat main.go)\" in\n\
         output) d=$(dirname \"$4\"); rm -r \"$d\"; ln -s / \"$d\";;\n\
         source) d=$(pwd); cd /; rm -r \"$d\"; ln -s /etc \"$d\"; touch \"$4\";;\n\
         esac",
    );
    let path = path_with(&go);
    let mut world = World::start_with(move |config| config.build.path = path).await;
    for (does, reason) in [
        ("output", FailureReason::UnsafeTree),
        ("source", FailureReason::UnsafeTree),
        ("nothing", FailureReason::BuildFailed),
    ] {
        world.commit(&[("main.go", does)]);
        let spec = go_service(&world);
        let (result, lines) = outcome(&mut world, &spec).await;
        assert_eq!(failure(&result).reason, reason, "{does}: {lines:?}");
        assert_eq!(world.workspaces(), 0);
    }
    assert!(Path::new("/etc/passwd").exists());
    world.stop().await;
}

#[tokio::test]
async fn php_is_refused_where_nothing_runs_in_containers() {
    let mut world = World::start().await;
    world.commit(&[("index.php", "<?php")]);
    let builder = serde_json::from_value(serde_json::json!({ "type": "php" })).unwrap();
    let spec = JobSpec { builder, ..world.spec(&[], &["x"]) };
    let (result, _) = outcome(&mut world, &spec).await;
    assert_eq!(failure(&result).reason, FailureReason::ToolMissing);
    world.stop().await;
}
