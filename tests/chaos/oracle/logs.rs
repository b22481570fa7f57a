//! One deployment's log, held side by side: what its build printed, the agent's copies, the server's files, REST as a whole and
//! in windows, and what a viewer has put together over all restarts.

use sdp_core::api::LogLine;
use sdp_core::client::Client;
use sdp_core::deployment::{Deployment, Outcome, Step};
use sdp_core::failure::FailureReason;
use sdp_core::wire::Stream;

use super::lines::{compare, first_difference, split};
use super::remains::{Line, SpoolCopy, Stored, read_log};
use super::{Evidence, about};
use crate::ground::Ground;
use crate::report::Findings;
use crate::viewers::Seen;
use crate::work::{Plan, patiently};

const WINDOW: u32 = 1000;

/// Looks at all copies of one log.
pub(super) async fn examine(
    evidence: &Evidence<'_>,
    plan: &Plan,
    deployment: &Deployment,
) -> anyhow::Result<()> {
    let Evidence { cluster, client, findings, .. } = evidence;
    let about = about(plan, deployment);
    let stored = match read_log(&cluster.ground.server_data, deployment.id) {
        Ok(stored) => stored,
        Err(error) => {
            findings.say("log_file", &about, format!("{error:#}"));
            return Ok(());
        }
    };
    findings.count("lines compared", stored.lines.len() as u64);
    findings.count("bytes compared", stored.bytes.len() as u64);
    printed(&cluster.ground, findings, plan, deployment, &stored, &about)?;
    for copy in evidence.copies.iter().filter(|copy| copy.deployment == deployment.id) {
        findings.count("agents' own copies compared", 1);
        copied(findings, copy, deployment, &stored, &about);
    }
    rest(client, findings, deployment, &stored, &about).await?;
    match evidence.seen.get(&deployment.id) {
        Some(seen) => viewed(findings, seen, &stored, &about),
        None => findings.say("viewer", &about, "nobody watched it"),
    }
    for agent in &cluster.agents {
        let acks = agent.proxy.acks().lines;
        let acknowledged = acks.get(&(deployment.id, deployment.attempt)).copied().unwrap_or(0);
        if acknowledged > stored.lines.len() as u64 {
            let held = stored.lines.len();
            findings.say("lost", &about, format!("{acknowledged} lines were acknowledged, {held} are there"));
        }
    }
    Ok(())
}

/// Whether the outcome says that the build came to its end by itself.
fn build_is_whole(deployment: &Deployment) -> bool {
    match deployment.outcome() {
        Some(Outcome::Failed { failure }) if failure.reason == FailureReason::BuildFailed => true,
        _ => deployment.steps.iter().any(|step| step.step > Step::Build),
    }
}

/// The build's own files against the log's lines of its two streams.
fn printed(
    ground: &Ground,
    findings: &Findings,
    plan: &Plan,
    deployment: &Deployment,
    stored: &Stored,
    about: &str,
) -> anyhow::Result<()> {
    let truth = |run: u32, end: &str| ground.side.join(format!("{}.{run}.{end}", plan.branch));
    let runs = (1..).take_while(|run| truth(*run, "out").exists()).count();
    let runs = u32::try_from(runs)?;
    if runs > deployment.attempt.max(1) {
        findings.say("built_again", about, format!("built {runs} times in {} attempts", deployment.attempt));
    }
    let whole = build_is_whole(deployment);
    for (end, stream) in [("out", Stream::Stdout), ("err", Stream::Stderr)] {
        let path = truth(runs, end);
        let printed = if path.exists() { std::fs::read(path)? } else { Vec::new() };
        let logged: Vec<&[u8]> = stored
            .lines
            .iter()
            .filter(|line| line.step == Step::Build && line.stream == stream)
            .map(|line| line.bytes.as_slice())
            .collect();
        findings.count("lines that builds printed", split(&printed).len() as u64);
        for (check, detail) in compare(&split(&printed), &logged, whole) {
            findings.say(check, about, format!("std{end}: {detail}"));
        }
    }
    Ok(())
}

