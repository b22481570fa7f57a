//! The commands that were answered in this connection: the same id gets the same answer, and has no second effect. After a hello the
//! server asks only for what that did not name.

use std::collections::{HashMap, VecDeque};

use sdp_core::id::CommandId;
use sdp_core::wire::{FromAgent, RejectReason};

/// So many commands are remembered; the server repeats one only until it has its answer.
const KEPT: usize = 4096;

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Accepted,
    Rejected(RejectReason, String),
}

impl Reply {
    pub(super) fn rejected(reason: RejectReason, message: impl Into<String>) -> Self {
        Self::Rejected(reason, message.into())
    }

    pub(super) fn frame(self, command: CommandId) -> FromAgent {
        match self {
            Self::Accepted => FromAgent::Accepted { command },
            Self::Rejected(reason, message) => FromAgent::Rejected { command, reason, message },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    replies: HashMap<CommandId, Reply>,
    order: VecDeque<CommandId>,
}

impl Recent {
    pub(super) fn find(&self, command: CommandId) -> Option<Reply> {
        self.replies.get(&command).cloned()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn remember(&mut self, command: CommandId, reply: Reply) {
        if self.replies.insert(command, reply).is_none() {
            self.order.push_back(command);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.replies.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_commands_are_remembered() {
        let mut recent = Recent::default();
        let first = CommandId::new();
        let busy = Reply::rejected(RejectReason::Busy, "busy");
        recent.remember(first, busy.clone());
        recent.remember(first, busy.clone());
        for _ in 1..KEPT {
            recent.remember(CommandId::new(), Reply::Accepted);
        }
        assert_eq!(recent.find(first), Some(busy));
        recent.remember(CommandId::new(), Reply::Accepted);
        assert_eq!(recent.find(first), None);
        assert_eq!((recent.replies.len(), recent.order.len()), (KEPT, KEPT));
    }
}
