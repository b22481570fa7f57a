//! Whether an instance is healthy: asked again and again, first after `FIRST`, then less often, until it is, its process
//! ends, or the time is up; after a restart also beyond that (`until_well`). One that is well is not asked. Called by both
//! runtimes; knows nothing of how an instance runs but its address and a `Judge`.
//!
//! An answer counts only if it comes from the instance. Of a process: the socket that listens on its port must be held by
//! one of its own (`own_sockets`). Of a container: it is asked at its own address, not at the published one, which takes
//! connections before anybody listens inside (`inside`). What was wrong last is what people are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use sdp_core::catalog::HealthCheck;
use sdp_core::wire::{Exit, Health};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Before the first question; doubled after each.
const FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const SLOWEST: Duration = Duration::from_millis(250);
/// The longest pause before one that was given up is asked again.
const PATIENT: Duration = Duration::from_secs(5);
/// How long an instance may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Why an instance does not count as healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It ended by itself.
    #[error("it ended before it was healthy: {0}")]
    Exited(Exit),
    /// It runs, but the time is up.
    #[error("{detail}")]
    NotHealthy {
        /// What was wrong last.
        detail: String,
    },
    /// The check was stopped, or the instance was.
    #[error("cancelled")]
    Cancelled,
}

/// Says, before each question, whether an answer from the address could be the instance's own. It may block.
pub(super) type Judge = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// An instance that runs as these processes.
pub(super) fn own_sockets(address: SocketAddr, pids: impl Fn() -> Vec<i32> + Send + Sync + 'static) -> Judge {
    Arc::new(move || {
        let listening = listening_on(address.port());
        // Who holds them is looked up only when there is something to look up.
        let own = if listening.is_empty() { BTreeSet::new() } else { sockets_of(&pids()) };
        judge(address, &listening, &own)
    })
}

/// An instance in a container, whose first process this is; `is_its` says whether the number still means that one. Where the
/// system does not show what listens inside, the question itself has to tell.
pub(super) fn inside(
    address: SocketAddr,
    pid: i32,
    is_its: impl Fn() -> bool + Send + Sync + 'static,
) -> Judge {
    Arc::new(move || {
        let found = is_its().then(|| listeners(&format!("/proc/{pid}/net"))).flatten();
        found.map_or(Ok(()), |found| judge_inside(address, &found))
    })
}

/// Returns when the check passes; after `limit` with what was wrong last.
pub(super) async fn until_healthy(
    check: &HealthCheck,
    address: SocketAddr,
    judge: Judge,
    limit: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    if let HealthCheck::Uptime { seconds } = check {
        let uptime = Duration::from_secs((*seconds).into());
        sleep(uptime.min(limit)).await;
        return if uptime <= limit {
            Ok(())
        } else {
            Err(format!("it shall stay up for {seconds} s, but the check may take only {limit:?}"))
        };
    }
    let mut pause = FIRST;
    let mut problem = format!("nothing listens on port {}", address.port());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, probe(check, address, judge.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(found)) => problem = found,
            // It was asked and the time ran out meanwhile: what was wrong before says more, except at first.
            Err(_) if pause == FIRST => problem = format!("it gave no answer on port {}", address.port()),
            Err(_) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("{problem} (waited {limit:?})"));
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(SLOWEST);
    }
}

/// Asks until the check passes, however long that takes. `tell` hears what is wrong once `limit` is over, and that all is well when
/// it is.
pub(super) async fn until_well(
    check: &HealthCheck,
    address: SocketAddr,
    judge: Judge,
    limit: Duration,
    tell: impl Fn(Health),
) {
    if let Err(detail) = until_healthy(check, address, judge.clone(), limit).await {
        tell(Health::Unhealthy { detail });
        let mut pause = SLOWEST;
        loop {
            sleep(pause).await;
            if probe(check, address, judge.clone()).await.is_ok() {
                break;
            }
            pause = (pause * 2).min(PATIENT);
        }
    }
    tell(Health::Healthy {});
}

