//! Server-sent events, as far as the feed needs them: bytes in, messages out. Pure.
//!
//! A field larger than [`MAX_MESSAGE`] ends the stream with an error rather than fill the memory.

/// The largest message, in bytes.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// One message of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// `id:` of this message.
    pub(super) id: Option<String>,
    /// `event:`.
    pub(super) event: Option<String>,
    /// `data:`, its lines joined.
    pub(super) data: String,
}

/// A message or line was too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Turns chunks, cut anywhere, into messages.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    message: Message,
    has_data: bool,
}

impl Parser {
    /// Takes a chunk, and gives the messages that it completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut messages = Vec::new();
        for &byte in chunk {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    messages.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.message.data.len() > MAX_MESSAGE {
                return Err(TooLong);
            }
        }
        Ok(messages)
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = Some(value.to_owned()),
            "event" => self.message.event = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.has_data = true;
                self.message.data.push_str(value);
            }
            // A comment (empty field) is a sign of life; `retry` and unknown fields are ignored.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nid: 7\r\nevent: step_started\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nretry: 5\n\ndata:x\rid\r\r";

    fn expected() -> Vec<Message> {
        vec![
            Message { id: Some("7".into()), event: Some("step_started".into()), data: "{\"a\":\n1}".into() },
            Message { id: Some(String::new()), event: None, data: "x".into() },
        ]
    }

    #[test]
    fn messages_are_the_same_however_the_stream_is_cut() {
        for cut in 0..=STREAM.len() {
            let mut parser = Parser::default();
            let (one, two) = STREAM.as_bytes().split_at(cut);
            let mut got = parser.push(one).unwrap();
            got.extend(parser.push(two).unwrap());
            assert_eq!(got, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 64 * 1024];
        let ended = (0..=MAX_MESSAGE / chunk.len()).any(|_| parser.push(&chunk).is_err());
        assert!(ended);
    }
}
