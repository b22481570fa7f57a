//! Which agents there are, and how each is.

use jiff::Timestamp;
use sdp_core::api::{AgentView, Load};
use sdp_core::name::Label;

use super::answer::{MAX_ROWS, ago, count, more};
use super::{Message, Tone};
use crate::text::Text;

/// Which agents there are: what each does, what it holds, and what is wrong with it.
#[must_use]
pub fn agents(agents: &[AgentView], now: Timestamp) -> Message {
    if agents.is_empty() {
        return Message::new(
            Tone::Plain,
            Text::from("No agent has ever connected; nothing can be deployed."),
        )
        .line(Text::new().dim("next ").plain("start one: sdp-agent --help"));
    }
    let connected = agents.iter().filter(|agent| agent.connected).count();
    let title = format!("{connected} of {} connected", count(agents.len(), "agent", "agents"));
    let mut message = Message::new(Tone::Plain, Text::new().plain(title));
    for agent in agents.iter().take(MAX_ROWS) {
        message = message.line(heading(agent, now));
        if !agent.labels.is_empty() {
            let labels: Vec<&str> = agent.labels.iter().map(Label::as_str).collect();
            message = message.line(Text::new().dim(format!("  labels: {}", labels.join(", "))));
        }
        if let Some(load) = &agent.load {
            message = message.line(Text::new().dim(format!("  {}", holds(load))));
        }
        if agent.draining {
            message = message
                .line(Text::new().plain("  ").strong("is being drained").plain(": it gets no new work"));
        }
        if let Some(why) = &agent.degraded {
            message = message.line(Text::new().plain("  ").strong("takes no work").plain(format!(": {why}")));
        }
        for check in agent.preflight.iter().filter(|check| !check.ok) {
            message = message.line(Text::new().plain(format!("  {}: {}", check.check, check.detail)));
        }
        let well: Vec<&str> =
            agent.preflight.iter().filter(|check| check.ok).map(|check| check.check.as_str()).collect();
        if !well.is_empty() {
            message = message.line(Text::new().dim(format!("  ok: {}", well.join(", "))));
        }
    }
    more(message, agents.len())
}

/// An agent was drained or resumed.
#[must_use]
pub fn drained(agent: &AgentView) -> Message {
    let name = &agent.name;
    if !agent.draining {
        return Message::new(Tone::Plain, Text::new().strong(name).plain(" gets work again."));
    }
    let title = Text::new().strong(name).plain(" is being drained: it gets no new work.");
    let left = match agent.running {
        0 => "It has no job left; what runs on it serves on.".to_owned(),
        jobs => {
            let jobs = count(jobs as usize, "job", "jobs");
            format!("It finishes {jobs}; what runs on it serves on.")
        }
    };
    Message::new(Tone::Plain, title)
        .line(Text::new().plain(left))
        .line(Text::new().dim("back to work: ").code(format!("agents resume {name}")))
}

fn heading(agent: &AgentView, now: Timestamp) -> Text {
    let row = Text::new().strong(&agent.name);
    let since = ago(agent.since, now);
    if !agent.connected {
        return row.plain(format!(" away for {since}")).dim(format!(" · {}", agent.version));
    }
    let queued = match agent.queued {
        0 => String::new(),
        queued => format!(", {queued} waiting"),
    };
    let router = if agent.router { ", router" } else { "" };
    let runtimes = agent.runtimes.join(", ");
    row.plain(format!(" {} of {} jobs{queued} · {runtimes}{router}", agent.running, agent.capacity))
        .dim(format!(" · connected for {since} · {}", agent.version))
}

/// What it holds and has room for.
fn holds(load: &Load) -> String {
    let disk = match (load.disk_free, load.disk_total) {
        (Some(free), Some(total)) => format!("disk: {} of {} free", size(free), size(total)),
        (Some(free), None) => format!("disk: {} free", size(free)),
        (None, _) => "disk: unknown".to_owned(),
    };
    // What is being worked on is in the spool, too, but that is no backlog.
    match load.spool_jobs.saturating_sub(load.running) {
        0 => format!("{disk} · spool: {}", size(load.spool_bytes)),
        jobs => {
            let waiting = count(jobs as usize, "job waits", "jobs wait");
            format!("{disk} · spool: {}, {waiting} to be delivered", size(load.spool_bytes))
        }
    }
}

/// A number of bytes, with at most three digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match bytes {
        0 => "empty".to_owned(),
        _ if size < 9.95 && unit > 0 => format!("{size:.1} {}", UNITS[unit]),
        _ => format!("{:.0} {}", size.max(1.0), UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_three_digits_at_most() {
        let sizes = [0, 1, 2048, 1_022_000, 5 << 20, 80 << 30, (1 << 40) + 1].map(size);
        assert_eq!(sizes, ["empty", "1 KiB", "2 KiB", "998 KiB", "5.0 MiB", "80 GiB", "1.0 TiB"]);
    }
}
