//! What becomes of an instance after its deployment: told once for each change, however often its agent repeats it.

use super::agent::{PlayedAgent, commit};
use super::*;
use crate::id::InstanceId;
use crate::sandbox::{InstanceState, LastRestart, StopReason, Unhealthy};
use crate::wire::{Exit, FromAgent, Health, InstanceStatus, RestartCause, ToAgent};

impl PlayedAgent {
    /// Reports its only instance as running like this, now and in each hello.
    async fn reports(&mut self, restarts: u32, last_restart: Option<RestartCause>, health: Health) {
        let address = "127.0.0.1:5001".parse().expect("an address");
        self.is(InstanceStatus::Running { address, restarts, last_restart, health }).await;
    }

    async fn is(&mut self, status: InstanceStatus) {
        self.instances[0].status = status;
        self.say_again().await;
    }

    async fn say_again(&mut self) {
        let report = self.instances[0].clone();
        self.say(FromAgent::Instance { report }).await;
    }
}

fn crash(code: i32) -> RestartCause {
    let last_lines = vec![format!("fatal {code}")];
    RestartCause::Exited { exit: Exit { exit_code: Some(code), last_lines, ..Exit::default() } }
}

fn unhealthy(detail: &str) -> Health {
    Health::Unhealthy { detail: detail.to_owned() }
}

impl Bench {
    /// A service that serves.
    async fn live(&self, agent: &mut PlayedAgent) -> InstanceId {
        let deployment = self.deploy("hello", "main").await;
        let instance = agent.deploy(commit('a'), 5001).await.spec.instance;
        self.ended(&deployment).await;
        instance
    }

    /// All that has happened to an instance since it served, one word an event. A deployment of something else is done before, so
    /// that whatever was said until now has been taken.
    async fn told(&self, agent: &mut PlayedAgent, instance: InstanceId) -> Vec<String> {
        let other = self.deploy("ledger", "main").await;
        agent.take_job().await;
        self.platform.cancel(&alice(), other.id.into()).await.expect("taken");
        agent.hear(|message| matches!(message, ToAgent::Cancel { .. })).await;
        let mut feed = self.platform.feed(EventSeq(0), EventFilter::default());
        let mut told = Vec::new();
        while let Some(event) = feed.try_next().await.expect("reads") {
            if event.about.instance != Some(instance) {
                continue;
            }
            told.push(match event.kind {
                EventKind::InstanceRestarted { reason, restarts, last_lines } => {
                    format!("restarted {restarts}: {} {last_lines:?}", serde_json::json!(reason))
                }
                EventKind::InstanceUnhealthy { detail } => format!("unhealthy: {detail}"),
                EventKind::InstanceRecovered {} => "recovered".to_owned(),
                EventKind::InstanceStopped { .. } => "stopped".to_owned(),
                _ => continue,
            });
        }
        told
    }
}

#[tokio::test]
async fn restarts_are_told_once_each_also_over_reconnects_and_restarts_of_the_server() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let instance = bench.live(&mut agent).await;
    agent.reports(1, Some(crash(3)), Health::Checking {}).await;
    agent.say_again().await;
    agent.reconnect(&bench.platform).await;
    agent.say_again().await;
    bench.event(|event| matches!(event.kind, EventKind::InstanceRestarted { restarts: 1, .. })).await;
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    agent.say_again().await;
    // Two that nobody saw one by one.
    agent.reports(3, Some(RestartCause::AgentRestarted {}), Health::Healthy {}).await;
    agent.say_again().await;
    agent.reports(4, Some(RestartCause::EngineRestarted {}), Health::Healthy {}).await;
    // Of an earlier life: no news.
    agent.reports(2, Some(crash(4)), Health::Healthy {}).await;
    insta::assert_snapshot!(bench.told(&mut agent, instance).await.join("\n"), @r#"
    restarted 1: {"exit_code":3,"out_of_memory":false,"signal":null,"type":"crashed"} ["fatal 3"]
    restarted 3: {"type":"agent_restarted"} []
    restarted 4: {"type":"engine_restarted"} []
    "#);
    let known = bench.platform.instance(instance).await.expect("known");
    assert_eq!((known.state, known.restarts), (InstanceState::Live {}, 4));
    let Some(LastRestart { reason: StopReason::EngineRestarted {}, .. }) = known.last_restart else {
        panic!("{:?}", known.last_restart)
    };
    assert_eq!(known.last_lines, [""; 0], "those of a crash belong to a crash");
}

