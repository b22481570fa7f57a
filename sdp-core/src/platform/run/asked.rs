//! Questions that agents were asked, until they answer, are gone, or have taken too long.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::super::PlatformError;
use super::super::input::Question;
use super::{Run, Turn};
use crate::id::CommandId;
use crate::name::AgentName;
use crate::wire::{Answer, ToAgent};

/// What an agent that keeps to a question's own limit may be late.
const LATE: Duration = Duration::from_secs(2);

pub(super) struct Asked {
    agent: AgentName,
    until: Timestamp,
    answer: oneshot::Sender<Result<Answer, PlatformError>>,
}

impl Run {
    pub(super) fn ask(
        &mut self,
        now: Timestamp,
        question: Question,
        answer: oneshot::Sender<Result<Answer, PlatformError>>,
        turn: &mut Turn,
    ) {
        let command = CommandId::new();
        let mut limit = self.config.answer_limit;
        let (agent, message) = match question {
            Question::ListRefs { repo, labels, credential } => {
                // The asker's credential goes only to an agent that could deploy the service.
                let agent = self.world.agents.values().find(|agent| {
                    agent.connected && agent.row.capacity > 0 && labels.is_subset(&agent.row.labels)
                });
                let Some(agent) = agent else {
                    drop(answer.send(Err(PlatformError::NoAgent)));
                    return;
                };
                (agent.row.name.clone(), ToAgent::ListRefs { command, repo, credential })
            }
            Question::ReadOutput { agent, instance, lines } => {
                (agent, ToAgent::ReadOutput { command, instance, lines })
            }
            Question::CheckCredential { agent, repo, credential, within } => {
                let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
                limit = within.saturating_add(LATE).min(limit);
                (agent, ToAgent::CheckCredential { command, repo, credential, within_ms })
            }
            Question::Probe { agent, probe } => {
                limit = Duration::from_millis(probe.within_ms.into()).saturating_add(LATE).max(limit);
                (agent, ToAgent::Probe { command, probe })
            }
            Question::ListRepos { agent, repo, credential } => {
                (agent, ToAgent::ListRepos { command, repo, credential })
            }
        };
        if !self.outboxes.contains_key(&agent) {
            drop(answer.send(Err(PlatformError::AgentAway { agent })));
            return;
        }
        let until = now.checked_add(limit).unwrap_or(Timestamp::MAX);
        self.asked.insert(command, Asked { agent: agent.clone(), until, answer });
        turn.sends.push((agent, message));
    }

    pub(super) fn answered(&mut self, agent: &AgentName, command: CommandId, answer: Answer) {
        if self.asked.get(&command).is_some_and(|asked| asked.agent == *agent)
            && let Some(asked) = self.asked.remove(&command)
        {
            drop(asked.answer.send(Ok(answer)));
        }
    }

    /// When the next of them has taken too long.
    pub(super) fn next_answer_due(&self) -> Option<Timestamp> {
        self.asked.values().map(|asked| asked.until).min()
    }

    pub(super) fn asked_too_long(&mut self, now: Timestamp) {
        for (_, asked) in self.asked.extract_if(|_, asked| now >= asked.until) {
            drop(asked.answer.send(Err(PlatformError::NoAnswer { agent: asked.agent })));
        }
    }

    pub(super) fn asked_is_gone(&mut self, agent: &AgentName) {
        for (_, asked) in self.asked.extract_if(|_, asked| asked.agent == *agent) {
            drop(asked.answer.send(Err(PlatformError::AgentAway { agent: asked.agent })));
        }
    }
}
