//! Another life of the agent: what becomes of the jobs that the former one had.

use super::*;
use sdp_core::deployment::Step;
use sdp_core::secret::Secret;
use sdp_core::wire::{Answer, FromAgent, JobAction, JobReport, SecretSource, SecretVariable, Totals};
use server::Server;

const SLEEP: &[&str] = &["sleep", "1000"];

impl World {
    /// The jobs that the newest hello names.
    fn held(&self) -> &[JobReport] {
        match &self.server.hello {
            Some(FromAgent::Hello { jobs, .. }) => jobs,
            other => panic!("no hello: {other:?}"),
        }
    }

    /// A git host that takes connections and never says a word: a job that asks it stays in its first step.
    fn silent_host(config: &mut Config) -> (std::net::TcpListener, RepoUrl) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        config.git.origins = vec![origin.parse().unwrap()];
        (listener, RepoUrl::parse(format!("{origin}/team/hello.git")).unwrap())
    }

    /// A job that has begun, and whose git host does not answer.
    async fn deploy_silent(&mut self, repo: &RepoUrl) -> (DeploymentId, JobSpec) {
        let spec = JobSpec { repo: repo.clone(), ..self.spec(&[], SLEEP) };
        let deployment = DeploymentId::new();
        self.server.say(deploy(deployment, &spec)).await;
        self.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| !job.lines.is_empty())).await;
        (deployment, spec)
    }
}

fn steps(job: &server::Job) -> Vec<Step> {
    let step = |what: &Progress| match what {
        Progress::StepStarted { step } => Some(*step),
        _ => None,
    };
    job.progress.iter().filter_map(step).collect()
}

#[tokio::test]
async fn a_build_that_died_with_the_agent_has_failed_and_its_log_is_whole() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho $$\nexec sleep 1000\n")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 1)).await;
    let pid = world.server.jobs[&deployment].printed()[0].clone();
    let mut world = world.kill_and_welcome().await;
    assert!(!is_alive(&pid));
    let before = world.server.jobs[&deployment].lines.len();
    let job = world.server.until_done(deployment).await;
    let failure = failure(job.result().unwrap());
    assert_eq!((failure.step, failure.reason), (Some(Step::Build), FailureReason::AgentRestarted));
    assert_eq!(job.lines.len(), before + 1);
    insta::assert_snapshot!(
        String::from_utf8_lossy(&job.lines[before].1),
        @"failed: the agent was restarted while it worked: its build died with the agent's former process"
    );
    assert_eq!(world.workspaces(), 0);
    world.stop().await;
}

