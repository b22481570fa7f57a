//! One history, lived: two agents with an engine each, the first one with the router; a server; what people ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proptest::sample::Index;
use sdp_core::event::Event;
use sdp_core::feed::EventFilter;
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::platform::{Again, Deploy, Idempotency, InstanceFilter, PlatformError, Power, Save};
use sdp_core::principal::Principal;
use sdp_core::sandbox::InstanceState;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::engine::{EXITS, Engine, HEALTH, NEVER};
use crate::history::{Branch, Health, Op};
use crate::judge;
use crate::link::Link;
use crate::lives::{Agent, Server};
use crate::samples;
use crate::witness::Witness;

pub(crate) const SERVICES: [&str; 2] = ["hello", "ledger"];
const SANDBOXES: [&str; 2] = ["alice", "bob"];
/// When nothing moves for so long, nobody waits for more frames.
const STILL: Duration = Duration::from_millis(150);
/// Once faults stop, every deployment ends within this.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// And then what runs and what is said to run is the same.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// What somebody may hear who asks for something that is over, or not there.
const NO_MORE: [&str; 7] = [
    "unknown_sandbox",
    "unknown_instance",
    "already_ended",
    "instance_over",
    "no_commit",
    "queue_full",
    "unknown_deployment",
];

/// What came of a history, to see that histories are not idle.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) outcomes: BTreeMap<String, usize>,
    /// How often each kind of fault has hit a frame.
    pub(crate) faults: BTreeMap<&'static str, usize>,
    pub(crate) lives: usize,
    pub(crate) servers_killed: usize,
    pub(crate) agents_killed: usize,
}

struct Request {
    deploy: Deploy,
    id: DeploymentId,
}

pub(crate) struct Story {
    number: u64,
    folder: TempDir,
    witness: Arc<Witness>,
    engines: [Arc<Engine>; 2],
    links: [Arc<Link>; 2],
    server: Option<Server>,
    agents: [Option<Agent>; 2],
    requests: Vec<Request>,
    deployments: Vec<DeploymentId>,
    /// As far as they have been read: what is stored never changes.
    events: Vec<Event>,
    /// Its counts so far.
    tally: Tally,
}

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid name")
}

fn alice() -> Principal {
    Principal::person(name("alice"))
}

/// In memory, where the system has such a place: what is synced is not the point here.
fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// The services' repository, which nobody writes to: one for all histories.
fn repositories() -> PathBuf {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = tempfile::tempdir_in(place()).expect("a folder");
        let repository = samples::bare(&folder.path().join("services.git")).expect("made");
        for branch in Branch::ALL {
            let script = branch.script();
            let files = samples::Files::from([("build", script.as_str())]);
            samples::commit(&repository, branch.name(), &files, branch.name(), None).expect("committed");
        }
        folder
    });
    folder.path().canonicalize().expect("it is there")
}

impl Story {
    pub(crate) async fn begin(number: u64) -> Self {
        let folder = tempfile::tempdir_in(place()).expect("a folder");
        let witness = Arc::new(Witness::new(folder.path().join("server/logs")));
        let engines = [0, 1].map(|_| Arc::new(Engine::new(witness.clone())));
        let links = [0, 1].map(|agent| Link::new(agent, witness.clone()));
        let mut story = Self {
            number,
            folder,
            witness,
            engines,
            links,
            server: None,
            agents: [None, None],
            requests: Vec::new(),
            deployments: Vec::new(),
            events: Vec::new(),
            tally: Tally::default(),
        };
        story.start_server().await;
        for service in SERVICES {
            let entry = json!({
                "name": service,
                "repo": repositories().join("services.git"),
                "image": "services:1",
                "builder": { "type": "command", "build": [["sh", "build"]], "run": ["serve"] },
                "health": { "type": "tcp" },
            });
            let service = serde_json::from_value(entry).expect("a service");
            let platform = &story.server.as_ref().expect("it runs").platform;
            platform.save_service(&alice(), service, Save::Create).await.expect("saved");
        }
        story.start_agents();
        story.agents_are_connected().await;
        story
    }

    /// From here on a history is told in frames, however busy the machine is.
    async fn agents_are_connected(&self) {
        let platform = &self.server.as_ref().expect("it runs").platform;
        let connecting = async {
            while platform.agents().await.expect("answers").iter().filter(|agent| agent.connected).count() < 2
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SETTLES_WITHIN, connecting).await.expect("both agents connect");
    }

    pub(crate) fn witness(&self) -> Arc<Witness> {
        self.witness.clone()
    }

    async fn start_server(&mut self) {
        let server = Server::start(self.number, &self.folder.path().join("server")).await;
        self.tally.lives += 1;
        self.witness.note("the server has started");
        for (link, agent) in self.links.iter().zip(["vm-1", "vm-2"]) {
            link.serve(Some(Arc::new(server.platform.connector(name(agent)))));
        }
        self.server = Some(server);
    }

