//! The form: opened at once (what allows it lives for three seconds), filled when the server has answered, searched in what the
//! server has in memory, and sent.

use std::sync::Arc;
use std::time::Duration;

use sdp_core::api::BranchList;
use sdp_core::name::PersonName;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;
use url::Url;

use super::super::form::{self, Form, Origin};
use super::super::inbound::Click;
use super::super::place::conversation;
use super::{BUSY, Dispatch, Inner, idempotent};
use crate::bot::{Answer, Said};
use crate::chat::ChatGone;
use crate::command::{self, LockOf};
use crate::message::{Message, Tone, answer as say};
use crate::text::Text;

/// How long a search may take: Slack waits for three seconds.
const SEARCH: Duration = Duration::from_secs(2);
/// How long a list of branches may take that is to be searched soon.
const WARM: Duration = Duration::from_secs(20);
/// How long a form that was sent waits for the server, so that a refusal is shown in it.
const ANSWER: Duration = Duration::from_millis(2300);

impl Inner {
    /// Opens the form.
    pub(super) async fn open_form(
        &self,
        user: PersonName,
        trigger: &str,
        origin: Origin,
        answer_to: Option<Url>,
    ) -> Result<(), ChatGone> {
        let view = match self.web.open_view(trigger, &form::loading(&origin)).await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(code = error.code(), "the form could not be opened");
                // The same can be typed.
                let Err(mistake) = command::parse("deploy") else { return Ok(()) };
                let channel = match origin.conversation.as_str() {
                    "" => self.direct(&user).await,
                    channel => channel.to_owned(),
                };
                let here = conversation(&channel, None);
                return self.tell_alone(&user, answer_to.as_ref(), &here, say::mistake(&mistake)).await;
            }
        };
        let filled = self.filled(&user, &origin, None).await;
        if let Err(error) = self.web.update_view(&view, &filled).await {
            tracing::warn!(code = error.code(), "the form could not be filled");
        }
        Ok(())
    }

    async fn filled(
        &self,
        user: &PersonName,
        origin: &Origin,
        chosen: Option<sdp_core::name::ServiceName>,
    ) -> slack_morphism::prelude::SlackView {
        let asker = self.bot.asker(Some(user.clone()));
        let (services, me) = tokio::join!(asker.client.services(), asker.me());
        match (services, me) {
            (Ok(services), Ok(me)) => form::deploy(&Form {
                services: services.into_iter().map(|service| service.name).collect(),
                chosen,
                own_sandbox: me.principal.as_person().map(|_| me.own_sandbox),
                origin: origin.clone(),
            }),
            (Err(error), _) | (_, Err(error)) => form::unavailable(&say::refused(&error)),
        }
    }

    /// Another service has other branches.
    pub(super) async fn service_chosen(&self, click: &Click, payload: &Value) {
        let (Some(view), Some(chosen)) = (&click.view, form::service_chosen(payload)) else { return };
        let origin = form::origin_of(&payload["view"]);
        let filled = self.filled(&click.user, &origin, Some(chosen.clone())).await;
        if let Err(error) = self.web.update_view(view, &filled).await {
            tracing::warn!(code = error.code(), "the form could not be filled");
        }
        // Asked for now, they are in the server's memory when they are searched.
        let client = self.bot.asker(Some(click.user.clone())).client;
        if let Ok(Err(error)) = timeout(WARM, client.branches(&chosen, None)).await {
            tracing::info!(code = error.code(), "the branches for the form could not be listed");
        }
    }

    /// What fits what is being typed.
    pub(super) async fn search(
        &self,
        user: &PersonName,
        action: &str,
        typed: &str,
        payload: &Value,
    ) -> Value {
        let client = self.bot.asker(Some(user.clone())).client;
        let found = async {
            if action == form::SERVICE {
                return Ok(form::options_services(&client.services().await?, typed));
            }
            let Some(service) = form::service_of_suggestion(payload) else { return Ok(form::no_options()) };
            let typed = Some(typed).filter(|typed| !typed.is_empty());
            let list = client.branches(&service, typed).await?;
            Ok::<_, sdp_core::client::ClientError>(form::options_branches(&list, typed.unwrap_or_default()))
        };
        match timeout(SEARCH, found).await {
            Ok(Ok(options)) => options,
            Ok(Err(error)) => {
                tracing::info!(code = error.code(), "a search in the form was not answered");
                as_typed(action, typed)
            }
            Err(_) => as_typed(action, typed),
        }
    }

    async fn deploy_from_form(
        self: Arc<Self>,
        said: Said,
        user: PersonName,
        refused: oneshot::Sender<Option<(Message, String)>>,
    ) -> Result<(), ChatGone> {
        let here = said.conversation.clone();
        let message = match self.bot.answer(said).await? {
            Answer::Say { message, refused } => Some((*message, refused.unwrap_or_default())),
            Answer::Whisper(message) | Answer::Aloud(message) => Some((*message, String::new())),
            Answer::Following { .. } | Answer::Watching(_) => None,
        };
        match (refused.send(message), here) {
            // The form is closed already.
            (Err(Some((message, _))), here) => self.tell_alone(&user, None, &here, message).await,
            _ => Ok(()),
        }
    }
}