#[tokio::test]
async fn what_had_not_built_yet_begins_again_when_its_order_comes_again() {
    let mut host = None;
    let mut world = World::start_with(|config| host = Some(World::silent_host(config))).await;
    let (_listener, repo) = host.unwrap();
    world.commit(&[("!build", "#!/bin/sh\necho building\n")]);
    let (deployment, silent) = world.deploy_silent(&repo).await;
    let mut world = world.kill_and_welcome().await;
    assert!(world.held()[0].interrupted && !world.held()[0].done);
    // Another hello says the same; nothing begins by itself.
    world.server.cut();
    world.server.welcome().await;
    assert!(world.held()[0].interrupted);
    let spec = JobSpec { instance: silent.instance, ..world.spec(&["./build"], SLEEP) };
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    assert_eq!(
        steps(job),
        [Step::Resolve, Step::Resolve, Step::Fetch, Step::Build, Step::Start, Step::Check]
    );
    assert_eq!(job.printed(), ["building"]);
    assert!(
        job.text().contains("\nthe agent was restarted; it begins again\nlooking for main in "),
        "{}",
        job.text()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_job_at_which_the_agent_ends_again_and_again_fails() {
    let mut host = None;
    let mut world = World::start_with(|config| host = Some(World::silent_host(config))).await;
    let (_listener, repo) = host.unwrap();
    let (deployment, spec) = world.deploy_silent(&repo).await;
    for _ in 0..2 {
        world = world.kill_and_welcome().await;
        let lines = world.server.jobs[&deployment].lines.len();
        world.server.say(deploy(deployment, &spec)).await;
        // It says that it begins again, and then that it looks for the branch.
        world.server.until(|s| s.jobs[&deployment].lines.len() == lines + 2).await;
    }
    world = world.kill_and_welcome().await;
    let failure = failure(world.server.until_done(deployment).await.result().unwrap()).clone();
    assert_eq!((failure.step, failure.reason), (Some(Step::Resolve), FailureReason::AgentRestarted));
    insta::assert_snapshot!(failure.detail, @"the agent ended 3 times while it worked on it");
    world.stop().await;
}

#[tokio::test]
async fn an_interrupted_job_can_be_cancelled_or_forgotten() {
    let mut host = None;
    let mut world = World::start_with(|config| host = Some(World::silent_host(config))).await;
    let (_listener, repo) = host.unwrap();
    // Asked for while the agent was away: the welcome says so.
    let (first, _) = world.deploy_silent(&repo).await;
    world = world.kill().await;
    let (lines, progress) = (world.server.jobs[&first].lines.len(), world.server.jobs[&first].progress.len());
    let cancel = JobAction::Cancel { lines: lines as u64, progress: progress as u64, ahead: None };
    world.server.decide.insert(first, cancel);
    world.server.welcome().await;
    assert_eq!(world.server.until_done(first).await.result(), Some(&JobResult::Cancelled {}));
    // Asked for later: by a command.
    let (second, _) = world.deploy_silent(&repo).await;
    world = world.kill_and_welcome().await;
    world.server.say(ToAgent::Cancel { command: CommandId::new(), deployment: second }).await;
    assert_eq!(world.server.until_done(second).await.result(), Some(&JobResult::Cancelled {}));
    let (third, _) = world.deploy_silent(&repo).await;
    world = world.kill().await;
    world.server.decide.insert(third, JobAction::Forget {});
    world.server.welcome().await;
    while world.held().iter().any(|job| job.deployment == third) {
        world.server.cut();
        world.server.welcome().await;
    }
    assert!(!world.server.jobs[&third].done, "nothing more was said of it");
    world.stop().await;
}

#[tokio::test]
async fn an_instance_that_was_being_checked_is_checked_again() {
    let mut world = World::start().await;
    let script = "#!/bin/sh\nwhile [ ! -e $GO ]; do sleep 0.05; done\nexec python3 -c 'import os, socket, time\ns = \
        socket.create_server((\"127.0.0.1\", int(os.environ[\"PORT\"])))\nwhile True: s.accept()'\n";
    let go = world.folder.path().join("go");
    world.commit(&[
        ("!build", "#!/bin/sh\necho building\n"),
        ("!serve", &script.replace("$GO", go.to_str().unwrap())),
    ]);
    let mut spec = world.spec(&["./build"], &["./serve"]);
    spec.health = HealthCheck::Tcp {};
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world
        .server
        .until(|s| s.jobs.get(&deployment).is_some_and(|job| steps(job).ends_with(&[Step::Check])))
        .await;
    let mut world = world.kill_and_welcome().await;
    assert!(!world.held()[0].interrupted && !world.held()[0].done);
    std::fs::write(go, "").unwrap();
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}), "{}", job.text());
    assert_eq!(
        steps(job),
        [Step::Resolve, Step::Fetch, Step::Build, Step::Start, Step::Check],
        "no step twice"
    );
    assert_eq!(job.printed(), ["building"], "built once");
    assert!(
        job.progress
            .contains(&Progress::Noted { text: "the agent was restarted; it goes on where it was".into() })
    );
    world.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_leaves_what_its_next_life_can_go_on_with() {
    let mut host = None;
    let mut world = World::start_with(|config| host = Some(World::silent_host(config))).await;
    let (_listener, repo) = host.unwrap();
    world.commit(&[("file", "")]);
    let (asking, _) = world.deploy_silent(&repo).await;
    let mut spec = world.spec(&[], SLEEP);
    spec.health = HealthCheck::Uptime { seconds: 3 };
    let checking = DeploymentId::new();
    world.server.say(deploy(checking, &spec)).await;
    world
        .server
        .until(|s| s.jobs.get(&checking).is_some_and(|job| steps(job).ends_with(&[Step::Check])))
        .await;
    let mut world = world.restart().await;
    assert!(world.server.said_bye);
    let report = |id| world.held().iter().find(|job| job.deployment == id).expect("held");
    assert!(report(asking).interrupted);
    assert!(!report(checking).interrupted && !report(checking).done);
    assert!(world.server.jobs[&asking].result().is_none(), "nothing was said of it");
    assert_eq!(world.server.until_done(checking).await.result(), Some(&JobResult::Ready {}));
    world.server.say(ToAgent::Cancel { command: CommandId::new(), deployment: asking }).await;
    assert_eq!(world.server.until_done(asking).await.result(), Some(&JobResult::Cancelled {}));
    world.stop().await;
}

