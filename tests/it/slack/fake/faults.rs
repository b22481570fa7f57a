//! What goes wrong on purpose, and how often.

use std::collections::VecDeque;

/// What becomes of a call of the Web API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 429 with these seconds in `Retry-After`.
    RateLimited(u64),
    /// This status, with a page of HTML as a balancer answers.
    Status(u16),
    /// No answer, ever.
    Hang,
    /// `ok: false` with this error.
    Error(&'static str),
    /// The connection ends without an answer.
    Cut,
}

/// What becomes of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkFault {
    /// It is taken, and closed before a word.
    ClosesAtOnce,
    /// The handshake is answered with 503.
    RefusesHandshake,
    /// It is open, and silent.
    NeverSaysHello,
    /// It says hello; then nothing arrives on either side any more, and nobody is told.
    HalfOpen,
}

/// For how long a failure lasts that is to last until it is lifted.
pub(crate) const ALWAYS: u32 = u32::MAX;

#[derive(Debug)]
struct Planned {
    method: String,
    fault: Fault,
    /// What was asked for is done, and only the answer is lost.
    after: bool,
    left: u32,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: VecDeque<Planned>,
    links: VecDeque<(LinkFault, u32)>,
}

impl Faults {
    pub(super) fn plan(&mut self, method: &str, times: u32, fault: Fault, after: bool) {
        self.planned.push_back(Planned { method: method.to_owned(), fault, after, left: times });
    }

    pub(super) fn plan_link(&mut self, times: u32, fault: LinkFault) {
        self.links.push_back((fault, times));
    }

    pub(super) fn lift(&mut self, method: &str) {
        self.planned.retain(|planned| planned.method != method);
    }

    pub(super) fn lift_links(&mut self) {
        self.links.clear();
    }

    /// The oldest failure that is still to come for a method, and whether it comes after the effect.
    pub(super) fn next(&mut self, method: &str) -> Option<(Fault, bool)> {
        let is = |planned: &Planned| planned.method == method || planned.method == "*";
        let at = self.planned.iter().position(is)?;
        let planned = &mut self.planned[at];
        let found = (planned.fault.clone(), planned.after);
        if planned.left != ALWAYS {
            planned.left -= 1;
        }
        if planned.left == 0 {
            self.planned.remove(at);
        }
        Some(found)
    }

    pub(super) fn next_link(&mut self) -> Option<LinkFault> {
        let (fault, left) = self.links.front_mut()?;
        let found = *fault;
        if *left != ALWAYS {
            *left -= 1;
        }
        if *left == 0 {
            self.links.pop_front();
        }
        Some(found)
    }
}
