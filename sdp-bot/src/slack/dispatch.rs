//! One dispatcher for both ways in: what somebody did becomes a command, and its answer goes where they look.
//!
//! ```text
//!   socket, receive ──Delivery──▶ receive ─┬─ not ours, or came before ─▶ acknowledged, nothing else
//!                                          ├─ a search, a form ─▶ answered at once (in `forms`)
//!                                          └─ anything else ─▶ acknowledged; a task does it ─▶ Bot::answer ─▶ words
//! ```
//! | done by | words go | a deployment's message goes |
//! | --- | --- | --- |
//! | slash command | to whoever typed it alone | to the channel |
//! | button | to whoever clicked alone | to the channel; from the home: to the person's own conversation |
//! | `@sdp …` | into the thread | to the channel |
//! | message to the bot | into that conversation | likewise |
//!
//! Invariants: [`Dispatch::receive`] returns within Slack's three seconds; a delivery that comes again, and a second click of
//! somebody on the same button within [`CLICK_AGAIN`], does nothing; who may do what is decided by the server, for whoever clicked. A
//! delivery that comes again after a restart has the same idempotency key, so that the server knows it.
//!
//! Limits: [`MAX_TASKS`] things are being done or wait, [`MAX_AT_ONCE`] at once; [`KNOWN_FOR`] a delivery is known.

mod forms;
mod homes;
mod recent;

use std::sync::Arc;
use std::time::Duration;

use sdp_core::id::DeploymentRef;
use sdp_core::name::{IdempotencyKey, PersonName};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::form::Origin;
use super::inbound::{self, Answers, Click, Delivery, Inbound, Kind};
use super::place::{At, conversation};
use super::web::{Identity, Web};
use super::{form, render};
use crate::bot::{Answer, Bot, Said};
use crate::chat::{Chat, ChatGone, Conversation};
use crate::message::{Message, elsewhere};
use crate::store::Store;

use homes::Homes;
use recent::Recent;

/// How many things are being done, or wait to be.
const MAX_TASKS: usize = 1000;
/// What is said when no more can wait.
const BUSY: &str = "Too much is being asked of SDP at the moment. Nothing was done; try again in a minute.";
/// How many are done at once.
const MAX_AT_ONCE: usize = 64;
/// For how long a delivery is known.
const KNOWN_FOR: Duration = Duration::from_secs(900);
/// A second click on the same button within this time is the same click.
const CLICK_AGAIN: Duration = Duration::from_secs(3);
/// How long what was begun may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// The dispatcher; clones are the same.
#[derive(Clone)]
pub(super) struct Dispatch {
    inner: Arc<Inner>,
}

struct Inner {
    bot: Bot,
    chat: Chat,
    web: Arc<Web>,
    store: Store,
    answers: Answers,
    identity: Identity,
    app: Option<String>,
    recent: Recent,
    tasks: TaskTracker,
    /// What is not done by then is left.
    ended: CancellationToken,
    at_once: Semaphore,
    homes: Homes,
}

/// Where the words of an answer go.
enum Ear {
    /// To the address that came with it, else into the conversation, for this person alone.
    Alone { answer_to: Option<Url>, conversation: Conversation },
    /// Into the conversation, for all who read it.
    All { conversation: Conversation, person: PersonName },
}

impl Dispatch {
    pub(super) fn new(
        bot: Bot,
        chat: Chat,
        web: Arc<Web>,
        store: Store,
        answers: Answers,
        identity: Identity,
        app: Option<String>,
    ) -> Self {
        let inner = Inner {
            bot,
            chat,
            web,
            store,
            answers,
            identity,
            app,
            recent: Recent::default(),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
            at_once: Semaphore::new(MAX_AT_ONCE),
            homes: Homes::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes what came; what Slack is to be answered, if it is more than that it came.
    pub(super) async fn receive(&self, delivery: Delivery) -> Option<Value> {
        let inner = &self.inner;
        if !inner.is_ours(&delivery.payload) {
            let stranger = "SDP answers people of its own workspace alone.";
            return (delivery.kind == Kind::Command).then(|| alone(stranger));
        }
        let inbound = inbound::read(&delivery, &inner.answers);
        if let Inbound::Search { user, action, typed } = inbound {
            return Some(inner.search(&user, &action, &typed, &delivery.payload).await);
        }
        let key = inbound::key(&delivery);
        if !inner.recent.is_new(&key, KNOWN_FOR) {
            tracing::debug!(retry = delivery.retry, "came before");
            return None;
        }
        match inbound {
            Inbound::Submit { user, view } => self.submit(user, view, &key).await,
            Inbound::Other(kind) => {
                tracing::debug!(kind, "nothing that concerns the bot");
                None
            }
            Inbound::Uninstalled => {
                tracing::error!("the app was taken out of the workspace");
                None
            }
            inbound => {
                let is_command = delivery.kind == Kind::Command;
                let work_key = key.clone();
                let begun =
                    self.begin(
                        move |inner| async move { inner.act(inbound, &work_key, &delivery.payload).await },
                    );
                if begun {
                    return None;
                }
                // If it comes again, it is new.
                inner.recent.forget(&key);
                is_command.then(|| alone(BUSY))
            }
        }
    }

    /// Does something beside whoever waits for an acknowledgement; whether there is room for it.
    fn begin<F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> bool
    where
        F: Future<Output = Result<(), ChatGone>> + Send,
    {
        if self.inner.tasks.len() >= MAX_TASKS {
            tracing::error!(limit = MAX_TASKS, "too much is asked at once; left out");
            return false;
        }
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let done = async {
                match inner.at_once.acquire().await {
                    Ok(_slot) => work(inner.clone()).await,
                    Err(_) => Err(ChatGone),
                }
            };
            let done = tokio::select! {
                done = done => done,
                () = inner.ended.cancelled() => Err(ChatGone),
            };
            if done == Err(ChatGone) {
                tracing::warn!("the bot ends before this was answered");
            }
        });
        true
    }

