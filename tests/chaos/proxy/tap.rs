//! Reads along on the link what the server acknowledges: the only witness of a promise that outlives both of its sides.
//!
//! The server's frames are not masked, so that the bytes can be read as they pass: the answer to the handshake up to an empty
//! line, then frames. Limit: text frames of more than [`LONGEST`] bytes (route tables) are passed over.

use std::collections::BTreeMap;

use sdp_core::id::DeploymentId;
use sdp_core::wire::ToAgent;

/// The longest frame that is looked into.
const LONGEST: u64 = 64 * 1024;
const TEXT: u8 = 1;

/// What was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// The most lines, by deployment and attempt.
    pub(crate) lines: BTreeMap<(DeploymentId, u32), u64>,
    /// How many frames said so.
    pub(crate) count: u64,
}

impl Acks {
    fn note(&mut self, frame: &[u8]) {
        if let Ok(ToAgent::Ack { deployment, attempt, lines, .. }) = serde_json::from_slice(frame) {
            self.count += 1;
            let most = self.lines.entry((deployment, attempt)).or_default();
            *most = lines.max(*most);
        }
    }
}

/// Where the reading stands in the server's bytes of one connection.
#[derive(Debug)]
pub(super) enum Tap {
    /// So many bytes of `\r\n\r\n` were seen.
    Handshake(usize),
    /// Of a frame's head so much.
    Head(Vec<u8>),
    /// In a frame that is looked into, and how much of it is to come.
    Body(Vec<u8>, u64),
    /// In one that is not.
    Skip(u64),
}

impl Default for Tap {
    fn default() -> Self {
        Self::Handshake(0)
    }
}

impl Tap {
    pub(super) fn push(&mut self, mut bytes: &[u8], acks: &mut Acks) {
        while !bytes.is_empty() {
            match self {
                Self::Handshake(seen) => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    *seen = match (byte, *seen) {
                        (b'\r', 0 | 2) | (b'\n', 1 | 3) => *seen + 1,
                        (b'\r', _) => 1,
                        _ => 0,
                    };
                    if *seen == 4 {
                        *self = Self::Head(Vec::new());
                    }
                }
                Self::Head(head) => {
                    head.push(bytes[0]);
                    bytes = &bytes[1..];
                    if let Some((opcode, length)) = read_head(head) {
                        *self = match length {
                            0 => Self::Head(Vec::new()),
                            length if opcode == TEXT && length <= LONGEST => Self::Body(Vec::new(), length),
                            length => Self::Skip(length),
                        };
                    }
                }
                Self::Body(body, left) => {
                    let (now, rest) = split(bytes, *left);
                    body.extend_from_slice(now);
                    bytes = rest;
                    *left -= now.len() as u64;
                    if *left == 0 {
                        acks.note(body);
                        *self = Self::Head(Vec::new());
                    }
                }
                Self::Skip(left) => {
                    let (now, rest) = split(bytes, *left);
                    bytes = rest;
                    *left -= now.len() as u64;
                    if *left == 0 {
                        *self = Self::Head(Vec::new());
                    }
                }
            }
        }
    }
}

fn split(bytes: &[u8], most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)))
}

/// Opcode and length, once the head is there whole. A whole text frame has the final bit; parts of one are passed over.
fn read_head(head: &[u8]) -> Option<(u8, u64)> {
    let (first, second) = (*head.first()?, *head.get(1)?);
    let opcode = if first & 0x80 == 0 { 0 } else { first & 0x0f };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)),
        127 => u64::from_be_bytes(head.get(2..10)?.try_into().ok()?),
        short => u64::from(short),
    };
    Some((opcode, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match body.len() {
            short @ ..126 => frame.push(short as u8),
            middle @ 126..65_536 => {
                frame.push(126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(body);
        frame
    }

    #[test]
    fn acks_are_read_from_the_bytes_however_they_are_cut() {
        let deployment = DeploymentId::new();
        let ack = |lines| {
            let ack = ToAgent::Ack { deployment, attempt: 2, lines, progress: 1 };
            serde_json::to_vec(&ack).expect("JSON")
        };
        let mut padded = ack(9);
        padded.resize(400, b' ');
        let bytes = [
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n".to_vec(),
            frame(TEXT, &ack(3)),
            frame(9, b"ping"),
            frame(9, b""),
            frame(2, &ack(99)),
            frame(TEXT, &[b'x'; 70_000]),
            frame(TEXT, &padded),
            frame(TEXT, &ack(7)),
        ]
        .concat();
        for piece in [1, 2, 7, 1000, bytes.len()] {
            let (mut tap, mut acks) = (Tap::default(), Acks::default());
            bytes.chunks(piece).for_each(|piece| tap.push(piece, &mut acks));
            assert_eq!(acks, Acks { lines: BTreeMap::from([((deployment, 2), 9)]), count: 3 }, "{piece}");
        }
    }
}
