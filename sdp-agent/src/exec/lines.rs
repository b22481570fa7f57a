//! Cuts what a program prints into lines, in constant memory: redact first, then cut, so that no half of a secret is left
//! before a cut. Used by `exec::supervise`, one for each pipe.

use sdp_core::wire::{CUT_MARKER, MAX_LINE, Stream};

use super::OnLine;
use crate::redact::{RedactStream, Redactor};

/// What is kept of a line that is cut: room for the count before [`CUT_MARKER`].
const KEEP: usize = MAX_LINE - 40;

/// One pipe's lines.
pub(crate) struct Lines<'a> {
    stream: Stream,
    on_line: &'a OnLine,
    redact: Option<RedactStream>,
    clean: Vec<u8>,
    cutter: Cutter,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(stream: Stream, redactor: &Redactor, on_line: &'a OnLine) -> Self {
        let redact = (!redactor.is_empty()).then(|| redactor.stream());
        Self { stream, on_line, redact, clean: Vec::new(), cutter: Cutter::default() }
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let emit = |line: &[u8]| (self.on_line)(self.stream, line);
        match &mut self.redact {
            None => self.cutter.push(chunk, emit),
            Some(redact) => {
                self.clean.clear();
                redact.push(chunk, &mut self.clean);
                self.cutter.push(&self.clean, emit);
            }
        }
    }

    /// Hands over what comes after the last line feed.
    pub(crate) fn finish(mut self) {
        let emit = |line: &[u8]| (self.on_line)(self.stream, line);
        if let Some(redact) = self.redact {
            self.clean.clear();
            redact.finish(&mut self.clean);
            self.cutter.push(&self.clean, emit);
        }
        self.cutter.finish(emit);
    }
}

/// Bytes to lines. Line feeds are taken off, everything else stays: carriage returns, NUL, invalid UTF-8.
#[derive(Default)]
struct Cutter {
    /// The beginning of a line whose end has not come; at most `MAX_LINE`.
    partial: Vec<u8>,
    /// How many bytes of that line are not in `partial`.
    dropped: u64,
}

impl Cutter {
    fn push(&mut self, chunk: &[u8], emit: impl Fn(&[u8])) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() && self.dropped == 0 && line.len() <= MAX_LINE {
                emit(line);
            } else {
                self.take(line);
                self.flush(&emit);
            }
            rest = after;
        }
        self.take(rest);
    }

    fn finish(mut self, emit: impl Fn(&[u8])) {
        if !self.partial.is_empty() || self.dropped > 0 {
            self.flush(&emit);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = if self.dropped > 0 { 0 } else { MAX_LINE - self.partial.len() };
        let taken = bytes.len().min(room);
        self.partial.extend_from_slice(&bytes[..taken]);
        self.dropped += (bytes.len() - taken) as u64;
    }

    fn flush(&mut self, emit: &impl Fn(&[u8])) {
        if self.dropped > 0 {
            let keep = whole_characters(&self.partial, KEEP);
            let dropped = self.dropped + (self.partial.len() - keep) as u64;
            self.partial.truncate(keep);
            self.partial.extend_from_slice(format!(" [{dropped} bytes left out]{CUT_MARKER}").as_bytes());
            self.dropped = 0;
        }
        emit(&self.partial);
        self.partial.clear();
        // A long line's buffer is not kept for the short ones that follow.
        self.partial.shrink_to(4096);
    }
}

/// At most `max`, less if that would cut a UTF-8 character in two.
fn whole_characters(bytes: &[u8], max: usize) -> usize {
    let max = max.min(bytes.len());
    (max.saturating_sub(3)..=max)
        .rev()
        .find(|end| bytes.get(*end).is_none_or(|next| next & 0b1100_0000 != 0b1000_0000))
        .unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let lines = RefCell::new(Vec::new());
        let mut cutter = Cutter::default();
        for chunk in chunks {
            cutter.push(chunk, |line| lines.borrow_mut().push(line.to_vec()));
        }
        cutter.finish(|line| lines.borrow_mut().push(line.to_vec()));
        lines.into_inner()
    }

    #[test]
    fn bytes_stay_as_they_are_and_the_last_line_needs_no_line_feed() {
        let lines = cut(&[b"a\r\n\0\xff\n\n", b"la", b"st"]);
        assert_eq!(lines, [b"a\r".to_vec(), b"\0\xff".to_vec(), vec![], b"last".to_vec()]);
        assert_eq!(cut(&[b"a\n"]), [b"a".to_vec()], "no empty line after the last line feed");
    }

    #[test]
    fn an_overlong_line_is_cut_once_and_counted_and_the_next_is_whole() {
        let exact = vec![b'x'; MAX_LINE];
        assert_eq!(cut(&[&exact, b"\n"]), std::slice::from_ref(&exact));

        let chunk = [b'x'; 1000];
        let chunks: Vec<&[u8]> = std::iter::repeat_n(&chunk[..], 3000).chain([&b"\nnext\n"[..]]).collect();
        let lines = cut(&chunks);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() <= MAX_LINE + CUT_MARKER.len());
        let end = format!(" [{} bytes left out]{CUT_MARKER}", 3_000_000 - KEEP);
        assert!(lines[0].ends_with(end.as_bytes()), "{}", String::from_utf8_lossy(&lines[0][KEEP..]));
        assert_eq!(lines[1], b"next");
    }

    #[test]
    fn a_cut_does_not_split_a_character() {
        for shift in 0..4 {
            let text = format!("{}{}\n", "x".repeat(shift), "€".repeat(MAX_LINE));
            let lines = cut(&[text.as_bytes()]);
            assert!(std::str::from_utf8(&lines[0]).is_ok(), "shift {shift}");
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300), sizes in prop::collection::vec(1..50usize, 1..20)) {
            let mut rest = &text[..];
            let mut chunks = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            let mut expected: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
            if expected.last().is_some_and(|last| last.is_empty()) { expected.pop(); }
            prop_assert_eq!(cut(&chunks), expected);
        }
    }
}
