//! The words of the pages: states, times and whatever else people read; used by every page.
//!
//! Text that comes from outside (commit subjects, details of failures) passes through [`visible`], so that what cannot be
//! seen on a screen, or would turn other text around, is shown as what it is. Escaping for HTML is maud's.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use sdp_core::api::Load;
use sdp_core::deployment::{DeployKind, Deployment, Outcome, State, Step};
use sdp_core::sandbox::{Instance, InstanceState, StopReason};

/// What a state means to the eye; the class of its badge. The word beside it says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// It waits.
    Wait,
    /// It is being worked on.
    Run,
    /// It is well.
    Ok,
    /// Somebody should look.
    Bad,
    /// It is over, and nobody need look.
    Off,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Run => "run",
            Self::Ok => "ok",
            Self::Bad => "bad",
            Self::Off => "off",
        }
    }
}

/// Where a deployment stands, in a word or two.
pub(super) fn deployment_state(deployment: &Deployment) -> (Tone, Cow<'static, str>) {
    let cancelling = deployment.cancel_requested_by.is_some();
    match &deployment.state {
        State::Queued {} | State::Running { .. } if cancelling => (Tone::Wait, "Cancelling".into()),
        State::Queued {} => (Tone::Wait, "Queued".into()),
        State::Running { step } => (Tone::Run, doing(*step).into()),
        State::Ended { outcome } => match outcome {
            Outcome::Succeeded {} => (Tone::Ok, "Succeeded".into()),
            Outcome::Failed { failure } => match failure.step {
                Some(step) => (Tone::Bad, format!("Failed in {step}").into()),
                None => (Tone::Bad, "Failed".into()),
            },
            Outcome::Cancelled { .. } => (Tone::Off, "Cancelled".into()),
            Outcome::Superseded { .. } => (Tone::Off, "Superseded".into()),
            other => (Tone::Off, other.code().into()),
        },
        _ => (Tone::Off, "Unknown".into()),
    }
}

/// Where an instance stands.
pub(super) fn instance_state(state: &InstanceState) -> (Tone, &'static str) {
    match state {
        InstanceState::Starting {} => (Tone::Run, "Starting"),
        InstanceState::Live {} => (Tone::Ok, "Live"),
        InstanceState::Unhealthy {} => (Tone::Bad, "Unhealthy"),
        InstanceState::Draining { .. } => (Tone::Off, "Finishing"),
        InstanceState::Stopped { reason: StopReason::Crashed { .. } } => (Tone::Bad, "Crashed"),
        InstanceState::Stopped {
            reason:
                StopReason::AgentRestarted {} | StopReason::EngineRestarted {} | StopReason::NotStarted { .. },
        } => (Tone::Bad, "Down"),
        InstanceState::Stopped { .. } => (Tone::Off, "Stopped"),
        InstanceState::Lost {} => (Tone::Bad, "Lost"),
        _ => (Tone::Off, "Unknown"),
    }
}

/// Why an instance does not serve as it should, as a sentence, where there is something to say.
pub(super) fn instance_reason(instance: &Instance) -> Option<String> {
    match &instance.state {
        InstanceState::Unhealthy {} => Some(match &instance.unhealthy {
            Some(unhealthy) => {
                let detail = visible(&unhealthy.detail);
                format!("It runs, but has not passed its health check since it was started again: {detail}.")
            }
            None => "It runs, but does not pass its health check.".to_owned(),
        }),
        InstanceState::Lost {} => Some("Its agent is gone, so nobody knows whether it runs.".to_owned()),
        InstanceState::Draining { reason } | InstanceState::Stopped { reason } => stop_reason(reason),
        _ => None,
    }
}

