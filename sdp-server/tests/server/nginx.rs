//! The sample configuration in examples/nginx, in a real nginx before a real server: as it stands, but for names, ports and paths.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sdp_core::api::{SignInLink, TokenKind, ViewerFrame};
use sdp_core::wire::ToAgent;
use sdp_core::wire::link::{AgentFrame, RawFrame};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::harness::{Host, hello_frame, ok};

const SAMPLE: &str = include_str!("../../../examples/nginx/sdp.conf");

/// What is delivered at once is there long before; what nginx keeps back is not.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A server, and nginx before it.
struct Front {
    host: Host,
    nginx: Child,
    /// How people reach it.
    url: String,
    plain_port: u16,
    certificate: String,
    folder: TempDir,
}

/// Free a moment ago.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

fn nginx() -> Command {
    // Not in everybody's PATH.
    let paths = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];
    Command::new(paths.into_iter().find(|path| Path::new(path).exists()).unwrap_or("nginx"))
}

/// The sample with other values; each has to be there.
fn rendered(values: &[(&str, String)]) -> String {
    let mut text = SAMPLE.to_owned();
    for (from, to) in values {
        assert!(text.contains(from), "{from} is not in the sample");
        text = text.replace(from, to);
    }
    text
}

impl Front {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, plain_port) = (free_port().await, free_port().await);
        let url = format!("https://127.0.0.1:{port}");
        let host = Host::start_with(|config| {
            config.public_url = url.parse().expect("a url");
            config.proxy.trusted = vec!["127.0.0.1/32".parse().expect("a network")];
            config.limits.refused_per_minute = 5;
        })
        .await;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("tls.pem"), made.cert.pem()).expect("written");
        std::fs::write(path("tls.key"), made.signing_key.serialize_pem()).expect("written");
        let site = rendered(&[
            ("server 127.0.0.1:8080;", format!("server {};", host.url.replace("http://", ""))),
            ("listen 80;", format!("listen 127.0.0.1:{plain_port};")),
            ("listen 443 ssl http2;", format!("listen 127.0.0.1:{port} ssl http2;")),
            ("server_name sdp.example.com;", "server_name 127.0.0.1;".to_owned()),
            ("/etc/sdp/tls.pem;", format!("{};", path("tls.pem"))),
            ("/etc/sdp/tls.key;", format!("{};", path("tls.key"))),
        ]);
        std::fs::write(path("sdp.conf"), site).expect("written");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
            .concat();
        // One process, so that there is one to end.
        let main = format!(
            "master_process off;\npid {};\nerror_log {} info;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}include {};\n}}\n",
            path("nginx.pid"),
            path("error.log"),
            path("sdp.conf"),
        );
        std::fs::write(path("nginx.conf"), main).expect("written");
        let command = || {
            let mut command = nginx();
            command.args(["-p", &path(""), "-c", &path("nginx.conf"), "-e", &path("error.log")]);
            command.stdin(Stdio::null()).kill_on_drop(true);
            command
        };
        let checked = command().arg("-t").output().await.expect("nginx is installed");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
        assert!(
            !said.contains("[warn]") || said.contains("\"listen ... http2\" directive is deprecated"),
            "{said}"
        );
        let mut child = command().args(["-g", "daemon off;"]).spawn().expect("starts");
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(child.try_wait().expect("asked").is_none(), "nginx has ended");
        }
        Self { host, nginx: child, url, plain_port, certificate: made.cert.pem(), folder }
    }

    /// A client at this address of the machine.
    fn client(&self, last: u8) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.certificate.as_bytes()).expect("a certificate");
        reqwest::Client::builder()
            .tls_certs_only([root])
            .local_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client")
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client(2).request(method, format!("{}{path}", self.url)).bearer_auth(&self.host.admin)
    }

    async fn connect(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, u16> {
        let mut request =
            (self.url.replace("https://", "wss://") + path).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("one")).expect("usable");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = Connector::Rustls(Arc::new(config));
        match connect_async_tls_with_config(request, None, true, Some(connector)).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn stop(mut self) {
        self.nginx.kill().await.expect("ended");
        self.host.stop().await;
        let log = std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default();
        for bad in ["[emerg]", "[alert]", "[crit]"] {
            assert!(!log.contains(bad), "{log}");
        }
    }
}

