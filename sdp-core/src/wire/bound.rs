//! How much an agent may say: whatever it sends is cut to this before anything of it is stored or shown.
//!
//! Called by the agent for what it makes itself ([`Exit::new`], [`newest_that_fit`]), and by the platform's sessions for all that
//! comes from an agent ([`FromAgent::bounded`]): an agent is not trusted, and readers of events take 1 MiB at most.
//!
//! Lengths are counted as JSON, since what must be escaped takes up to six times as much there.

use super::{Answer, Exit, FromAgent, Health, InstanceStatus, JobResult, OutputLine, Progress, RestartCause};
use crate::deployment::{Changes, CommitInfo};
use crate::failure::Failure;

/// The most last lines of an instance.
pub const MOST_LAST_LINES: usize = 200;
/// The most bytes that last lines have together.
pub const LAST_LINES: usize = 48 * 1024;
/// The most bytes of one of them; of a longer one the beginning is kept, which says what it is about.
pub const LAST_LINE: usize = 4 * 1024;
/// The most bytes of what is said in a sentence.
pub const SENTENCE: usize = 4 * 1024;
/// The most bytes of a short text, such as a version.
pub const WORD: usize = 512;
/// The most checks of a machine, and runtimes of an agent.
const ITEMS: usize = 100;
/// The most bytes of output in a frame for followers: what a well-behaved agent puts into one is a quarter of it.
const OUTPUT: usize = 256 * 1024;
/// Appended to a text that was cut.
const CUT: &str = " … [cut]";

/// How many bytes a text has as JSON, without its quotes.
#[must_use]
pub fn json_length(text: &str) -> usize {
    text.bytes().map(|byte| json_byte(char::from(byte))).sum()
}

fn json_byte(first: char) -> usize {
    match first {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        _ => 1,
    }
}

/// A text within so many bytes; what is longer is cut, and says so.
#[must_use]
pub fn shortened(mut text: String, most: usize) -> String {
    if json_length(&text) <= most {
        return text;
    }
    let mut room = most.saturating_sub(CUT.len());
    let fits = text.char_indices().find(|(_, c)| {
        let takes = if c.is_ascii() { json_byte(*c) } else { c.len_utf8() };
        let full = takes > room;
        room = room.saturating_sub(takes);
        full
    });
    text.truncate(fits.map_or(text.len(), |(at, _)| at));
    text.push_str(CUT);
    text
}

/// How many of the newest (last) texts fit into so many bytes, with their quotes and commas.
fn newest<'a>(texts: impl DoubleEndedIterator<Item = &'a str>, mut room: usize) -> usize {
    let fitting = texts.rev().take_while(|text| {
        let takes = json_length(text) + 3;
        let fits = takes <= room;
        room = room.saturating_sub(takes);
        fits
    });
    fitting.count()
}

/// The newest of these lines, as many as have so many bytes together.
#[must_use]
pub fn newest_that_fit(mut lines: Vec<String>, most: usize) -> Vec<String> {
    let skipped = lines.len() - newest(lines.iter().map(String::as_str), most);
    lines.split_off(skipped)
}

fn last_lines(mut lines: Vec<String>) -> Vec<String> {
    let newest = lines.split_off(lines.len().saturating_sub(MOST_LAST_LINES));
    newest_that_fit(newest.into_iter().map(|line| shortened(line, LAST_LINE)).collect(), LAST_LINES)
}

impl Exit {
    /// How something ended, with as many of its last lines, the newest, as may be told.
    #[must_use]
    pub fn new(exit_code: Option<i32>, signal: Option<i32>, out_of_memory: bool, lines: Vec<String>) -> Self {
        Self { exit_code, signal, out_of_memory, last_lines: last_lines(lines), not_started: None }
    }

    fn bound(&mut self) {
        self.last_lines = last_lines(std::mem::take(&mut self.last_lines));
        if let Some(why) = &mut self.not_started {
            cut(why, SENTENCE);
        }
    }
}