    fn start_agents(&mut self) {
        for (n, agent) in self.agents.iter_mut().enumerate().filter(|(_, agent)| agent.is_none()) {
            let folder = self.folder.path().join(format!("vm-{}", n + 1));
            let engine = self.engines[n].clone();
            *agent =
                Some(Agent::start(self.number, &folder, &repositories(), n == 0, engine, &self.links[n]));
            self.tally.lives += 1;
            self.witness.note(format!("vm-{} has started", n + 1));
        }
    }

    async fn end_server(&mut self, killed: bool) {
        let Some(server) = self.server.take() else { return };
        self.witness.note(if killed { "the server is killed" } else { "the server is stopped" });
        for link in &self.links {
            link.serve(None);
        }
        if killed {
            for link in &self.links {
                link.cut().await;
            }
            server.kill().await;
            self.tally.servers_killed += 1;
        } else {
            server.stop().await;
        }
    }

    async fn end_agent(&mut self, n: usize, killed: bool) {
        let Some(agent) = self.agents[n].take() else { return };
        self.witness.note(format!("vm-{} is {}", n + 1, if killed { "killed" } else { "stopped" }));
        let ended = if killed {
            self.links[n].silence().await;
            self.tally.agents_killed += 1;
            agent.kill().await
        } else {
            agent.stop().await
        };
        // Whatever it dialled last.
        self.links[n].silence().await;
        if let Err(error) = ended {
            self.witness.wrong(error);
        }
    }

    pub(crate) async fn apply(&mut self, op: &Op) {
        self.witness.note(format!("── {op:?}"));
        match op {
            Op::Deploy { service, sandbox, branch, health } => {
                let mut deploy = Deploy::new(name(SERVICES[*service]))
                    .git_ref(name(branch.name()))
                    .to(name(SANDBOXES[*sandbox]));
                let health = match health {
                    Health::Fine => None,
                    Health::Never => Some(NEVER),
                    Health::Exits => Some(EXITS),
                };
                deploy.env.extend(health.map(|health| (name(HEALTH), health.to_owned())));
                let key = name(&format!("request-{}", self.requests.len()));
                deploy.idempotency = Some(Idempotency { key, fingerprint: format!("{op:?}") });
                self.deploy(deploy, None).await;
            }
            Op::Repeat(index) => {
                if let Some(request) = pick(index, &self.requests) {
                    let (deploy, id) = (request.deploy.clone(), request.id);
                    self.deploy(deploy, Some(id)).await;
                }
            }
            Op::Redeploy(index) => {
                let (Some(server), Some(id)) = (&self.server, pick(index, &self.deployments)) else { return };
                let again = server.platform.redeploy(&alice(), (*id).into(), Again::default()).await;
                if let Some(deployment) = self.answer(again) {
                    self.deployments.push(deployment.id);
                }
            }
            Op::Cancel(index) => {
                let (Some(server), Some(id)) = (&self.server, pick(index, &self.deployments)) else { return };
                let cancelled = server.platform.cancel(&alice(), (*id).into()).await;
                self.answer(cancelled);
            }
            Op::StopInstance(index) => {
                let Some(server) = &self.server else { return };
                let filter = InstanceFilter::default();
                let instances = server.platform.instances(filter).await.unwrap_or_default();
                let Some(instance) = pick(index, &instances) else { return };
                let stopped = server.platform.stop_instance(&alice(), instance.id).await;
                self.answer(stopped);
            }
            Op::DeleteSandbox(n) => {
                let Some(server) = &self.server else { return };
                let deleted =
                    server.platform.delete_sandbox(&alice(), &name(SANDBOXES[*n]), Power::Member).await;
                self.answer(deleted);
            }
            Op::Crash(index) => {
                let running: Vec<_> = self
                    .engines
                    .iter()
                    .flat_map(|engine| engine.running().into_iter().map(move |id| (engine, id)))
                    .collect();
                if let Some((engine, id)) = pick(index, &running) {
                    engine.crash(*id);
                }
            }
            Op::Fault { agent, direction, after, fault } => {
                self.links[*agent].order(*direction, *after, *fault);
            }
            Op::Cut(agent) => self.links[*agent].cut().await,
            Op::Part(agent) => {
                self.links[*agent].part(true);
                self.links[*agent].cut().await;
            }
            Op::Mend => self.links.iter().for_each(|link| link.part(false)),
            Op::KillServer(ms) | Op::StopServer(ms) => {
                self.end_server(matches!(op, Op::KillServer(_))).await;
                sleep(Duration::from_millis(*ms)).await;
                self.start_server().await;
                self.read_events().await;
            }
            Op::KillAgent(agent) => self.end_agent(*agent, true).await,
            Op::StopAgent(agent) => self.end_agent(*agent, false).await,
            Op::StartAgents => self.start_agents(),
            Op::Frames(more) => {
                let mut frames = self.witness.frames();
                let until = *frames.borrow_and_update() + more;
                while *frames.borrow_and_update() < until {
                    if timeout(STILL, frames.changed()).await.is_err() {
                        break;
                    }
                }
            }
            Op::Pass(ms) => sleep(Duration::from_millis(*ms)).await,
        }
    }

