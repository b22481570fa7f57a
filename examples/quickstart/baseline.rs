//! The shared baseline that the quickstart's services have: a small web server that says who it is. In production it is
//! the deployment that everybody shares, e.g. in OpenShift.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(crate) struct Baseline {
    base: Url,
    stop: CancellationToken,
    task: JoinSet<std::io::Result<()>>,
}

impl Baseline {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}/", listener.local_addr()?).parse()?;
        let answer = async |Path(service): Path<String>| format!("{service}, from the shared baseline\n");
        let rest = async |Path((service, _)): Path<(String, String)>| {
            format!("{service}, from the shared baseline\n")
        };
        let app = Router::new().route("/{service}/", get(answer)).route("/{service}/{*rest}", get(rest));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let mut task = JoinSet::new();
        task.spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
        Ok(Self { base, stop, task })
    }

    /// Where one service of the baseline answers.
    pub(crate) fn url(&self, service: &str) -> anyhow::Result<Url> {
        Ok(self.base.join(&format!("{service}/"))?)
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        drop(self.task.join_all().await);
    }
}
