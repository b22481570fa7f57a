//! Jobs from command to end.

use super::*;
use sdp_core::deployment::Step;
use sdp_core::wire::{Health, InstanceStatus, Stream};

/// Serves until it is stopped.
const SLEEP: &[&str] = &["sleep", "1000"];

#[tokio::test]
async fn a_branch_is_resolved_fetched_built_started_and_checked() {
    let mut world = World::start().await;
    let commit = world.commit(&[("!build", "#!/bin/sh\necho building\necho hint >&2\n"), ("page", "hi")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    let step = |step| Progress::StepStarted { step };
    assert_eq!(job.progress[0], step(Step::Resolve));
    assert_eq!(job.progress[1], Progress::Resolved { commit: commit.clone() });
    assert_eq!(job.progress[2], step(Step::Fetch));
    assert!(matches!(&job.progress[3], Progress::Fetched { info, .. } if info.subject == "greet kindly"));
    assert_eq!(job.progress[4], step(Step::Build));
    assert_eq!(job.progress[5], step(Step::Start));
    let Progress::Started { address } = job.progress[6] else { panic!("{:?}", job.progress) };
    assert_eq!(job.progress[7], step(Step::Check));
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    assert_eq!(job.progress.len(), 9);
    let errors: Vec<_> = job.lines.iter().filter(|(stream, _)| *stream == Stream::Stderr).collect();
    assert_eq!(errors, [&(Stream::Stderr, b"hint".to_vec())]);
    let text =
        job.text().replace(world.folder.path().to_str().unwrap(), "$DIR").replace(commit.short(), "$COMMIT");
    let text: Vec<&str> = text
        .lines()
        .map(|line| match line {
            _ if line.starts_with("healthy after") => "healthy after … ms",
            _ if line.starts_with("received 4 objects") => "received 4 objects, …",
            _ => line,
        })
        .filter(|line| *line != "hint")
        .collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    looking for main in $DIR/repo.git
    main is at commit $COMMIT
    commit $COMMIT is here already
    2 files
    ./build
    building
    sleep 1000
    healthy after … ms
    ");

    // It goes on, is told, and is stopped when that is asked.
    world.server.until(|server| server.instances.contains_key(&spec.instance)).await;
    let report = &world.server.instances[&spec.instance];
    assert_eq!(
        (report.deployment, &report.status),
        (
            deployment,
            &InstanceStatus::Running { address, restarts: 0, last_restart: None, health: Health::Healthy {} }
        )
    );
    let command = CommandId::new();
    world.server.say(ToAgent::StopInstance { command, instance: spec.instance }).await;
    world.server.until(|server| !server.instances.contains_key(&spec.instance)).await;
    assert_eq!(world.workspaces(), 1, "the build is kept");
    let server = world.stop().await;
    assert!(server.said_bye);
}

#[tokio::test]
async fn a_build_that_fails_says_where_and_leaves_nothing() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho fine\necho 'main.c:3: oops' >&2\nexit 3\n")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    let failure = failure(job.result().unwrap());
    assert_eq!((failure.step, failure.reason), (Some(Step::Build), FailureReason::BuildFailed));
    assert_eq!(failure.exit_code, Some(3));
    insta::assert_snapshot!(failure.detail, @"./build: exit status: 3");
    let line = usize::try_from(failure.line.unwrap()).unwrap();
    let shown = String::from_utf8_lossy(&job.lines[line - 1].1).into_owned();
    assert!(shown == "main.c:3: oops" || shown == "fine", "one of the last two: {shown}");
    assert_eq!(world.workspaces(), 0);
    assert!(world.server.instances.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_service_that_ends_before_it_is_healthy_is_shown_with_its_last_words() {
    let mut world = World::start().await;
    world.commit(&[("!serve", "#!/bin/sh\necho \"no database on $PORT\"\nexit 7\n")]);
    let spec = world.spec(&[], &["./serve"]);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    let failure = failure(job.result().unwrap());
    assert_eq!((failure.step, failure.reason), (Some(Step::Check), FailureReason::Exited));
    assert_eq!(failure.exit_code, Some(7));
    let line = usize::try_from(failure.line.unwrap()).unwrap();
    assert!(job.lines[line - 1].1.starts_with(b"no database on "));
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_service_that_never_answers_fails_in_time_and_is_stopped() {
    let mut world = World::start().await;
    world.commit(&[("!serve", "#!/bin/sh\necho $$ > $TEST_PID\necho starting\nexec sleep 1000\n")]);
    let mut spec = world.spec(&[], &["./serve"]);
    spec.health = HealthCheck::Tcp {};
    spec.step_limits.check = 1;
    let pid = world.folder.path().join("pid");
    let variable = sdp_core::name::EnvName::parse("TEST_PID").unwrap();
    spec.env.insert(variable, pid.to_str().unwrap().to_owned());
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(failure(job.result().unwrap()).reason, FailureReason::HealthCheckFailed);
    assert!(job.printed().contains(&"starting".to_owned()), "its output helps to see why");
    assert!(!is_alive(&std::fs::read_to_string(pid).unwrap()), "it was stopped before that was said");
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_cancel_ends_the_build_and_removes_all_before_it_says_so() {
    let mut world = World::start().await;
    let script = "#!/bin/sh\n(setsid sh -c 'echo $$; exec sleep 1000' &)\necho $$\nexec sleep 1000\n";
    world.commit(&[("!build", script)]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 2)).await;
    let pids = world.server.jobs[&deployment].printed();
    assert!(pids.iter().all(|pid| is_alive(pid)));
    let command = CommandId::new();
    world.server.say(ToAgent::Cancel { command, deployment }).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Cancelled {}));
    assert!(pids.iter().all(|pid| !is_alive(pid)), "nothing of it runs");
    assert_eq!(world.server.replies[&command].len(), 1);
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_line_of_200_mib_is_cut_and_the_rest_of_the_log_is_whole() {
    let mut world = World::start().await;
    let script =
        "#!/bin/sh\necho before\ndd if=/dev/zero bs=1048576 count=200 2>/dev/null\necho\necho after\n";
    world.commit(&[("!build", script)]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    let printed = job.printed();
    assert_eq!((printed.len(), printed[0].as_str(), printed[2].as_str()), (3, "before", "after"));
    assert!(printed[1].starts_with('\0') && printed[1].ends_with(sdp_core::wire::CUT_MARKER));
    world.stop().await;
}

#[tokio::test]
async fn a_kept_build_is_used_again_and_when_it_is_gone_it_is_built_anew_and_said() {
    let mut world = World::start().await;
    let commit = world.commit(&[("!build", "#!/bin/sh\necho building\n")]);
    let first = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &first)).await;
    world.server.until_done(deployment).await;
    let mut again = JobSpec { instance: InstanceId::new(), reuse_build: true, ..first.clone() };
    again.commit = Some(commit);
    let second = DeploymentId::new();
    world.server.say(deploy(second, &again)).await;
    let job = world.server.until_done(second).await;
    assert_eq!(job.progress[0], Progress::BuildReused { reused: true });
    assert_eq!(job.progress[1], Progress::StepStarted { step: Step::Start });
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    assert!(job.printed().is_empty());
    // Another build command: what is kept does not fit.
    let mut changed = JobSpec { instance: InstanceId::new(), ..again.clone() };
    changed.builder = Builder::Command {
        build: vec![vec!["sh".into(), "build".into()]],
        run: vec!["sleep".into(), "1000".into()],
    };
    let third = DeploymentId::new();
    world.server.say(deploy(third, &changed)).await;
    let job = world.server.until_done(third).await;
    assert_eq!(job.progress[0], Progress::BuildReused { reused: false });
    assert!(
        matches!(&job.progress[1], Progress::Noted { text } if text.contains("was gone")),
        "{:?}",
        job.progress
    );
    assert_eq!(job.printed(), ["building"]);
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    world.stop().await;
}

#[tokio::test]
async fn an_unknown_branch_and_a_missing_program_have_their_codes() {
    let mut world = World::start().await;
    world.commit(&[("file", "")]);
    let mut spec = world.spec(&[], SLEEP);
    spec.git_ref = GitRef::parse("feature/nowhere").unwrap();
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    let found = failure(job.result().unwrap());
    assert_eq!((found.step, found.reason), (Some(Step::Resolve), FailureReason::RefNotFound));
    for (build, run, step) in
        [(&["no-such-tool"][..], SLEEP, Step::Build), (&[], &["no-such-tool"][..], Step::Start)]
    {
        let spec = world.spec(build, run);
        let deployment = DeploymentId::new();
        world.server.say(deploy(deployment, &spec)).await;
        let job = world.server.until_done(deployment).await;
        let found = failure(job.result().unwrap());
        assert_eq!((found.step, found.reason), (Some(step), FailureReason::ToolMissing));
        assert!(found.detail.contains("no-such-tool"), "{}", found.detail);
    }
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_step_that_takes_too_long_ends_as_timeout() {
    let mut world = World::start().await;
    world.commit(&[("file", "")]);
    let mut spec = world.spec(&["sleep", "1000"], SLEEP);
    spec.step_limits.build = 1;
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    let failure = failure(job.result().unwrap());
    assert_eq!((failure.step, failure.reason), (Some(Step::Build), FailureReason::Timeout));
    world.stop().await;
}
