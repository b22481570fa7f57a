//! A line's record in the index: fixed width, so that line `n` is one seek away however long the log is.
//!
//! ```text
//! end(8)  time_ms(8)  step(1)  stream(1)  zero(6)        little-endian; record n is at (n - 1) × 24
//! ```
//! `end` is the offset in the log right after the line's line feed; the line begins where the one before it ends.

use crate::deployment::Step;
use crate::wire::lines::{Stream, step_from_u8, step_to_u8};

/// A record's width in bytes.
pub(super) const WIDTH: u64 = 24;
const WIDTH_USIZE: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) end: u64,
    pub(super) at_ms: i64,
    pub(super) step: Step,
    pub(super) stream: Stream,
}

impl Record {
    pub(super) fn write_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&self.at_ms.to_le_bytes());
        out.extend_from_slice(&[step_to_u8(self.step), self.stream.to_u8(), 0, 0, 0, 0, 0, 0]);
    }

    /// A step that this version does not know counts as the first one: a line is shown in any case.
    pub(super) fn read(bytes: &[u8; WIDTH_USIZE]) -> Self {
        let (mut end, mut at_ms) = ([0; 8], [0; 8]);
        end.copy_from_slice(&bytes[..8]);
        at_ms.copy_from_slice(&bytes[8..16]);
        Self {
            end: u64::from_le_bytes(end),
            at_ms: i64::from_le_bytes(at_ms),
            step: step_from_u8(bytes[16]).unwrap_or(Step::Resolve),
            stream: Stream::from_u8(bytes[17]),
        }
    }

    /// All whole records in these bytes.
    pub(super) fn read_all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.as_chunks::<WIDTH_USIZE>().0.iter().map(Self::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_fixed_place_for_everything() {
        let record = Record { end: 0x0102, at_ms: -2, step: Step::Build, stream: Stream::Stderr };
        let mut bytes = Vec::new();
        record.write_to(&mut bytes);
        let mut expected = vec![2, 1, 0, 0, 0, 0, 0, 0, 0xfe, 255, 255, 255, 255, 255, 255, 255, 2, 1];
        expected.extend([0; 6]);
        assert_eq!(bytes, expected);
        bytes.push(7);
        assert_eq!(Record::read_all(&bytes).collect::<Vec<_>>(), [record], "an incomplete one is no record");
    }
}
