//! The line that is being typed: bytes of a terminal or a pipe in, finished lines out. Pure.
//!
//! In a live console the terminal neither echoes nor edits, because only then the line can be redrawn whole when messages
//! above it grow. Backspace, Ctrl-U, Ctrl-W, Ctrl-L, Ctrl-D and the history by arrow keys work; other control
//! characters and escape sequences are ignored.

/// The longest line, in bytes; what is typed beyond it is ignored.
pub const MAX_LINE: usize = 4000;
/// How many lines the history keeps.
const MAX_HISTORY: usize = 100;

/// What typing led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A line was finished.
    Line(String),
    /// Ctrl-D on an empty line.
    End,
    /// Ctrl-L.
    Redraw,
}

/// The line being typed.
#[derive(Debug, Default)]
pub struct Editor {
    line: String,
    /// Bytes of a character that is not whole yet.
    partial: Vec<u8>,
    escape: Escape,
    after_cr: bool,
    history: Vec<String>,
    /// Where in the history one is, counted from its end; 0: in the line itself.
    back: usize,
    /// The line that was being typed when one went into the history.
    kept: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Began,
    Sequence,
}

impl Editor {
    /// The line so far.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// At the end of the input: the line that no line feed ended.
    pub fn rest(&mut self) -> Option<String> {
        Some(std::mem::take(&mut self.line)).filter(|rest| !rest.trim().is_empty())
    }

    /// Takes what was typed.
    pub fn keys(&mut self, bytes: &[u8]) -> Vec<Key> {
        bytes.iter().filter_map(|byte| self.key(*byte)).collect()
    }

    fn key(&mut self, byte: u8) -> Option<Key> {
        let after_cr = std::mem::take(&mut self.after_cr);
        match (self.escape, byte) {
            (Escape::Began, b'[' | b'O') => {
                self.escape = Escape::Sequence;
                return None;
            }
            (Escape::Began, _) => {
                self.escape = Escape::None;
                return None;
            }
            (Escape::Sequence, 0x40..=0x7e) => {
                self.escape = Escape::None;
                match byte {
                    b'A' => self.history(1),
                    b'B' => self.history(-1),
                    _ => {}
                }
                return None;
            }
            (Escape::Sequence, _) => return None,
            (Escape::None, _) => {}
        }
        match byte {
            b'\n' if after_cr => None,
            b'\r' | b'\n' => {
                self.after_cr = byte == b'\r';
                self.partial.clear();
                self.back = 0;
                let line = std::mem::take(&mut self.line);
                if !line.trim().is_empty() && self.history.last() != Some(&line) {
                    self.history.push(line.clone());
                    if self.history.len() > MAX_HISTORY {
                        self.history.remove(0);
                    }
                }
                Some(Key::Line(line))
            }
            0x7f | 0x08 => {
                self.line.pop();
                None
            }
            // Ctrl-U, Ctrl-W.
            0x15 => {
                self.line.clear();
                None
            }
            0x17 => {
                let kept = self.line.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.line.truncate(kept);
                None
            }
            0x04 if self.line.is_empty() => Some(Key::End),
            0x0c => Some(Key::Redraw),
            0x1b => {
                self.escape = Escape::Began;
                None
            }
            b'\t' => {
                self.push(' ');
                None
            }
            0x00..=0x1f => None,
            byte => {
                self.text(byte);
                None
            }
        }
    }

    fn text(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                let c = text.chars().next();
                self.partial.clear();
                if let Some(c) = c {
                    self.push(c);
                }
            }
            Err(error) if error.error_len().is_some() || self.partial.len() > 4 => {
                self.partial.clear();
                self.push('\u{fffd}');
            }
            Err(_) => {}
        }
    }

    fn push(&mut self, c: char) {
        if self.line.len() + c.len_utf8() <= MAX_LINE && !c.is_control() {
            self.line.push(c);
        }
    }

    fn history(&mut self, step: isize) {
        let back = self.back.saturating_add_signed(step).min(self.history.len());
        if back == self.back {
            return;
        }
        if self.back == 0 {
            self.kept = std::mem::take(&mut self.line);
        }
        self.back = back;
        self.line = match self.history.len().checked_sub(back) {
            Some(at) if back > 0 => self.history[at].clone(),
            _ => std::mem::take(&mut self.kept),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> (Vec<Key>, String) {
        let mut editor = Editor::default();
        let keys = editor.keys(bytes);
        (keys, editor.line().to_owned())
    }

    #[test]
    fn lines_and_corrections() {
        let line = |text: &str| Key::Line(text.into());
        for (bytes, keys, rest) in [
            (&b"ab\r\ncd\ne"[..], vec![line("ab"), line("cd")], "e"),
            (b"helo\x7flo\r", vec![line("hello")], ""),
            ("grün\u{7f}n\r".as_bytes(), vec![line("grün")], ""),
            (b"one two\x17x", vec![], "one x"),
            (b"gone\x15new", vec![], "new"),
            (b"a\tb\x00\x01", vec![], "a b"),
            (b"x\x04\r\x04", vec![line("x"), Key::End], ""),
            (b"a\x1b[31mb\x1b[3~c\x1bxd", vec![], "abcd"),
            (b"\xff\xc3\x28", vec![], "\u{fffd}\u{fffd}"),
            (b"first\rsecond\rth\x1b[A\x1b[A\x1b[B\x1b[B", vec![line("first"), line("second")], "th"),
            (b"first\rsecond\r\x1b[A\x1b[A\x1b[A!", vec![line("first"), line("second")], "first!"),
        ] {
            assert_eq!(typed(bytes), (keys, rest.to_owned()), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(typed(&[b'x'; MAX_LINE + 50]).1.len(), MAX_LINE);
    }
}
