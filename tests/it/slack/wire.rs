//! The way to Slack: through a proxy that asks who one is, to a Slack whose certificate an authority of one's own made out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::bot::Bot;
use super::fake::Slack;
use super::trouble::all_is_told;
use crate::harness::{AUTHORITY, run_test};

/// Something between the bot and Slack; it ends when it is dropped.
struct Between {
    address: SocketAddr,
    /// How many connections came, and how many went through.
    knocks: Arc<AtomicUsize>,
    through: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Between {
    async fn start<F>(pass: impl Fn(TcpStream, Arc<AtomicUsize>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let through = Arc::new(AtomicUsize::new(0));
        let knocks = Arc::new(AtomicUsize::new(0));
        let (counted, came) = (through.clone(), knocks.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                came.fetch_add(1, Ordering::SeqCst);
                connections.spawn(pass(stream, counted.clone()));
            }
        });
        Self { address, knocks, through, _task: task }
    }

    fn knocks(&self) -> usize {
        self.knocks.load(Ordering::SeqCst)
    }

    fn count(&self) -> usize {
        self.through.load(Ordering::SeqCst)
    }
}

/// TLS in front of a plain server.
async fn tls(folder: &std::path::Path, to: SocketAddr) -> Between {
    let files = crate::tls::issue(folder);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
        .expect("read")
        .collect::<Result<_, _>>()
        .expect("valid");
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("a configuration")));
    Between::start(move |stream, through| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            through.fetch_add(1, Ordering::SeqCst);
            let mut plain = TcpStream::connect(to).await.expect("connects");
            copy_bidirectional(&mut stream, &mut plain).await.ok();
        }
    })
    .await
}

/// A proxy that lets those out who say the password.
async fn proxy() -> Between {
    let wanted = base64::prelude::BASE64_STANDARD.encode("bot:p@ss");
    Between::start(move |stream, through| {
        let wanted = format!("basic {wanted}");
        async move {
            let mut stream = BufReader::new(stream);
            let (mut to, mut known) = (None, false);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim_end();
                match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
                    Some((name, value)) if name == "proxy-authorization" => {
                        known = value.split_once(' ').is_some_and(|(kind, value)| {
                            format!("{} {value}", kind.to_ascii_lowercase()) == wanted
                        });
                    }
                    _ if line.is_empty() => break,
                    _ => {
                        let connect = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
                        to = to.or(connect.map(str::to_owned));
                    }
                }
            }
            let answer = match (&to, known) {
                (Some(_), true) => "HTTP/1.1 200 Connection established\r\n\r\n",
                _ => "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            };
            stream.write_all(answer.as_bytes()).await.ok();
            let (Some(to), true) = (to, known) else { return };
            through.fetch_add(1, Ordering::SeqCst);
            let Ok(mut far) = TcpStream::connect(to).await else { return };
            copy_bidirectional(&mut stream, &mut far).await.ok();
        }
    })
    .await
}

#[test]
fn a_deploy_goes_through_a_proxy_and_tls_with_an_authority_of_ones_own() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let (tls, proxy) = (tls(folder.path(), slack.address()).await, proxy().await);
        slack.behind(&format!("wss://{}", tls.address));
        let authority = std::fs::read(folder.path().join(AUTHORITY)).expect("read");
        let through =
            |password: &str| format!("http://bot:{password}@{}", proxy.address).parse().expect("a URL");
        let api = format!("https://{}/api", tls.address);
        let mut bot = Bot::new(sdp, &slack).await.with(|slack| {
            slack.api_url = api.parse().expect("a URL");
            slack.proxy = Some(through("wrong"));
        });
        bot.authorities = authority;
        // Nobody gets out without the password, and nothing goes past the proxy.
        bot.start();
        sdp.until("it knocks", async |_| proxy.knocks() > 0).await;
        bot.kill();
        assert_eq!((proxy.count(), tls.count()), (0, 0));
        let mut bot = bot.with(|slack| slack.proxy = Some(through("p%40ss")));
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        slack.person("alice").slash("#dev", "deploy hello main").await.well();
        all_is_told(&slack, "#dev").await;
        assert!(proxy.count() >= 2 && tls.count() >= 2, "{} {}", proxy.count(), tls.count());
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn a_certificate_of_an_authority_that_is_not_known_is_not_trusted() {
    run_test(async |sdp| {
        let slack = Slack::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let tls = tls(folder.path(), slack.address()).await;
        let api = format!("https://{}/api", tls.address);
        let mut bot = Bot::new(sdp, &slack).await.with(|slack| slack.api_url = api.parse().expect("a URL"));
        bot.start();
        sdp.until("it knocks", async |_| tls.knocks() > 0).await;
        bot.kill();
        assert_eq!(tls.count(), 0);
        assert_eq!(slack.look(|model| model.calls("*").count()), 0);
        slack.finish();
    });
}
