//! WebSockets: agents and viewers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sdp_core::api::{AgentList, TokenKind, ViewerFrame};
use sdp_core::wire::link::{AgentFrame, RawFrame};
use sdp_core::wire::{ByeReason, FromAgent, ToAgent};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::{Host, hello_frame, ok};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn connect(
    host: &Host,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, u16> {
    let url = host.url.replace("http://", "ws://") + path;
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The next frame for an agent; none when the socket is closed, with the close code.
pub(crate) async fn to_agent(socket: &mut Socket) -> Result<ToAgent, u16> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return Ok(ToAgent::decode(&RawFrame::Text(text.as_str().to_owned())).expect("a frame"));
            }
            Some(Ok(Message::Close(Some(close)))) => return Err(close.code.into()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn say_hello(socket: &mut Socket) {
    say(socket, hello_frame()).await;
}

pub(crate) async fn say(socket: &mut Socket, frame: FromAgent) {
    let RawFrame::Text(hello) = AgentFrame::from(frame).encode().expect("a frame") else { panic!("text") };
    socket.send(Message::text(hello)).await.expect("sent");
}

#[tokio::test]
async fn an_agent_comes_in_with_its_token_and_under_its_name() {
    let host = Host::start().await;
    let token = host.token(TokenKind::Agent, "vm-7").await;
    for headers in [
        vec![],
        vec![("authorization", "Bearer nonsense".to_owned())],
        vec![("authorization", bearer(&host.admin))],
        vec![("authorization", bearer(&token)), ("origin", host.url.clone())],
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let status = connect(&host, "/ws/agent", &headers).await.expect_err("refused");
        assert!(matches!(status, 401 | 403), "{status} with {} headers", headers.len());
    }
    assert_eq!(connect(&host, &format!("/ws/agent?token={token}"), &[]).await.expect_err("refused"), 401);
    let mut socket =
        connect(&host, "/ws/agent", &[("authorization", &bearer(&token))]).await.expect("connected");
    say_hello(&mut socket).await;
    assert!(matches!(to_agent(&mut socket).await, Ok(ToAgent::Welcome { .. })));
    let list: AgentList = ok(host.get("/api/v1/agents").send().await.expect("answered"), 200).await;
    assert_eq!(list.agents.len(), 1);
    assert!(list.agents[0].connected && list.agents[0].name.as_str() == "vm-7");
    // The newest wins.
    let mut newer =
        connect(&host, "/ws/agent", &[("authorization", &bearer(&token))]).await.expect("connected");
    say_hello(&mut newer).await;
    assert!(matches!(to_agent(&mut newer).await, Ok(ToAgent::Welcome { .. })));
    let mut last = to_agent(&mut socket).await;
    while !matches!(last, Ok(ToAgent::Bye { .. }) | Err(_)) {
        last = to_agent(&mut socket).await;
    }
    assert!(matches!(last, Ok(ToAgent::Bye { reason: ByeReason::Superseded, .. })), "{last:?}");
    // A server that stops says so.
    host.shut_down();
    let mut last = to_agent(&mut newer).await;
    while let Ok(frame) = &last {
        if let ToAgent::Bye { reason, .. } = frame {
            assert_eq!(*reason, ByeReason::Restart);
        }
        last = to_agent(&mut newer).await;
    }
    assert_eq!(last, Err(1001));
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_frame_ends_an_agents_connection_with_a_reason() {
    let host = Host::start().await;
    let token = host.token(TokenKind::Agent, "vm-7").await;
    let bad = [
        Message::text("nonsense"),
        Message::text("{\"type\":\"launch\"}"),
        Message::text("[".repeat(100_000)),
        Message::binary(vec![1, 2, 3]),
        Message::binary(vec![1; 300 * 1024]),
        Message::text(" ".repeat(9 * 1024 * 1024)),
    ];
    for message in bad {
        let shown = format!("{:.40}", message.to_string());
        let mut socket =
            connect(&host, "/ws/agent", &[("authorization", &bearer(&token))]).await.expect("connected");
        say_hello(&mut socket).await;
        assert!(matches!(to_agent(&mut socket).await, Ok(ToAgent::Welcome { .. })));
        let is_huge = message.len() > 8 * 1024 * 1024;
        let sent = socket.send(message).await;
        if is_huge {
            // The server may hang up before it has read all of it.
            continue;
        }
        sent.expect("sent");
        let mut last = to_agent(&mut socket).await;
        let mut reason = None;
        while let Ok(frame) = last {
            if let ToAgent::Bye { reason: said, .. } = frame {
                reason = Some(said);
            }
            last = to_agent(&mut socket).await;
        }
        assert_eq!((reason, last), (Some(ByeReason::BadFrame), Err(4400)), "{shown}");
    }
    assert_eq!(host.get("/readyz").send().await.expect("answered").status(), 200);
    host.stop().await;
}

/// The next frame for a viewer; none when the socket is closed.
pub(crate) async fn seen(socket: &mut Socket) -> Option<ViewerFrame> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("a frame")),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// All lines until something else than lines or a deployment comes.
async fn lines(socket: &mut Socket) -> (Vec<(u64, String)>, Option<ViewerFrame>) {
    let mut all = Vec::new();
    loop {
        match seen(socket).await {
            Some(ViewerFrame::Lines { lines }) => {
                all.extend(lines.into_iter().map(|line| (line.n, line.text)));
            }
            Some(ViewerFrame::Deployment { .. }) => {}
            other => return (all, other),
        }
    }
}

#[tokio::test]
async fn a_viewer_sees_every_line_in_order_and_then_the_end() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let admin = bearer(&host.admin);
    let path = format!("/ws/deployments/{}", created.number);
    let mut early = connect(&host, &path, &[("authorization", &admin)]).await.expect("connected");
    let Some(ViewerFrame::Deployment { view }) = seen(&mut early).await else {
        panic!("first the deployment")
    };
    assert_eq!(view.deployment.id, created.id);
    let mut job = agent.take().await;
    let texts: Vec<String> = (1..=3000).map(|n| format!("{n} {}", "x".repeat(n % 200))).collect();
    for batch in texts.chunks(70) {
        agent.print(&mut job, &batch.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
    }
    let mut midway = connect(&host, &format!("{path}?line=2991&event=1"), &[("authorization", &admin)])
        .await
        .expect("connected");
    agent.fail(job).await;
    let expected: Vec<_> = (1..).zip(texts.clone()).collect();
    let (all, end) = lines(&mut early).await;
    assert!(all == expected, "{} lines", all.len());
    assert_eq!(end, Some(ViewerFrame::End { lines: 3000 }));
    assert_eq!(seen(&mut early).await, None);
    let (tail, end) = lines(&mut midway).await;
    assert!(tail == expected[2990..], "{} lines", tail.len());
    assert_eq!(end, Some(ViewerFrame::End { lines: 3000 }));
    // Afterwards, all of it at once.
    let mut late = connect(&host, &path, &[("authorization", &admin)]).await.expect("connected");
    assert!(lines(&mut late).await.0 == expected);
    assert_eq!(
        connect(&host, "/ws/deployments/77", &[("authorization", &admin)]).await.expect_err("none"),
        404
    );
    assert_eq!(
        connect(&host, &format!("{path}?line=0"), &[("authorization", &admin)]).await.expect_err("none"),
        422
    );
    host.stop().await;
}

#[tokio::test]
async fn a_viewer_with_a_cookie_comes_from_our_own_page() {
    let host = Host::start().await;
    host.hello().await;
    let created = host.deploy().await;
    let link: sdp_core::api::SignInLink =
        ok(host.post("/api/v1/sign-in-links", &json!({})).send().await.expect("answered"), 201).await;
    let answer = host.bare(reqwest::Method::POST, link.url.path()).send().await.expect("answered");
    let cookie =
        answer.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("value").to_owned();
    let path = format!("/ws/deployments/{}", created.id);
    for origin in [None, Some("https://evil.example"), Some("null"), Some("http://sub.127.0.0.1")] {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        assert_eq!(connect(&host, &path, &headers).await.expect_err("refused"), 403, "{origin:?}");
    }
    assert_eq!(connect(&host, &path, &[("origin", &host.url)]).await.expect_err("refused"), 401);
    let mut socket =
        connect(&host, &path, &[("cookie", &cookie), ("origin", &host.url)]).await.expect("connected");
    assert!(matches!(seen(&mut socket).await, Some(ViewerFrame::Deployment { .. })));
    let evil = [("authorization", &*bearer(&host.admin)), ("origin", "https://evil.example")];
    assert_eq!(connect(&host, &path, &evil).await.expect_err("refused"), 403);
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_tells_viewers_where_to_go_on() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let path = format!("/ws/deployments/{}", created.id);
    let mut socket =
        connect(&host, &path, &[("authorization", &bearer(&host.admin))]).await.expect("connected");
    let mut job = agent.take().await;
    agent.print(&mut job, &[b"one", b"two"]).await;
    let mut got = 0;
    while got < 2 {
        if let Some(ViewerFrame::Lines { lines }) = seen(&mut socket).await {
            got += lines.len();
        }
    }
    host.shut_down();
    let (rest, end) = lines(&mut socket).await;
    assert!(rest.is_empty());
    assert!(matches!(end, Some(ViewerFrame::Resume { line: 3, .. })), "{end:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_holds_up_nobody_and_not_the_end_of_the_server() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let path = format!("/ws/deployments/{}", created.id);
    let admin = bearer(&host.admin);
    let mut slow = connect(&host, &path, &[("authorization", &admin)]).await.expect("connected");
    let mut job = agent.take().await;
    let line = vec![b'x'; 1000];
    let total = 30_000;
    for _ in 0..total / 150 {
        agent.print(&mut job, &vec![line.as_slice(); 150]).await;
    }
    agent.fail(job).await;
    let mut quick = connect(&host, &path, &[("authorization", &admin)]).await.expect("connected");
    let (all, end) = lines(&mut quick).await;
    assert_eq!((all.len(), end), (total, Some(ViewerFrame::End { lines: total as u64 })));
    let begun = std::time::Instant::now();
    host.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(9), "nothing had to be cut off");
    let (some, end) = lines(&mut slow).await;
    assert!(some.len() < total, "more than the sockets' buffers hold");
    assert!(some.iter().map(|(n, _)| *n).eq(1..=some.len() as u64), "no gap");
    if let Some(ViewerFrame::Resume { line, .. }) = end {
        assert_eq!(line, some.len() as u64 + 1);
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text");
        text.lines().filter(|line| line.contains("took over")).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn two_processes_with_one_agents_token_are_worth_a_warning_and_one_that_reconnects_is_not() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The server's tasks run on the test's thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let host = Host::start().await;
    let token = bearer(&host.token(TokenKind::Agent, "vm-7").await);
    let hello = hello_frame();
    let mut sockets = Vec::new();
    // The same process twice, then another.
    for (frame, warnings) in [(hello.clone(), 0), (hello, 0), (hello_frame(), 1)] {
        let mut socket = connect(&host, "/ws/agent", &[("authorization", &token)]).await.expect("connected");
        say(&mut socket, frame).await;
        assert!(matches!(to_agent(&mut socket).await, Ok(ToAgent::Welcome { .. })));
        if let Some(older) = sockets.last_mut() {
            while !matches!(to_agent(older).await, Ok(ToAgent::Bye { reason: ByeReason::Superseded, .. })) {}
        }
        sockets.push(socket);
        let said = log.warnings();
        assert_eq!(said.len(), warnings, "{said:?}");
        assert!(said.iter().all(|line| line.contains("WARN") && line.contains("vm-7")), "{said:?}");
    }
    host.stop().await;
}
