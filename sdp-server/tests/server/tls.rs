//! The server speaks TLS itself: pages, feeds, viewers and agents over it, hostile handshakes, and a certificate that changes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sdp_core::api::{TokenCreated, TokenKind, ViewerFrame};
use sdp_core::client::Client;
use sdp_core::secret::Secret;
use sdp_core::wire::ToAgent;
use sdp_core::wire::link::{AgentFrame, RawFrame};
use sdp_server::config::Tls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::harness::{Host, hello, hello_frame, ok};

/// An authority that nobody knows, and what it made out.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Self { issuer: issuer.expect("made"), folder: tempfile::tempdir().expect("a folder") }
    }

    /// A certificate for this machine in the server's files, in place of what is there.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("valid");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let tls = self.files();
        write(&tls.key, &key.serialize_pem());
        write(&tls.certificate, &certificate.pem());
        certificate.der().clone()
    }

    fn files(&self) -> Tls {
        let mut tls = Tls::new(self.folder.path().join("tls.pem"), self.folder.path().join("tls.key"));
        tls.reread = Duration::from_secs(1);
        tls
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.issuer.pem().as_bytes()) {
            roots.add(certificate.expect("a certificate")).expect("usable");
        }
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }

    async fn host(&self) -> Host {
        let host = Host::start_with(|config| {
            config.public_url.set_scheme("https").expect("a scheme");
            config.tls = Some(self.files());
        });
        host.await
    }
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("set");
    std::fs::rename(&new, path).expect("in place");
}

fn address(host: &Host) -> &str {
    host.url.strip_prefix("http://").expect("http")
}

fn client(host: &Host, authority: &Authority) -> Client {
    let url = format!("https://{}", address(host)).parse().expect("a url");
    let pem = authority.issuer.pem();
    Client::with_authorities(url, Secret::new(host.admin.clone()), pem.as_bytes()).expect("a client")
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(host: &Host, authority: &Authority, path: &str, token: &str) -> Socket {
    let mut request = format!("wss://{}{path}", address(host)).into_client_request().expect("a request");
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
    let connector = Connector::Rustls(authority.client());
    connect_async_tls_with_config(request, None, true, Some(connector)).await.expect("connected").0
}

#[tokio::test]
async fn all_that_works_in_the_clear_works_over_tls() {
    let authority = Authority::new();
    authority.issue();
    let host = authority.host().await;
    let client = client(&host, &authority);
    let service = serde_json::from_value(hello()).expect("a service");
    client.save_service(&service).await.expect("saved");
    // A page, and what a browser is told.
    let root = reqwest::Certificate::from_pem(authority.issuer.pem().as_bytes()).expect("a certificate");
    let http = reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().expect("a client");
    let page = http.get(client.base().clone()).bearer_auth(&host.admin).send().await.expect("answered");
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["strict-transport-security"], "max-age=31536000");
    // A feed delivers at once.
    let mut feed = client.events(sdp_core::id::EventSeq(0), Default::default());
    assert_eq!(feed.next().await.expect("an event").expect("readable").seq.0, 1);
    let deployment = host.platform.deploy(
        &sdp_core::principal::Principal::System,
        sdp_core::platform::Deploy::new("hello".parse().expect("a name")),
    );
    let deployment = deployment.await.expect("queued");
    while feed.next().await.expect("an event").expect("readable").about.deployment != Some(deployment.id) {}
    // An agent, a viewer.
    let wanted = serde_json::json!({ "kind": TokenKind::Agent, "name": "vm-1" });
    let tokens = client.base().join("/api/v1/tokens").expect("an address");
    let made = http.post(tokens).bearer_auth(&host.admin).json(&wanted).send().await.expect("answered");
    let token = ok::<TokenCreated>(made, 201).await.token.expose().to_owned();
    let mut agent = connect(&host, &authority, "/ws/agent", &token).await;
    let RawFrame::Text(frame) = AgentFrame::from(hello_frame()).encode().expect("a frame") else {
        panic!("text")
    };
    agent.send(Message::text(frame)).await.expect("sent");
    let Some(Ok(Message::Text(text))) = agent.next().await else { panic!("no frame") };
    let welcome = ToAgent::decode(&RawFrame::Text(text.as_str().to_owned())).expect("a frame");
    assert!(matches!(welcome, ToAgent::Welcome { .. }), "{welcome:?}");
    let path = format!("/ws/deployments/{}", deployment.id);
    let mut viewer = connect(&host, &authority, &path, &host.admin).await;
    let Some(Ok(Message::Text(text))) = viewer.next().await else { panic!("no frame") };
    let frame: ViewerFrame = serde_json::from_str(&text).expect("a frame");
    assert!(matches!(frame, ViewerFrame::Deployment { .. }), "{frame:?}");
    host.stop().await;
    // It said goodbye before it went: nobody has cut the connection.
    while !matches!(viewer.next().await.expect("a goodbye").expect("a frame"), Message::Close(Some(_))) {}
}

