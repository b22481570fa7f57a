//! What becomes of instances whose sandbox ends while the server is away: real processes, killed and started again.

use jiff::SignedDuration;
use sdp_core::wire::{Health, InstanceStatus, RestartCause};

use super::server::PATIENCE;
use super::*;

/// Says who it is, and goes on.
const SERVE: &str = "#!/bin/sh\necho $$\necho end\nexec sleep 1000\n";

fn hours_from_now(hours: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap()
}

async fn world() -> World {
    world_with(|_| {}).await
}

async fn world_with(change: impl FnOnce(&mut Config)) -> World {
    let mut world = World::start_with(|config| {
        config.runtime.expiry_grace = Duration::from_secs(1);
        change(config);
    })
    .await;
    world.commit(&[("!serve", SERVE)]);
    world.server.until(|server| server.load.is_some()).await;
    world
}

impl World {
    /// An instance that is live, in a sandbox with that end; and its process.
    async fn live(&mut self, end: Option<Timestamp>) -> (InstanceId, String) {
        let mut spec = self.spec(&[], &["./serve"]);
        spec.place = Some(self.place(end));
        let deployment = DeploymentId::new();
        self.server.say(deploy(deployment, &spec)).await;
        self.server.until_done(deployment).await;
        self.server.until(|server| server.instances.contains_key(&spec.instance)).await;
        let pid = self.printed(spec.instance, 0).await[0].clone();
        (spec.instance, pid)
    }

    fn folder_of(&self, instance: InstanceId) -> PathBuf {
        self.folder.path().join("data/instances").join(instance.to_string())
    }

    /// What the last hello said of an instance.
    fn at_hello(&self, instance: InstanceId) -> Option<InstanceStatus> {
        let Some(FromAgent::Hello { instances, .. }) = &self.server.hello else { panic!("no hello") };
        instances.iter().find(|report| report.instance == instance).map(|report| report.status.clone())
    }
}

async fn until_dead(pid: &str) {
    let dead = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dead).await.expect("it is stopped in time");
}

fn not_started(status: Option<&InstanceStatus>) -> Option<&str> {
    match status {
        Some(InstanceStatus::Exited { exit }) => exit.not_started.as_deref(),
        _ => None,
    }
}

#[tokio::test]
async fn an_instance_whose_sandbox_has_ended_is_stopped_without_the_server_and_not_with_it() {
    let mut world = world().await;
    let past = hours_from_now(-1);
    let (ended, pid) = world.live(Some(past)).await;
    // The next ones take longer than several looks at the clock.
    let (extended, extended_pid) = world.live(Some(past)).await;
    let (endless, endless_pid) = world.live(None).await;
    assert!(is_alive(&pid), "the server decides while it is there");
    let later = BTreeMap::from([(extended, Some(hours_from_now(1)))]);
    world.server.say(ToAgent::Lifetimes { instances: later }).await;
    // It has been heeded when what comes after it is answered.
    world.printed(extended, 0).await;

    let dial = world.server.go_away();
    until_dead(&pid).await;
    assert!(is_alive(&extended_pid) && is_alive(&endless_pid));
    assert!(world.folder_of(ended).join("instance.json").is_file());
    assert_eq!(world.workspaces(), 3, "what it was built from stays, too");

    // The server learns of it at the next hello, and says that it is over.
    world.server.ends = [(ended, past), (extended, hours_from_now(1))].into();
    world.server.come_back(dial);
    world.server.welcome().await;
    assert!(matches!(world.at_hello(extended), Some(InstanceStatus::Running { .. })));
    let status = |server: &Server| server.instances.get(&ended).map(|known| known.status.clone());
    world.server.until(|server| not_started(status(server).as_ref()).is_some()).await;
    let told = status(&world.server);
    insta::assert_snapshot!(not_started(told.as_ref()).unwrap(), @"its sandbox had ended while the server was away");
    let command = CommandId::new();
    world.server.say(ToAgent::StopInstance { command, instance: ended }).await;
    world.server.until(|server| !server.instances.contains_key(&ended)).await;
    assert!(is_alive(&endless_pid));
    assert!(matches!(world.server.instances[&endless].status, InstanceStatus::Running { .. }));
    let gone = world.folder_of(ended);
    world.stop().await;
    assert!(!gone.exists());
}