#[tokio::test]
#[ignore = "needs nginx; scripts/test installs it"]
async fn pages_feeds_viewers_and_agents_work_behind_the_sample() {
    let front = Front::start().await;
    let host = &front.host;
    host.hello().await;
    // A page, with what the server tells browsers.
    let page = front.ask(Method::GET, "/").send().await.expect("answered");
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["strict-transport-security"], "max-age=31536000");
    assert!(
        page.headers()["content-security-policy"].to_str().expect("text").starts_with("default-src 'none'")
    );
    assert!(page.text().await.expect("a page").contains("<!DOCTYPE html>"));
    let plain = format!("http://127.0.0.1:{}/deployments/1?x=y", front.plain_port);
    let moved = front.client(2).get(plain).send().await.expect("answered");
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (308, &"https://127.0.0.1/deployments/1?x=y".parse().expect("ok"))
    );
    // A feed delivers at once.
    let mut feed = front.ask(Method::GET, "/api/v1/events").send().await.expect("answered");
    assert_eq!(feed.headers()["content-type"], "text/event-stream");
    // REST.
    let wanted = json!({ "service": "hello", "sandbox": "alice" });
    let created: sdp_core::api::DeploymentCreated =
        ok(front.ask(Method::POST, "/api/v1/deployments").json(&wanted).send().await.expect("answered"), 202)
            .await;
    assert!(created.log_url.as_str().starts_with(&front.url));
    let mut text = String::new();
    while !text.contains("deployment_requested") {
        let chunk = timeout(AT_ONCE, feed.chunk()).await.expect("at once").expect("readable").expect("open");
        text += std::str::from_utf8(&chunk).expect("text");
    }
    let held = front.ask(Method::GET, &format!("/api/v1/deployments/{}?wait=1", created.id));
    assert_eq!(held.send().await.expect("answered").status(), 200);
    // A viewer sees a line as it comes.
    let mut agent = host.agent().await;
    let mut job = agent.take().await;
    let admin = format!("Bearer {}", host.admin);
    let path = format!("/ws/deployments/{}", created.id);
    let mut viewer = front.connect(&path, &[("authorization", &admin)]).await.expect("connected");
    agent.print(&mut job, &[b"one line"]).await;
    let sees_line = async {
        loop {
            let Some(Ok(Message::Text(text))) = viewer.next().await else { continue };
            let frame: ViewerFrame = serde_json::from_str(&text).expect("a frame");
            if matches!(frame, ViewerFrame::Lines { lines } if lines[0].text == "one line") {
                return;
            }
        }
    };
    timeout(AT_ONCE, sees_line).await.expect("at once");
    let evil = [("authorization", &*admin), ("origin", "https://evil.example")];
    assert_eq!(front.connect(&path, &evil).await.expect_err("refused"), 403);
    front.connect(&path, &[("authorization", &admin), ("origin", &front.url)]).await.expect("our own page");
    // An agent.
    let token = format!("Bearer {}", host.token(TokenKind::Agent, "vm-7").await);
    let mut socket = front.connect("/ws/agent", &[("authorization", &token)]).await.expect("connected");
    let RawFrame::Text(frame) = AgentFrame::from(hello_frame()).encode().expect("a frame") else {
        panic!("text")
    };
    socket.send(Message::text(frame)).await.expect("sent");
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no frame") };
    let welcome = ToAgent::decode(&RawFrame::Text(text.as_str().to_owned())).expect("a frame");
    assert!(matches!(welcome, ToAgent::Welcome { .. }), "{welcome:?}");
    front.stop().await;
}

#[tokio::test]
#[ignore = "needs nginx; scripts/test installs it"]
async fn cookies_addresses_and_limits_hold_behind_the_sample() {
    let front = Front::start().await;
    let host = &front.host;
    // A browser signs in, and writes from our own page.
    let link: SignInLink = ok(
        front.ask(Method::POST, "/api/v1/sign-in-links").json(&json!({})).send().await.expect("answered"),
        201,
    )
    .await;
    assert!(link.url.as_str().starts_with(&front.url));
    let signed_in =
        front.client(2).post(link.url).header("origin", &front.url).send().await.expect("answered");
    assert_eq!(signed_in.status(), 303);
    let cookie = signed_in.headers()["set-cookie"].to_str().expect("text");
    for flag in ["__Host-sdp=", "; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let write = |origin: &str| {
        let write = front.client(2).post(format!("{}/api/v1/services", front.url));
        write.header("cookie", &cookie).header("origin", origin).json(&crate::harness::hello())
    };
    assert_eq!(write("https://evil.example").send().await.expect("answered").status(), 403);
    assert_ne!(
        write(&front.url).send().await.expect("answered").json::<serde_json::Value>().await.expect("json")["code"],
        "cross_site"
    );
    // Whoever makes up addresses is still who they are, and nobody else pays for it.
    let services = format!("{}/api/v1/services", front.url);
    let guess = async |client: &reqwest::Client, forged: &str| {
        let guess = client.get(&services).bearer_auth("sdp_wrong");
        let guess = guess.header("x-forwarded-for", forged).header("x-real-ip", forged);
        guess.header("forwarded", format!("for={forged}")).send().await.expect("answered").status().as_u16()
    };
    let client = front.client(3);
    for n in 0..5 {
        assert_eq!(guess(&client, &format!("203.0.113.{n}")).await, 401);
    }
    assert_eq!(guess(&client, "203.0.113.99").await, 429);
    assert_eq!(guess(&client, "127.0.0.4").await, 429);
    assert_eq!(guess(&front.client(4), "127.0.0.3").await, 401, "another client");
    // Past nginx nobody's word counts but that of its address.
    let direct =
        host.with("sdp_wrong", Method::GET, "/api/v1/services").header("x-forwarded-for", "127.0.0.3");
    assert_eq!(direct.send().await.expect("answered").status(), 429, "as nginx would say it");
    // Bodies and heads.
    let post = |length: usize| {
        let post = front.ask(Method::POST, "/api/v1/deployments").header("content-type", "application/json");
        post.body(" ".repeat(length))
    };
    assert_eq!(post(1 << 20).send().await.expect("answered").status(), 400, "the server's own answer");
    assert_eq!(post((1 << 20) + 1).send().await.expect("answered").status(), 413);
    let long = front.ask(Method::GET, "/api/v1/services").header("x", "x".repeat(15 * 1024));
    assert_eq!(long.send().await.expect("answered").status(), 200);
    let longer = front.ask(Method::GET, "/api/v1/services").header("x", "x".repeat(70 * 1024));
    assert!(longer.send().await.expect("answered").status().is_client_error());
    // nginx waits longer than the server takes.
    let waits = SAMPLE
        .lines()
        .filter_map(|line| line.trim().strip_prefix("proxy_read_timeout")?.trim().strip_suffix("s;"));
    assert!(waits.map(|wait| wait.parse::<u64>().expect("seconds")).all(|wait| wait > 65));
    front.stop().await;
}