    /// Keeps the homes that somebody looks at up to date until `shutdown`; then waits for what was begun.
    pub(super) async fn run(&self, shutdown: CancellationToken) {
        self.inner.keep_homes(&shutdown).await;
        self.inner.tasks.close();
        if timeout(GRACE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("not everything was answered before the end");
            self.inner.ended.cancel();
            self.inner.tasks.wait().await;
        }
    }
}

impl Inner {
    /// Whether it was done in our workspace and sent to our app.
    fn is_ours(&self, payload: &Value) -> bool {
        if let (Some(ours), Some(theirs)) = (&self.app, inbound::app(payload))
            && *ours != theirs
        {
            tracing::warn!("sent to another app; ignored");
            return false;
        }
        match (&self.identity.team_id, inbound::team(payload)) {
            (Some(ours), Some(theirs)) if *ours != theirs => {
                tracing::info!("done by somebody of another workspace; ignored");
                false
            }
            _ => true,
        }
    }

    async fn act(&self, inbound: Inbound, key: &str, payload: &Value) -> Result<(), ChatGone> {
        match inbound {
            Inbound::Command { user, channel, text, trigger, answer_to } => {
                let conversation = conversation(&channel, None);
                if let Some(trigger) = trigger.clone().filter(|_| text.trim().eq_ignore_ascii_case("deploy"))
                {
                    return self.open_form(user, &trigger, Origin::new(&channel), answer_to).await;
                }
                if let Some(trigger) = &trigger
                    && let Some(of) = form::steal::wanted(&text)
                    && self.ask_why(trigger, &of, Origin::new(&channel)).await
                {
                    return Ok(());
                }
                let said = Said {
                    key: idempotent(key),
                    ..Said::new(Some(user.clone()), conversation.clone(), text)
                };
                self.hear(said, user, Ear::Alone { answer_to, conversation }).await.map(drop)
            }
            Inbound::Click(click) => self.click(*click, key, payload).await,
            Inbound::Mention { user, at, thread, text } => {
                let about = self.deployment_of(&at.channel, thread.as_deref()).await;
                let in_thread = conversation(&at.channel, Some(thread.as_deref().unwrap_or(&at.ts)));
                let said = Said {
                    about,
                    key: idempotent(key),
                    ..Said::new(Some(user.clone()), conversation(&at.channel, None), text)
                };
                let ear = Ear::All { conversation: in_thread.clone(), person: user.clone() };
                let person = user.clone();
                if let Some(number) = self.hear(said, user, ear).await?
                    && thread.is_some()
                {
                    self.chat
                        .answer(&in_thread, &person, elsewhere::in_the_channel(number))
                        .await
                        .map(seen)?;
                }
                Ok(())
            }
            Inbound::Direct { user, at, thread, text } => {
                let about = self.deployment_of(&at.channel, thread.as_deref()).await;
                let here = conversation(&at.channel, thread.as_deref());
                let said = Said {
                    about,
                    key: idempotent(key),
                    ..Said::new(Some(user.clone()), conversation(&at.channel, None), text)
                };
                let ear = Ear::All { conversation: here, person: user.clone() };
                self.hear(said, user, ear).await.map(drop)
            }
            Inbound::Home { user } => {
                self.show_home(&user).await;
                Ok(())
            }
            Inbound::Shortcut { user, trigger } => {
                self.open_form(user, &trigger, Origin::new(""), None).await
            }
            Inbound::Submit { .. } | Inbound::Search { .. } | Inbound::Uninstalled | Inbound::Other(_) => {
                Ok(())
            }
        }
    }

