//! Takes secrets out of what is printed, before it is stored or sent anywhere.
//!
//! Made by the job for its git credential and the service's secrets, made anew for what a later life of the agent finds running
//! (from the variables that it was given), and used by `exec` on every pipe, before lines are cut; everything downstream
//! is clean by construction. A secret is found however the stream is cut into chunks, and in these forms: as it is, each
//! of its lines, base64 and base64url at any of three offsets, URL-encoded, JSON-, XML- and shell-escaped, as `%q`, `repr` and
//! their kind write it, hexadecimal.
//! Line feeds, carriage returns and ANSI colours in its middle do not hide it. It becomes [`MASK`], line feeds stay.
//!
//! Invariant: of a planted secret no form comes out, but for at most [`SHORTEST`]` - 1` leading bytes when it is broken
//! over lines (a line is not held back for less).
//!
//! Limits: secrets shorter than [`SHORTEST`] bytes are not looked for (they would turn logs to stars). Not covered:
//! reversed, compressed, encrypted or character-wise decorated forms. Of a secret over [`LONG`] bytes only the plain,
//! base64 and JSON forms are looked for.

mod forms;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, packed};

/// What a secret becomes.
pub use sdp_core::secret::MASK;
/// Shorter secrets are not looked for, in bytes.
pub use sdp_core::secret::SHORTEST;
/// Of longer secrets fewer forms are looked for, in bytes.
pub const LONG: usize = 4096;
/// Longer forms are looked for in pieces of this length, so that little is held back.
const PIECE: usize = 200;
/// The longest ANSI sequence that is looked through.
const MAX_ANSI: usize = 32;

/// What to take out. Cheap to clone; the default takes out nothing.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Patterns>>);

struct Patterns {
    matcher: AhoCorasick,
    /// Finds the first bytes of all forms, fifty times as fast as `matcher`: nearly all output has none of them. Only
    /// where there are not too many.
    heads: Option<packed::Searcher>,
    /// Sorted, so that whether some text begins one is a binary search.
    sorted: Vec<Vec<u8>>,
    longest: usize,
    begins: [bool; 256],
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Redactor(nothing)" } else { "Redactor(…)" })
    }
}

impl Redactor {
    /// Takes out these secrets. For a git credential: the password, and `user:password`.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns: Vec<Vec<u8>> = secrets
            .into_iter()
            .flat_map(forms::forms)
            .map(|form| without_breaks(&form))
            .filter(|form| form.len() >= SHORTEST)
            .flat_map(pieces)
            .collect();
        patterns.sort_unstable();
        patterns.dedup();
        if patterns.is_empty() {
            return Self::default();
        }
        let mut heads: Vec<&[u8]> = patterns.iter().map(|pattern| &pattern[..SHORTEST]).collect();
        heads.dedup();
        let heads = packed::Searcher::new(heads);
        // Its own prefilter looks for single bytes, which are too common to help where `heads` is to be had.
        let Ok(matcher) = AhoCorasick::builder().prefilter(heads.is_none()).build(&patterns) else {
            // Only more patterns than fit into 31 bits make it fail; a credential has a length limit far below.
            unreachable!("the number of patterns is bounded by the length of a credential");
        };
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let mut begins = [false; 256];
        for pattern in &patterns {
            begins[usize::from(pattern[0])] = true;
        }
        Self(Some(Arc::new(Patterns { matcher, heads, sorted: patterns, longest, begins })))
    }

    /// Whether it takes out nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A text that is whole, such as an error message.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Bytes that are whole, such as a line.
    #[must_use]
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut stream = self.stream();
        stream.push(bytes, &mut out);
        stream.finish(&mut out);
        Cow::Owned(out)
    }

    /// For bytes that come in chunks.
    #[must_use]
    pub fn stream(&self) -> RedactStream {
        RedactStream { patterns: self.0.clone(), held: Vec::new(), out: 0, masked: 0, after_mask: false }
    }
}

