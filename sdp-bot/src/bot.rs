//! What somebody typed, from the words to the answer: parse, ask the server on their behalf, say what came of it.
//!
//! Called by whoever plays the chat; one call per command, each in a task of the caller's. A deployment is handed to the
//! [`Follower`], which posts its message and keeps it true. Everything else is an [`Answer`], which a chat with ways of its
//! own to answer shows itself ([`Bot::answer`]); for the others it is said through the [`Chat`] ([`Bot::hear`]).

#[cfg(test)]
mod tests;

use sdp_core::api::{Instance, Me};
use sdp_core::client::{Client, ClientError};
use sdp_core::id::{DeploymentNumber, DeploymentRef};
use sdp_core::name::{IdempotencyKey, PersonName, SandboxName};
use sdp_core::principal::Role;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, timeout};
use url::Url;

use crate::chat::{Chat, ChatGone, Conversation};
use crate::command::{self, Command, Mistake};
use crate::follow::{Follower, Track};
use crate::message::{Message, agents, answer as say, help, login, places};
use crate::output::{self, Watch};
use crate::people::People;
use crate::store::Store;
use crate::story::Begun;

/// How long a link that signs in is waited for before the message is posted without it.
const LINK_TIMEOUT: Duration = Duration::from_secs(2);

/// What somebody typed.
#[derive(Clone, Debug)]
pub struct Said {
    /// Who; none: whoever the token belongs to.
    pub person: Option<PersonName>,
    /// Where.
    pub conversation: Conversation,
    /// What.
    pub text: String,
    /// The deployment in whose thread it was said: what a verb without an object means.
    pub about: Option<DeploymentRef>,
    /// Names what was said, the same each time that a chat delivers it: then a deployment is begun once.
    pub key: Option<IdempotencyKey>,
}

impl Said {
    /// Something typed once, in no thread.
    #[must_use]
    pub fn new(person: Option<PersonName>, conversation: Conversation, text: impl Into<String>) -> Self {
        Self { person, conversation, text: text.into(), about: None, key: None }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Heard {
    /// It was answered.
    Answered {
        /// Whether it could be done.
        ok: bool,
    },
    /// A deployment is under way and its message is there; this tells when it has ended, and whether it succeeded.
    Following(oneshot::Receiver<bool>),
    /// What a service prints is there; it is kept up to date for as long as this runs.
    Watching(Box<Watch>),
}

/// What is to be said to somebody.
#[derive(Debug)]
pub enum Answer {
    /// An answer.
    Say {
        /// Its words.
        message: Box<Message>,
        /// Why it could not be done, as a stable code; none: it could.
        refused: Option<String>,
    },
    /// An answer for the eyes of whoever asked alone.
    Whisper(Box<Message>),
    /// An answer for everybody who reads along.
    Aloud(Box<Message>),
    /// A deployment is under way, or several, and the message on the way to the conversation.
    Following {
        /// Its short number; of several that of the first.
        number: DeploymentNumber,
        /// Tells when it has ended, and whether it succeeded.
        ended: oneshot::Receiver<bool>,
    },
    /// What a service prints is there; it is kept up to date for as long as this runs.
    Watching(Box<Watch>),
}

/// The bot in one chat; clones are the same bot.
#[derive(Clone, Debug)]
pub struct Bot {
    client: Client,
    chat: Chat,
    people: People,
    tracks: mpsc::Sender<Track>,
}

/// What a command leads to.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// Something to say.
    Say(Message),
    /// Something to say to whoever asked alone.
    Whisper(Box<Message>),
    /// Something to say to everybody who reads along.
    Aloud(Box<Message>),
    /// One deployment to follow, or several.
    Follow(Begun),
    /// The output of a service to show, beginning with so many lines.
    Watch(Box<Instance>, u32),
}

/// Why a command could not be done.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It was not understood, or lacks something.
    Mistake(Mistake),
    /// The server refused it, or is away.
    Server(ClientError),
    /// Anything else, in words.
    Cannot(Box<Message>),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Server(error)
    }
}

impl From<Mistake> for Trouble {
    fn from(mistake: Mistake) -> Self {
        Self::Mistake(mistake)
    }
}

impl From<Message> for Trouble {
    fn from(message: Message) -> Self {
        Self::Cannot(Box::new(message))
    }
}

/// Somebody who asks, and the client that speaks for them.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) person: Option<PersonName>,
    pub(crate) client: Client,
    /// Names what they asked for, if their chat may deliver it more than once.
    pub(crate) key: Option<IdempotencyKey>,
    people: People,
}

impl Asker {
    /// Who they are to the server, as it said a moment ago.
    pub(crate) async fn me(&self) -> Result<Me, ClientError> {
        self.people.me(&self.client, self.person.as_ref()).await
    }

    /// Who they are may have changed.
    pub(crate) fn forget_me(&self) {
        self.people.forget(self.person.as_ref());
    }