async fn probe(check: &HealthCheck, address: SocketAddr, judge: Judge) -> Result<(), String> {
    tokio::task::spawn_blocking(move || judge()).await.map_err(|error| error.to_string())??;
    match check {
        HealthCheck::Http { path } => match timeout(ANSWER, get(address, path)).await {
            Ok(Ok(200..=399)) => Ok(()),
            Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
            Ok(Err(problem)) => Err(format!("GET {path}: {problem}")),
            Err(_) => Err(format!("GET {path} had no answer within {} s", ANSWER.as_secs())),
        },
        _ => match timeout(ANSWER, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot connect to {address}: {error}")),
            Err(_) => Err(format!("cannot connect to {address} within {} s", ANSWER.as_secs())),
        },
    }
}

/// Whether one of the instance's own sockets takes connections to this address. Pure.
fn judge(address: SocketAddr, listening: &BTreeMap<u64, IpAddr>, own: &BTreeSet<u64>) -> Result<(), String> {
    let port = address.port();
    let ours: Vec<IpAddr> =
        listening.iter().filter(|(inode, _)| own.contains(inode)).map(|(_, ip)| *ip).collect();
    let reaches =
        |ip: &IpAddr| ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4()) || *ip == address.ip();
    if ours.iter().any(reaches) {
        return Ok(());
    }
    match (ours.first(), listening.is_empty()) {
        (Some(ip), _) => Err(format!(
            "it listens on {} only, where requests to {address} do not arrive",
            SocketAddr::new(*ip, port)
        )),
        (None, true) => Err(format!("nothing listens on port {port}")),
        (None, false) => Err(format!("something else listens on port {port}")),
    }
}

/// Whether what listens in a container takes connections to its address. Pure.
fn judge_inside(address: SocketAddr, found: &[SocketAddr]) -> Result<(), String> {
    let port = address.port();
    let reaches = |ip: IpAddr| ip.is_unspecified() || ip == address.ip();
    // The engine's own name server listens there, in every container.
    let others = || found.iter().filter(|at| at.ip() != IpAddr::from([127, 0, 0, 11]));
    if others().any(|at| at.port() == port && reaches(at.ip())) {
        return Ok(());
    }
    if let Some(at) = others().find(|at| at.port() == port) {
        return Err(format!(
            "it listens on {at} only, which nobody outside of its container reaches; it has to listen on 0.0.0.0:{port}"
        ));
    }
    let mut ports: Vec<u16> = others().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().take(5).map(u16::to_string).collect();
    match ports.as_slice() {
        [] => Err(format!("nothing listens on port {port} in the container")),
        ports => Err(format!(
            "nothing listens on port {port} in the container; it listens on {}",
            ports.join(", ")
        )),
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<u16, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "sdp-health")
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    // The connection is driven beside the request. When it ends the answer has been handed over, or never will be.
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    answer.map(|response| response.status().as_u16()).map_err(|error| explain(&error))
}

/// hyper's words are for programmers.
fn explain(error: &hyper::Error) -> String {
    if error.is_parse() {
        "the answer is no HTTP".to_owned()
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "it closed the connection without an answer".to_owned()
    } else {
        error.to_string()
    }
}

/// The sockets that listen on a port, with their addresses.
fn listening_on(port: u16) -> BTreeMap<u64, IpAddr> {
    let found = tables("/proc/net").unwrap_or_default();
    found.into_iter().filter(|(_, at)| at.port() == port).map(|(inode, at)| (inode, at.ip())).collect()
}

/// What listens in the network of a process; none if that cannot be seen.
fn listeners(folder: &str) -> Option<Vec<SocketAddr>> {
    Some(tables(folder)?.into_iter().map(|(_, at)| at).collect())
}

