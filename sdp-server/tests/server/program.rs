//! The server as a program of its own: it can be killed, started again on the same data, and its memory can be measured.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sdp_core::client::Client;
use sdp_core::secret::Secret;
use sdp_core::wire::link::{RawFrame, ServerEnd, pair};
use sdp_core::wire::{FromAgent, ToAgent};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::Agent;

/// No test is to reach them by being quick.
const FAR_LIMITS: &str = "requests_per_minute = 10000000\nwrites_per_minute = 10000000\nsockets_per_principal = 10000\nconnections_per_address = 100000\n";

pub(crate) struct Program {
    pub(crate) folder: TempDir,
    pub(crate) address: String,
    pub(crate) admin: String,
    agent_token: String,
    child: Option<Child>,
    /// Pumps of agents' sockets, and of the log.
    tasks: JoinSet<()>,
}

impl Program {
    /// Starts a server whose configuration has these `[limits]`.
    pub(crate) async fn start(limits: &str) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().expect("a folder");
        // Free a moment ago; it is to be the same one after a restart.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let config = format!(
            "listen = \"{address}\"\npublic_url = \"http://{address}\"\ndata_dir = \"{}\"\n[limits]\n{FAR_LIMITS}{limits}\n",
            folder.path().join("data").display()
        );
        std::fs::write(folder.path().join("server.toml"), config).expect("written");
        let mut program = Self {
            folder,
            address,
            admin: String::new(),
            agent_token: String::new(),
            child: None,
            tasks: JoinSet::new(),
        };
        program.admin = program.errand(&["token", "create", "admin", "ops"]).await;
        program.agent_token = program.errand(&["token", "create", "agent", "vm-1"]).await;
        program.run().await;
        program
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdp-server"));
        command.env_clear().env("SDP_SERVER_CONFIG", self.folder.path().join("server.toml"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn errand(&self, arguments: &[&str]) -> String {
        let done = self.command().args(arguments).output().await.expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn run(&mut self) {
        let mut child = self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains("ready") {
                break;
            }
        }
        self.tasks.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.child = Some(child);
    }

    /// SIGKILL: nothing is brought to an end.
    pub(crate) async fn kill(&mut self) {
        self.child.take().expect("it runs").kill().await.expect("killed");
    }

    pub(crate) fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().expect("a URL");
        Client::new(url, Secret::new(self.admin.clone())).expect("a client")
    }

    /// The metric of this name, its labels included.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let url = format!("http://{}/metrics", self.address);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let text = http.get(url).bearer_auth(&self.admin).send().await.expect("answered").text().await;
        let text = text.expect("a body");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// Asks until a metric has this value: it counts what no event tells.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        let asking = async {
            while self.metric(name).await.is_none_or(|found| (found - value).abs() > 0.5) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking)
            .await
            .unwrap_or_else(|_| panic!("never: {name} {value}"));
    }

    /// Resident memory in bytes: now, and the most that it has been.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("read");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("there");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// An agent over a real socket.
    pub(crate) async fn agent(&mut self, hello: FromAgent) -> Agent {
        let (agent, server) = pair();
        let mut request = format!("ws://{}/ws/agent", self.address).into_client_request().expect("a request");
        let bearer = format!("Bearer {}", self.agent_token).parse().expect("a value");
        request.headers_mut().insert("authorization", bearer);
        let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("connected");
        self.tasks.spawn(pump(socket, server));
        Agent::begin(agent, hello).await
    }
}

async fn pump<S>(socket: S, end: ServerEnd)
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
        + futures_util::Sink<Message>
        + Unpin,
{
    let ServerEnd { tx, mut rx } = end;
    let (mut sink, mut stream) = socket.split();
    let out = async {
        while let Some(frame) = rx.recv().await {
            let message = match frame.encode().expect("a frame") {
                RawFrame::Text(text) => Message::text(text),
                RawFrame::Binary(bytes) => Message::binary(bytes),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    let into = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(text) = message {
                let frame = ToAgent::decode(&RawFrame::Text(text.as_str().to_owned())).expect("a frame");
                if tx.send(frame).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = out => {}
        () = into => {}
    }
}
