//! The table changes under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;

fn routes(version: u64, instance: InstanceId, backend: &Backend) -> RouteTable {
    Routes::default()
        .version(version)
        .service("hello", None)
        .instance("alice", "hello", instance, backend.address)
        .0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_across_fifty_replacements() {
    const REPLACEMENTS: u64 = 50;
    let version_backend = |version: u64| {
        Backend::start(move |request| async move {
            let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Response::new(body(format!("{version} {}", sent.len())))
        })
    };
    let mut backend = version_backend(1).await;
    let mut instance = InstanceId::new();
    let world = World::new(Routes(routes(1, instance, &backend)));
    let router = world.router.clone();
    let (stop, newest, served) =
        (shared(AtomicBool::new(false)), shared(AtomicUsize::new(1)), shared(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for n in 0..6 {
        let (stop, newest, served) = (stop.clone(), newest.clone(), served.clone());
        let address = router.local_addr();
        clients.spawn(async move {
            // One connection each, kept for the whole test: the router may not even close one.
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let requests = async move {
                while !stop.load(Ordering::Relaxed) {
                    let at_least = newest.load(Ordering::SeqCst);
                    let (method, sent) = if n % 2 == 0 { ("GET", "") } else { ("POST", "some text") };
                    let request = Request::builder()
                        .method(method)
                        .uri("/~alice/hello/")
                        .header("host", "router")
                        .body(Full::new(Bytes::from(sent)))
                        .unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                    let text = response.into_body().collect().await.unwrap().to_bytes();
                    let text = String::from_utf8(text.into()).unwrap();
                    let (version, length) = text.split_once(' ').unwrap();
                    assert_eq!(length, sent.len().to_string());
                    assert!(
                        version.parse::<usize>().unwrap() >= at_least,
                        "an older instance than the table's"
                    );
                    served.fetch_add(1, Ordering::Relaxed);
                }
            };
            let (_connection, ()) = tokio::join!(connection, requests);
        });
    }
    for version in 2..=REPLACEMENTS + 1 {
        let before = served.load(Ordering::Relaxed);
        let (next, next_instance) = (version_backend(version).await, InstanceId::new());
        assert_eq!(router.apply(routes(version, next_instance, &next)), RouteVersion(version));
        newest.store(usize::try_from(version).unwrap(), Ordering::SeqCst);
        assert_eq!(soon(router.next_drained()).await, instance);
        // It is gone from one moment to the next, with all its connections.
        drop(std::mem::replace(&mut backend, next));
        instance = next_instance;
        soon(async {
            while served.load(Ordering::Relaxed) < before + 20 && clients.len() == 6 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = soon(clients.join_next()).await {
        ended.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) >= 1000);
    world.stop().await;
}

#[tokio::test]
async fn an_instance_is_drained_when_its_slow_request_has_ended_and_not_before() {
    let (began, go_on) = (shared(Notify::new()), shared(Notify::new()));
    let slow = {
        let (began, go_on) = (began.clone(), go_on.clone());
        Backend::start(move |_| {
            let (began, go_on) = (began.clone(), go_on.clone());
            async move {
                began.notify_one();
                go_on.notified().await;
                Response::new(body("old"))
            }
        })
        .await
    };
    let new = Backend::named("new").await;
    let (world, old) = World::of_alice(slow.address);
    let request = world.client.request(world.request(Method::GET, "/~alice/hello/", &[], ""));
    let mut asked = JoinSet::new();
    asked.spawn(request);
    soon(began.notified()).await;

    world.router.apply(routes(2, InstanceId::new(), &new));
    assert_eq!(world.get("/~alice/hello/").await.first_line(), "new GET /");
    assert!(futures_util::FutureExt::now_or_never(world.router.next_drained()).is_none());

    go_on.notify_one();
    let response = soon(asked.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "old");
    assert_eq!(soon(world.router.next_drained()).await, old);
    assert!(futures_util::FutureExt::now_or_never(world.router.next_drained()).is_none(), "once");
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_instance() {
    let began = shared(Notify::new());
    let never = {
        let began = began.clone();
        Backend::start(move |_| {
            let began = began.clone();
            async move {
                began.notify_one();
                std::future::pending().await
            }
        })
        .await
    };
    let (world, old) = World::of_alice(never.address);
    let mut stream = world.connect().await;
    stream.write_all(b"GET /~alice/hello/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(began.notified()).await;
    world.router.apply(Routes::default().version(2).0);
    assert!(futures_util::FutureExt::now_or_never(world.router.next_drained()).is_none());
    drop(stream);
    assert_eq!(soon(world.router.next_drained()).await, old);
    world.stop().await;
}

#[tokio::test]
async fn connections_to_a_replaced_instance_close_without_waiting() {
    let closed = shared(Notify::new());
    let old = {
        let closed = closed.clone();
        Backend::raw(move |mut stream| {
            let closed = closed.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                let _end_or_error = stream.read(&mut [0; 1]).await;
                closed.notify_one();
            }
        })
        .await
    };
    let (world, _) = World::of_alice(old.address);
    assert_eq!(world.get("/~alice/hello/").await.text, "ok");
    let before = std::time::Instant::now();
    world.router.apply(Routes::default().version(2).0);
    soon(closed.notified()).await;
    assert!(before.elapsed() < crate::router::upstream::POOL_IDLE / 2);
    world.stop().await;
}

#[tokio::test]
async fn a_request_whose_instance_goes_away_is_sent_to_the_one_that_took_its_place() {
    let (began, go_on) = (shared(Notify::new()), shared(Notify::new()));
    let (began_here, go_on_here) = (began.clone(), go_on.clone());
    let old = Backend::raw(move |mut stream| {
        let (began, go_on) = (began_here.clone(), go_on_here.clone());
        async move {
            read_head(&mut stream).await;
            began.notify_one();
            go_on.notified().await;
        }
    })
    .await;
    let new = Backend::named("new").await;
    let (world, instance) = World::of_alice(old.address);
    let mut asked = JoinSet::new();
    asked.spawn(world.client.request(world.request(Method::GET, "/~alice/hello/", &[], "")));
    soon(began.notified()).await;
    world.router.apply(routes(2, InstanceId::new(), &new));
    go_on.notify_one();
    let response = soon(asked.join_next()).await.unwrap().unwrap().unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"new GET /"), "{text:?}");
    assert_eq!(soon(world.router.next_drained()).await, instance);
    world.stop().await;
}