fn stop_reason(reason: &StopReason) -> Option<String> {
    match reason {
        StopReason::Replaced {} => Some("A newer deployment took its place.".to_owned()),
        StopReason::Stopped { by } => Some(format!("Stopped by {by}.")),
        StopReason::SandboxDeleted {} => Some("Its sandbox was deleted.".to_owned()),
        StopReason::SandboxExpired {} => Some("Its sandbox has come to its end.".to_owned()),
        StopReason::Crashed { out_of_memory: true, .. } => {
            Some("It took more memory than it may, and was ended.".to_owned())
        }
        StopReason::Crashed { exit_code: Some(code), .. } => {
            Some(format!("It ended by itself with exit code {code}."))
        }
        StopReason::Crashed { signal: Some(signal), .. } => Some(format!("It was ended by signal {signal}.")),
        StopReason::Crashed { .. } => Some("It ended by itself.".to_owned()),
        StopReason::AgentRestarted {} => Some("Its agent was restarted, and it with it.".to_owned()),
        StopReason::EngineRestarted {} => {
            Some("Its container engine was restarted, and it with it.".to_owned())
        }
        StopReason::NotStarted { detail } => {
            Some(format!("It could not be started again: {}.", visible(detail)))
        }
        _ => None,
    }
}

/// How often an instance was started again, and why at last; as sentences.
pub(super) fn restarted(instance: &Instance) -> Option<String> {
    let times = match instance.restarts {
        0 => return None,
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    };
    let why = instance.last_restart.as_ref().and_then(|last| stop_reason(&last.reason)).unwrap_or_default();
    Some(format!("It was started again {times}. {why}").trim_end().to_owned())
}

/// What a deployment does in a step.
pub(super) fn doing(step: Step) -> &'static str {
    match step {
        Step::Resolve => "Resolving",
        Step::Fetch => "Fetching",
        Step::Build => "Building",
        Step::Start => "Starting",
        Step::Check => "Checking",
        Step::Switch => "Switching",
        _ => "Running",
    }
}

/// A step's name as a heading.
pub(super) fn step_name(step: Step) -> String {
    capitalised(step.as_str())
}

/// What a deployment repeats, if it is not a plain one: "Rollback to #410".
pub(super) fn kind(deployment: &Deployment) -> Option<String> {
    let (alone, with) = match deployment.kind {
        DeployKind::Redeploy => ("Redeploy", "Redeploy of"),
        DeployKind::Rollback => ("Rollback", "Rollback to"),
        DeployKind::Restart => ("Restart", "Restart of"),
        _ => return None,
    };
    Some(match deployment.of {
        Some(of) => format!("{with} #{of}"),
        None => alone.to_owned(),
    })
}

