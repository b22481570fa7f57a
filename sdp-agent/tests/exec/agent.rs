//! The real `sdp-agent`, started as an operator would in several ways; the test plays its server over a WebSocket.

use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use sdp_core::id::Epoch;
use sdp_core::wire::link::{AgentFrame, RawFrame};
use sdp_core::wire::{FromAgent, Preflight, ToAgent};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::{AGENT, BUILDER, LONG};

/// The user that an agent is which is not root.
const OPERATOR: u32 = 64102;
/// What `examples/systemd/sdp-agent.service` gives it.
const CAPABILITIES: &str = "+setuid,+setgid,+chown,+dac_override,+fowner,+kill,+sys_ptrace";

/// Who the agent is, and what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As this test is.
    Same,
    /// Root, but not allowed to make namespaces.
    WithoutAdmin,
    /// A user like any other.
    User,
    /// As the unit has it, with a user for builds.
    Unit,
    /// The same, allowed to make namespaces.
    UnitWithAdmin,
    /// As the unit has it, but builds are the agent itself.
    UnitAlone,
}

impl Way {
    fn builds_as(self) -> Option<u32> {
        matches!(self, Self::Unit | Self::UnitWithAdmin).then_some(BUILDER.uid)
    }

    fn program(self) -> Vec<String> {
        let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let user = format!("--reuid={OPERATOR} --regid={OPERATOR} --clear-groups");
        let unit = |more: &str| {
            let all = format!("{CAPABILITIES}{more}");
            format!(
                "setpriv {user} --inh-caps=-all,{all} --ambient-caps=-all,{all} --bounding-set=-all,{all} --no-new-privs {AGENT}"
            )
        };
        words(match self {
            Self::Same => AGENT.to_owned(),
            Self::WithoutAdmin => format!("setpriv --inh-caps=-all --bounding-set=-sys_admin {AGENT}"),
            Self::User => format!("setpriv {user} --inh-caps=-all {AGENT}"),
            Self::Unit | Self::UnitAlone => unit(""),
            Self::UnitWithAdmin => unit(",+sys_admin"),
        })
    }
}

/// An agent that has been welcomed.
pub(super) struct Agent {
    pub(super) folder: tempfile::TempDir,
    pub(super) preflight: Vec<Preflight>,
    child: Child,
    socket: WebSocketStream<TcpStream>,
}

impl Agent {
    /// Starts it, with a repository `repo.git` in its folder whose `main` holds these programs.
    pub(super) async fn start(way: Way, programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        commit(&folder.path().join("repo.git"), programs);
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = folder.path().join("agent.toml");
        let user = way.builds_as().map(|id| format!("user = \"{id}:{id}\"\n")).unwrap_or_default();
        let text = format!(
            "server = \"http://{}\"\ndata_dir = \"{}\"\n[git]\nlocal_paths = [\"{}\"]\n[runtime]\nports = \"40000-60000\"\n[build]\n{user}",
            listener.local_addr().unwrap(),
            folder.path().join("data").display(),
            folder.path().display(),
        );
        std::fs::write(&config, text).unwrap();
        if !matches!(way, Way::Same | Way::WithoutAdmin) {
            hand_over(folder.path());
        }
        let words = way.program();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg("--config")
            .arg(config)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SDP_AGENT_TOKEN", "sdpa_hunter2")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stream, _) = timeout(LONG, listener.accept()).await.expect("it dials in time").unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let AgentFrame::Control(hello) = hear(&mut socket).await else { panic!("no hello") };
        let FromAgent::Hello { preflight, .. } = *hello else { panic!("{hello:?}") };
        let mut agent = Self { folder, preflight, child, socket };
        agent.say(ToAgent::Welcome { epoch: Epoch(1), jobs: Vec::new(), instances: Vec::new() }).await;
        agent
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(super) async fn say(&mut self, message: ToAgent) {
        let RawFrame::Text(text) = message.encode().unwrap() else { panic!("no text") };
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Returns when the agent says something like this.
    pub(super) async fn until(&mut self, mut so: impl FnMut(&AgentFrame) -> bool) {
        loop {
            let frame = hear(&mut self.socket).await;
            if so(&frame) {
                return;
            }
        }
    }

    /// Ends it as the kernel does when memory runs out.
    pub(super) async fn kill(&mut self) {
        timeout(Duration::from_secs(10), self.child.kill()).await.expect("in time").unwrap();
    }
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> AgentFrame {
    loop {
        let message =
            timeout(LONG, socket.next()).await.expect("something in time").expect("no end").unwrap();
        let raw = match message {
            Message::Text(text) => RawFrame::Text(text.as_str().to_owned()),
            Message::Binary(bytes) => RawFrame::Binary(bytes),
            _ => continue,
        };
        return AgentFrame::decode(&raw).unwrap();
    }
}

fn commit(path: &Path, programs: &[(&str, &str)]) {
    let repo = git2::Repository::init_bare(path).unwrap();
    let mut tree = repo.treebuilder(None).unwrap();
    for (name, text) in programs {
        tree.insert(name, repo.blob(text.as_bytes()).unwrap(), 0o100_755).unwrap();
    }
    let tree = repo.find_tree(tree.write().unwrap()).unwrap();
    let who = git2::Signature::new("Åsa", "asa@example.com", &git2::Time::new(1_700_000_000, 0)).unwrap();
    repo.commit(Some("refs/heads/main"), &who, &who, "greet", &tree, &[]).unwrap();
}

/// All in the folder is the agent's.
fn hand_over(folder: &Path) {
    let mut todo: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        lchown(&path, Some(OPERATOR), Some(OPERATOR)).unwrap();
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
