//! The bot in Slack, beside the test: started, killed at any moment, started again with the same memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sdp_bot::slack::{self, SlackError, Way};
use sdp_bot::store::Store;
use sdp_core::api::{CreateToken, TokenKind};
use sdp_core::client::Client;
use sdp_core::secret::Secret;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::fake::{APP_TOKEN, BOT_TOKEN, Slack};
use crate::harness::{Sdp, name};

/// The bot in Slack; it is killed when it is dropped.
pub(crate) struct Bot {
    token: Secret,
    client: Client,
    settings: slack::Slack,
    memory: PathBuf,
    /// Certificates that are trusted beside the system's.
    pub(crate) authorities: Vec<u8>,
    life: Option<Life>,
}

/// A runtime of its own, so that the end of it is the end of all that the bot does.
struct Life {
    runtime: Runtime,
    shutdown: CancellationToken,
    ended: oneshot::Receiver<Result<(), SlackError>>,
}

impl Bot {
    /// A bot that is not started yet.
    pub(crate) async fn new(sdp: &Sdp, slack: &Slack) -> Self {
        let token = CreateToken::new(name("chat"), TokenKind::Bot);
        let token = sdp.admin.create_token(&token).await.expect("made").token;
        let settings = slack::Slack {
            bot_token: Secret::new(BOT_TOKEN),
            way: Way::Socket { app_token: Secret::new(APP_TOKEN) },
            app_id: Some("A1".to_owned()),
            proxy: None,
            api_url: slack.api_url().parse().expect("a URL"),
            channels: Default::default(),
            environments: Default::default(),
            rates: slack::Rates::default(),
        };
        let memory = sdp.folder.path().join("bot.db");
        Self { client: sdp.client(&token), token, settings, memory, authorities: Vec::new(), life: None }
    }

    /// Set up otherwise.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut slack::Slack)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let shutdown = CancellationToken::new();
        let (tell, ended) = oneshot::channel();
        let store = Store::open(&self.memory).expect("opens");
        let (client, settings, token) = (self.client.clone(), self.settings.clone(), shutdown.clone());
        let authorities = self.authorities.clone();
        let run = async move { slack::run(client, settings, &authorities, store, token).await };
        // Its end is awaited through `ended`.
        drop(runtime.spawn(async move { tell.send(run.await) }));
        self.life = Some(Life { runtime, shutdown, ended });
    }

    /// It is started, and people can reach it.
    pub(crate) async fn started(sdp: &Sdp, slack: &Slack) -> Self {
        let mut bot = Self::new(sdp, slack).await;
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        bot
    }

    /// The same as a program of its own, with a configuration in this folder; killed when it is dropped.
    pub(crate) fn program(&self, sdp: &Sdp, folder: &Path) -> tokio::process::Child {
        // Built with the tests of the bot; beside them.
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("debug").join("sdp-bot");
        let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).expect("written");
        write("bot.token", self.token.expose());
        write("slack-bot.token", BOT_TOKEN);
        write("slack-app.token", APP_TOKEN);
        let config = format!(
            "server = \"{}\"\ntoken_file = \"bot.token\"\ndata_dir = \"data\"\n[slack]\napi_url = \"{}\"\n\
             bot_token_file = \"slack-bot.token\"\napp_token_file = \"slack-app.token\"\n",
            sdp.url, self.settings.api_url
        );
        write("bot.toml", &config);
        let mut command = tokio::process::Command::new(program);
        command.args(["slack", "--config", "bot.toml"]).current_dir(folder).kill_on_drop(true);
        command.spawn().expect("it is built: cargo build --workspace")
    }

    /// Ends it between two instructions, as SIGKILL would.
    pub(crate) fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.runtime.shutdown_background();
        }
    }

    /// Asks it to end; how it ended.
    pub(crate) async fn stop(&mut self) -> Result<(), SlackError> {
        let life = self.life.take().expect("it runs");
        life.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), life.ended).await;
        life.runtime.shutdown_background();
        ended.expect("it ends").expect("it says how")
    }

    /// How it ended by itself.
    pub(crate) async fn ended(&mut self) -> SlackError {
        let life = self.life.take().expect("it runs");
        let ended = tokio::time::timeout(Duration::from_secs(30), life.ended).await;
        life.runtime.shutdown_background();
        ended.expect("it ends").expect("it says how").expect_err("by itself")
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.kill();
    }
}
