//! Log batches: a small header and the raw bytes, so that what a build printed arrives byte for byte.
//!
//! ```text
//! kind(1)=1  deployment(16)  attempt(4)  first(8)  count(4)  count × { length(4) time_ms(8) step(1) stream(1) }  bytes
//! ```
//! Numbers are big-endian. `length` counts a line without its line feed, which is not sent.

use bytes::Bytes;

use super::{CUT_MARKER, MAX_LINE};
use crate::deployment::Step;
use crate::id::DeploymentId;

const KIND: u8 = 1;
const HEADER: usize = 1 + 16 + 4 + 8 + 4;
const RECORD: usize = 4 + 8 + 1 + 1;

/// Who printed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stream {
    /// A program, on its standard output.
    Stdout,
    /// A program, on its standard error.
    Stderr,
    /// SDP itself.
    Sdp,
}

impl Stream {
    /// As one byte, in batches and index records.
    #[must_use]
    pub fn to_u8(self) -> u8 {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
            Self::Sdp => 2,
        }
    }

    /// From that byte; unknown ones count as standard output.
    #[must_use]
    pub fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Stderr,
            2 => Self::Sdp,
            _ => Self::Stdout,
        }
    }
}

/// A step as one byte, in batches and index records.
#[must_use]
pub fn step_to_u8(step: Step) -> u8 {
    step as u8
}

/// A step from that byte.
#[must_use]
pub fn step_from_u8(byte: u8) -> Option<Step> {
    Step::ALL.get(usize::from(byte)).copied()
}

/// What is known of a line beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineMeta {
    /// Its bytes, without the line feed.
    pub length: u32,
    /// When it was printed, in milliseconds since 1970.
    pub at_ms: i64,
    /// In which step.
    pub step: Step,
    /// By whom.
    pub stream: Stream,
}

/// Lines of one deployment, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesBatch {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its attempt.
    pub attempt: u32,
    /// The number of the first line, from 1.
    pub first: u64,
    /// One for each line.
    pub lines: Vec<LineMeta>,
    /// The lines' bytes, one after the other, without line feeds.
    pub bytes: Bytes,
}

/// A binary frame that is no batch of lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch of lines: {0}")]
pub struct MalformedBatch(&'static str);

impl LinesBatch {
    /// The number of the last line; `first - 1` if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first + self.lines.len() as u64 - 1
    }

    /// Each line with what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (LineMeta, Bytes)> {
        let mut at = 0;
        self.lines.iter().map(move |meta| {
            let end = at + meta.length as usize;
            let line = self.bytes.slice(at..end);
            at = end;
            (*meta, line)
        })
    }

    /// As a binary frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.lines.len() * RECORD + self.bytes.len());
        out.push(KIND);
        out.extend_from_slice(self.deployment.as_uuid().as_bytes());
        out.extend_from_slice(&self.attempt.to_be_bytes());
        out.extend_from_slice(&self.first.to_be_bytes());
        let count = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for line in &self.lines {
            out.extend_from_slice(&line.length.to_be_bytes());
            out.extend_from_slice(&line.at_ms.to_be_bytes());
            out.push(step_to_u8(line.step));
            out.push(line.stream.to_u8());
        }
        out.extend_from_slice(&self.bytes);
        out
    }

    /// From a binary frame; the bytes are shared, not copied.
    ///
    /// # Errors
    /// When it is no well-formed batch: wrong kind, truncated, a line over [`MAX_LINE`] and its marker, or one with a line feed.
    pub fn decode(frame: &Bytes) -> Result<Self, MalformedBatch> {
        let take = |from: usize, len: usize| frame.get(from..from + len).ok_or(MalformedBatch("truncated"));
        let u32_at = |from| {
            Ok(u32::from_be_bytes(take(from, 4)?.try_into().map_err(|_| MalformedBatch("truncated"))?))
        };
        let u64_at = |from| {
            Ok(u64::from_be_bytes(take(from, 8)?.try_into().map_err(|_| MalformedBatch("truncated"))?))
        };
        if take(0, 1)? != [KIND] {
            return Err(MalformedBatch("unknown kind"));
        }
        let uuid = uuid::Uuid::from_slice(take(1, 16)?).map_err(|_| MalformedBatch("truncated"))?;
        let attempt = u32_at(17)?;
        let first: u64 = u64_at(21)?;
        let count = u32_at(29)? as usize;
        if first == 0 || first.checked_add(count as u64).is_none() {
            return Err(MalformedBatch("line number out of range"));
        }
        let records = count.checked_mul(RECORD).ok_or(MalformedBatch("truncated"))?;
        let table = take(HEADER, records)?;
        let bytes = frame.slice(HEADER + records..);
        let mut total = 0usize;
        let mut lines = Vec::with_capacity(count);
        for record in table.chunks_exact(RECORD) {
            let length = u32::from_be_bytes([record[0], record[1], record[2], record[3]]);
            if length as usize > MAX_LINE + CUT_MARKER.len() {
                return Err(MalformedBatch("line too long"));
            }
            total += length as usize;
            let mut at = [0; 8];
            at.copy_from_slice(&record[4..12]);
            lines.push(LineMeta {
                length,
                at_ms: i64::from_be_bytes(at),
                step: step_from_u8(record[12]).ok_or(MalformedBatch("unknown step"))?,
                stream: Stream::from_u8(record[13]),
            });
        }
        if total != bytes.len() {
            return Err(MalformedBatch("lengths do not add up"));
        }
        if bytes.contains(&b'\n') {
            return Err(MalformedBatch("line feed inside a line"));
        }
        Ok(Self { deployment: uuid.into(), attempt, first, lines, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(texts: &[Vec<u8>], first: u64) -> LinesBatch {
        LinesBatch {
            deployment: DeploymentId::new(),
            attempt: 1,
            first,
            lines: texts
                .iter()
                .map(|text| LineMeta {
                    length: u32::try_from(text.len()).expect("short"),
                    at_ms: -5,
                    step: Step::Build,
                    stream: Stream::Stderr,
                })
                .collect(),
            bytes: Bytes::from(texts.concat()),
        }
    }

    proptest! {
        #[test]
        fn a_batch_survives_the_wire(texts in prop::collection::vec("[^\n]{0,40}", 0..20), first in 1..u64::MAX / 2) {
            let texts: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
            let sent = batch(&texts, first);
            let got = LinesBatch::decode(&Bytes::from(sent.encode())).expect("decodes");
            prop_assert_eq!(&got, &sent);
            prop_assert_eq!(got.iter().map(|(_, line)| line.to_vec()).collect::<Vec<_>>(), texts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = vec![KIND];
            frame.extend(bytes);
            drop(LinesBatch::decode(&Bytes::from(frame)));
        }
    }

    #[test]
    fn every_cut_and_every_lie_is_refused() {
        let frame = batch(&[b"one".to_vec(), b"two".to_vec()], 1).encode();
        for end in 0..frame.len() {
            assert!(LinesBatch::decode(&Bytes::copy_from_slice(&frame[..end])).is_err(), "cut at {end}");
        }
        assert!(LinesBatch::decode(&Bytes::from(batch(&[b"a".to_vec()], 0).encode())).is_err(), "line 0");
        assert!(
            LinesBatch::decode(&Bytes::from(batch(&[b"a".to_vec()], u64::MAX).encode())).is_err(),
            "u64::MAX"
        );
        assert!(
            LinesBatch::decode(&Bytes::from(batch(&[b"a\nb".to_vec()], 1).encode())).is_err(),
            "line feed"
        );
    }
}
