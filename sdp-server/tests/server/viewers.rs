//! Viewers of logs that are many, slow, cut off, or there before and after a restart: each gets every line once, in order.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;
use sdp_core::api::{LogLine, ViewerFrame};
use sdp_core::client::Client;
use sdp_core::deployment::Step;
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::wire::{FromAgent, JobAction, Progress, Stream};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::harness::{Host, hello, hello_frame};
use crate::program::Program;

/// Numbers that look random, the same ones in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

/// A connection that breaks, reset and all, after so many bytes.
struct Cut {
    stream: TcpStream,
    left: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut piece = [0; 4096];
        let most = piece.len().min(self.left).min(buf.remaining());
        let mut part = ReadBuf::new(&mut piece[..most]);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let read_bytes = part.filled().len();
        buf.put_slice(&piece[..read_bytes]);
        self.left -= read_bytes;
        read
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        drop(socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
    }
}

/// Whose server it is, and which log.
#[derive(Clone)]
struct Watched {
    address: String,
    admin: String,
    id: DeploymentId,
}

impl Watched {
    async fn over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        line: u64,
        event: EventSeq,
    ) -> WebSocketStream<S> {
        let url = format!("ws://{}/ws/deployments/{}?line={line}&event={event}", self.address, self.id);
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {}", self.admin).parse().expect("a value");
        request.headers_mut().insert("authorization", bearer);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let connected = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        connected.expect("connected").0
    }

    async fn open(&self, line: u64) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.expect("connected");
        self.over(stream, line, EventSeq(0)).await
    }

    /// One whose system takes in little while it does not read.
    async fn open_small(&self) -> WebSocketStream<TcpStream> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let stream = socket.connect(self.address.parse().expect("an address")).await.expect("connected");
        self.over(stream, 1, EventSeq(0)).await
    }
}

/// The next frame; none when the connection has ended, in whatever way.
async fn frame<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Option<ViewerFrame> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("a frame")),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// Pieces of a log as they come, joined.
#[derive(Default)]
struct Joined {
    bytes: Vec<u8>,
    lines: u64,
    event: EventSeq,
}

impl Joined {
    /// Takes in what is left of a connection or of the log; gives the last frame if it was another.
    async fn read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut WebSocketStream<S>,
        until: u64,
    ) -> Option<ViewerFrame> {
        while self.lines < until {
            match frame(socket).await? {
                ViewerFrame::Lines { lines } => {
                    for line in lines {
                        assert_eq!(line.n, self.lines + 1, "no line is missing or comes twice");
                        self.lines = line.n;
                        self.bytes.extend_from_slice(line.text.as_bytes());
                        self.bytes.push(b'\n');
                    }
                }
                ViewerFrame::Deployment { view } => self.event = view.deployment.version,
                other => return Some(other),
            }
        }
        None
    }
}

fn text(n: usize) -> String {
    match n % 50 {
        0 => String::new(),
        1 => format!("{n} \u{1b}[32m\u{2713}\u{1b}[0m \"quoted\" back\\slash \ttab \u{1f680}"),
        _ => format!("{n} {}", "x".repeat(n % 200)),
    }
}

#[tokio::test]
async fn a_viewer_that_is_cut_off_a_hundred_times_in_mid_frame_joins_the_whole_log() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let mut job = agent.take().await;
    let address = host.url.trim_start_matches("http://").to_owned();
    let watched = Watched { address, admin: host.admin.clone(), id: created.id };
    let (mut dice, mut joined, mut printed, mut in_mid_log) = (Dice(4), Joined::default(), 0, 0);
    for _ in 0..100 {
        let batch: Vec<String> = (0..20 + dice.below(60)).map(|n| text(printed + n)).collect();
        printed += batch.len();
        agent.print(&mut job, &batch.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
        let stream = TcpStream::connect(&watched.address).await.expect("connected");
        let cut = Cut { stream, left: usize::MAX };
        let mut socket = watched.over(cut, joined.lines + 1, joined.event).await;
        socket.get_mut().left = 1 + dice.below(16_000);
        let end = joined.read(&mut socket, job.lines).await;
        assert_eq!(end, None, "it goes on");
        in_mid_log += u32::from(joined.lines < job.lines);
    }
    assert!(in_mid_log > 20, "{in_mid_log} times it was cut before it had all");
    let bytes = agent.fail(job).await;
    let mut socket = watched.open(joined.lines + 1).await;
    let end = joined.read(&mut socket, u64::MAX).await;
    assert_eq!(end, Some(ViewerFrame::End { lines: printed as u64 }));
    let file = std::fs::read(host.data().join(format!("logs/{}.log", created.id))).expect("the log");
    assert!(joined.bytes == bytes && bytes == file, "{} of {}", joined.bytes.len(), bytes.len());
    host.stop().await;
}

