//! A faulty link: it sits between an agent's end of a connection and the server's, and carries frames from one to the other.
//!
//! A fault hits one frame, so many frames after it was ordered. TCP neither loses nor reorders inside a connection; this link does,
//! since lines and progress are numbered and promise to heal all the same. What they do not promise is told in `main`. The
//! hello and the welcome are spared: without them there is no connection, so to lose one is to cut.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sdp_agent::Connector;
use sdp_core::wire::ToAgent;
use sdp_core::wire::link::{AgentEnd, AgentFrame, ServerEnd, pair};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::witness::Witness;

/// A frame that is to be overtaken waits so long for another one.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToAgent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Drop,
    Duplicate,
    /// The next one comes first.
    Overtake,
    /// It, and all that follow it, come so many milliseconds later.
    Delay(u64),
    /// The connection breaks before it.
    Cut,
}

impl Fault {
    pub(crate) const WORDS: [&str; 5] = ["drop", "duplicate", "overtake", "delay", "cut"];

    pub(crate) fn word(self) -> &'static str {
        let [drop, duplicate, overtake, delay, cut] = Self::WORDS;
        match self {
            Self::Drop => drop,
            Self::Duplicate => duplicate,
            Self::Overtake => overtake,
            Self::Delay(_) => delay,
            Self::Cut => cut,
        }
    }
}

/// Makes connections to the server as it lives now.
type Server = Arc<dyn Fn() -> Option<AgentEnd> + Send + Sync>;

/// The connections since the last cut. One that is dialled meanwhile is of the next ones.
#[derive(Clone, Default)]
struct Open {
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// The link of one agent, through all its connections.
pub(crate) struct Link {
    agent: usize,
    witness: Arc<Witness>,
    /// Where frames are carried: neither the agent's runtime nor the server's, which may be killed.
    carriers: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    server: Option<Server>,
    parted: bool,
    /// Frames to pass before it, and the fault; for each direction.
    to_server: VecDeque<(usize, Fault)>,
    to_agent: VecDeque<(usize, Fault)>,
    open: Open,
    /// Which life of the agent it serves; none while that is being ended.
    life: Option<u64>,
    lives: u64,
}

impl Link {
    pub(crate) fn new(agent: usize, witness: Arc<Witness>) -> Arc<Self> {
        Arc::new(Self { agent, witness, carriers: Handle::current(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way to the server for a new life of the agent.
    pub(crate) fn connector(self: &Arc<Self>) -> Connector {
        {
            let mut state = self.state();
            state.lives += 1;
            state.life = Some(state.lives);
        }
        let link = self.clone();
        Connector::InProcess(Arc::new(move || link.connect()))
    }

    fn connect(self: &Arc<Self>) -> Option<AgentEnd> {
        let (server, Open { cut, tasks }, life) = {
            let state = self.state();
            let server = state.server.clone().filter(|_| !state.parted)?;
            (server, state.open.clone(), state.life?)
        };
        let server = server()?;
        let (agent, end) = pair();
        let link = self.clone();
        tasks.spawn_on(async move { link.carry(end, server, cut, life).await }, &self.carriers);
        Some(agent)
    }

    /// A server has begun its life, or ended it.
    pub(crate) fn serve(&self, server: Option<Server>) {
        self.state().server = server;
    }

    pub(crate) fn order(&self, direction: Direction, after: usize, fault: Fault) {
        let mut state = self.state();
        state.queue(direction).push_back((after, fault));
    }

    pub(crate) fn part(&self, parted: bool) {
        self.state().parted = parted;
    }

    /// The agent is dead: it says nothing any more.
    pub(crate) async fn silence(&self) {
        self.state().life = None;
        self.cut().await;
    }

    /// Breaks the connection, if there is one; returns when nothing is carried any more.
    pub(crate) async fn cut(&self) {
        let Open { cut, tasks } = std::mem::take(&mut self.state().open);
        cut.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// No fault any more.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.parted = false;
        state.to_server.clear();
        state.to_agent.clear();
    }

    fn next_fault(&self, direction: Direction) -> Option<Fault> {
        let mut state = self.state();
        let queue = state.queue(direction);
        match queue.front_mut() {
            Some((0, _)) => queue.pop_front().map(|(_, fault)| fault),
            Some((frames, _)) => {
                *frames -= 1;
                None
            }
            None => None,
        }
    }

    async fn carry(&self, agent: ServerEnd, server: AgentEnd, cut: CancellationToken, life: u64) {
        let ServerEnd { tx: to_agent, rx: from_agent } = agent;
        let AgentEnd { tx: to_server, rx: from_server } = server;
        let witness = &self.witness;
        let outward = self.one_way(
            Direction::ToServer,
            from_agent,
            to_server,
            |frame: &AgentFrame| witness.said(self.agent, frame),
            |_| {},
        );
        let inward = self.one_way(
            Direction::ToAgent,
            from_server,
            to_agent,
            |frame: &ToAgent| witness.ordered(frame),
            |frame: &ToAgent| witness.told(self.agent, life, frame),
        );
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = outward => {}
            () = inward => {}
        }
        witness.note(format!("vm-{}'s connection is over", self.agent + 1));
    }

    /// Until either end hangs up, or a fault breaks the connection. `enters` sees what was said, `leaves` what arrives.
    async fn one_way<F: Clone + Debug>(
        &self,
        direction: Direction,
        mut from: mpsc::Receiver<F>,
        to: mpsc::Sender<F>,
        enters: impl Fn(&F),
        leaves: impl Fn(&F),
    ) {
        let send = async |frame: F| {
            leaves(&frame);
            to.send(frame).await.is_ok()
        };
        // The hello or the welcome.
        let Some(first) = from.recv().await else { return };
        enters(&first);
        if !send(first).await {
            return;
        }
        loop {
            let Some(frame) = from.recv().await else { return };
            enters(&frame);
            let fault = self.next_fault(direction);
            if let Some(fault) = fault {
                self.witness.fault(self.agent, fault, &frame);
            }
            let sent = match fault {
                None => send(frame).await,
                Some(Fault::Cut) => return,
                Some(Fault::Drop) => true,
                Some(Fault::Duplicate) => send(frame.clone()).await && send(frame).await,
                Some(Fault::Delay(ms)) => {
                    sleep(Duration::from_millis(ms)).await;
                    send(frame).await
                }
                Some(Fault::Overtake) => match timeout(OVERTAKEN_WITHIN, from.recv()).await {
                    Ok(Some(next)) => {
                        enters(&next);
                        send(next).await && send(frame).await
                    }
                    Ok(None) => return,
                    Err(_) => send(frame).await,
                },
            };
            if !sent {
                return;
            }
        }
    }
}

impl State {
    fn queue(&mut self, direction: Direction) -> &mut VecDeque<(usize, Fault)> {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToAgent => &mut self.to_agent,
        }
    }
}
