//! Bodies, upgrades and what else HTTP has, through the router.

use futures_util::{SinkExt, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::io::ReaderStream;

use super::*;

async fn echoing_websockets() -> Backend {
    Backend::raw(|mut stream| async move {
        let mut peeked = [0; 1024];
        let n = stream.peek(&mut peeked).await.unwrap();
        if String::from_utf8_lossy(&peeked[..n]).starts_with("GET /refused") {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            return;
        }
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn websockets_pass_to_instances_and_baselines_and_count_as_under_way() {
    let backend = echoing_websockets().await;
    let instance = InstanceId::new();
    let world = World::new(Routes::default().baseline("base", &backend).service("hello", None).instance(
        "alice",
        "hello",
        instance,
        backend.address,
    ));
    for path in ["/base/ws", "/~alice/hello/ws"] {
        let (mut socket, response) = world.websocket(path).await.unwrap();
        assert!(response.headers().contains_key("sdp-served-by"));
        let large = Message::binary(vec![7; 300_000]);
        for message in [Message::text("hello"), large] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
        }
        if path.contains("alice") {
            world.router.apply(Routes::default().version(2).0);
            assert!(futures_util::FutureExt::now_or_never(world.router.next_drained()).is_none());
            socket.send(Message::text("still here")).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("still here"));
        }
        socket.close(None).await.unwrap();
    }
    assert_eq!(soon(world.router.next_drained()).await, instance);
    world.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_the_service_refuses_is_an_ordinary_answer() {
    let backend = echoing_websockets().await;
    let (world, _) = World::of_alice(backend.address);
    let tungstenite::Error::Http(response) = world.websocket("/~alice/hello/refused").await.unwrap_err()
    else {
        panic!("it is no answer of HTTP");
    };
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    world.stop().await;
}

#[tokio::test]
async fn a_change_of_protocol_that_was_not_asked_for_does_not_pass() {
    let backend = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _end = stream.read(&mut [0; 1]).await;
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let asked = [("connection", "upgrade"), ("upgrade", "websocket")];
    for headers in [&[][..], &asked] {
        let answer = world.send(world.request(Method::GET, "/~alice/hello/", headers, "")).await;
        assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::BAD_GATEWAY, "no_answer"));
    }
    world.stop().await;
}

#[tokio::test]
async fn bodies_stream_both_ways_piece_by_piece() {
    // Sends each piece back as it comes.
    let backend = Backend::start(|request| async move {
        let pieces = request.into_body().into_data_stream().map(|piece| Ok(Frame::data(piece.unwrap())));
        Response::new(StreamBody::new(pieces).boxed_unsync())
    })
    .await;
    let (world, instance) = World::of_alice(backend.address);
    let (sender, pieces) = mpsc::channel::<Bytes>(1);
    let sent = tokio_stream_of(pieces);
    let request = Request::post(format!("http://{}/~alice/hello/", world.router.local_addr()))
        .body(StreamBody::new(sent).boxed_unsync())
        .unwrap();
    sender.send("first".into()).await.unwrap();
    let mut back = soon(world.client.request(request)).await.unwrap().into_body();
    for (piece, next) in [("first", Some("second")), ("second", Some("third")), ("third", None)] {
        let frame = soon(back.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
        if let Some(next) = next {
            sender.send(next.into()).await.unwrap();
        }
    }
    // It counts as under way to its last byte.
    world.router.apply(Routes::default().version(2).0);
    assert!(futures_util::FutureExt::now_or_never(world.router.next_drained()).is_none());
    drop(sender);
    assert!(soon(back.frame()).await.is_none());
    assert_eq!(soon(world.router.next_drained()).await, instance);
    world.stop().await;
}

fn tokio_stream_of(
    mut pieces: mpsc::Receiver<Bytes>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures_util::stream::poll_fn(move |cx| {
        pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    })
}

#[tokio::test]
async fn a_hundred_megabytes_pass_in_both_directions() {
    const SIZE: u64 = 100 * 1024 * 1024;
    let backend = Backend::start(|request| async move {
        let mut received = 0;
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        }
        assert_eq!(received, SIZE);
        let zeros = ReaderStream::with_capacity(tokio::io::repeat(b'y').take(SIZE), 64 * 1024);
        Response::new(StreamBody::new(zeros.map(|piece| Ok(Frame::data(piece.unwrap())))).boxed_unsync())
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let sent = ReaderStream::with_capacity(tokio::io::repeat(b'x').take(SIZE), 64 * 1024);
    let request = Request::post(format!("http://{}/~alice/hello/", world.router.local_addr()))
        .body(StreamBody::new(sent.map(|piece| Ok(Frame::data(piece.unwrap())))).boxed_unsync())
        .unwrap();
    let mut back = soon(world.client.request(request)).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = soon(back.frame()).await {
        received += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
    }
    assert_eq!(received, SIZE);
    world.stop().await;
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let backend = Backend::start(|_| async { Response::new(body("12345")) }).await;
    let (world, _) = World::of_alice(backend.address);
    let answer = world.raw("HEAD /~alice/hello/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = world.raw("HEAD /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let backend = Backend::start(|request| async move {
        Response::new(body(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let mut stream = world.connect().await;
    let head = "POST /~alice/hello/ HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(soon(read_head(&mut stream)).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\nbody"), "{answer}");
    world.stop().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_an_answer_without_chunks() {
    let backend = Backend::start(|request| async move {
        assert_eq!(request.version(), http::Version::HTTP_11);
        let pieces =
            futures_util::stream::iter(["one", "two"].map(|piece| Ok(Frame::data(Bytes::from(piece)))));
        Response::new(StreamBody::new(pieces).boxed_unsync())
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let answer = world.raw("GET /~alice/hello/ HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with("\r\n\r\nonetwo"), "{answer}");
    world.stop().await;
}

#[tokio::test]
async fn trailers_pass() {
    let backend = Backend::start(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "42".parse().unwrap());
        let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
        let answer = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        Response::builder().header("trailer", "x-checksum").body(answer).unwrap()
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let request = "GET /~alice/hello/ HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\n\r\n";
    let answer = world.raw(request).await;
    assert!(answer.ends_with("data\r\n0\r\nx-checksum: 42\r\n\r\n"), "{answer}");
    world.stop().await;
}
