//! A TCP proxy between an agent and the server that misbehaves on demand.
//!
//! ```text
//!   agent ──▶ accept ──▶ connect ──▶ server          each direction: read ─▶ (queue, at its time) ─▶ write
//!               │ refuse: reset at once                        │ swallow: read and forget, for good
//!               │ half open: taken, never connected            │ cut: both sides reset, now or in the middle of a frame
//! ```
//! It works on bytes and knows nothing of what they mean; [`tap`] reads along what the server acknowledges.
//!
//! Invariants: bytes keep their order; what was swallowed once makes the connection dead for good, as a firewall that has
//! forgotten it does. Limit: [`QUEUE`] pieces of each direction wait; then nothing more is read.

pub(crate) mod tap;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use tap::{Acks, Tap};

/// So many pieces of a direction wait for their time.
const QUEUE: usize = 64;
const PIECE: usize = 16 * 1024;
/// At a limited speed it writes so often.
const TICKS_PER_SECOND: u32 = 50;

/// How it treats what passes from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Each byte arrives so much later.
    pub(crate) delay: Duration,
    /// In each direction.
    pub(crate) bytes_per_second: Option<u32>,
    /// New connections are reset.
    pub(crate) refuse: bool,
    /// Everything is taken and nothing passed on; the connections of that time stay dead afterwards.
    pub(crate) swallow: bool,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts the cuts; all connections end with a change.
    cuts: watch::Sender<u64>,
    /// A cut comes after so many bytes from the agent; 0: none is planned.
    cut_after: AtomicU64,
    acks: Mutex<Acks>,
    passed: AtomicU64,
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(listen: SocketAddr, upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        Ok(Self::serve(listener, upstream))
    }

    fn serve(listener: TcpListener, upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            mode: watch::Sender::default(),
            cuts: watch::Sender::default(),
            cut_after: AtomicU64::new(0),
            acks: Mutex::default(),
            passed: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let accepting = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((agent, _)) = accepted {
                            connections.spawn(connection(accepting.clone(), agent));
                        }
                    }
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        Self { shared, _tasks: tasks }
    }

    /// Changes how it treats what passes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Mode)) {
        self.shared.mode.send_modify(change);
    }

    /// Resets all connections.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Resets all connections when so many more bytes have come from the agent, or when the time is up.
    pub(crate) async fn cut_after(&self, bytes: u64, within: Duration) {
        let mut cuts = self.shared.cuts.subscribe();
        self.shared.cut_after.store(bytes, Ordering::Relaxed);
        if timeout(within, cuts.changed()).await.is_err() {
            self.shared.cut_after.store(0, Ordering::Relaxed);
            self.cut();
        }
    }

    /// What the server has acknowledged so far.
    pub(crate) fn acks(&self) -> Acks {
        self.shared.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn bytes_passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToServer,
    ToAgent,
}

/// What was read in one go.
struct Piece {
    /// When it is passed on.
    at: Instant,
    bytes: Vec<u8>,
    /// The connection is reset right after it.
    then_cut: bool,
}

async fn connection(shared: Arc<Shared>, mut agent: TcpStream) {
    let mut cuts = shared.cuts.subscribe();
    let mut mode = shared.mode.subscribe();
    let Mode { refuse, swallow, .. } = *mode.borrow_and_update();
    if refuse {
        return reset(&agent);
    }
    if swallow {
        // The server does not learn of it at all.
        let mut piece = [0; 1024];
        while agent.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        return;
    }
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return reset(&agent) };
    let _small_frames_go_at_once = (agent.set_nodelay(true), server.set_nodelay(true));
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let dead = AtomicBool::new(false);
    let dying = async {
        // The proxy outlives its connections.
        drop(mode.wait_for(|mode| mode.swallow).await);
        dead.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let passing = async {
        let up = pass(&shared, &dead, Way::ToServer, &mut from_agent, &mut to_server);
        let down = pass(&shared, &dead, Way::ToAgent, &mut from_server, &mut to_agent);
        tokio::join!(up, down);
    };
    tokio::select! {
        biased;
        _ = cuts.changed() => {}
        () = dying => {}
        () = passing => return,
    }
    for half in [to_agent, to_server] {
        reset(half.as_ref());
        // Dropped as it is, it would say an orderly end first.
        half.forget();
    }
}