#[tokio::test]
async fn an_outcome_that_nobody_took_is_told_by_the_next_life() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho built\nexit 1\n")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let door = world.server.go_away();
    let progress = world.folder.path().join(format!("data/spool/{deployment}-1/progress"));
    let ended = async {
        while !std::fs::read_to_string(&progress).is_ok_and(|text| text.contains("\"ended\"")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(server::PATIENCE, ended).await.expect("the job ends without the server");
    let mut world = world.kill().await;
    world.server.come_back(door);
    world.server.welcome().await;
    assert!(world.held()[0].done);
    let job = world.server.until_done(deployment).await;
    assert_eq!(failure(job.result().unwrap()).reason, FailureReason::BuildFailed);
    assert_eq!(job.printed(), ["built"]);
    world.stop().await;
}

#[tokio::test]
async fn after_a_power_cut_the_log_goes_on_behind_what_the_server_has() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho one\necho two\necho three\nexec sleep 1000\n")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 3)).await;
    world.life.cut_off(&world.config).await;
    world.server.hang_up();
    // What was not on disk yet is gone: all lines but the first, all progress but the first.
    let spool = world.folder.path().join(format!("data/spool/{deployment}-1"));
    let lines = std::fs::read(spool.join("lines")).unwrap();
    let first = 14 + usize::try_from(u32::from_be_bytes(lines[..4].try_into().unwrap())).unwrap();
    std::fs::write(spool.join("lines"), &lines[..first]).unwrap();
    let progress = std::fs::read_to_string(spool.join("progress")).unwrap();
    std::fs::write(spool.join("progress"), progress.split_inclusive('\n').next().unwrap()).unwrap();
    let life = Life::begin(world.config.clone(), world.server.connector());
    let mut world = World { life, ..world };
    let job = &world.server.jobs[&deployment];
    let mut bytes = Vec::new();
    for (_, line) in &job.lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    let (held, steps_held) = (job.lines.len(), job.progress.len());
    let ahead = Some(Totals { bytes: bytes.len() as u64, checksum: crc32fast::hash(&bytes) });
    let send = JobAction::Send { lines: held as u64, progress: steps_held as u64, ahead };
    world.server.decide.insert(deployment, send);
    world.server.welcome().await;
    // By what is left of it, it was asking for the branch: it waits for its order. Cancelled, it says so behind all that is known.
    assert!(world.held()[0].interrupted && world.held()[0].lines == 1);
    world.server.say(ToAgent::Cancel { command: CommandId::new(), deployment }).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Cancelled {}));
    assert_eq!((job.lines.len(), job.progress.len()), (held + 1, steps_held + 1));
    world.stop().await;
}

#[tokio::test]
async fn a_job_of_a_service_with_secrets_starts_nothing_before_its_order_comes_again() {
    let mut world = World::start().await;
    world.commit(&[
        ("!build", "#!/bin/sh\necho building with $BUILD_KEY\n"),
        ("!serve", "#!/bin/sh\necho \"given $DB\"\nexec sleep 1000\n"),
    ]);
    // The release command is what it is killed in: the build is kept, and nothing has been started.
    let mut spec = world.spec(&["./build"], &["./serve"]);
    spec.release = Some(vec!["sleep".into(), "1000".into()]);
    let deployment = DeploymentId::new();
    let value = |text: &str| SecretSource::Value { value: Secret::new(text) };
    let secrets = [
        SecretVariable {
            name: "DB".parse().unwrap(),
            source: value("s3cret-of-hello"),
            build: false,
            run: true,
        },
        SecretVariable {
            name: "BUILD_KEY".parse().unwrap(),
            source: value("key-for-builds"),
            build: true,
            run: false,
        },
    ];
    let order = |spec: &JobSpec| match deploy(deployment, spec) {
        ToAgent::Deploy { command, deployment, attempt, spec, credential, .. } => {
            ToAgent::Deploy { command, deployment, attempt, spec, credential, secrets: secrets.to_vec() }
        }
        _ => unreachable!(),
    };
    world.server.say(order(&spec)).await;
    let releases =
        |s: &Server| s.jobs.get(&deployment).is_some_and(|job| job.text().contains("release: sleep"));
    world.server.until(releases).await;
    assert_eq!(world.server.jobs[&deployment].printed(), ["building with [redacted]"]);
    assert_nowhere(&world, &["s3cret-of-hello", "key-for-builds"]);
    let mut world = world.kill_and_welcome().await;
    assert!(world.held()[0].interrupted && !world.held()[0].done, "it waits");
    // Another hello says the same.
    world.server.cut();
    world.server.welcome().await;
    assert!(world.held()[0].interrupted);
    world.server.say(order(&spec)).await;
    let job = world.server.until_done(deployment).await;
    // As without secrets: a release command that may have run is not run twice.
    assert_eq!(failure(job.result().unwrap()).reason, FailureReason::AgentRestarted, "{}", job.text());
    assert_eq!(job.printed(), ["building with [redacted]"], "built once");
    world.stop().await;
}

