//! What waits to be posted in one channel, in order; which goes next, and which go together. Pure.
//!
//! A new message goes before replies, so that what was asked for is there at once. Replies of one thread keep their order; steps
//! that went well and wait together are said together, so that a busy channel hears fewer, longer replies instead of ever later
//! ones.
//!
//! Limits: [`MAX_JOBS`] wait in a channel; [`MAX_TOGETHER`] replies are said together.

use jiff::Timestamp;
use sdp_core::name::PersonName;
use std::collections::{HashSet, VecDeque};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::pace::Pace;
use crate::chat::{About, Place, Seen};
use crate::message::{Message, Tone};

/// How many jobs wait in a channel; what comes then is not taken.
pub(super) const MAX_JOBS: usize = 5000;
/// How many replies are said together.
pub(super) const MAX_TOGETHER: usize = 8;

/// Something to be posted.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) message: Message,
    pub(super) done: Vec<Done>,
    /// How often it was tried.
    pub(super) tried: u32,
    /// The last time it may have been posted although no answer came.
    pub(super) unclear: bool,
    pub(super) since: Instant,
    pub(super) not_before: Instant,
}

#[derive(Debug)]
pub(super) enum Done {
    Place(oneshot::Sender<Seen<Place>>),
    Seen(oneshot::Sender<Seen<()>>),
}

impl Done {
    pub(super) fn tell(self, seen: Seen<Place>) {
        // Whoever asked may have gone.
        let _nobody_waits = match self {
            Self::Place(done) => done.send(seen).is_ok(),
            Self::Seen(done) => done.send(seen.map(drop)).is_ok(),
        };
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A story's message.
    Root { about: About, person: Option<PersonName> },
    /// An answer, in a thread or not.
    Say { thread: Option<String>, person: Option<PersonName> },
    /// What one person sees.
    Whisper { thread: Option<String>, person: PersonName },
    /// To one person, who did not ask for it.
    Direct { person: PersonName, name: String, since: Option<Timestamp> },
    /// In the thread of a story's message.
    Reply { thread: String, about: About, keys: Vec<String> },
}

/// A channel.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) jobs: VecDeque<Job>,
    pub(super) pace: Pace,
    /// Something is being posted.
    pub(super) busy: bool,
}

impl Lane {
    pub(super) fn new(pace: Pace) -> Self {
        Self { jobs: VecDeque::new(), pace, busy: false }
    }

    /// Takes the next job, if one may go now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
        if self.busy || !self.pace.may(now) {
            return None;
        }
        let at = self
            .heads()
            .filter(|(_, job)| job.not_before <= now)
            .min_by_key(|(at, job)| (matches!(job.kind, Kind::Reply { .. }), *at))?
            .0;
        let job = self.jobs.remove(at)?;
        self.busy = true;
        self.pace.took(now);
        Some(self.with_those_that_wait(job, at))
    }

    fn with_those_that_wait(&mut self, mut first: Job, mut at: usize) -> Job {
        let Kind::Reply { thread, about, mut keys } = first.kind.clone() else { return first };
        // What may have been posted is posted again as it was, or not at all.
        if first.unclear || !goes_together(&first.message) {
            return first;
        }
        let mut messages = vec![first.message];
        while messages.len() < MAX_TOGETHER
            && let Some(next) = self.jobs.get(at)
        {
            match &next.kind {
                Kind::Reply { thread: other, .. } if *other != thread => at += 1,
                Kind::Reply { .. } if !next.unclear && goes_together(&next.message) => {
                    let Some(next) = self.jobs.remove(at) else { break };
                    if let Kind::Reply { keys: more, .. } = next.kind {
                        keys.extend(more);
                    }
                    messages.push(next.message);
                    first.done.extend(next.done);
                }
                Kind::Reply { .. } => break,
                _ => at += 1,
            }
        }
        first.message = Message::joined(messages);
        first.kind = Kind::Reply { thread, about, keys };
        first
    }

    /// A story's message that waits, and was not posted as far as can be known.
    pub(super) fn waiting_root(&mut self, story: About) -> Option<&mut Job> {
        let is = |job: &&mut Job| matches!(job.kind, Kind::Root { about, .. } if about == story);
        self.jobs.iter_mut().find(is).filter(|job| !job.unclear)
    }

    /// When something may go; none: nothing waits.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.busy {
            return None;
        }
        self.heads().map(|(_, job)| job.not_before.max(self.pace.next())).min()
    }

    /// What is less goes first.
    pub(super) fn urgency(&self) -> Option<(bool, Instant)> {
        let urgency = |(_, job): (usize, &Job)| (matches!(job.kind, Kind::Reply { .. }), job.since);
        self.heads().map(urgency).min()
    }

    /// Those that nothing of their own thread comes before.
    fn heads(&self) -> impl Iterator<Item = (usize, &Job)> {
        let mut threads = HashSet::new();
        self.jobs.iter().enumerate().filter(move |(_, job)| match &job.kind {
            Kind::Reply { thread, .. } => threads.insert(thread.as_str()),
            _ => true,
        })
    }
}

