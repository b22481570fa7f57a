//! The router ends, and nothing of it stays.

use futures_util::StreamExt;
use tokio::sync::Notify;

use super::*;

/// A backend that says when a request has come, and answers when it is told.
async fn waiting() -> (Backend, Arc<Notify>, Arc<Notify>) {
    let (began, go_on) = (shared(Notify::new()), shared(Notify::new()));
    let (began_here, go_on_here) = (began.clone(), go_on.clone());
    let backend = Backend::start(move |_| {
        let (began, go_on) = (began_here.clone(), go_on_here.clone());
        async move {
            began.notify_one();
            go_on.notified().await;
            Response::new(body("done"))
        }
    })
    .await;
    (backend, began, go_on)
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_router_ends() {
    let (backend, began, go_on) = waiting().await;
    let (mut world, _) = World::of_alice(backend.address);
    let mut stream = world.connect().await;
    stream.write_all(b"GET /~alice/hello/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(began.notified()).await;
    world.shutdown.cancel();
    let mut serving = std::mem::take(&mut world.serving);
    assert!(futures_util::FutureExt::now_or_never(serving.join_next()).is_none());
    go_on.notify_one();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    soon(serving.join_next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_does_not_hold_the_router_longer_than_the_grace() {
    let (backend, began, _go_on) = waiting().await;
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.shutdown_grace = Duration::from_millis(100);
    let routes = Routes::default().service("hello", None);
    let world = World::with(config, routes.instance("alice", "hello", InstanceId::new(), backend.address));
    let mut stream = world.connect().await;
    stream.write_all(b"GET /~alice/hello/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(began.notified()).await;
    world.stop().await;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "");
}

#[tokio::test]
async fn websockets_and_idle_connections_do_not_hold_the_router() {
    let backend = Backend::raw(|stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.shutdown_grace = PATIENCE * 2;
    config.limits.header_read_timeout = PATIENCE * 2;
    let routes = Routes::default().service("hello", None);
    let world = World::with(config, routes.instance("alice", "hello", InstanceId::new(), backend.address));
    let (mut socket, _) = world.websocket("/~alice/hello/").await.unwrap();
    let mut idle = world.connect().await;
    idle.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(read_head(&mut idle)).await;
    world.stop().await;
    assert!(!matches!(soon(socket.next()).await, Some(Ok(_))));
}