#[tokio::test]
async fn a_service_with_secrets_that_was_being_checked_has_them_after_a_restart_and_can_be_cancelled() {
    let mut world = World::start().await;
    let go = world.folder.path().join("go");
    let script = "#!/bin/sh\necho \"given $DB\"\necho $DB > $GO-seen\nwhile [ ! -e $GO ]; do sleep 0.05; done\nexec python3 -c 'import os, socket, \
        time\ns = socket.create_server((\"127.0.0.1\", int(os.environ[\"PORT\"])))\nwhile True: s.accept()'\n";
    world.commit(&[("!serve", &script.replace("$GO", go.to_str().unwrap()))]);
    let secrets = |run| {
        let source = SecretSource::Value { value: Secret::new("s3cret-of-hello") };
        vec![SecretVariable { name: "DB".parse().unwrap(), source, build: false, run }]
    };
    let mut spec = world.spec(&[], &["./serve"]);
    spec.health = HealthCheck::Tcp {};
    let checks = |id: DeploymentId| {
        move |s: &Server| s.jobs.get(&id).is_some_and(|job| steps(job).ends_with(&[Step::Check]))
    };
    let order = |id, spec: &JobSpec| ToAgent::Deploy {
        command: CommandId::new(),
        deployment: id,
        attempt: 1,
        spec: Box::new(spec.clone()),
        credential: None,
        secrets: secrets(true),
    };
    let first = DeploymentId::new();
    world.server.say(order(first, &spec)).await;
    world.server.until(checks(first)).await;
    world.life.cut_off(&world.config).await;
    world.server.hang_up();
    // As though the machine had lost it: it has to be started once more.
    std::fs::remove_dir_all(world.folder.path().join(format!("data/instances/{}", spec.instance))).unwrap();
    std::fs::remove_file(world.folder.path().join("go-seen")).unwrap();
    let life = Life::begin(world.config.clone(), world.server.connector());
    let mut world = World { life, ..world };
    world.server.welcome().await;
    assert!(world.held()[0].interrupted);
    world.server.say(order(first, &spec)).await;
    std::fs::write(&go, "").unwrap();
    let job = world.server.until_done(first).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}), "{}", job.text());
    assert_eq!(
        steps(job),
        [Step::Resolve, Step::Fetch, Step::Build, Step::Start, Step::Check],
        "no step twice"
    );
    assert_eq!(std::fs::read_to_string(world.folder.path().join("go-seen")).unwrap(), "s3cret-of-hello\n");
    let lines = loop {
        let command = CommandId::new();
        world.server.say(ToAgent::ReadOutput { command, instance: spec.instance, lines: 10 }).await;
        world.server.until(|s| s.answers.contains_key(&command)).await;
        match &world.server.answers[&command] {
            Answer::Output { lines } if lines.is_empty() => {}
            Answer::Output { lines } => break lines.clone(),
            other => panic!("no output: {other:?}"),
        }
    };
    assert!(lines.iter().all(|line| line == "given [redacted]"), "{lines:?}");

    std::fs::remove_file(&go).unwrap();
    spec.instance = InstanceId::new();
    let second = DeploymentId::new();
    world.server.say(order(second, &spec)).await;
    world.server.until(checks(second)).await;
    let mut world = world.kill_and_welcome().await;
    world.server.say(ToAgent::Cancel { command: CommandId::new(), deployment: second }).await;
    let job = world.server.until_done(second).await;
    assert_eq!(job.result(), Some(&JobResult::Cancelled {}));
    world.stop().await;
}

#[tokio::test]
async fn a_secret_that_is_no_file_on_the_agent_fails_the_deployment_before_anything_is_fetched() {
    let mut world = World::start_with(|config| config.secrets_folder = "/nowhere/at/all".into()).await;
    let spec = world.spec(&[], SLEEP);
    let deployment = DeploymentId::new();
    let source = SecretSource::File { file: "payments-db".parse().unwrap() };
    let secrets = vec![SecretVariable { name: "DB".parse().unwrap(), source, build: true, run: true }];
    let ToAgent::Deploy { command, attempt, spec, credential, .. } = deploy(deployment, &spec) else {
        unreachable!()
    };
    world.server.say(ToAgent::Deploy { command, deployment, attempt, spec, credential, secrets }).await;
    let job = world.server.until_done(deployment).await;
    let failure = failure(job.result().unwrap());
    assert_eq!((failure.step, failure.reason), (None, FailureReason::SecretMissing));
    insta::assert_snapshot!(failure.detail, @"DB: there is no file payments-db in /nowhere/at/all");
    assert_eq!(steps(job), []);
    world.stop().await;
}

/// None of these is in a file that the agent keeps of jobs: its spool and its folders of work.
fn assert_nowhere(world: &World, texts: &[&str]) {
    fn search(folder: &Path, texts: &[&str]) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                search(&path, texts);
            } else if let Ok(bytes) = std::fs::read(&path) {
                for text in texts {
                    let found = bytes.windows(text.len()).any(|part| part == text.as_bytes());
                    assert!(!found, "{text} is in {}", path.display());
                }
            }
        }
    }
    search(&world.folder.path().join("data"), texts);
}
