//! A whole SDP of processes: server, agents behind a proxy each, the console. Faults are done to it here, each noted with
//! when it began and ended; what the dead leave on disk is looked at before they are started again.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::bots::Console;
use crate::ground::Ground;
use crate::oracle::remains;
use crate::processes::{Incident, Kind, Program};
use crate::proxy::Proxy;
use crate::report::Findings;

/// How long a server may take to listen again, on a busy machine.
const READY: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: &'static str,
    pub(crate) program: Mutex<Program>,
    pub(crate) proxy: Proxy,
    /// One change of the link at a time.
    link: Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) ground: Arc<Ground>,
    pub(crate) server: Mutex<Program>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) console: Arc<Console>,
    pub(crate) findings: Findings,
    incidents: std::sync::Mutex<Vec<Incident>>,
    copies: std::sync::Mutex<Vec<remains::SpoolCopy>>,
}

/// Which process a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Server,
    Agent(usize),
    Bot,
}

impl Cluster {
    /// Starts all of it and waits until the agents are connected.
    pub(crate) async fn start(ground: Arc<Ground>, findings: Findings) -> anyhow::Result<Self> {
        let config = |path: &PathBuf| path.display().to_string();
        let mut server = Program::new(
            "server",
            &ground.programs.server,
            &["--config", &config(&ground.server_config)],
            &ground.folder,
        );
        server.start()?;
        let mut agents = Vec::new();
        for agent in &ground.agents {
            let proxy = Proxy::start(agent.proxy, ground.server).await?;
            let args = ["--config", &config(&agent.config)];
            let mut program = Program::new(agent.name, &ground.programs.agent, &args, &ground.folder);
            program.start()?;
            agents.push(Agent {
                name: agent.name,
                program: Mutex::new(program),
                proxy,
                link: Mutex::default(),
            });
        }
        let console = Arc::new(Console::new(&ground));
        let cluster = Self {
            ground,
            server: Mutex::new(server),
            agents,
            console,
            findings,
            incidents: Default::default(),
            copies: Default::default(),
        };
        cluster.server_listens(&mut *cluster.server.lock().await).await?;
        let client = cluster.ground.client()?;
        let begun = Instant::now();
        while client.agents().await?.iter().filter(|agent| agent.connected).count() < cluster.agents.len() {
            anyhow::ensure!(begun.elapsed() < READY, "the agents do not connect");
            sleep(Duration::from_millis(50)).await;
        }
        for service in cluster.ground.services()? {
            client.save_service(&service).await?;
        }
        cluster.console.start().await?;
        Ok(cluster)
    }

    async fn server_listens(&self, server: &mut Program) -> anyhow::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.ground.server).await.is_err() {
            anyhow::ensure!(!server.has_ended(), "the server does not start: see output/server.log");
            anyhow::ensure!(begun.elapsed() < READY, "the server does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(crate) fn incidents(&self) -> Vec<Incident> {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn copies(&self) -> Vec<remains::SpoolCopy> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, kind: Kind, target: &'static str, from: Timestamp) {
        let what = match kind.ends_the_process() || kind == Kind::Pause {
            true => {
                format!("{} of {}", kind.word(), if target.starts_with("vm") { "an agent" } else { target })
            }
            false => kind.word().to_owned(),
        };
        *self.findings.figures().incidents.entry(what).or_default() += 1;
        let incident = Incident { kind, target, from, to: Timestamp::now() };
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).push(incident);
    }

    /// Ends a process and starts it again after a while.
    pub(crate) async fn restart(&self, target: Target, kind: Kind, away: Duration) -> anyhow::Result<()> {
        match target {
            Target::Server => {
                let mut program = self.server.lock().await;
                let from = Timestamp::now();
                self.end(&mut program, kind).await;
                remains::of_server(self).await?;
                sleep(away).await;
                program.start()?;
                self.server_listens(&mut program).await?;
                self.note(kind, "server", from);
            }
            Target::Agent(index) => {
                let agent = &self.agents[index];
                let mut program = agent.program.lock().await;
                let from = Timestamp::now();
                self.end(&mut program, kind).await;
                if kind == Kind::Kill {
                    let copies = remains::of_agent(&self.ground, index)?;
                    self.copies.lock().unwrap_or_else(PoisonError::into_inner).extend(copies);
                }
                sleep(away).await;
                program.start()?;
                self.note(kind, agent.name, from);
            }
            Target::Bot => {
                let from = Timestamp::now();
                self.console.kill().await;
                sleep(away).await;
                self.console.start().await?;
                self.note(kind, "bot", from);
            }
        }
        Ok(())
    }

    async fn end(&self, program: &mut Program, kind: Kind) {
        if program.has_ended() {
            let detail = format!("it had ended by itself; see output/{}.log", program.name);
            self.findings.say("ended", program.name, detail);
        }
        match kind {
            Kind::Terminate => {
                if !program.terminate().await {
                    self.findings.say("ended", program.name, "SIGTERM does not end it in time");
                }
            }
            _ => program.kill().await,
        }
    }

    pub(crate) async fn pause(&self, target: Target, time: Duration) {
        let (program, name) = match target {
            Target::Agent(index) => (&self.agents[index].program, self.agents[index].name),
            Target::Server | Target::Bot => (&self.server, "server"),
        };
        let program = program.lock().await;
        let from = Timestamp::now();
        program.pause(time).await;
        self.note(Kind::Pause, name, from);
    }

    /// Does something to an agent's link, for a while where that makes sense.
    pub(crate) async fn link(
        &self,
        index: usize,
        kind: Kind,
        time: Duration,
        much: u64,
    ) -> anyhow::Result<()> {
        let agent = &self.agents[index];
        let _one_at_a_time = agent.link.lock().await;
        let from = Timestamp::now();
        let proxy = &agent.proxy;
        match kind {
            Kind::Cut => proxy.cut(),
            Kind::CutInFrame => proxy.cut_after(much, time).await,
            _ => {
                let speed = u32::try_from(much).context("bytes per second")?;
                proxy.change(|mode| match kind {
                    Kind::Delay => mode.delay = Duration::from_millis(much),
                    Kind::Slow => mode.bytes_per_second = Some(speed),
                    Kind::HalfOpen => mode.swallow = true,
                    _ => mode.refuse = true,
                });
                if kind == Kind::Refuse {
                    proxy.cut();
                }
                sleep(time).await;
                proxy.change(|mode| *mode = Default::default());
            }
        }
        self.note(kind, agent.name, from);
        Ok(())
    }

    /// Ends everything, as an administrator would.
    pub(crate) async fn stop(&self) {
        self.console.kill().await;
        for agent in &self.agents {
            self.end(&mut *agent.program.lock().await, Kind::Terminate).await;
        }
        self.end(&mut *self.server.lock().await, Kind::Terminate).await;
    }
}