/// The sockets that listen, by the kernel's tables in this folder; none if there is no table.
fn tables(folder: &str) -> Option<Vec<(u64, SocketAddr)>> {
    // Without IPv6 there is no second one.
    let texts = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("{folder}/{table}")));
    if texts.iter().all(Result::is_err) {
        return None;
    }
    let texts = texts.into_iter().flatten();
    Some(texts.flat_map(|text| text.lines().skip(1).filter_map(listener).collect::<Vec<_>>()).collect())
}

/// A line of `/proc/net/tcp` or `tcp6`, if it is a socket that listens.
fn listener(line: &str) -> Option<(u64, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, at) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    if state != "0A" {
        return None;
    }
    let port = u16::from_str_radix(at, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    // The kernel prints each 32-bit word as the machine holds it.
    let word = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (i, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(&ip[i * 8..i * 8 + 8])?);
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((inode, SocketAddr::new(ip, port)))
}

/// All sockets that these processes hold.
fn sockets_of(pids: &[i32]) -> BTreeSet<u64> {
    let fds = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten();
    fds.filter_map(|fd| {
        let target = std::fs::read_link(fd.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let v4 = "   0: 0100007F:4E23 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        assert_eq!(listener(v4), Some((4711, "127.0.0.1:20003".parse().unwrap())));
        assert_eq!(listener(&v4.replace(" 0A ", " 01 ")), None, "a connection");
        let v6 = "   0: 00000000000000000000000001000000:4E23 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0";
        assert_eq!(listener(v6), Some((4712, "[::1]:20003".parse().unwrap())));
        for end in 0..60 {
            assert_eq!(listener(&v4[..end]), None);
        }
    }

    #[test]
    fn what_is_wrong_inside_a_container_is_said() {
        let at = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let address = "172.18.0.2:8080".parse().unwrap();
        let dns = "127.0.0.11:40000";
        let said =
            [&[dns][..], &[dns, "127.0.0.1:8080"], &[dns, "0.0.0.0:9000", "[::]:9000", "127.0.0.1:22"]]
                .map(|found| judge_inside(address, &at(found)).unwrap_err());
        insta::assert_snapshot!(said.join("\n"), @r"
        nothing listens on port 8080 in the container
        it listens on 127.0.0.1:8080 only, which nobody outside of its container reaches; it has to listen on 0.0.0.0:8080
        nothing listens on port 8080 in the container; it listens on 22, 9000
        ");
        for good in ["0.0.0.0:8080", "[::]:8080", "172.18.0.2:8080"] {
            assert_eq!(judge_inside(address, &at(&[dns, "127.0.0.1:8080", good])), Ok(()));
        }
    }

    #[test]
    fn our_own_listener_is_found_and_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let listening = listening_on(address.port());
        assert_eq!(judge(address, &listening, &sockets_of(&[own])), Ok(()));
        let somebody = judge(address, &listening, &sockets_of(&[]));
        assert_eq!(somebody, Err(format!("something else listens on port {}", address.port())));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = BTreeSet::from([1, 2]);
        let on = |inode, ip: &str| BTreeMap::from([(inode, ip.parse().unwrap())]);
        insta::assert_snapshot!(judge(at("10.0.0.5:20003"), &on(1, "127.0.0.1"), &own).unwrap_err(), @"it listens on 127.0.0.1:20003 only, where requests to 10.0.0.5:20003 do not arrive");
        insta::assert_snapshot!(judge(at("127.0.0.1:20003"), &BTreeMap::new(), &own).unwrap_err(), @"nothing listens on port 20003");
        insta::assert_snapshot!(judge(at("127.0.0.1:20003"), &on(9, "0.0.0.0"), &own).unwrap_err(), @"something else listens on port 20003");
        for (to, ip) in
            [("10.0.0.5:1", "0.0.0.0"), ("10.0.0.5:1", "::"), ("10.0.0.5:1", "10.0.0.5"), ("[::1]:1", "::")]
        {
            assert_eq!(judge(at(to), &on(1, ip), &own), Ok(()), "{ip} → {to}");
        }
        assert!(judge(at("[::1]:1"), &on(1, "0.0.0.0"), &own).is_err());
    }
}
