//! SDP in Slack, against a Slack of our own ([`fake`]) that somebody else's client has checked ([`sdk_check`]).

mod bot;
mod channels;
mod deploys;
mod fake;
mod forms;
mod hostile;
mod http;
mod login;
mod places;
mod restart;
mod sdk_check;
mod trouble;
mod wire;

/// A transcript as it would be if each step had been told alone: which of them were told together depends on the moment.
/// Folders of this run are left out.
pub(crate) fn story(transcript: &str) -> String {
    let mut story = String::new();
    let mut in_reply = false;
    for line in transcript.lines() {
        let words = line.trim_start();
        in_reply = words.starts_with('↳') || in_reply && line.starts_with("      ");
        match words.strip_prefix("✓ ").filter(|_| in_reply) {
            Some(step) => story.push_str(&format!("  ↳ sdp: :white_check_mark: {step}")),
            None => story.push_str(line),
        }
        story.push('\n');
    }
    let mut parts = story.split("/tmp/.tmp");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |story, part| story + "/tmp/RUN" + part.trim_start_matches(char::is_alphanumeric))
}
