//! What a running service prints, as a stream. It does not reconnect: nothing of it is stored, so there is no place from where
//! to go on; whoever follows again begins with the last lines.

use std::collections::VecDeque;

use reqwest::header::ACCEPT;
use reqwest::{Method, Response};
use tokio::time::timeout;

use super::sse::{Message, Parser};
use super::{Client, ClientError, FEED_SILENCE, REQUEST_TIMEOUT};
use crate::api::{OutputChunk, OutputEnd};
use crate::id::InstanceId;

/// A piece of a followed output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputItem {
    /// It has printed something; the first piece comes at once, and may be empty.
    Lines(OutputChunk),
    /// That was all; see [`crate::api::OutputEndReason::may_go_on`].
    End(OutputEnd),
}

/// What an instance prints; see [`Client::follow_output`]. Dropping it ends the following.
#[derive(Debug)]
pub struct OutputStream {
    client: Client,
    response: Response,
    parser: Parser,
    ready: VecDeque<Message>,
    over: bool,
}

impl OutputStream {
    /// The next piece; `None` after the end or an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<OutputItem, ClientError>> {
        while !self.over {
            if let Some(message) = self.ready.pop_front() {
                let item = match message.event.as_deref() {
                    Some("lines") => serde_json::from_str(&message.data).map(OutputItem::Lines),
                    Some("end") => {
                        self.over = true;
                        serde_json::from_str(&message.data).map(OutputItem::End)
                    }
                    // Of a newer server.
                    _ => continue,
                };
                return Some(item.map_err(|source| {
                    self.over = true;
                    ClientError::Malformed { server: self.client.server(), source }
                }));
            }
            if let Err(error) = self.read().await {
                self.over = true;
                return Some(Err(error));
            }
        }
        None
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        let server = || self.client.server();
        let chunk = timeout(FEED_SILENCE, self.response.chunk())
            .await
            .map_err(|_| ClientError::TimedOut { server: server(), after: FEED_SILENCE })?;
        let Some(chunk) = chunk.map_err(|source| self.client.failed(source))? else {
            let text = "the output ended without a last word".to_owned();
            return Err(ClientError::Unexpected { server: server(), status: 503, text });
        };
        let messages = self
            .parser
            .push(&chunk)
            .map_err(|_| ClientError::TooLarge { server: server(), limit: super::sse::MAX_MESSAGE })?;
        self.ready.extend(messages);
        Ok(())
    }
}

impl Client {
    /// Follows what an instance prints: its last `lines` lines, then more as it comes, until it has ended. Lines are left out, and
    /// counted, for whoever reads slowly.
    ///
    /// # Errors
    /// As every method; `agent_away` and `too_many_followers` among the server's refusals.
    pub async fn follow_output(&self, instance: InstanceId, lines: u32) -> Result<OutputStream, ClientError> {
        let mut url = self.url(&["instances", &instance.to_string(), "output"]);
        url.query_pairs_mut().append_pair("follow", "true").append_pair("lines", &lines.to_string());
        let request = self.request(Method::GET, url).header(ACCEPT, "text/event-stream");
        let response = self.within(REQUEST_TIMEOUT, self.send(request)).await?;
        let (parser, ready) = (Parser::default(), VecDeque::new());
        Ok(OutputStream { client: self.clone(), response, parser, ready, over: false })
    }
}
