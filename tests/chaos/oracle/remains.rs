//! What the dead leave on disk, read before they live again: the server's database and logs, an agent's spool.
//!
//! The readers here know the formats by themselves (`sdp-core/src/logs/record.rs`, `sdp-agent/src/spool/record.rs`): a mistake
//! of the product's own reader would be missed by itself.

use std::path::Path;

use anyhow::Context;
use sdp_core::deployment::Step;
use sdp_core::id::DeploymentId;
use sdp_core::wire::Stream;
use sdp_core::wire::lines::step_from_u8;

use crate::cluster::Cluster;
use crate::ground::Ground;

/// Of a record in a log's index.
const RECORD: usize = 24;
/// Before each line in a spool.
const SPOOL_HEADER: usize = 14;

/// A line with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at_ms: i64,
    pub(crate) step: Step,
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
}

/// A log as the server's files hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: Vec<Line>,
}

/// Reads a log's two files; an error names what does not fit together.
pub(crate) fn read_log(server_data: &Path, id: DeploymentId) -> anyhow::Result<Stored> {
    let path = |end: &str| server_data.join("logs").join(format!("{id}.{end}"));
    if !path("log").exists() {
        return Ok(Stored::default());
    }
    let bytes = std::fs::read(path("log")).context("log file")?;
    let index = std::fs::read(path("idx")).context("index")?;
    let lines = read_index(&bytes, &index)?;
    Ok(Stored { bytes, lines })
}

fn read_index(log: &[u8], index: &[u8]) -> anyhow::Result<Vec<Line>> {
    anyhow::ensure!(index.len().is_multiple_of(RECORD), "the index has a torn record at its end");
    let mut lines = Vec::new();
    let mut from = 0;
    for record in index.chunks(RECORD) {
        let end = usize::try_from(u64::from_le_bytes(record[..8].try_into()?))?;
        let n = lines.len() + 1;
        let line =
            log.get(from..end).with_context(|| format!("line {n} ends at {end}, outside of the log"))?;
        let (last, line) = line.split_last().with_context(|| format!("line {n} has no byte"))?;
        anyhow::ensure!(*last == b'\n' && !line.contains(&b'\n'), "line {n} is not one line");
        lines.push(Line {
            at_ms: i64::from_le_bytes(record[8..16].try_into()?),
            step: step_from_u8(record[16]).with_context(|| format!("line {n} is of no step"))?,
            stream: Stream::from_u8(record[17]),
            bytes: line.to_vec(),
        });
        from = end;
    }
    anyhow::ensure!(from == log.len(), "the log goes on after its last line at {from}");
    Ok(lines)
}

/// The agent's own copy of a log, as it was when the agent was killed.
#[derive(Clone, Debug)]
pub(crate) struct SpoolCopy {
    pub(crate) agent: &'static str,
    pub(crate) deployment: DeploymentId,
    pub(crate) attempt: u32,
    pub(crate) lines: Vec<Line>,
}

/// All that an agent's spool holds.
pub(crate) fn of_agent(ground: &Ground, index: usize) -> anyhow::Result<Vec<SpoolCopy>> {
    let agent = &ground.agents[index];
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(agent.data.join("spool")).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((deployment, attempt)) = name.rsplit_once('-') else { continue };
        let (Ok(deployment), Ok(attempt)) = (deployment.parse(), attempt.parse()) else { continue };
        let bytes = std::fs::read(path.join("lines")).unwrap_or_default();
        copies.push(SpoolCopy { agent: agent.name, deployment, attempt, lines: read_spool(&bytes) });
    }
    Ok(copies)
}

/// The whole lines; the last record may be torn.
fn read_spool(mut bytes: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Some((line, rest)) = read_record(bytes) {
        lines.push(line);
        bytes = rest;
    }
    lines
}