/// The far side sees a reset when the stream is dropped, not an orderly end.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// One direction, until its source has ended and all of it is passed on, or its target takes nothing more.
async fn pass(
    shared: &Shared,
    dead: &AtomicBool,
    way: Way,
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
) {
    let (queue, queued) = mpsc::channel(QUEUE);
    let reading = async {
        read(shared, dead, way, from, queue).await;
        // What is queued is still to be written.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = write(shared, dead, queued, to) => {}
    }
    if dead.load(Ordering::Relaxed) {
        // Nobody is told; each side finds out for itself.
        let mut piece = [0; 1024];
        while from.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    }
}

async fn read(
    shared: &Shared,
    dead: &AtomicBool,
    way: Way,
    from: &mut OwnedReadHalf,
    queue: mpsc::Sender<Piece>,
) {
    let mut tap = Tap::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let bytes = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => &buffer[..read],
            _ => return,
        };
        if dead.load(Ordering::Relaxed) {
            continue;
        }
        if way == Way::ToAgent {
            tap.push(bytes, &mut shared.acks.lock().unwrap_or_else(PoisonError::into_inner));
        }
        shared.passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let cut = if way == Way::ToServer { shared.comes_to_cut(bytes.len()) } else { None };
        let at = Instant::now() + shared.mode.borrow().delay;
        let piece =
            Piece { at, bytes: bytes[..cut.unwrap_or(bytes.len())].to_vec(), then_cut: cut.is_some() };
        if queue.send(piece).await.is_err() {
            return;
        }
    }
}

async fn write(
    shared: &Shared,
    dead: &AtomicBool,
    mut queued: mpsc::Receiver<Piece>,
    to: &mut OwnedWriteHalf,
) {
    while let Some(Piece { at, bytes, then_cut }) = queued.recv().await {
        sleep_until(at).await;
        let speed = shared.mode.borrow().bytes_per_second;
        let at_once = match speed {
            None => bytes.len(),
            Some(speed) => usize::try_from(speed / TICKS_PER_SECOND).unwrap_or(usize::MAX),
        };
        for part in bytes.chunks(at_once.max(1)) {
            if dead.load(Ordering::Relaxed) {
                return;
            }
            if to.write_all(part).await.is_err() {
                return;
            }
            if speed.is_some() {
                sleep(Duration::from_secs(1) / TICKS_PER_SECOND).await;
            }
        }
        if then_cut {
            // A reset takes back what is not delivered yet.
            sleep(Duration::from_millis(20)).await;
            shared.cuts.send_modify(|cuts| *cuts += 1);
        }
    }
    if !dead.load(Ordering::Relaxed) {
        let _gone_already = to.shutdown().await;
    }
}