impl InstanceStatus {
    /// How it ended, the last time that it did.
    pub fn exit_mut(&mut self) -> Option<&mut Exit> {
        match self {
            Self::Running { last_restart: Some(RestartCause::Exited { exit }), .. }
            | Self::Exited { exit } => Some(exit),
            Self::Running { .. } | Self::Stopped {} => None,
        }
    }

    fn bound(&mut self) {
        if let Some(exit) = self.exit_mut() {
            exit.bound();
        }
        if let Self::Running { health: Health::Unhealthy { detail }, .. } = self {
            cut(detail, SENTENCE);
        }
    }
}

impl FromAgent {
    /// The same, with no more than an agent may say.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        match &mut self {
            Self::Hello { version, runtimes, preflight, instances, degraded, router, .. } => {
                cut(version, WORD);
                runtimes.truncate(ITEMS);
                runtimes.iter_mut().for_each(|runtime| cut(runtime, WORD));
                bound_checks(preflight);
                instances.iter_mut().for_each(|report| report.status.bound());
                if let Some(why) = degraded {
                    cut(why, SENTENCE);
                }
                // An address that is cut leads elsewhere; people are told that there is no router.
                router.take_if(|router| json_length(router.base_url.as_str()) > SENTENCE);
            }
            Self::Rejected { message, .. } => cut(message, SENTENCE),
            Self::Progress { what, .. } => bound_progress(what),
            Self::Instance { report } => report.status.bound(),
            Self::Preflight { checks } => bound_checks(checks),
            Self::Output { left_out, lines, .. } => bound_output(left_out, lines),
            Self::OutputEnded { failure: Some(failure), .. }
            | Self::Answer { answer: Answer::Failed { failure }, .. } => bound_failure(failure),
            Self::OutputEnded { failure: None, .. }
            | Self::Answer { .. }
            | Self::Accepted { .. }
            | Self::Done { .. }
            | Self::Load { .. }
            | Self::RoutesApplied { .. }
            | Self::Drained { .. }
            | Self::Bye { .. } => {}
        }
        self
    }
}

fn cut(text: &mut String, most: usize) {
    *text = shortened(std::mem::take(text), most);
}

fn bound_checks(checks: &mut Vec<super::Preflight>) {
    checks.truncate(ITEMS);
    for check in checks {
        cut(&mut check.check, WORD);
        cut(&mut check.detail, SENTENCE);
    }
}

fn bound_failure(failure: &mut Failure) {
    cut(&mut failure.detail, SENTENCE);
}

fn bound_progress(what: &mut Progress) {
    match what {
        Progress::Fetched { info: CommitInfo { author, subject }, changes } => {
            cut(author, WORD);
            cut(subject, SENTENCE);
            if let Some(changes) = changes {
                changes.subjects.truncate(Changes::SUBJECTS);
                changes.subjects.iter_mut().for_each(|subject| cut(subject, WORD));
            }
        }
        Progress::Noted { text } => cut(text, SENTENCE),
        Progress::Ended { result: JobResult::Failed { failure } } => bound_failure(failure),
        Progress::Ended { .. }
        | Progress::StepStarted { .. }
        | Progress::Resolved { .. }
        | Progress::BuildReused { .. }
        | Progress::Started { .. } => {}
    }
}

