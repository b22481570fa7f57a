//! The hops of probes, out of the log that nginx writes of them alone.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::routing::select::Selector;
use sdp_core::wire::ProbeHop;
use serde::Deserialize;

use crate::router::probe::TraceId;

/// How much of the log's end is read.
const TAIL: u64 = 1 << 20;

/// How exact nginx's times are, in seconds; both parts of a difference are rounded.
const TICK: f64 = 0.001_5;

#[derive(Deserialize)]
struct Line {
    trace: String,
    /// When, in seconds.
    ended: f64,
    took: f64,
    service: String,
    sandbox: String,
    said: String,
    served_by: String,
    status: u16,
}

/// The hops of one probe, in the order in which they began.
pub(super) fn read(folder: &Path, trace: &TraceId) -> Vec<ProbeHop> {
    let Ok(mut file) = std::fs::File::open(folder.join("probes.log")) else { return Vec::new() };
    let length = file.metadata().map_or(0, |file| file.len());
    let mut text = Vec::new();
    if file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).is_err()
        || file.read_to_end(&mut text).is_err()
    {
        return Vec::new();
    }
    hops(&String::from_utf8_lossy(&text), trace)
}

fn hops(text: &str, trace: &TraceId) -> Vec<ProbeHop> {
    let parsed = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let written: Vec<Line> = parsed.filter(|line| line.trace == trace.as_str()).collect();
    // A line is written when its request has ended: what a request has asked for comes before it. nginx's times have milliseconds,
    // so that of two that began in the same one it is the last written that asked for the other.
    let mut lines: Vec<Line> = Vec::with_capacity(written.len());
    for line in written.into_iter().rev() {
        let began = |line: &Line| line.ended - line.took;
        let after = lines.iter().rposition(|before| began(before) <= began(&line) + TICK);
        lines.insert(after.map_or(0, |at| at + 1), line);
    }
    let hop = |line: Line| {
        let number = line.said.split_once(':').and_then(|(number, _)| number.parse::<usize>().ok());
        let sandbox = SandboxName::parse(line.sandbox).ok();
        let selector = number.and_then(|number| Selector::ALL.get(number.checked_sub(1)?));
        ProbeHop {
            service: ServiceName::parse(line.service).ok(),
            named_by: selector.filter(|_| sandbox.is_some()).map(|selector| selector.as_str().to_owned()),
            sandbox,
            served_by: line.served_by,
            status: line.status,
        }
    };
    lines.into_iter().map(hop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nginx writes them: `(service, ended, took)`.
    fn order(lines: &[(&str, f64, f64)]) -> Vec<String> {
        let trace = TraceId::random();
        let line = |(service, ended, took): &(&str, f64, f64)| {
            format!(
                r#"{{"trace":"{}","ended":{ended},"took":{took},"service":"{service}","sandbox":"","said":"","served_by":"x","status":200}}"#,
                trace.as_str()
            )
        };
        let text: Vec<String> = lines.iter().map(line).collect();
        hops(&text.join("\n"), &trace)
            .into_iter()
            .filter_map(|hop| hop.service.map(|s| s.to_string()))
            .collect()
    }

    #[test]
    fn who_asked_comes_before_who_was_asked_though_both_began_in_one_millisecond() {
        assert_eq!(order(&[("ledger", 5.003, 0.002), ("payments", 5.004, 0.003)]), ["payments", "ledger"]);
        assert_eq!(order(&[("ledger", 5.003, 0.003), ("payments", 5.004, 0.003)]), ["payments", "ledger"]);
        assert_eq!(
            order(&[("ledger", 5.01, 0.005), ("users", 5.03, 0.01), ("payments", 5.04, 0.04)]),
            ["payments", "ledger", "users"]
        );
    }
}