/// Where nothing can be listed, what is typed can be chosen all the same.
fn as_typed(action: &str, typed: &str) -> Value {
    if action == form::SERVICE {
        return form::no_options();
    }
    form::options_branches(&BranchList { head: None, branches: Vec::new(), tags: Vec::new() }, typed)
}

impl Inner {
    /// Asks why a lock is to be taken away; whether the form is there.
    pub(super) async fn ask_why(&self, trigger: &str, of: &LockOf, origin: Origin) -> bool {
        match self.web.open_view(trigger, &form::steal::form(of, origin)).await {
            Ok(_) => true,
            Err(error) => {
                // The same can be typed, and the answer says how.
                tracing::warn!(code = error.code(), "the form could not be opened");
                false
            }
        }
    }

    async fn steal_from_form(
        self: Arc<Self>,
        said: Said,
        user: PersonName,
        refused: oneshot::Sender<Option<Message>>,
    ) -> Result<(), ChatGone> {
        let here = said.conversation.clone();
        let Answer::Say { message, refused: code } = self.bot.answer(said).await? else { return Ok(()) };
        if code.is_some() {
            return match refused.send(Some(*message)) {
                Err(Some(message)) => self.tell_alone(&user, None, &here, message).await,
                _ => Ok(()),
            };
        }
        // The form is closed first.
        let _closed = refused.send(None);
        self.tell_alone(&user, None, &here, *message).await
    }
}

impl Dispatch {
    /// The reason for which a lock is taken away was sent.
    async fn submit_reason(&self, user: PersonName, view: &Value, key: &str) -> Option<Value> {
        let (command, origin) = match form::steal::submitted(view) {
            Ok(wanted) => wanted,
            Err(refused) => return Some(refused.to_json()),
        };
        let key = idempotent(key);
        let (tell, refused) = oneshot::channel();
        let begun = self.begin(move |inner| async move {
            let here = conversation(&origin.conversation, None);
            let said = Said { key, ..Said::new(Some(user.clone()), here, command.to_string()) };
            inner.steal_from_form(said, user, tell).await
        });
        if !begun {
            return Some(form::steal::refused_by_server(BUSY));
        }
        match timeout(ANSWER, refused).await {
            Ok(Ok(Some(message))) => {
                let lines = message.lines.iter().map(Text::words);
                let words: Vec<String> = std::iter::once(message.title.words()).chain(lines).collect();
                Some(form::steal::refused_by_server(&words.join(" – ")))
            }
            _ => None,
        }
    }

    /// A form was sent. A refusal that comes in time is shown in it.
    pub(super) async fn submit(&self, user: PersonName, view: Value, key: &str) -> Option<Value> {
        if view["callback_id"] == form::steal::CALLBACK {
            return self.submit_reason(user, &view, key).await;
        }
        let (deploy, origin) = match form::submitted(&view) {
            Ok(wanted) => wanted,
            Err(refused) => return Some(refused.to_json()),
        };
        let key = idempotent(key);
        let (tell, refused) = oneshot::channel();
        let begun = self.begin(move |inner| async move {
            let channel = match origin.conversation.as_str() {
                "" => inner.direct(&user).await,
                channel => channel.to_owned(),
            };
            let said = Said {
                key,
                ..Said::new(Some(user.clone()), conversation(&channel, None), deploy.to_string())
            };
            inner.deploy_from_form(said, user, tell).await
        });
        if !begun {
            let busy = Message::new(Tone::Bad, Text::from(BUSY));
            return Some(form::refused_by_server(&view, &busy, "busy"));
        }
        match timeout(ANSWER, refused).await {
            Ok(Ok(Some((message, code)))) => Some(form::refused_by_server(&view, &message, &code)),
            _ => None,
        }
    }
}