#[tokio::test]
async fn what_was_stopped_is_started_again_when_the_server_says_that_its_sandbox_goes_on() {
    let mut world = world().await;
    let (instance, pid) = world.live(Some(hours_from_now(-1))).await;
    let InstanceStatus::Running { address, .. } = world.server.instances[&instance].status else {
        panic!("it runs")
    };
    let dial = world.server.go_away();
    until_dead(&pid).await;
    world.server.instances.clear();
    world.server.ends = [(instance, hours_from_now(1))].into();
    world.server.come_back(dial);
    world.server.welcome().await;
    // Between the two it is no news that it did not run.
    let healthy = |status: &InstanceStatus| {
        matches!(status, InstanceStatus::Running { health: Health::Healthy {}, .. })
    };
    world
        .server
        .until(|server| {
            let Some(known) = server.instances.get(&instance) else { return false };
            assert!(matches!(known.status, InstanceStatus::Running { .. }), "{known:?}");
            healthy(&known.status)
        })
        .await;
    let expected = InstanceStatus::Running {
        address,
        restarts: 1,
        last_restart: Some(RestartCause::SandboxRenewed {}),
        health: Health::Healthy {},
    };
    assert_eq!(world.server.instances[&instance].status, expected);
    let printed = world.printed(instance, 2).await;
    assert_ne!(printed[2], pid);
    assert!(is_alive(&printed[2]));
    world.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_agent_changes_nothing_of_it() {
    let mut world = world().await;
    let (ended, _) = world.live(None).await;
    let (extended, _) = world.live(Some(hours_from_now(-1))).await;
    let ends = BTreeMap::from([(ended, Some(hours_from_now(-1))), (extended, Some(hours_from_now(1)))]);
    world.server.say(ToAgent::Lifetimes { instances: ends }).await;
    world.printed(ended, 0).await;

    // The next life knows, stops the one, and the life after that does not start it again.
    let dial = world.server.go_away();
    let mut world = world.kill().await;
    let started_again = || std::fs::read_to_string(world.folder_of(ended).join("instance.json")).unwrap();
    let suspended = async {
        while !started_again().contains(r#""stage":{"type":"suspended""#) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, suspended).await.expect("it is stopped in time");
    world = world.kill().await;
    world.server.ends = [(ended, hours_from_now(-1)), (extended, hours_from_now(1))].into();
    world.server.come_back(dial);
    world.server.welcome().await;
    assert!(not_started(world.at_hello(ended).as_ref()).is_some(), "{:?}", world.at_hello(ended));
    let InstanceStatus::Running { last_restart, .. } = world.at_hello(extended).unwrap() else {
        panic!("it runs")
    };
    assert_eq!(last_restart, Some(RestartCause::AgentRestarted {}));
    world.stop().await;
}

#[tokio::test]
async fn a_welcome_that_comes_while_it_is_being_stopped_is_heeded() {
    let mut world = world_with(|config| config.runtime.stop_grace = Duration::from_secs(2)).await;
    let asked = world.folder.path().join("asked");
    let stubborn = "#!/bin/sh\ntrap 'echo > $ASKED' TERM\necho $$\necho end\nwhile :; do sleep 0.05; done\n";
    world.commit(&[("!serve", &stubborn.replace("$ASKED", asked.to_str().unwrap()))]);
    let (instance, pid) = world.live(Some(hours_from_now(-1))).await;
    let dial = world.server.go_away();
    let is_asked = async {
        while !asked.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_asked).await.expect("it is asked to end in time");
    world.server.instances.clear();
    world.server.come_back(dial);
    world.server.welcome().await;
    assert!(is_alive(&pid), "it takes its time");
    let restarted = |server: &Server| match server.instances.get(&instance).map(|known| &known.status) {
        None => false,
        Some(InstanceStatus::Running { restarts, .. }) => *restarts == 1,
        Some(other) => panic!("{other:?}"),
    };
    world.server.until(restarted).await;
    assert!(!is_alive(&pid));
    world.stop().await;
}