/// A stream that secrets are taken out of.
///
/// ```text
/// held:  …already out…|…not decided…        out: how many bytes of `held` were handed over and are context only
///        └─ may begin a secret ─────┘
/// ```
pub struct RedactStream {
    patterns: Option<Arc<Patterns>>,
    held: Vec<u8>,
    out: usize,
    /// How many of the plain bytes of `held` end a secret that began before.
    masked: usize,
    /// Whether what was handed over last is the mask of the bytes just before.
    after_mask: bool,
}

impl fmt::Debug for RedactStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is held may be half a secret.
        f.write_str("RedactStream(…)")
    }
}

impl RedactStream {
    /// Takes a chunk; appends what is certain to hold no secret.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self.patterns.clone() {
            None => out.extend_from_slice(chunk),
            Some(patterns) => {
                self.held.extend_from_slice(chunk);
                self.advance(&patterns, false, out);
            }
        }
    }

    /// Appends what was held back.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if let Some(patterns) = self.patterns.clone() {
            self.advance(&patterns, true, out);
        }
    }

    fn advance(&mut self, patterns: &Patterns, last: bool, out: &mut Vec<u8>) {
        let plain = Plain::of(&self.held, last);
        let text = &plain.bytes[..];
        let mut secrets = patterns.find(text);
        if self.masked > 0 {
            secrets.insert(0, (0, self.masked.min(text.len())));
        }
        let secrets = merged(secrets);
        // From here on it may be the beginning of a secret whose rest has not come yet.
        let undecided = if last { text.len() } else { patterns.partial(text) };
        let certain = if undecided < text.len() { plain.original(undecided) } else { plain.end };
        let handed_over = certain > self.out;
        self.emit(certain, &plain, &secrets, undecided, out);
        // With nothing decided, what was known of the beginning of `held` still holds.
        if undecided > 0 {
            let across = secrets.iter().find(|(start, end)| *start < undecided && *end >= undecided);
            // What had gone out before its secret was seen to be one has no mask.
            self.after_mask = across.is_some() && (handed_over || self.after_mask);
            self.masked = across.map_or(0, |(_, end)| end - undecided);
        }
        // A line is not held back for less than what is worth hiding.
        if text.len() - undecided < SHORTEST
            && let Some(feed) = memchr::memrchr(b'\n', &self.held[certain..])
        {
            let to = certain + feed + 1;
            let shown = undecided + self.masked;
            let is_seen = to > self.out && shown < text.len() && plain.original(shown) < to;
            self.emit(to, &plain, &secrets, text.len(), out);
            self.after_mask &= !is_seen;
        }
        self.held.drain(..certain);
        self.out = self.out.saturating_sub(certain);
    }

    /// Hands over `held` up to a place, with these secrets (in plain places, up to `limit`) masked; what goes on where a mask was
    /// handed over last has that one.
    fn emit(
        &mut self,
        to: usize,
        plain: &Plain,
        secrets: &[(usize, usize)],
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        let mut at = self.out;
        if to <= at {
            return;
        }
        for (start, end) in secrets {
            let (start, end) = (*start, (*end).min(limit));
            if start >= end {
                continue;
            }
            let from = plain.original(start);
            let until = (plain.original(end - 1) + 1).min(to);
            if until <= at || from >= to {
                continue;
            }
            out.extend_from_slice(&self.held[at..from.max(at)]);
            if !(self.after_mask && (start == 0 || from <= at)) {
                out.extend_from_slice(MASK.as_bytes());
            }
            let hidden = &self.held[from.max(at)..until];
            out.extend(hidden.iter().filter(|byte| **byte == b'\n'));
            at = until;
        }
        out.extend_from_slice(&self.held[at..to]);
        self.out = to;
    }
}

