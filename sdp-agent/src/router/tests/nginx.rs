//! What is nginx's alone: processes, folders, switches.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message;

use super::rig::{Rig, config};
use super::*;
use crate::router::Engine;

fn to(version: u64, instance: InstanceId, backend: &Backend) -> Routes {
    Routes::default().version(version).service("hello", None).instance(
        "alice",
        "hello",
        instance,
        backend.address,
    )
}

async fn saying(text: &'static str) -> Backend {
    Backend::start(move |_| async move { Response::new(body(text)) }).await
}

/// Asks again and again, each time on a connection of its own, until it is told to stop; how often.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, served) = (shared(AtomicBool::new(false)), shared(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..3 {
            let (stop, served) = (stop.clone(), served.clone());
            clients.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match once(address).await {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
                        Ok(answer) => failed.push(answer),
                        Err(error) => failed.push(error.to_string()),
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
                failed
            });
        }
        Self { stop, served, clients }
    }

    /// Until so many more have been answered.
    async fn more(&self, count: usize) {
        let before = self.served.load(Ordering::Relaxed);
        soon(async {
            while self.served.load(Ordering::Relaxed) < before + count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(failed) = self.clients.join_next().await {
            assert_eq!(failed.unwrap(), Vec::<String>::new());
        }
        self.served.load(Ordering::Relaxed)
    }
}

async fn once(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /~alice/hello/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx"]
async fn no_new_request_fails_across_fifty_switches() {
    let mut backend = saying("1").await;
    let mut instance = InstanceId::new();
    let rig = Rig::new(Engine::Nginx, to(1, instance, &backend)).await;
    let load = Load::start(rig.router.local_addr());
    for version in 2..=51 {
        let (next, next_instance) = (saying("next").await, InstanceId::new());
        rig.apply(to(version, next_instance, &next)).await;
        assert_eq!(soon(rig.router.next_drained()).await, instance);
        // It is gone from one moment to the next.
        drop(std::mem::replace(&mut backend, next));
        instance = next_instance;
        load.more(5).await;
    }
    assert!(load.stop().await >= 250);
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn an_instance_is_drained_when_the_last_worker_that_knew_it_is_gone() {
    let sockets = Backend::raw(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (old, new) = (InstanceId::new(), InstanceId::new());
    let rig = Rig::new(Engine::Nginx, to(1, old, &sockets)).await;
    let url = format!("ws://{}/~alice/hello/", rig.router.local_addr());
    let (mut socket, _) = soon(Box::pin(tokio_tungstenite::connect_async(url))).await.unwrap();
    let next = saying("next").await;
    rig.apply(to(2, new, &next)).await;
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "next");
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("still here"));
    assert!(rig.router.next_drained().now_or_never().is_none());
    // Another agent knows of it, too.
    let (config, folder) = rig.leave().await;
    let rig = Rig::start(config, folder).await;
    assert_eq!(soon(rig.router.next_applied(RouteVersion(0))).await, RouteVersion(2));
    socket.send(Message::text("and here")).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("and here"));
    assert!(rig.router.next_drained().now_or_never().is_none());
    drop(socket);
    assert_eq!(soon(rig.router.next_drained()).await, old);
}

/// An nginx that refuses configurations in which `refused` stands.
fn refusing(folder: &std::path::Path) -> std::path::PathBuf {
    let path = folder.join("refusing-nginx");
    let script = "#!/bin/sh\ncase \"$*\" in *-t*) if grep -q refused nginx.conf.new; then\n\
                  echo 'nginx: [emerg] it is not liked in nginx.conf.new:1' >&2; exit 1; fi;; esac\n\
                  exec /usr/sbin/nginx \"$@\"\n";
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_table_that_nginx_refuses_leaves_the_old_one_and_is_named() {
    let programs = tempfile::tempdir().unwrap();
    std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = config(Engine::Nginx);
    config.nginx = refusing(programs.path());
    let (backend, instance) = (saying("old").await, InstanceId::new());
    let rig = Rig::with(config, to(1, instance, &backend)).await;
    assert!(rig.router.preflight()[0].ok);
    let mut seen = 0;
    rig.router.apply(Routes::default().version(2).service("refused", None).0);
    soon(rig.router.next_change(&mut seen)).await;
    let [found] = rig.router.preflight().try_into().unwrap();
    assert!(!found.ok);
    insta::assert_snapshot!(found.detail, @r"table 2 did not take effect, 1 stays: [emerg] it is not liked in nginx.conf.new:1");
    assert_eq!(rig.router.report().applied, RouteVersion(1));
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "old");
    // A better one is taken at once, and the trouble is over.
    let begun = std::time::Instant::now();
    rig.apply(to(3, instance, &backend)).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    soon(rig.router.next_change(&mut seen)).await;
    assert!(rig.router.preflight()[0].ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx"]
async fn an_nginx_that_is_killed_is_started_again_with_the_same_table() {
    let backend = saying("mine").await;
    let rig = Rig::new(Engine::Nginx, to(1, InstanceId::new(), &backend)).await;
    for which in ["master", "worker", ""] {
        assert!(rig.signal(which, Signal::KILL) > 0, "{which}");
        soon(async {
            // Workers whose master was killed go on for a moment.
            while rig.signal("master", Signal::CONT) == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        soon(async { while once(rig.router.local_addr()).await.is_err() {} }).await;
        assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "mine", "{which}");
    }
    let next = saying("next").await;
    rig.apply(to(2, InstanceId::new(), &next)).await;
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx"]
async fn no_request_fails_while_the_agent_is_away_and_comes_back() {
    let backend = saying("mine").await;
    let rig = Rig::new(Engine::Nginx, to(7, InstanceId::new(), &backend).version(1)).await;
    let load = Load::start(rig.router.local_addr());
    load.more(20).await;
    let (config, folder) = rig.leave().await;
    load.more(20).await;
    let stamp = std::fs::read(folder.path().join("router/nginx.conf")).unwrap();
    let rig = Rig::start(config.clone(), folder).await;
    assert_eq!(soon(rig.router.next_applied(RouteVersion(0))).await, RouteVersion(1));
    assert_eq!(
        std::fs::read(rig.folder.path().join("router/nginx.conf")).unwrap(),
        stamp,
        "nothing was changed"
    );
    load.more(20).await;
    rig.apply(to(2, InstanceId::new(), &backend)).await;
    load.more(20).await;
    // It was killed while nobody looked, and the configuration has changed since.
    load.stop().await;
    let (mut config, folder) = rig.leave().await;
    super::rig::signal_in(folder.path(), "", Signal::KILL);
    config.limits.uri_bytes = 50;
    let rig = Rig::start(config, folder).await;
    assert_eq!(soon(rig.router.next_applied(RouteVersion(0))).await, RouteVersion(2));
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "mine");
    let long = format!("/~alice/hello/{}", "y".repeat(100));
    assert_eq!(rig.get(&long, &[]).await.header("sdp-error"), "uri_too_long");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn an_nginx_is_started_though_its_configuration_of_before_is_of_no_use() {
    let backend = saying("mine").await;
    let rig = Rig::new(Engine::Nginx, to(1, InstanceId::new(), &backend)).await;
    let (config, folder) = rig.leave().await;
    super::rig::signal_in(folder.path(), "", Signal::KILL);
    std::fs::write(folder.path().join("router/nginx.conf"), "listen_on_another_address;").unwrap();
    let rig = Rig::start(config, folder).await;
    assert_eq!(soon(rig.router.next_applied(RouteVersion(0))).await, RouteVersion(1));
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "mine");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_sandbox_is_dropped_when_it_expires_whoever_is_away() {
    let backend = saying("mine").await;
    let instance = InstanceId::new();
    let mut routes = to(1, instance, &backend);
    let end = jiff::Timestamp::now() + Duration::from_secs(3);
    routes.environment().sandboxes[0].expires_at = Some(end);
    let rig = Rig::new(Engine::Nginx, routes).await;
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "mine");
    let dropped =
        async { while rig.get("/~alice/hello/", &[]).await.header("sdp-error") != "unknown_sandbox" {} };
    soon(dropped).await;
    assert!(jiff::Timestamp::now() >= end);
    assert_eq!(rig.router.report().applied, RouteVersion(1));
}

/// A name server that knows what is in the map, and how often it was asked.
async fn name_server(names: Arc<std::sync::Mutex<HashMap<String, [u8; 4]>>>) -> (SocketAddr, JoinSet<()>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut packet = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            let (mut labels, mut at) = (Vec::new(), 12);
            while packet[at] != 0 {
                let end = at + 1 + usize::from(packet[at]);
                labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
                at = end;
            }
            let is_address = packet[at + 1..at + 3] == [0, 1];
            let found = names.lock().unwrap().get(&labels.join(".")).copied();
            let mut answer = packet[..(at + 5).min(length)].to_vec();
            let code = if found.is_some() { 0x80 } else { 0x83 };
            answer[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, 0, 0, 0, 0, 0]);
            if let Some(found) = found.filter(|_| is_address) {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend(found);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (address, serving)
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn names_of_baselines_are_looked_up_again_and_one_that_is_unknown_harms_no_other() {
    let first = saying("first").await;
    let port = first.address.port();
    let listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let mut second = JoinSet::new();
    second.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond").await.unwrap();
        }
    });
    let names = shared(std::sync::Mutex::new(HashMap::from([("base.test".to_owned(), [127, 0, 0, 1])])));
    let (resolver, _serving) = name_server(names.clone()).await;
    let mut config = config(Engine::Nginx);
    config.resolvers = vec![resolver];
    let routes = Routes::default()
        .service("hello", Some(&format!("http://base.test:{port}")))
        .service("lost", Some(&format!("http://lost.test:{port}")));
    let rig = Rig::with(config, routes).await;
    assert_eq!(rig.get("/hello", &[]).await.text, "first");
    assert_eq!(rig.get("/lost", &[]).await.header("sdp-error"), "unreachable");
    names.lock().unwrap().insert("base.test".into(), [127, 0, 0, 2]);
    soon(async { while rig.get("/hello", &[]).await.text != "second" {} }).await;
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn two_thousand_sandboxes_take_effect_within_a_second_or_so() {
    let backend = saying("mine").await;
    let table = |version| {
        let mut routes = Routes::default().version(version).service("hello", None).service("ledger", None);
        for n in 0..2000 {
            let letters: String =
                format!("{n:04}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            let name = format!("box-{letters}");
            for service in ["hello", "ledger"] {
                let service = ServiceName::parse(service).unwrap();
                let target = RouteTarget::Instance {
                    instance: InstanceId::new(),
                    address: backend.address,
                    commit: CommitId::parse("0123456789abcdef0123456789abcdef01234567").unwrap(),
                    of: None,
                };
                if routes.environment().sandboxes.last().is_none_or(|last| last.name.as_str() != name) {
                    let key = RoutingKey::parse(format!("rk_{letters:a>26}")).unwrap();
                    let name = SandboxName::parse(&name).unwrap();
                    routes.environment().sandboxes.push(SandboxRoutes {
                        name,
                        key,
                        expires_at: None,
                        routes: vec![],
                    });
                }
                routes
                    .environment()
                    .sandboxes
                    .last_mut()
                    .unwrap()
                    .routes
                    .push(SandboxRoute { service, target });
            }
        }
        routes
    };
    let rig = Rig::new(Engine::Nginx, Routes::default()).await;
    let mut took = Vec::new();
    for version in 2..=4 {
        let table = table(version);
        let began = std::time::Instant::now();
        rig.apply(table).await;
        took.push(began.elapsed());
    }
    println!("2,000 sandboxes with 4,000 routes took {took:?}");
    assert_eq!(rig.get("/~box-bjjj/ledger", &[]).await.text, "mine");
    let key = format!("rk_{:a>26}", "bjjj");
    assert_eq!(rig.get("/hello", &[("sdp-routing-key", &key)]).await.text, "mine");
    // On a machine that does nothing else it is below one.
    assert!(took.iter().min().unwrap() < &Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn the_built_in_router_takes_the_place_of_an_nginx_that_was_left() {
    let backend = saying("mine").await;
    let rig = Rig::new(Engine::Nginx, to(1, InstanceId::new(), &backend)).await;
    let (mut config, folder) = rig.leave().await;
    config.engine = Engine::Builtin;
    let rig = Rig::start(config, folder).await;
    rig.apply(to(1, InstanceId::new(), &backend)).await;
    assert_eq!(rig.get("/~alice/hello/", &[]).await.text, "mine");
}
