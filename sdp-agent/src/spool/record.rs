//! How a line lies in the spool's files: the same 14 bytes before it as in a batch on the wire, then its bytes.

use sdp_core::wire::lines::{step_from_u8, step_to_u8};
use sdp_core::wire::{CUT_MARKER, LineMeta, MAX_LINE, Stream, Totals};

/// Bytes before each line.
pub(super) const HEADER: usize = 4 + 8 + 1 + 1;
/// The largest record.
pub(super) const LARGEST: usize = HEADER + MAX_LINE + CUT_MARKER.len();

/// The time of a line that is not here: the server has it, and this machine lost it in a power cut. The last of such lines holds
/// [what all lines up to it add up to](sum).
pub(super) const ELSEWHERE: i64 = -1;

/// Totals as the bytes of a line.
pub(super) fn sum(totals: Totals) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&totals.bytes.to_be_bytes());
    bytes[8..].copy_from_slice(&totals.checksum.to_be_bytes());
    bytes
}

/// The totals that a line stands for.
pub(super) fn sum_of(meta: LineMeta, line: &[u8]) -> Option<Totals> {
    let bytes: &[u8; 12] = line.try_into().ok().filter(|_| meta.at_ms == ELSEWHERE)?;
    Some(Totals {
        bytes: u64::from_be_bytes(bytes[..8].try_into().ok()?),
        checksum: u32::from_be_bytes(bytes[8..].try_into().ok()?),
    })
}

/// Appends a record. A line feed inside the line becomes a space; a line that is too long is cut with a marker.
pub(super) fn write(out: &mut Vec<u8>, meta: LineMeta, line: &[u8]) {
    out.extend_from_slice(&meta.length.to_be_bytes());
    out.extend_from_slice(&meta.at_ms.to_be_bytes());
    out.push(step_to_u8(meta.step));
    out.push(meta.stream.to_u8());
    out.extend_from_slice(line);
}

/// The first record of `bytes`, if it is there whole: what is known of the line, the line, and the record's length.
pub(super) fn first(bytes: &[u8]) -> Option<(LineMeta, &[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_be_bytes(head[..4].try_into().ok()?);
    let line = rest.get(..length as usize)?;
    let meta = LineMeta {
        length,
        at_ms: i64::from_be_bytes(head[4..12].try_into().ok()?),
        step: step_from_u8(head[12])?,
        stream: Stream::from_u8(head[13]),
    };
    Some((meta, line, HEADER + line.len()))
}

/// The line as it is kept: cut where it is too long, without line feeds.
pub(super) fn tidy(line: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    use std::borrow::Cow;
    let cut = if line.len() <= MAX_LINE
        || (line.len() <= MAX_LINE + CUT_MARKER.len() && line.ends_with(CUT_MARKER.as_bytes()))
    {
        Cow::Borrowed(line)
    } else {
        Cow::Owned([&line[..MAX_LINE], CUT_MARKER.as_bytes()].concat())
    };
    if !cut.contains(&b'\n') {
        return cut;
    }
    Cow::Owned(cut.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect())
}