/// The spool of an agent that was killed: the log goes on from it, so that it must be the log's beginning.
fn copied(findings: &Findings, copy: &SpoolCopy, deployment: &Deployment, stored: &Stored, about: &str) {
    if copy.attempt != deployment.attempt {
        return;
    }
    let at = copy.lines.iter().zip(&stored.lines).take_while(|(copied, stored)| copied == stored).count();
    let agent = copy.agent;
    match (copy.lines.get(at), stored.lines.get(at)) {
        (None, _) => {}
        (Some(_), None) => {
            let (had, held) = (copy.lines.len(), stored.lines.len());
            findings.say(
                "lost",
                about,
                format!("{agent} had {had} lines when it was killed, the log has {held}"),
            );
        }
        (Some(copied), Some(stored)) => {
            let detail = format!(
                "line {} was {} on {agent} when it was killed, and is {}",
                at + 1,
                shown(copied),
                shown(stored)
            );
            findings.say("differs", about, detail);
        }
    }
}

fn shown(line: &Line) -> String {
    let text = &line.bytes[..line.bytes.len().min(60)];
    format!("\"{}\" ({:?}, {:?}, {} ms)", text.escape_ascii(), line.step, line.stream, line.at_ms)
}

/// REST against the files: the bytes as they are, the windows as text.
async fn rest(
    client: &Client,
    findings: &Findings,
    deployment: &Deployment,
    stored: &Stored,
    about: &str,
) -> anyhow::Result<()> {
    let mut raw = patiently(|| client.log_raw(deployment.id.into())).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = raw.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    if let Some(at) = first_difference(&stored.bytes, &bytes) {
        let (there, here) = (stored.bytes.len(), bytes.len());
        findings.say("rest", about, format!("{here} bytes of {there}, differing from byte {at} on"));
    }
    let mut lines = Vec::new();
    loop {
        let from = lines.len() as u64 + 1;
        let window = patiently(|| client.logs(deployment.id.into(), from, WINDOW)).await?;
        if window.total != stored.lines.len() as u64 || !window.complete {
            let (total, complete) = (window.total, window.complete);
            findings.say("rest", about, format!("the window says {total} lines, complete: {complete}"));
        }
        if window.lines.is_empty() {
            break;
        }
        lines.extend(window.lines);
    }
    same_lines(findings, "rest", &lines, stored, about);
    Ok(())
}

fn viewed(findings: &Findings, seen: &Seen, stored: &Stored, about: &str) {
    findings.count("viewers' connections", seen.connections);
    for gap in &seen.gaps {
        findings.say("viewer", about, gap.clone());
    }
    match seen.end {
        None => findings.say("viewer", about, "it never came to the end"),
        Some(end) if end != stored.lines.len() as u64 => {
            findings.say("viewer", about, format!("the end said {end} lines of {}", stored.lines.len()));
        }
        Some(_) => {}
    }
    same_lines(findings, "viewer", &seen.lines, stored, about);
}

/// What an interface shows against the files.
fn same_lines(findings: &Findings, check: &'static str, shown: &[LogLine], stored: &Stored, about: &str) {
    let is_same = |shown: &LogLine, n: usize, line: &Line| {
        shown.n == n as u64 + 1
            && shown.at.as_millisecond() == line.at_ms
            && (shown.step, shown.stream) == (line.step, line.stream)
            && shown.text == String::from_utf8_lossy(&line.bytes)
    };
    let pairs = shown.iter().zip(&stored.lines).enumerate();
    let same = pairs.take_while(|(n, (shown, line))| is_same(shown, *n, line)).count();
    if same < stored.lines.len() || same < shown.len() {
        let (here, there) = (shown.len(), stored.lines.len());
        let detail = format!("{here} lines shown of {there}, differing from line {} on", same + 1);
        findings.say(check, about, detail);
    }
}