#[tokio::test]
async fn an_authority_that_is_not_known_is_not_trusted() {
    let authority = Authority::new();
    authority.issue();
    let host = authority.host().await;
    let stranger = Authority::new();
    let error = client(&host, &stranger).services().await.expect_err("refused");
    assert_eq!(error.code(), "unreachable", "{error:?}");
    host.stop().await;
}

/// What the server answers to these bytes until it hangs up.
async fn answer(host: &Host, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address(host)).await.expect("connected");
    socket.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    // Reset or closed: either is a goodbye.
    drop(socket.read_to_end(&mut answer).await);
    answer
}

#[tokio::test]
async fn handshakes_that_fail_or_never_end_hold_up_nobody() {
    let authority = Authority::new();
    authority.issue();
    let host = authority.host().await;
    // Connected, and silent.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address(&host)).await.expect("connected"));
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff\x01\x00",
        b"\x16\x03\x00\x00\x01\x00",
        &[0; 4096],
        &[0xff; 70_000],
    ] {
        let said = answer(&host, bytes).await;
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
        assert!(client(&host, &authority).services().await.is_ok());
    }
    // Who offers another protocol, and nothing that is spoken here.
    let mut config = (*authority.client()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address(&host)).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    assert!(TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await.is_err());
    // Old versions are not spoken, both newer ones are.
    for (version, alpn) in [(&rustls::version::TLS12, "http/1.1"), (&rustls::version::TLS13, "http/1.1")] {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.issuer.pem().as_bytes()).expect("one"))
            .expect("usable");
        let mut config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(address(&host)).await.expect("connected");
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await.expect("shaken");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    }
    // The server stops though fifty have not said a word.
    let begun = Instant::now();
    host.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

/// The certificate that a new connection is shown.
async fn shown(host: &Host, authority: &Authority) -> CertificateDer<'static> {
    let stream = TcpStream::connect(address(host)).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = TlsConnector::from(authority.client()).connect(name, stream).await.expect("shaken");
    stream.get_ref().1.peer_certificates().expect("shown")[0].clone().into_owned()
}

async fn until_shown(host: &Host, authority: &Authority, wanted: &CertificateDer<'static>) {
    let begun = Instant::now();
    while shown(host, authority).await != *wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "the new certificate is not shown");
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_and_one_that_cannot_be_is_not() {
    let authority = Authority::new();
    let first = authority.issue();
    let host = authority.host().await;
    let client = client(&host, &authority);
    assert_eq!(shown(&host, &authority).await, first);
    let second = authority.issue();
    until_shown(&host, &authority, &second).await;
    // It is looked at, told, and left: `/readyz` answers with the old one until a good one comes.
    let files = authority.files();
    write(&files.key, "nonsense");
    let bad = Instant::now();
    while bad.elapsed() < 2 * files.reread {
        assert_eq!(shown(&host, &authority).await, second);
        client.services().await.expect("answered");
    }
    let third = authority.issue();
    until_shown(&host, &authority, &third).await;
    client.services().await.expect("answered");
    host.stop().await;
}

#[tokio::test]
async fn a_server_whose_certificate_cannot_be_used_does_not_start_and_its_configuration_says_why() {
    let authority = Authority::new();
    authority.issue();
    let files = authority.files();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let folder = tempfile::tempdir().expect("a folder");
    let check = |public_url: &str| {
        let path = folder.path().join("server.toml");
        let text = format!(
            "public_url = \"{public_url}\"\ndata_dir = \"{}\"\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            folder.path().join("data").display(),
            files.certificate.display(),
            files.key.display(),
        );
        std::fs::write(&path, text).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sdp-server"));
        let done =
            command.env_clear().args(["--check-config", "--config"]).arg(&path).output().expect("runs");
        (done.status.code(), String::from_utf8(done.stderr).expect("text"))
    };
    let (code, said) = check("https://sdp.example.com");
    assert!(
        code == Some(2) && said.contains("tls.key: ") && said.contains("open to others (mode 0644)"),
        "{said}"
    );
    let (code, said) = check("http://127.0.0.1");
    assert!(
        code == Some(2) && said.contains("public_url: ") && said.contains("[tls] is configured"),
        "{said}"
    );
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o640)).expect("set");
    assert_eq!(check("https://sdp.example.com").0, Some(0));
    std::fs::remove_file(&files.certificate).expect("removed");
    let (code, said) = check("https://sdp.example.com");
    assert!(code == Some(2) && said.contains("cannot read") && said.contains("tls.pem"), "{said}");
}