    /// Their own sandbox: that of a person who may act.
    pub(crate) async fn own_sandbox(&self) -> Result<SandboxName, Trouble> {
        let me = self.me().await?;
        match (me.principal.as_person(), &me.chat_user) {
            (Some(_), _) => Ok(me.own_sandbox),
            (None, Some(_)) => Err(login::no_sandbox_yet().into()),
            (None, None) => Err(say::which_sandbox().into()),
        }
    }

    /// The sandbox they named, else their own.
    pub(crate) async fn sandbox(&self, named: Option<SandboxName>) -> Result<SandboxName, Trouble> {
        match named {
            Some(named) => Ok(named),
            None => self.own_sandbox().await,
        }
    }

    /// The page on which they see where they are logged in, and admins what people may do.
    pub(crate) fn account_page(&self) -> Url {
        let mut page = self.client.base().clone();
        page.set_path("/account");
        page
    }

    /// What a refusal means to them.
    async fn refused(&self, error: &ClientError, wanted: Option<&'static str>) -> Message {
        match error.code() {
            "login_needed" => login::needed(wanted.unwrap_or("this")),
            "forbidden" => match self.me().await {
                Ok(me) if me.account.is_some() && me.role == Role::Viewer => {
                    login::may_only_look(&me, &self.account_page())
                }
                _ => say::refused(error),
            },
            _ => say::refused(error),
        }
    }
}

impl Bot {
    /// A bot in a chat, and the follower that has to run beside it.
    #[must_use]
    pub fn new(client: Client, chat: Chat, store: Store) -> (Self, Follower) {
        let people = People::new(store.clone());
        let (follower, tracks) = Follower::new(client.clone(), chat.clone(), store);
        (Self { client, chat, people, tracks }, follower)
    }

    /// Does what somebody typed, and says what came of it. Returns when the answer can be seen.
    ///
    /// # Errors
    /// [`ChatGone`]: nobody can see anything any more.
    pub async fn hear(&self, said: Said) -> Result<Heard, ChatGone> {
        let (person, conversation) = (said.person.clone(), said.conversation.clone());
        Ok(match self.answer(said).await? {
            Answer::Following { ended, .. } => Heard::Following(ended),
            Answer::Watching(watch) => Heard::Watching(watch),
            Answer::Aloud(message) => {
                let seen = self.chat.say(&conversation, *message).await?;
                Heard::Answered { ok: seen.is_ok() }
            }
            Answer::Say { message, refused } => {
                let seen = self.chat.say(&conversation, *message).await?;
                Heard::Answered { ok: refused.is_none() && seen.is_ok() }
            }
            Answer::Whisper(message) => {
                let seen = match &person {
                    Some(person) => self.chat.whisper(&conversation, person, *message).await?,
                    None => self.chat.say(&conversation, *message).await?,
                };
                Heard::Answered { ok: seen.is_ok() }
            }
        })
    }

    /// Does what somebody typed; what came of it is for the caller to say, but for a deployment's own message.
    ///
    /// # Errors
    /// [`ChatGone`]: nobody can see anything any more.
    pub async fn answer(&self, said: Said) -> Result<Answer, ChatGone> {
        let Said { person, conversation, text, about, key } = said;
        let asker = Asker { key, ..self.asker(person) };
        let mut wanted = None;
        let reaction = match command::parse_about(&text, about) {
            Ok(command) => {
                wanted = command.acts();
                let reaction = self.react(command, &asker).await;
                // Who acts may have to be told something later: it is remembered who they are here.
                if wanted.is_some() && asker.person.is_some() && reaction.is_ok() {
                    drop(asker.me().await);
                }
                reaction
            }
            Err(mistake) => Err(mistake.into()),
        };
        let (message, refused) = match reaction {
            Ok(Reaction::Follow(created)) => return self.follow(created, asker, conversation).await,
            Ok(Reaction::Watch(instance, lines)) => {
                match self.watch(*instance, lines, &asker, &conversation).await? {
                    Ok(watch) => return Ok(Answer::Watching(Box::new(watch))),
                    Err(Some(error)) => (say::refused(&error), Some(error.code().to_owned())),
                    Err(None) => return Err(ChatGone),
                }
            }
            Ok(Reaction::Aloud(message)) => return Ok(Answer::Aloud(message)),
            Ok(Reaction::Whisper(message)) => return Ok(Answer::Whisper(message)),
            Ok(Reaction::Say(message)) => (message, None),
            Err(Trouble::Mistake(mistake)) => (say::mistake(&mistake), Some(mistake.code.to_owned())),
            Err(Trouble::Server(error)) => {
                tracing::info!(code = error.code(), error = %error, "a command could not be done");
                (asker.refused(&error, wanted).await, Some(error.code().to_owned()))
            }
            Err(Trouble::Cannot(message)) => (*message, Some("not_possible".to_owned())),
        };
        Ok(Answer::Say { message: Box::new(message), refused })
    }