#[tokio::test]
async fn a_feed_that_is_cut_off_a_hundred_times_gives_each_event_once() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let mut job = agent.take().await;
    let path = format!("/api/v1/events?after=0&deployment={}", created.id);
    let (mut dice, mut seen, mut last, mut round, mut ended) = (Dice(7), Vec::new(), None, 0, false);
    let mut job = loop {
        for n in 0..3 {
            agent.progress(&mut job, Progress::Noted { text: format!("remark {round}.{n}") }).await;
        }
        agent.applied(&job).await;
        round += 1;
        let mut request = host.get(&path);
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
        }
        let mut stream = request.send().await.expect("answered").bytes_stream();
        let (mut budget, mut text) = (1 + dice.below(1500), Vec::new());
        while budget > 0 {
            let piece = stream.next().await.expect("it goes on").expect("bytes");
            let piece = &piece[..piece.len().min(budget)];
            budget -= piece.len();
            text.extend_from_slice(piece);
            let whole = text.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
            let rest = text.split_off(whole);
            for line in String::from_utf8(std::mem::replace(&mut text, rest)).expect("text").lines() {
                if let Some(id) = line.strip_prefix("id: ") {
                    seen.push(id.parse::<u64>().expect("a number"));
                    last = Some(id.to_owned());
                }
            }
            // Whoever has read all that there is breaks off, too.
            if seen.last() == Some(&host.platform.newest_event().0) {
                break;
            }
        }
        if round == 100 {
            break job;
        }
    };
    agent.progress(&mut job, Progress::Noted { text: "the last one".into() }).await;
    agent.fail(job).await;
    let mut stream = host
        .get(&path)
        .header("last-event-id", last.expect("some"))
        .send()
        .await
        .expect("answered")
        .bytes_stream();
    let mut text = String::new();
    while !ended {
        text += std::str::from_utf8(&stream.next().await.expect("more").expect("bytes")).expect("text");
        ended = text.contains("event: deployment_ended") && text.ends_with("\n\n");
    }
    seen.extend(text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()));
    let all: Vec<u64> =
        host.platform.events_of(created.id).await.expect("read").iter().map(|event| event.seq.0).collect();
    assert!(all.len() > 300);
    assert_eq!(seen, all);
    host.stop().await;
}

async fn deploy_hello(client: &Client) -> DeploymentId {
    client.save_service(&serde_json::from_value(hello()).expect("a service")).await.expect("saved");
    let wanted = json!({ "service": "hello", "sandbox": "alice" });
    let wanted = serde_json::from_value(wanted).expect("a deployment");
    client.deploy(&wanted, None).await.expect("taken").id
}

#[tokio::test]
async fn after_a_server_was_killed_and_started_again_a_viewer_goes_on_where_it_was() {
    let mut program = Program::start("").await;
    let mut agent = program.agent(hello_frame()).await;
    let id = deploy_hello(&program.client()).await;
    let watched = Watched { address: program.address.clone(), admin: program.admin.clone(), id };
    let mut job = agent.take().await;
    let lines: Vec<String> = (0..3000).map(text).collect();
    let print = |from: usize, to: usize| lines[from..to].iter().map(String::as_bytes).collect::<Vec<_>>();
    agent.print(&mut job, &print(0, 1000)).await;
    agent.acked(&job, 1000).await;
    let mut joined = Joined::default();
    let mut socket = watched.open(1).await;
    assert_eq!(joined.read(&mut socket, 300).await, None);
    // These may or may not be durable when it dies.
    for from in (1000..2000).step_by(100) {
        agent.print(&mut job, &print(from, from + 100)).await;
    }
    program.kill().await;
    assert_eq!(joined.read(&mut socket, u64::MAX).await, None, "the connection broke");
    let before = joined.lines;
    program.run().await;
    // What is there can be read before its agent is back.
    let mut socket = watched.open(before + 1).await;
    let Some(ViewerFrame::Deployment { view }) = frame(&mut socket).await else {
        panic!("first the deployment")
    };
    assert!(view.log_lines >= 1000 && !view.deployment.is_ended());
    joined.read(&mut socket, view.log_lines).await;
    let mut hello = hello_frame();
    if let FromAgent::Hello { jobs, .. } = &mut hello {
        jobs.push(job.report());
    }
    let mut agent = program.agent(hello).await;
    let JobAction::Send { lines: held, .. } = agent.decided[0].action else { panic!("{:?}", agent.decided) };
    assert!(held >= before, "nothing was shown that is gone now: {held} of {before}");
    agent.print_again(&mut job, held).await;
    agent.print(&mut job, &print(2000, 3000)).await;
    let bytes = agent.fail(job).await;
    let end = joined.read(&mut socket, u64::MAX).await;
    assert_eq!(end, Some(ViewerFrame::End { lines: 3000 }));
    let file = std::fs::read(program.folder.path().join(format!("data/logs/{id}.log"))).expect("the log");
    assert!(joined.bytes == bytes && bytes == file, "{} of {}", joined.bytes.len(), bytes.len());
}

