//! Commands, connections and ends.

use std::task::Poll;

use super::*;
use crate::spool::Outflow;
use sdp_core::wire::Exit;
use sdp_core::wire::{Answer, FromAgent, InstanceStatus, JobAction, RejectReason};

const SLEEP: &[&str] = &["sleep", "1000"];

/// Prints, waits for a file, prints again.
const TWO_PARTS: &str = "#!/bin/sh\ni=0\nwhile [ $i -lt 3000 ]; do echo \"one $i\"; i=$((i+1)); done\n\
    while [ ! -e $GO ]; do sleep 0.05; done\n\
    i=0\nwhile [ $i -lt 3000 ]; do echo \"two $i\"; i=$((i+1)); done\n";

fn both_parts() -> Vec<String> {
    ["one", "two"].iter().flat_map(|part| (0..3000).map(move |i| format!("{part} {i}"))).collect()
}

impl World {
    /// A job that prints 6,000 lines, half of them when [`Self::go`] is called.
    async fn deploy_two_parts(&mut self) -> (DeploymentId, JobSpec) {
        let script = TWO_PARTS.replace("$GO", self.folder.path().join("go").to_str().unwrap());
        self.commit(&[("!build", &script)]);
        let spec = self.spec(&["./build"], SLEEP);
        let deployment = DeploymentId::new();
        self.server.say(deploy(deployment, &spec)).await;
        (deployment, spec)
    }

    fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_loses_and_doubles_nothing() {
    let mut world = World::start().await;
    let (deployment, _) = world.deploy_two_parts().await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() > 100)).await;
    world.server.cut();
    world.server.welcome().await;
    world.server.until(|s| s.jobs[&deployment].printed().len() == 3000).await;
    // What was not durable when the server went down is sent again.
    let door = world.server.go_away();
    let job = world.server.jobs.get_mut(&deployment).unwrap();
    job.lines.truncate(1234);
    job.progress.truncate(2);
    world.go();
    world.server.come_back(door);
    world.server.welcome().await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.printed(), both_parts());
    assert_eq!(job.result(), Some(&JobResult::Ready {}));
    // The instance is told again with each connection.
    let known = world.server.instances.len();
    world.server.instances.clear();
    world.server.cut();
    world.server.welcome().await;
    let Some(FromAgent::Hello { jobs, instances, .. }) = &world.server.hello else { panic!("no hello") };
    assert!(jobs.is_empty(), "delivered jobs are not held: {jobs:?}");
    assert_eq!(instances.len(), 1);
    assert!(matches!(instances[0].status, InstanceStatus::Running { .. }));
    assert!(known <= 1);
    world.stop().await;
}

#[tokio::test]
async fn what_the_agent_holds_and_has_room_for_is_said_after_each_welcome() {
    let mut world = World::start().await;
    world.server.until(|s| s.load.is_some()).await;
    let load = world.server.load.take().unwrap();
    assert_eq!((load.running, load.spool_jobs, load.spool_bytes), (0, 0, 0));
    let (free, total) = (load.disk_free.unwrap(), load.disk_total.unwrap());
    assert!(0 < free && free <= total);
    let (deployment, _) = world.deploy_two_parts().await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 3000)).await;
    world.server.load = None;
    world.server.cut();
    world.server.welcome().await;
    world.server.until(|s| s.load.is_some()).await;
    let load = world.server.load.take().unwrap();
    assert_eq!((load.running, load.spool_jobs), (1, 1));
    assert!(load.spool_bytes > 3000, "{load:?}");
    world.go();
    world.server.until_done(deployment).await;
    world.stop().await;
}

#[tokio::test]
async fn a_rewind_sends_again_from_there_and_done_again() {
    let mut world = World::start().await;
    let (deployment, _) = world.deploy_two_parts().await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 3000)).await;
    let job = world.server.jobs.get_mut(&deployment).unwrap();
    job.lines.truncate(500);
    job.progress.truncate(1);
    world.server.say(ToAgent::Rewind { deployment, attempt: 1, lines: 500, progress: 1 }).await;
    world.go();
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.printed(), both_parts());
    world.stop().await;
}