    /// Somebody who asks.
    pub(crate) fn asker(&self, person: Option<PersonName>) -> Asker {
        let client = match &person {
            Some(person) => self.client.on_behalf_of(person.clone()),
            None => self.client.clone(),
        };
        Asker { person, client, key: None, people: self.people.clone() }
    }

    async fn react(&self, command: Command, asker: &Asker) -> Result<Reaction, Trouble> {
        let message = match command {
            Command::Deploy(deploy) => return asker.deploy(deploy).await,
            Command::Act { verb, on } => return asker.act(verb, on).await,
            Command::Status(of) => asker.status(of).await?,
            Command::List { all } => asker.list(all).await?,
            Command::Who(service) => asker.who(service).await?,
            Command::Where(service) => asker.where_is(service).await?,
            Command::Open { service, sandbox } => asker.open(service, sandbox).await?,
            Command::Logs { of, lines } => return asker.logs(of, lines, self.chat.abilities.watched).await,
            Command::DeployTogether(together) => return asker.deploy_together(together).await,
            Command::CancelAll(all) => asker.cancel_all(all).await?,
            Command::SandboxShow(name) => asker.sandbox_show(name).await?,
            Command::SandboxCreate(create) => asker.sandbox_create(create).await?,
            Command::SandboxExtend { name, longer } => asker.sandbox_extend(name, longer).await?,
            Command::SandboxPin { name, pinned } => asker.sandbox_pin(name, pinned).await?,
            Command::SandboxShare(name) => return asker.sandbox_share(name).await,
            Command::Routes(sandbox) => asker.routes(sandbox).await?,
            Command::Route(route) => asker.route(route).await?,
            Command::RoutesExplain { what, sandbox } => asker.routes_explain(what, sandbox).await?,
            Command::Vars { service, sandbox } => asker.vars(service, sandbox).await?,
            Command::Templates => places::templates(&asker.client.templates().await?),
            Command::Environments => places::environments(&asker.client.environments().await?),
            Command::Lock(lock) => asker.lock(lock).await?,
            Command::Unlock(of) => asker.unlock(of).await?,
            Command::Locks => asker.locks().await?,
            Command::SandboxDelete(name) => asker.sandbox_delete(&name).await?,
            Command::Services => say::services(&asker.client.services().await?),
            Command::Branches { service, text } => asker.branches(&service, text.as_deref()).await?,
            Command::Agents => agents::agents(&asker.client.agents().await?, jiff::Timestamp::now()),
            Command::Drain { agent, draining } => asker.drain(&agent, draining).await?,
            Command::Login => return asker.login().await,
            Command::Logout => asker.logout().await?,
            Command::Whoami => asker.whoami().await?,
            Command::Help(topic) => help::help(topic),
        };
        Ok(Reaction::Say(message))
    }

    /// A link to a page of the server's, which signs in where nobody else reads it.
    async fn link(&self, asker: &Asker, path: &str) -> Option<Url> {
        if !self.chat.abilities.private || asker.person.is_none() {
            return None;
        }
        match timeout(LINK_TIMEOUT, asker.client.sign_in_link(Some(path))).await {
            Ok(Ok(link)) => Some(link.url),
            // Who is not logged in is not signed in by a link, either.
            Ok(Err(error)) if error.code() == "login_needed" => None,
            Ok(Err(error)) => {
                tracing::warn!(code = error.code(), "no link that signs in; the plain one is shown");
                None
            }
            Err(_) => None,
        }
    }

    async fn watch(
        &self,
        instance: Instance,
        lines: u32,
        asker: &Asker,
        conversation: &Conversation,
    ) -> Result<Result<Watch, Option<ClientError>>, ChatGone> {
        let plain = output::page_of(&asker.client, instance.id);
        let (stream, link) =
            tokio::join!(asker.client.follow_output(instance.id, lines), self.link(asker, plain.path()));
        let page = link.unwrap_or(plain);
        match stream {
            Ok(stream) => {
                let begun = Watch::begin(&self.chat, conversation, stream, instance, page, lines).await?;
                Ok(begun.map_err(|_unseen| None))
            }
            Err(error) => Ok(Err(Some(error))),
        }
    }

    async fn follow(
        &self,
        begun: Begun,
        asker: Asker,
        conversation: Conversation,
    ) -> Result<Answer, ChatGone> {
        let number = begun.number();
        let log_link = match &begun {
            Begun::One(created) => self.link(&asker, created.log_url.path()).await,
            Begun::Several(_) => None,
        };
        let (told, ended) = oneshot::channel();
        let track = Track { conversation, person: asker.person, begun, log_link, ended: told };
        self.tracks.send(track).await.map_err(|_| ChatGone)?;
        Ok(Answer::Following { number, ended })
    }
}