impl Patterns {
    /// Every place where a secret is, overlapping ones too.
    fn find(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let first = match &self.heads {
            None => 0,
            Some(heads) => match heads.find(text) {
                None => return Vec::new(),
                Some(head) => head.start(),
            },
        };
        let found = self.matcher.find_overlapping_iter(&text[first..]);
        found.map(|found| (first + found.start(), first + found.end())).collect()
    }

    /// Where the longest end of `text` begins that could still become a secret; its length if there is none.
    fn partial(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(self.longest - 1);
        (first..text.len())
            .find(|start| {
                let end = &text[*start..];
                self.begins[usize::from(end[0])] && self.begins_one(end)
            })
            .unwrap_or(text.len())
    }

    fn begins_one(&self, text: &[u8]) -> bool {
        let at = self.sorted.partition_point(|pattern| pattern.as_slice() <= text);
        self.sorted.get(at).is_some_and(|pattern| pattern.starts_with(text))
    }
}

/// Joins what overlaps or touches.
fn merged(mut ranges: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    ranges.sort_unstable();
    let mut out: Vec<(usize, usize)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

/// A form in pieces that are looked for one by one.
fn pieces(form: Vec<u8>) -> Vec<Vec<u8>> {
    if form.len() <= PIECE {
        return vec![form];
    }
    // The last piece is as long as the others, so none is too short to be sure of.
    let mut starts: Vec<usize> = (0..form.len() - PIECE).step_by(PIECE).collect();
    starts.push(form.len() - PIECE);
    starts.into_iter().map(|start| form[start..start + PIECE].to_vec()).collect()
}

fn without_breaks(bytes: &[u8]) -> Vec<u8> {
    Plain::of(bytes, true).bytes
}

/// A text without line feeds, carriage returns and ANSI sequences, and where each byte was.
struct Plain {
    bytes: Vec<u8>,
    /// Runs of bytes: place in `bytes`, place in the original.
    runs: Vec<(usize, usize)>,
    /// How much of the original was looked at; what comes after may be the beginning of an ANSI sequence.
    end: usize,
}

impl Plain {
    fn of(text: &[u8], last: bool) -> Self {
        let mut plain = Self { bytes: Vec::with_capacity(text.len()), runs: Vec::new(), end: 0 };
        let mut at = 0;
        loop {
            let next = memchr::memchr3(b'\n', b'\r', 0x1b, &text[at..]).map_or(text.len(), |n| at + n);
            plain.run(&text[at..next], at);
            at = next;
            match text.get(at) {
                None => break,
                Some(0x1b) => match ansi(&text[at..]) {
                    Some(length) => at += length,
                    None if !last && text.len() - at < MAX_ANSI && !ansi_is_broken(&text[at..]) => break,
                    None => {
                        plain.run(&text[at..=at], at);
                        at += 1;
                    }
                },
                Some(_) => at += 1,
            }
        }
        plain.end = at;
        plain
    }

    fn run(&mut self, bytes: &[u8], at: usize) {
        if !bytes.is_empty() {
            self.runs.push((self.bytes.len(), at));
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn original(&self, place: usize) -> usize {
        let run = self.runs.partition_point(|(start, _)| *start <= place).saturating_sub(1);
        self.runs.get(run).map_or(0, |(start, at)| at + (place - start))
    }
}

/// The length of the ANSI control sequence (`ESC [ … letter`) that a text begins with.
fn ansi(text: &[u8]) -> Option<usize> {
    let rest = text.strip_prefix(b"\x1b[")?;
    let end = rest.iter().take(MAX_ANSI).position(|byte| !(0x20..=0x3f).contains(byte))?;
    (0x40..=0x7e).contains(&rest[end]).then_some(end + 3)
}

/// Whether a text that begins with ESC can no more become a control sequence.
fn ansi_is_broken(text: &[u8]) -> bool {
    match text {
        [_] => false,
        [_, b'[', rest @ ..] => rest.iter().any(|byte| !(0x20..=0x3f).contains(byte)),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