#[tokio::test]
async fn a_command_that_comes_twice_has_one_effect_and_the_same_answer() {
    let mut world = World::start().await;
    world.commit(&[("file", "")]);
    let spec = world.spec(&[], SLEEP);
    let deployment = DeploymentId::new();
    let command = deploy(deployment, &spec);
    let ToAgent::Deploy { command: id, .. } = &command else { unreachable!() };
    let id = *id;
    world.server.say(command.clone()).await;
    world.server.say(command.clone()).await;
    world.server.until_done(deployment).await;
    // By the time a question is answered, the delivered job is not held any more.
    let question = CommandId::new();
    world.server.say(ToAgent::ListRefs { command: question, repo: spec.repo, credential: None }).await;
    world.server.until(|server| server.answers.contains_key(&question)).await;
    world.server.say(command).await;
    world.server.until(|server| server.replies[&id].len() == 3).await;
    assert!(world.server.replies[&id].iter().all(|reply| *reply == FromAgent::Accepted { command: id }));
    let job = &world.server.jobs[&deployment];
    let starts = job.progress.iter().filter(|what| matches!(what, Progress::Started { .. })).count();
    assert_eq!(starts, 1);
    world.stop().await;
}

#[tokio::test]
async fn more_jobs_than_its_capacity_are_rejected_and_the_answer_stays() {
    let mut world = World::start_with(|config| config.capacity = 1).await;
    let (first, _) = world.deploy_two_parts().await;
    let spec = world.spec(&[], SLEEP);
    let second = deploy(DeploymentId::new(), &spec);
    let ToAgent::Deploy { command, .. } = &second else { unreachable!() };
    let command = *command;
    world.server.say(second.clone()).await;
    world.server.until(|server| server.replies.contains_key(&command)).await;
    let rejected = world.server.replies[&command][0].clone();
    assert!(matches!(rejected, FromAgent::Rejected { reason: RejectReason::Busy, .. }));
    world.go();
    world.server.until_done(first).await;
    world.server.say(second).await;
    world.server.until(|server| server.replies[&command].len() == 2).await;
    assert_eq!(world.server.replies[&command][1], rejected, "same command, same answer");
    let third = DeploymentId::new();
    world.server.say(deploy(third, &spec)).await;
    let job = world.server.until_done(third).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}), "there is room now");
    world.stop().await;
}

#[tokio::test]
async fn a_full_disk_takes_no_new_work() {
    let mut world = World::start_with(|config| config.min_free = u64::MAX).await;
    let Some(FromAgent::Hello { preflight, .. }) = &world.server.hello else { panic!("no hello") };
    assert!(preflight.iter().any(|check| check.check == "disk" && !check.ok));
    let spec = world.spec(&[], SLEEP);
    let command = deploy(DeploymentId::new(), &spec);
    let ToAgent::Deploy { command: id, .. } = &command else { unreachable!() };
    let id = *id;
    world.server.say(command).await;
    world.server.until(|server| server.replies.contains_key(&id)).await;
    let reply = &world.server.replies[&id][0];
    assert!(matches!(reply, FromAgent::Rejected { reason: RejectReason::DiskFull, .. }));
    world.stop().await;
}

#[tokio::test]
async fn when_the_agent_is_told_to_end_its_builds_end_and_their_story_is_delivered() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho $$\nexec sleep 1000\n")]);
    let spec = world.spec(&["./build"], SLEEP);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 1)).await;
    let pid = world.server.jobs[&deployment].printed()[0].clone();
    let server = world.stop().await;
    assert!(!is_alive(&pid));
    let job = &server.jobs[&deployment];
    assert!(job.done && server.said_bye);
    assert_eq!(failure(job.result().unwrap()).reason, FailureReason::AgentRestarted);
}

#[tokio::test]
async fn what_runs_ends_with_the_agent_and_is_not_told_as_a_crash() {
    let mut world = World::start().await;
    world.commit(&[("!serve", "#!/bin/sh\necho $$\nexec sleep 1000\n")]);
    let spec = world.spec(&[], &["./serve"]);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until(|server| server.instances.contains_key(&spec.instance)).await;
    let command = CommandId::new();
    world.server.say(ToAgent::ReadOutput { command, instance: spec.instance, lines: 10 }).await;
    world.server.until(|server| server.answers.contains_key(&command)).await;
    let Answer::Output { lines } = &world.server.answers[&command] else { panic!("no output") };
    let pid = lines[0].clone();
    assert!(is_alive(&pid));
    let server = world.stop().await;
    assert!(!is_alive(&pid));
    let report = &server.instances[&spec.instance];
    assert!(matches!(report.status, InstanceStatus::Running { .. }), "{report:?}");
}