impl Shared {
    /// Counts down to a planned cut: how many of these bytes come before it, if it is among them.
    fn comes_to_cut(&self, bytes: usize) -> Option<usize> {
        let left = self.cut_after.load(Ordering::Relaxed);
        if left == 0 {
            return None;
        }
        let bytes = bytes as u64;
        self.cut_after.store(left.saturating_sub(bytes), Ordering::Relaxed);
        (left <= bytes).then(|| usize::try_from(left).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, the proxy before it, and a connection through both.
    async fn echo() -> (Proxy, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let upstream = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let proxy = Proxy::serve(listener, upstream);
        (proxy, TcpStream::connect(address).await.expect("connects"), tasks)
    }

    async fn there_and_back(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        assert_eq!(back, bytes, "bytes keep their order");
        Ok(())
    }

    #[tokio::test]
    async fn it_passes_everything_on_and_tells_both_sides_of_the_end() {
        let (proxy, mut stream, _server) = echo().await;
        let (mut from, mut to) = stream.split();
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let mut back = vec![0; sent.len()];
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
        written.and(read).expect("passed on");
        assert!(back == sent, "bytes keep their order");
        assert_eq!(proxy.bytes_passed(), 2 * sent.len() as u64);
        stream.shutdown().await.expect("shut");
        assert_eq!(stream.read(&mut [0]).await.expect("an orderly end"), 0);
    }

    #[tokio::test]
    async fn a_cut_is_a_reset_now_or_after_exactly_so_many_bytes() {
        let (proxy, mut stream, _server) = echo().await;
        there_and_back(&mut stream, b"before").await.expect("passed on");
        proxy.cut();
        let error = stream.read(&mut [0]).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let (proxy, mut stream, _server) = echo().await;
        let mut back = Vec::new();
        let sending = async {
            there_and_back(&mut stream, b"12345").await.expect("passed on");
            stream.write_all(b"67890").await.expect("taken");
            stream.read_to_end(&mut back).await.expect_err("reset")
        };
        let (error, ()) = tokio::join!(sending, proxy.cut_after(8, Duration::from_secs(20)));
        assert_eq!((error.kind(), back.as_slice()), (std::io::ErrorKind::ConnectionReset, &b"678"[..]));

        let (proxy, mut stream, _server) = echo().await;
        there_and_back(&mut stream, b"before").await.expect("passed on");
        proxy.cut_after(8, Duration::from_millis(1)).await;
        stream.read(&mut [0]).await.expect_err("nothing came, and the time is up");
    }

    #[tokio::test]
    async fn a_delay_and_a_limit_take_their_time() {
        let (proxy, mut stream, _server) = echo().await;
        proxy.change(|mode| mode.delay = Duration::from_millis(60));
        let begun = Instant::now();
        there_and_back(&mut stream, b"later").await.expect("passed on");
        assert!(begun.elapsed() >= Duration::from_millis(120), "both ways: {:?}", begun.elapsed());
        proxy.change(|mode| *mode = Mode { bytes_per_second: Some(5000), ..Mode::default() });
        let begun = Instant::now();
        there_and_back(&mut stream, &[7; 1000]).await.expect("passed on");
        assert!(begun.elapsed() >= Duration::from_millis(180), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_refused_connection_is_reset() {
        let (proxy, mut stream, _server) = echo().await;
        there_and_back(&mut stream, b"one that is there stays").await.expect("passed on");
        proxy.change(|mode| mode.refuse = true);
        let mut refused = TcpStream::connect(stream.peer_addr().expect("connected")).await.expect("accepted");
        let _may_be_reset_already = refused.write_all(b"x").await;
        assert!(refused.read(&mut [0]).await.is_err());
        there_and_back(&mut stream, b"still").await.expect("passed on");
    }

    #[tokio::test]
    async fn what_was_half_open_once_stays_dead_and_new_connections_live() {
        let (proxy, mut stream, _server) = echo().await;
        there_and_back(&mut stream, b"before").await.expect("passed on");
        proxy.change(|mode| mode.swallow = true);
        // The proxy's task has seen it when this one is taken and not answered.
        let mut other = TcpStream::connect(stream.peer_addr().expect("connected")).await.expect("accepted");
        other.write_all(b"x").await.expect("taken");
        let silent = timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
        assert!(silent.is_err(), "no byte, no end: {silent:?}");
        proxy.change(|mode| mode.swallow = false);
        stream.write_all(b"lost").await.expect("taken");
        let silent = timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
        assert!(silent.is_err(), "{silent:?}");
        let mut fresh = TcpStream::connect(stream.peer_addr().expect("connected")).await.expect("accepted");
        there_and_back(&mut fresh, b"lives").await.expect("passed on");
    }
}
