//! The same agent over a real WebSocket.

use futures_util::{SinkExt, StreamExt};
use sdp_core::id::Epoch;
use sdp_core::secret::Secret;
use sdp_core::wire::link::{AgentFrame, RawFrame};
use sdp_core::wire::{FromAgent, PROTOCOL};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::server::PATIENCE;
use super::*;
use crate::link::WebSocket;

struct Far {
    listener: TcpListener,
    _folder: TempDir,
    shutdown: CancellationToken,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

impl Far {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap()).parse().unwrap();
        let connector = WebSocket::new(&url, &Secret::new("sdpa_hunter2"), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let config = Config::new(folder.path().join("data"));
        let agent = crate::run(config, Connector::WebSocket(connector), shutdown.clone());
        #[expect(clippy::disallowed_methods, reason = "the test awaits it in `stop`")]
        let agent = tokio::spawn(agent);
        Self { listener, _folder: folder, shutdown, agent }
    }

    /// The agent's next connection, past the upgrade.
    async fn accept(&self) -> WebSocketStream<TcpStream> {
        let (stream, _) = tokio::time::timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/base/ws/agent");
            assert_eq!(request.uri().query(), None);
            assert_eq!(request.headers()["authorization"], "Bearer sdpa_hunter2");
            assert!(request.headers().get("origin").is_none());
            Ok(response)
        };
        accept_hdr_async(stream, check).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.agent).await.expect("ends in time").unwrap().unwrap();
    }
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Option<FromAgent> {
    loop {
        let raw =
            match tokio::time::timeout(PATIENCE, socket.next()).await.expect("something in time")?.ok()? {
                Message::Text(text) => RawFrame::Text(text.as_str().to_owned()),
                Message::Binary(bytes) => RawFrame::Binary(bytes),
                Message::Close(_) => return None,
                _ => continue,
            };
        match AgentFrame::decode(&raw).unwrap() {
            // Comes when it comes.
            AgentFrame::Control(message) if matches!(*message, FromAgent::Load { .. }) => {}
            AgentFrame::Control(message) => return Some(*message),
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, message: ToAgent) {
    let RawFrame::Text(text) = message.encode().unwrap() else { panic!("no text") };
    socket.send(Message::text(text)).await.unwrap();
}

fn welcome() -> ToAgent {
    ToAgent::Welcome { epoch: Epoch(1), jobs: Vec::new(), instances: Vec::new() }
}

#[tokio::test]
async fn an_agent_dials_speaks_and_says_goodbye() {
    let far = Far::start().await;
    let mut socket = far.accept().await;
    assert!(matches!(hear(&mut socket).await, Some(FromAgent::Hello { protocol: PROTOCOL, .. })));
    say(&mut socket, welcome()).await;
    let command = CommandId::new();
    say(&mut socket, ToAgent::Cancel { command, deployment: DeploymentId::new() }).await;
    assert_eq!(hear(&mut socket).await, Some(FromAgent::Accepted { command }));
    let (last, ()) = tokio::join!(
        async {
            let bye = hear(&mut socket).await;
            (bye, hear(&mut socket).await)
        },
        far.stop()
    );
    assert!(matches!(last.0, Some(FromAgent::Bye { .. })), "{last:?}");
    assert_eq!(last.1, None, "then the connection ends");
}

#[tokio::test]
async fn an_agent_comes_back_with_the_same_boot_after_a_cut_and_after_nonsense() {
    let far = Far::start().await;
    let mut boots = Vec::new();
    for nonsense in [false, true, false] {
        let mut socket = far.accept().await;
        let Some(FromAgent::Hello { boot_id, .. }) = hear(&mut socket).await else { panic!("no hello") };
        boots.push(boot_id);
        say(&mut socket, welcome()).await;
        if nonsense {
            socket.send(Message::text("{\"type\":\"dance\"}")).await.unwrap();
            assert_eq!(hear(&mut socket).await, None, "the agent gives the connection up");
        }
    }
    assert!(boots.windows(2).all(|pair| pair[0] == pair[1]));
    far.stop().await;
}

#[tokio::test]
async fn a_refused_token_does_not_end_the_agent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let far = Far::start().await;
    let (mut stream, _) = far.listener.accept().await.unwrap();
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    far.stop().await;
}