#[tokio::test]
async fn a_service_that_ends_is_told_with_its_last_lines_until_it_is_forgotten() {
    let mut world = World::start().await;
    let stop = world.folder.path().join("stop");
    let script = "#!/bin/sh\nwhile [ ! -e $STOP ]; do sleep 0.05; done\necho 'out of luck'\n";
    world.commit(&[("!serve", &script.replace("$STOP", stop.to_str().unwrap()))]);
    let spec = world.spec(&[], &["./serve"]);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until_done(deployment).await;
    std::fs::write(stop, "").unwrap();
    let exited = |status: &InstanceStatus| matches!(status, InstanceStatus::Exited { .. });
    world
        .server
        .until(|s| s.instances.get(&spec.instance).is_some_and(|report| exited(&report.status)))
        .await;
    let status = &world.server.instances[&spec.instance].status;
    let InstanceStatus::Exited { exit: Exit { exit_code, last_lines, .. } } = status else { unreachable!() };
    assert_eq!((*exit_code, last_lines.as_slice()), (Some(0), &["out of luck".to_owned()][..]));
    let command = CommandId::new();
    world.server.say(ToAgent::StopInstance { command, instance: spec.instance }).await;
    world.server.until(|server| !server.instances.contains_key(&spec.instance)).await;
    world.server.cut();
    world.server.welcome().await;
    let Some(FromAgent::Hello { instances, .. }) = &world.server.hello else { panic!("no hello") };
    assert!(instances.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_job_that_the_server_forgets_is_stopped_and_nothing_more_is_said_of_it() {
    let mut world = World::start().await;
    let (deployment, _) = world.deploy_two_parts().await;
    world.server.until(|s| s.jobs.get(&deployment).is_some_and(|job| job.printed().len() == 3000)).await;
    world.server.cut();
    world.server.decide.insert(deployment, JobAction::Forget {});
    let lines = world.server.jobs[&deployment].lines.len();
    world.server.welcome().await;
    // A question is answered after all that was under way.
    let spec = world.spec(&[], SLEEP);
    let command = CommandId::new();
    world.server.say(ToAgent::ListRefs { command, repo: spec.repo.clone(), credential: None }).await;
    world.server.until(|server| server.answers.contains_key(&command)).await;
    let Answer::Refs { head, branches, tags } = &world.server.answers[&command] else { panic!("no refs") };
    assert_eq!((branches.len(), branches[0].name.as_str(), tags.len()), (1, "main", 0));
    assert!(head.is_some());
    let server = world.stop().await;
    assert_eq!(server.jobs[&deployment].lines.len(), lines);
    assert!(!server.jobs[&deployment].done);
}

#[tokio::test]
async fn two_agents_do_not_share_a_folder() {
    let world = World::start().await;
    let config = Config::new(world.folder.path().join("data"));
    let (connector, _server) = Server::new();
    let second = crate::run(config, connector, CancellationToken::new());
    let error = tokio::time::timeout(server::PATIENCE, second).await.expect("refused at once").unwrap_err();
    assert!(matches!(error, AgentError::InUse(_)), "{error}");
    world.stop().await;
}

#[tokio::test]
async fn a_job_that_is_being_taken_while_the_agent_begins_to_drain_is_not_started() {
    let world = World::start().await;
    let config = Config::new(world.folder.path().join("other"));
    let agent = Arc::new(Agent::open(config, None).await.unwrap());
    agent.drain().await;
    let deployment = DeploymentId::new();
    let order = crate::job::Order {
        deployment,
        attempt: 1,
        spec: world.spec(&[], SLEEP),
        credential: None,
        secrets: Vec::new(),
    };
    let log = agent.spool.create((deployment, 1), &order.spec, false).unwrap();
    assert!(!agent.start_job(order, Begin::Anew, log, None));
    assert!(agent.running.lock().is_empty() && agent.tasks.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_order_whose_connection_ends_while_it_is_being_taken_is_a_job_all_the_same() {
    let mut world = World::start().await;
    world.commit(&[("!build", "#!/bin/sh\necho built\n")]);
    let (deployment, spec) = (DeploymentId::new(), world.spec(&["./build"], SLEEP));
    world.life.shutdown.cancel();
    world.server.until_it_hangs_up().await;
    world.life.cut_off(&world.config).await;
    let agent = Arc::new(Agent::open(world.config.clone(), None).await.unwrap());
    let outflow = Arc::new(Outflow::new(agent.spool.clone()));
    let spooled = || agent.spool.find((deployment, 1));
    {
        let mut taking = Box::pin(agent.obey(deploy(deployment, &spec), &outflow));
        // Given up as soon as it has its place in the spool, which another thread makes.
        let given_up = async {
            while spooled().is_none() {
                let polled = std::future::poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx))).await;
                assert!(polled.is_pending(), "{polled:?}");
                tokio::task::spawn_blocking(|| {}).await.unwrap();
            }
        };
        tokio::time::timeout(server::PATIENCE, given_up).await.unwrap();
    }
    let mut ended = agent.ended.subscribe();
    let done = async {
        while !spooled().unwrap().is_done() {
            ended.changed().await.unwrap();
        }
    };
    tokio::time::timeout(server::PATIENCE, done).await.expect("the job is done");
    agent.tools.runtime.stop(spec.instance).await;
}