    async fn click(&self, click: Click, key: &str, payload: &Value) -> Result<(), ChatGone> {
        if click.action == form::SERVICE {
            self.service_chosen(&click, payload).await;
            return Ok(());
        }
        let channel = click.at.as_ref().map(|at| at.channel.clone());
        if click.action == form::OPEN {
            let origin = Origin::new(channel.as_deref().unwrap_or_default());
            return match &click.trigger {
                Some(trigger) => self.open_form(click.user, trigger, origin, click.answer_to).await,
                None => Ok(()),
            };
        }
        // An address that is opened needs nothing of us.
        let Some(command) = click.value else { return Ok(()) };
        let button = format!("{} {:?} {:?} {command}", click.user, click.at, click.view);
        if !self.recent.is_new(&button, CLICK_AGAIN) {
            return Ok(());
        }
        let channel = match channel {
            Some(channel) => channel,
            None => self.direct(&click.user).await,
        };
        if let Some(trigger) = &click.trigger
            && let Some(of) = form::steal::wanted(&command)
            && self.ask_why(trigger, &of, Origin::new(&channel)).await
        {
            return Ok(());
        }
        let answer_to = click.answer_to.filter(|_| click.thread.is_none());
        let alone = conversation(&channel, click.thread.as_deref());
        let ear = match click.view {
            None => Ear::Alone { answer_to, conversation: alone },
            Some(_) => Ear::All { conversation: alone, person: click.user.clone() },
        };
        let said = Said {
            key: idempotent(key),
            ..Said::new(Some(click.user.clone()), conversation(&channel, None), command)
        };
        self.hear(said, click.user.clone(), ear).await?;
        if click.view.is_some() {
            self.show_home(&click.user).await;
        }
        Ok(())
    }

    /// Does what was said and says what came of it; the number of the deployment that is under way now, if one is.
    async fn hear(
        &self,
        said: Said,
        person: PersonName,
        ear: Ear,
    ) -> Result<Option<sdp_core::id::DeploymentNumber>, ChatGone> {
        let conversation = said.conversation.clone();
        match self.bot.answer(said).await? {
            Answer::Following { number, .. } => return Ok(Some(number)),
            // Where the command was typed, not in its thread or for one alone.
            Answer::Aloud(message) => {
                self.chat.answer(&conversation, &person, *message).await.map(seen)?;
            }
            Answer::Say { message, .. } => match ear {
                Ear::Alone { answer_to, conversation } => {
                    self.tell_alone(&person, answer_to.as_ref(), &conversation, *message).await?;
                }
                Ear::All { conversation, person } => {
                    self.chat.answer(&conversation, &person, *message).await.map(seen)?;
                }
            },
            Answer::Whisper(message) => match ear {
                Ear::Alone { answer_to, conversation } => {
                    self.tell_alone(&person, answer_to.as_ref(), &conversation, *message).await?;
                }
                // Nobody else reads a conversation with the bot.
                Ear::All { conversation, person } if conversation.0.starts_with('D') => {
                    self.chat.answer(&conversation, &person, *message).await.map(seen)?;
                }
                Ear::All { conversation, person } => {
                    self.chat.whisper(&conversation, &person, *message).await.map(seen)?;
                }
            },
            // Asked for only where somebody looks on.
            Answer::Watching(_) => {}
        }
        Ok(None)
    }

    async fn tell_alone(
        &self,
        person: &PersonName,
        answer_to: Option<&Url>,
        conversation: &Conversation,
        message: Message,
    ) -> Result<(), ChatGone> {
        if let Some(url) = answer_to {
            match self.web.respond(url, &render::message(&message)).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(code = error.code(), "the address to answer to does not take it");
                }
            }
        }
        self.chat.whisper(conversation, person, message).await.map(seen)
    }

    /// The deployment in whose thread something was said.
    async fn deployment_of(&self, channel: &str, thread: Option<&str>) -> Option<DeploymentRef> {
        let at = At { channel: channel.to_owned(), ts: thread?.to_owned() };
        match self.store.message_at(at.place()).await {
            Ok(about) => about.and_then(crate::chat::About::deployment).map(DeploymentRef::Id),
            Err(error) => {
                tracing::error!(%error, "the bot's database failed");
                None
            }
        }
    }

    /// The conversation of the app with one person; their id serves where that cannot be asked.
    async fn direct(&self, person: &PersonName) -> String {
        match self.web.direct(person.as_str()).await {
            Ok(channel) => channel,
            Err(error) => {
                tracing::info!(code = error.code(), "no conversation with a person could be opened");
                person.as_str().to_owned()
            }
        }
    }
}

/// The outbox has said why, if it was not.
fn seen(_: crate::chat::Seen<()>) {}

/// An answer that comes with the acknowledgement, for whoever typed the command alone.
fn alone(text: &str) -> Value {
    serde_json::json!({ "response_type": "ephemeral", "text": text })
}

fn idempotent(key: &str) -> Option<IdempotencyKey> {
    IdempotencyKey::parse(format!("slack-{key}")).ok()
}