/// A sentence's first letter in upper case.
pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// How long something took: `0.4 s`, `12 s`, `1 min 05 s`, `2 h 07 min`. The same rule as `duration` in common.js.
pub(super) fn duration(from: Timestamp, to: Timestamp) -> String {
    let millis = to.duration_since(from).max(SignedDuration::ZERO).as_millis();
    let seconds = millis / 1000;
    match seconds {
        0..10 => format!("{}.{} s", seconds, millis % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What an agent holds and has room for.
pub(super) fn load(load: &Load) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut text = match (load.disk_free, load.disk_total) {
        (Some(free), Some(total)) => format!("{:.1} of {:.1} GiB free", gib(free), gib(total)),
        (Some(free), None) => format!("{:.1} GiB free", gib(free)),
        (None, _) => "free space unknown".to_owned(),
    };
    // Those of jobs at work are no backlog.
    let logs = load.spool_jobs.saturating_sub(load.running);
    if logs > 0 {
        let noun = if logs == 1 { "log" } else { "logs" };
        text += &format!(", {logs} {noun} to be delivered ({} MiB)", load.spool_bytes.div_ceil(1 << 20));
    }
    text
}

/// How long ago something was, roughly. The same rule as `ago` in common.js.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    match now.duration_since(at).as_secs() {
        ..10 => "just now".to_owned(),
        seconds @ 10..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// How soon something will be, roughly and never sooner than it is. The same rule as `until` in common.js.
pub(super) fn until(at: Timestamp, now: Timestamp) -> String {
    match at.duration_since(now).as_secs() {
        ..=0 => "now".to_owned(),
        1..60 => "in less than a minute".to_owned(),
        seconds @ 60..3600 => format!("in {} min", seconds / 60),
        seconds @ 3600..172_800 => format!("in {} h", seconds / 3600),
        seconds => format!("in {} days", seconds / 86_400),
    }
}

/// So many hours, as people say it: `20 hours`, `7 days`.
pub(super) fn hours(hours: u32) -> String {
    match (hours / 24, hours % 24) {
        (2.., 0) => format!("{} days", hours / 24),
        _ if hours == 1 => "1 hour".to_owned(),
        _ => format!("{hours} hours"),
    }
}

/// `one sandbox`, `3 sandboxes`.
pub(super) fn number_of(n: usize, one: &str, many: &str) -> String {
    match n {
        1 => format!("one {one}"),
        n => format!("{} {many}", count(n as u64)),
    }
}

/// A day, as people who compare dates write it.
pub(super) fn date(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

/// `1st`, `2nd`, `3rd`, `11th`.
pub(super) fn ordinal(n: u32) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// `12,345`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The text with its control characters, and those that turn text around or take no room, spelled out: `⟨U+202E⟩`. The
/// same characters as `HIDDEN` in ansi.js.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            out.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_exact_as_people_want_them() {
        let from = Timestamp::UNIX_EPOCH;
        let shown: Vec<_> = [-5, 0, 420, 9_999, 10_000, 59_999, 65_000, 3_599_000, 7_620_000]
            .map(|ms| duration(from, from + SignedDuration::from_millis(ms)))
            .into();
        insta::assert_debug_snapshot!(shown, @r#"
        [
            "0.0 s",
            "0.0 s",
            "0.4 s",
            "9.9 s",
            "10 s",
            "59 s",
            "1 min 05 s",
            "59 min 59 s",
            "2 h 07 min",
        ]
        "#);
    }

    #[test]
    fn ages_are_rough_and_never_negative() {
        let at = Timestamp::UNIX_EPOCH;
        let shown: Vec<_> = [-60, 9, 59, 60, 3_600, 86_400, 172_800]
            .map(|s| ago(at, at + SignedDuration::from_secs(s)))
            .into();
        insta::assert_debug_snapshot!(shown, @r#"
        [
            "just now",
            "just now",
            "59 s ago",
            "1 min ago",
            "1 h ago",
            "24 h ago",
            "2 days ago",
        ]
        "#);
    }

    #[test]
    fn what_will_be_is_rough_and_never_sooner_than_it_is() {
        let now = Timestamp::UNIX_EPOCH;
        let shown: Vec<_> = [-60, 0, 59, 60, 3_599, 3_600, 86_400, 172_799, 172_800, 604_800]
            .map(|s| until(now + SignedDuration::from_secs(s), now))
            .into();
        insta::assert_debug_snapshot!(shown, @r#"
        [
            "now",
            "now",
            "in less than a minute",
            "in 1 min",
            "in 59 min",
            "in 1 h",
            "in 24 h",
            "in 47 h",
            "in 2 days",
            "in 7 days",
        ]
        "#);
        assert_eq!(
            [1, 23, 24, 36, 48, 168].map(hours).join(", "),
            "1 hour, 23 hours, 24 hours, 36 hours, 2 days, 7 days"
        );
    }

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        assert_eq!(visible("plain ünïcode 🚀"), "plain ünïcode 🚀");
        assert_eq!(visible("a\u{202e}b\u{0}c\u{1b}[2J\nd"), "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩[2J⟨U+000A⟩d");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 13, 21, 112].map(ordinal).join(" "),
            "1st 2nd 3rd 4th 11th 12th 13th 21st 112th"
        );
    }
}