fn read_record(bytes: &[u8]) -> Option<(Line, &[u8])> {
    let (head, rest) = bytes.split_at_checked(SPOOL_HEADER)?;
    let length = u32::from_be_bytes(head[..4].try_into().ok()?);
    let (line, rest) = rest.split_at_checked(length as usize)?;
    let line = Line {
        at_ms: i64::from_be_bytes(head[4..12].try_into().ok()?),
        step: step_from_u8(head[12])?,
        stream: Stream::from_u8(head[13]),
        bytes: line.to_vec(),
    };
    Some((line, rest))
}

/// After the server's end, before its next life: the database is sound, and what was acknowledged is there.
pub(crate) async fn of_server(cluster: &Cluster) -> anyhow::Result<()> {
    let (ground, findings) = (&cluster.ground, &cluster.findings);
    database(&ground.server_data, &ground.folder.join("copies"), findings)?;
    for agent in &cluster.agents {
        for ((deployment, attempt), acknowledged) in agent.proxy.acks().lines {
            let path = ground.server_data.join("logs").join(format!("{deployment}.log"));
            let log = tokio::fs::read(path).await.unwrap_or_default();
            let held = log.iter().filter(|byte| **byte == b'\n').count() as u64;
            if held < acknowledged {
                let detail =
                    format!("{acknowledged} lines of attempt {attempt} were acknowledged, {held} are there");
                findings.say("lost", deployment, detail);
            }
        }
    }
    Ok(())
}

/// Opens a copy, as SQLite would after a crash, and has it look at everything.
fn database(data: &Path, copies: &Path, findings: &crate::report::Findings) -> anyhow::Result<()> {
    let copy = tempfile::tempdir_in(copies)?;
    for file in ["sdp.db", "sdp.db-wal"] {
        let from = data.join(file);
        if from.exists() {
            std::fs::copy(from, copy.path().join(file))?;
        }
    }
    let check = || -> rusqlite::Result<String> {
        let database = rusqlite::Connection::open(copy.path().join("sdp.db"))?;
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0))
    };
    match check() {
        Ok(said) if said == "ok" => findings.count("databases checked after the server's end", 1),
        Ok(said) => findings.say("database", "sdp.db", said),
        Err(error) => findings.say("database", "sdp.db", error.to_string()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(end: u64, step: u8, stream: u8) -> Vec<u8> {
        [&end.to_le_bytes()[..], &7i64.to_le_bytes(), &[step, stream, 0, 0, 0, 0, 0, 0]].concat()
    }

    #[test]
    fn a_log_is_read_with_its_index_and_what_does_not_fit_is_named() {
        let log = b"one\n\nthree\n";
        let index = [record(4, 0, 2), record(5, 2, 0), record(11, 2, 1)].concat();
        let lines = read_index(log, &index).expect("it fits");
        let texts: Vec<_> = lines.iter().map(|line| line.bytes.as_slice()).collect();
        assert_eq!(texts, [&b"one"[..], b"", b"three"]);
        assert_eq!((lines[2].stream, lines[2].step, lines[2].at_ms), (Stream::Stderr, Step::Build, 7));
        for (log, index, said) in [
            (&log[..], &index[..47], "torn record"),
            (&log[..10], &index[..], "outside of the log"),
            (&log[..], &index[..48], "goes on after"),
            (&log[..], &[&index[..24], &index[48..]].concat()[..], "not one line"),
        ] {
            let error = read_index(log, index).expect_err("it does not fit").to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_spool_is_read_up_to_its_torn_end() {
        let mut bytes = Vec::new();
        for line in ["one", "", "three"] {
            bytes.extend((line.len() as u32).to_be_bytes());
            bytes.extend(9i64.to_be_bytes());
            bytes.extend([2, 1]);
            bytes.extend(line.as_bytes());
        }
        assert_eq!(read_spool(&bytes).len(), 3);
        let lines = read_spool(&bytes[..bytes.len() - 1]);
        assert_eq!(lines.len(), 2);
        let first = Line { at_ms: 9, step: Step::Build, stream: Stream::Stderr, bytes: b"one".to_vec() };
        assert_eq!(lines[0], first);
    }
}