    async fn deploy(&mut self, deploy: Deploy, known: Option<DeploymentId>) {
        let Some(server) = &self.server else { return };
        let deployed = server.platform.deploy(&alice(), deploy.clone()).await;
        let Some(deployment) = self.answer(deployed) else { return };
        match known {
            Some(known) if known != deployment.id => {
                self.witness.wrong(format!("the request of {known} again made {}", deployment.id));
            }
            Some(_) => {}
            None => {
                self.witness.note(format!("deployment {} is {}", deployment.number, deployment.id));
                self.requests.push(Request { deploy, id: deployment.id });
                self.deployments.push(deployment.id);
            }
        }
    }

    fn answer<T>(&self, answer: Result<T, PlatformError>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !NO_MORE.contains(&error.code()) {
                    self.witness.wrong(format!("a command was answered: {error} ({})", error.code()));
                }
                None
            }
        }
    }

    /// Reads all events there are; those that had been read before are still the same.
    async fn read_events(&mut self) {
        let Some(server) = &self.server else { return };
        let mut feed = server.platform.feed(EventSeq(0), EventFilter::default());
        let mut events = Vec::new();
        loop {
            match feed.try_next().await {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return self.witness.wrong(format!("the feed cannot be read: {error}")),
            }
        }
        if let Some(lost) = self.events.iter().zip(&events).find(|(before, now)| before != now) {
            self.witness.wrong(format!("history has changed: {lost:?}"));
        }
        if events.len() < self.events.len() {
            self.witness.wrong(format!("{} events are gone", self.events.len() - events.len()));
        }
        self.events = events;
    }

    /// Faults stop: everything ends, and then all agree on what there is.
    pub(crate) async fn end(&mut self) -> Tally {
        self.witness.note("── faults stop");
        for link in &self.links {
            link.heal();
        }
        self.start_agents();
        for link in &self.links {
            link.cut().await;
        }
        self.all_end().await;
        self.all_agree().await;
        self.read_events().await;
        let platform = self.server.as_ref().expect("it runs").platform.clone();
        judge::events(&self.witness, &self.events);
        for id in &self.deployments {
            judge::deployment(&self.witness, &platform, &self.events, *id).await;
        }
        let mut tally = Tally { faults: self.witness.faults(), ..std::mem::take(&mut self.tally) };
        for id in &self.deployments {
            let deployment = platform.deployment((*id).into()).await.expect("it is there");
            let word = match deployment.outcome() {
                Some(sdp_core::deployment::Outcome::Failed { failure }) => failure.reason.code().to_owned(),
                Some(outcome) => outcome.code().to_owned(),
                None => "open".to_owned(),
            };
            self.witness.note(format!("{id} ended as {word}"));
            *tally.outcomes.entry(word).or_default() += 1;
        }
        drop(platform);
        for n in 0..2 {
            self.end_agent(n, false).await;
        }
        self.end_server(false).await;
        tally
    }

    async fn all_end(&self) {
        let platform = &self.server.as_ref().expect("it runs").platform;
        let ending = async {
            for id in &self.deployments {
                let ended = platform.wait_ended((*id).into(), ENDS_WITHIN).await;
                if !ended.as_ref().is_ok_and(sdp_core::deployment::Deployment::is_ended) {
                    self.witness.wrong(format!("it does not end: {ended:?}"));
                    return;
                }
            }
        };
        if timeout(ENDS_WITHIN, ending).await.is_err() {
            self.witness.wrong("some deployments do not end, though faults have stopped");
        }
    }

    /// What runs is what is said to run, and what requests are sent to.
    async fn all_agree(&self) {
        let platform = &self.server.as_ref().expect("it runs").platform;
        let mut differ = String::new();
        let agreeing = async {
            loop {
                let instances = platform.instances(InstanceFilter::default()).await.unwrap_or_default();
                let settled = instances.iter().all(|i| matches!(i.state, InstanceState::Live {}));
                let said: BTreeSet<_> = instances.iter().map(|instance| instance.id).collect();
                let places: BTreeSet<_> = instances.iter().map(|i| (&i.sandbox, &i.service)).collect();
                let running: BTreeSet<_> = self.engines.iter().flat_map(|engine| engine.running()).collect();
                let table = self.witness.table();
                let routed = said.iter().all(|id| table.names_instance(*id));
                if settled && said == running && places.len() == said.len() && routed {
                    return;
                }
                differ =
                    format!("the server has {instances:?}, what runs is {running:?}, the table {table:?}");
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(SETTLES_WITHIN, agreeing).await.is_err() {
            self.witness.wrong(format!("server and engines do not agree: {differ}"));
        }
    }
}

fn pick<'a, T>(index: &Index, from: &'a [T]) -> Option<&'a T> {
    (!from.is_empty()).then(|| index.get(from))
}