#[tokio::test]
async fn an_instance_that_does_not_pass_its_check_is_unhealthy_keeps_its_route_and_recovers_once_each() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let instance = bench.live(&mut agent).await;
    let table = agent.table.clone();
    agent.reports(1, Some(crash(3)), Health::Checking {}).await;
    agent.reports(1, Some(crash(3)), unhealthy("GET / answered 500")).await;
    bench.event(|event| matches!(event.kind, EventKind::InstanceUnhealthy { .. })).await;
    let known = bench.platform.instance(instance).await.expect("known");
    assert_eq!(known.state, InstanceState::Unhealthy {});
    assert!(matches!(&known.unhealthy, Some(Unhealthy { detail, .. }) if detail == "GET / answered 500"));
    // Another word for it, another connection, another life of the server: it is known.
    agent.reports(1, Some(crash(3)), unhealthy("nothing listens on port 5001")).await;
    agent.reconnect(&bench.platform).await;
    agent.say_again().await;
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    agent.say_again().await;
    // While the agent finds out it stands.
    agent.reports(2, Some(RestartCause::AgentRestarted {}), Health::Checking {}).await;
    bench.event(|event| matches!(event.kind, EventKind::InstanceRestarted { restarts: 2, .. })).await;
    let known = bench.platform.instance(instance).await.expect("known");
    assert_eq!(known.state, InstanceState::Unhealthy {});
    agent.reports(2, Some(RestartCause::AgentRestarted {}), Health::Healthy {}).await;
    agent.say_again().await;
    insta::assert_snapshot!(bench.told(&mut agent, instance).await.join("\n"), @r#"
    restarted 1: {"exit_code":3,"out_of_memory":false,"signal":null,"type":"crashed"} ["fatal 3"]
    unhealthy: GET / answered 500
    restarted 2: {"type":"agent_restarted"} []
    recovered
    "#);
    let known = bench.platform.instance(instance).await.expect("known");
    assert_eq!((known.state, known.unhealthy), (InstanceState::Live {}, None));
    assert_eq!(agent.table.environments, table.environments, "requests went to it all the time");
}

#[tokio::test]
async fn what_cannot_be_started_again_is_down_with_the_reason_and_the_router_says_so() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let instance = bench.live(&mut agent).await;
    let not_started = Some("its build is gone".to_owned());
    agent.is(InstanceStatus::Exited { exit: Exit { not_started, ..Exit::default() } }).await;
    agent.stop(instance).await;
    bench.event(|event| matches!(event.kind, EventKind::InstanceStopped { .. })).await;
    let known = bench.platform.instance(instance).await.expect("known");
    let reason = StopReason::NotStarted { detail: "its build is gone".into() };
    assert_eq!(known.state, InstanceState::Stopped { reason });
    while !agent.table.targets().any(|route| format!("{route:?}").contains("could not be started")) {
        agent.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
}

#[tokio::test]
async fn an_agent_that_cannot_tell_what_runs_has_lost_nothing() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let instance = bench.live(&mut agent).await;
    let known = std::mem::take(&mut agent.instances);
    agent.degraded = Some("the container engine does not answer".into());
    agent.reconnect(&bench.platform).await;
    let live = async || bench.platform.instance(instance).await.expect("known").state;
    assert_eq!(live().await, InstanceState::Live {});
    // It can again, and it is there.
    (agent.degraded, agent.instances) = (None, known);
    agent.reconnect(&bench.platform).await;
    assert_eq!(live().await, InstanceState::Live {});
    assert_eq!(bench.told(&mut agent, instance).await, [""; 0]);
    // It can, and it is not.
    agent.instances.clear();
    agent.reconnect(&bench.platform).await;
    bench.event(|event| matches!(event.kind, EventKind::InstanceStopped { .. })).await;
}