fn bound_output(left_out: &mut u64, lines: &mut Vec<OutputLine>) {
    let skipped = lines.len() - newest(lines.iter().map(|line| line.text.as_str()), OUTPUT);
    lines.drain(..skipped);
    *left_out = left_out.saturating_add(skipped as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureReason;
    use crate::id::{CommandId, DeploymentId, InstanceId};
    use crate::wire::InstanceReport;

    fn as_json(value: &impl serde::Serialize) -> usize {
        serde_json::to_string(value).expect("JSON").len()
    }

    #[test]
    fn an_exit_has_the_newest_lines_that_fit_whatever_they_are_made_of() {
        for piece in ["\0", "\"", "é", "x", "🚀\n"] {
            let lines: Vec<String> = (0..500).map(|n| format!("{n} {}", piece.repeat(20_000))).collect();
            let exit = Exit::new(Some(1), None, false, lines);
            assert!(as_json(&exit.last_lines) <= LAST_LINES + 2, "{piece:?}");
            assert!((10..=MOST_LAST_LINES).contains(&exit.last_lines.len()), "{}", exit.last_lines.len());
            let newest = exit.last_lines.last().expect("lines");
            assert!(newest.starts_with("499 ") && newest.ends_with(CUT), "{newest}");
            // The server cuts nothing that an agent has cut already.
            assert_eq!(Exit::new(Some(1), None, false, exit.last_lines.clone()), exit);
        }
        let lines: Vec<String> = (0..201).map(|n| n.to_string()).collect();
        assert_eq!(Exit::new(None, Some(9), false, lines.clone()).last_lines, lines[1..]);
    }

    #[test]
    fn json_is_counted_as_it_is_written() {
        for text in
            ["", "plain", "a\"b\\c", "\0\u{1b}[31m", "tab\tline\n\r\u{8}\u{c}", "Åsa 🚀 \u{7f}\u{2028}"]
        {
            assert_eq!(json_length(text) + 2, as_json(&text), "{text:?}");
        }
    }

    #[test]
    fn nothing_that_an_agent_says_in_a_sentence_is_long() {
        let long = || "\0".repeat(100_000);
        let (deployment, command) = (DeploymentId::new(), CommandId::new());
        let failure = Failure::new(None, FailureReason::BuildFailed, long());
        let progress = |what| FromAgent::Progress { deployment, attempt: 1, number: 1, after_line: 0, what };
        let exit = Exit { last_lines: vec![long(); 300], not_started: Some(long()), ..Exit::default() };
        let status = InstanceStatus::Exited { exit: exit.clone() };
        let address = ([127, 0, 0, 1], 1).into();
        let running = InstanceStatus::Running {
            address,
            restarts: 1,
            last_restart: Some(RestartCause::Exited { exit }),
            health: Health::Unhealthy { detail: long() },
        };
        let report = |status| FromAgent::Instance {
            report: InstanceReport { instance: InstanceId::new(), deployment, status },
        };
        let reason = super::super::RejectReason::Busy;
        let said = [
            FromAgent::Rejected { command, reason, message: long() },
            progress(Progress::Noted { text: long() }),
            progress(Progress::Fetched {
                info: CommitInfo { author: long(), subject: long() },
                changes: Some(Changes {
                    since: "0123456789".repeat(4).parse().expect("a commit"),
                    added: u32::MAX,
                    removed: u32::MAX,
                    more: true,
                    subjects: vec![long(); 300],
                }),
            }),
            progress(Progress::Ended { result: JobResult::Failed { failure: failure.clone() } }),
            report(status),
            report(running),
            FromAgent::OutputEnded { command, failure: Some(failure.clone()) },
            FromAgent::Answer { command, answer: Answer::Failed { failure } },
        ];
        for message in said {
            let length = as_json(&message.bounded());
            assert!(length <= LAST_LINES + 2 * SENTENCE + 1024, "{length}");
        }
    }

    #[test]
    fn too_much_output_in_a_frame_is_counted_as_left_out() {
        let line = |n: usize| OutputLine {
            at: jiff::Timestamp::UNIX_EPOCH,
            stream: super::super::Stream::Stdout,
            text: format!("{n}{}", "x".repeat(100 * 1024)),
        };
        let lines = (1..=5).map(line).collect();
        let said = FromAgent::Output { command: CommandId::new(), left_out: 4, lines }.bounded();
        let FromAgent::Output { left_out, lines, .. } = said else { unreachable!() };
        assert_eq!((left_out, lines.len()), (7, 2));
        assert!(lines[1].text.starts_with('5'));
    }
}
