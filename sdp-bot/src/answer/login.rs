//! Logging in and out, and who one is.

use sdp_core::client::ClientError;

use crate::bot::{Asker, Reaction, Trouble};
use crate::message::{Message, login as say};

impl Asker {
    /// A link to the login page, which nobody else may see.
    pub(crate) async fn login(&self) -> Result<Reaction, Trouble> {
        // Whoever opens the link may be somebody else a moment later.
        self.forget_me();
        let (me, link) = tokio::join!(self.me(), self.client.login_link());
        self.forget_me();
        match link {
            Ok(link) => Ok(Reaction::Whisper(Box::new(say::link(&link, &me?)))),
            Err(ClientError::Problem(problem)) if problem.code == "no_login" => {
                Err(say::nobody_logs_in(&me?).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn logout(&self) -> Result<Message, Trouble> {
        self.forget_me();
        let me = self.me().await?;
        if me.account.is_none() || me.chat_user.is_none() {
            return Err(say::was_not_logged_in(&me).into());
        }
        let done = self.client.log_out().await;
        self.forget_me();
        match done {
            // It ended between the two questions.
            Err(error) if error.code() == "login_needed" => Err(say::was_not_logged_in(&me).into()),
            done => done.map(|()| say::logged_out(&me, &self.account_page())).map_err(Trouble::from),
        }
    }

    pub(crate) async fn whoami(&self) -> Result<Message, Trouble> {
        self.forget_me();
        Ok(say::whoami(&self.me().await?, self.client.base()))
    }
}