/// What all viewers of a log are sent: lines as JSON, with a comma after each.
fn as_sent(lines: &[String]) -> String {
    let at = Timestamp::from_millisecond(1_700_000_000_000).expect("a time");
    let numbered = (1..).zip(lines);
    let shown = numbered.map(|(n, text)| {
        let line = LogLine { n, at, step: Step::Resolve, stream: Stream::Stdout, text: text.clone() };
        serde_json::to_string(&line).expect("JSON") + ","
    });
    shown.collect()
}

/// Reads to the end and compares as it reads, so that many of them cost little.
async fn compare(mut socket: WebSocketStream<TcpStream>, sent: Arc<String>) {
    let mut at = 0;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message.expect("it goes on") else { continue };
        if let Some(lines) = text.strip_prefix(r#"{"type":"lines","lines":["#) {
            let lines = lines.strip_suffix("]}").expect("a whole frame");
            assert!(sent[at..].starts_with(lines), "at {at}");
            at += lines.len() + 1;
        } else if text.starts_with(r#"{"type":"end""#) {
            assert_eq!(at, sent.len(), "all of it");
            return;
        }
    }
    panic!("it ended at {at} of {}", sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_viewers_that_never_read_cost_the_others_nothing_and_are_told_where_to_go_on() {
    const LINES: usize = 8_000;
    let mut program = Program::start("send = \"2s\"").await;
    let mut agent = program.agent(hello_frame()).await;
    let id = deploy_hello(&program.client()).await;
    let watched = Watched { address: program.address.clone(), admin: program.admin.clone(), id };
    let mut job = agent.take().await;
    let lines: Vec<String> = (0..LINES).map(text).collect();
    let sent = Arc::new(as_sent(&lines));
    let (alone, _) = program.memory();
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(watched.open_small().await);
    }
    let mut readers = JoinSet::new();
    for _ in 0..180 {
        readers.spawn(compare(watched.open(1).await, sent.clone()));
    }
    program.until_metric("sdp_viewers", 200.0).await;
    let (idle, _) = program.memory();
    let begun = Instant::now();
    for batch in lines.chunks(400) {
        agent.print(&mut job, &batch.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
    }
    let bytes = agent.fail(job).await;
    let printed = begun.elapsed();
    while let Some(reader) = readers.join_next().await {
        reader.expect("it saw every line in order, and the end");
    }
    let read = begun.elapsed();
    program.until_metric("sdp_slow_viewers_total", 20.0).await;
    program.until_metric("sdp_viewers", 0.0).await;
    let (after, most) = program.memory();
    println!(
        "stored after {printed:?}, read by 180 after {read:?}; memory: {} KiB alone, {} KiB a viewer that waits, \
         {} KiB at most, {} KiB afterwards",
        alone >> 10,
        ((idle - alone) / 200) >> 10,
        most >> 10,
        after >> 10
    );
    // Each holds a frame or two on its way, whoever reads it or not.
    assert!(most - idle < 200 * (512 << 10), "{} MiB more", (most - idle) >> 20);
    let file = std::fs::read(program.folder.path().join(format!("data/logs/{id}.log"))).expect("the log");
    assert!(bytes == file, "{} of {}", bytes.len(), file.len());
    for mut socket in stalled {
        let mut joined = Joined::default();
        let end = joined.read(&mut socket, u64::MAX).await;
        let Some(ViewerFrame::Resume { line, event }) = end else { panic!("{end:?} after {}", joined.lines) };
        assert_eq!(line, joined.lines + 1);
        assert!((line as usize) < LINES, "more than the sockets' buffers hold");
        drop(socket.close(None).await);
        let stream = TcpStream::connect(&watched.address).await.expect("connected");
        let mut socket = watched.over(stream, line, event).await;
        let end = joined.read(&mut socket, u64::MAX).await;
        assert_eq!(end, Some(ViewerFrame::End { lines: LINES as u64 }));
        assert!(joined.bytes == bytes, "from line {line}");
    }
}