/// Whether it says only that something went well: nobody is called, nothing is offered.
fn goes_together(message: &Message) -> bool {
    matches!(message.tone, Tone::Good | Tone::Note)
        && message.block.is_empty()
        && message.actions.is_empty()
        && message.notice.is_none()
        && !message.calls_somebody()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::text::Text;

    fn job(kind: Kind, message: Message) -> Job {
        let now = Instant::now();
        Job { kind, message, done: Vec::new(), tried: 0, unclear: false, since: now, not_before: now }
    }

    fn reply(thread: &str, key: &str, tone: Tone) -> Job {
        let kind = Kind::Reply {
            thread: thread.into(),
            about: About::from(sdp_core::id::DeploymentId::new()),
            keys: vec![key.into()],
        };
        job(kind, Message::new(tone, Text::from(key)))
    }

    /// Everything, as it goes: one line each.
    fn all(lane: &mut Lane) -> Vec<String> {
        let mut said = Vec::new();
        let mut now = Instant::now();
        while let Some(at) = lane.next() {
            now = now.max(at);
            let job = lane.take(now).expect("it may go");
            lane.busy = false;
            said.push(match job.kind {
                Kind::Reply { thread, keys, .. } => format!("{thread}: {}", keys.join("+")),
                Kind::Root { .. } => "root".to_owned(),
                _ => "say".to_owned(),
            });
        }
        said
    }

    #[test]
    fn a_new_message_goes_first_and_steps_of_one_thread_go_together_in_order() {
        let now = Instant::now();
        let mut lane = Lane::new(Pace::new(Duration::from_secs(1), 2, now));
        for (thread, key, tone) in [
            ("a", "1", Tone::Good),
            ("b", "1", Tone::Good),
            ("a", "2", Tone::Note),
            ("a", "3", Tone::Bad),
            ("a", "4", Tone::Good),
            ("b", "2", Tone::Good),
        ] {
            lane.jobs.push_back(reply(thread, key, tone));
        }
        let person = None;
        lane.jobs.push_back(job(
            Kind::Root { about: About::from(sdp_core::id::DeploymentId::new()), person },
            Message::new(Tone::Waiting, Text::from("x")),
        ));
        assert_eq!(all(&mut lane), ["root", "a: 1+2", "b: 1+2", "a: 3", "a: 4"]);
    }

    #[test]
    fn what_has_to_wait_holds_up_its_thread_and_no_other() {
        let now = Instant::now();
        let mut lane = Lane::new(Pace::new(Duration::from_secs(1), 5, now));
        let mut first = reply("a", "1", Tone::Good);
        (first.not_before, first.unclear) = (now + Duration::from_secs(60), true);
        lane.jobs.extend([first, reply("a", "2", Tone::Good), reply("b", "1", Tone::Good)]);
        assert_eq!(all(&mut lane), ["b: 1", "a: 1", "a: 2"]);
    }
}
