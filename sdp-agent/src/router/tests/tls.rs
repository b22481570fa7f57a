//! A baseline behind TLS. `ca.pem` signed `localhost.pem` for the name `localhost`, for a hundred years; its key is gone.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;

pub(super) const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/router/tests/tls/ca.pem");

/// Says by which name it was called, in TLS and in HTTP, and refuses every other.
pub(super) async fn behind_tls() -> Backend {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/localhost.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/localhost.key")).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(shared(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    let acceptor = TlsAcceptor::from(shared(config));
    Backend::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let head = head.to_ascii_lowercase();
            let host = head.lines().find(|line| line.starts_with("host: ")).unwrap();
            let told = format!("{name}, {host}");
            // As OpenShift's router does.
            let ours = name == "localhost" && host.starts_with("host: localhost:");
            let status = if ours { "200 OK" } else { "421 Misdirected Request" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{told}", told.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_baseline_behind_tls_is_called_by_its_name_and_must_prove_it() {
    let backend = behind_tls().await;
    let port = backend.address.port();
    let routes = Routes::default()
        .service("hello", Some(&format!("https://localhost:{port}")))
        .service("other", Some(&format!("https://127.0.0.1:{port}")));
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.ca_file = Some(CA_FILE.into());
    let world = World::with(config.clone(), routes.clone());
    let answer = world.send(world.request(Method::GET, "/hello/", &[("host", "dev.example.com")], "")).await;
    assert_eq!((answer.status, answer.text), (StatusCode::OK, format!("localhost, host: localhost:{port}")));
    let answer = world.get("/other/").await;
    assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::BAD_GATEWAY, "unreachable"));
    assert!(answer.text.contains("certificate"), "{}", answer.text);
    world.stop().await;

    config.ca_file = None;
    let world = World::with(config, routes);
    let answer = world.get("/hello/").await;
    assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::BAD_GATEWAY, "unreachable"));
    assert!(answer.text.contains("certificate"), "{}", answer.text);
    world.stop().await;
}
