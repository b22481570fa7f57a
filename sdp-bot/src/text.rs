//! Text that is safe to show: what a branch, a commit or a build says never steers a terminal or a chat.
//!
//! A [`Text`] is a line of [`Span`]s. Every span is cleaned when it is made, so a [`Text`] holds no control character, no
//! escape sequence and no character that turns the direction of what follows, wherever it came from. A span is at most
//! [`MAX_SPAN`] characters long.

use serde::Serialize;
use url::Url;

/// The longest span, in characters; more is cut with an ellipsis.
pub const MAX_SPAN: usize = 400;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Span {
    /// Ordinary words.
    Plain(String),
    /// What the eye should find.
    Strong(String),
    /// Less important.
    Dim(String),
    /// A name, a commit, a command.
    Code(String),
    /// A link, shown in full where a chat cannot hide it behind words.
    Link(Url),
    /// Somebody who is called.
    Mention(String),
}

impl Span {
    /// Its words, without any style.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Plain(text)
            | Self::Strong(text)
            | Self::Dim(text)
            | Self::Code(text)
            | Self::Mention(text) => text,
            Self::Link(url) => url.as_str(),
        }
    }
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Text(Vec<Span>);

impl Text {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ordinary words.
    #[must_use]
    pub fn plain(self, text: impl AsRef<str>) -> Self {
        self.with(Span::Plain(clean(text.as_ref(), MAX_SPAN)))
    }

    /// What the eye should find.
    #[must_use]
    pub fn strong(self, text: impl AsRef<str>) -> Self {
        self.with(Span::Strong(clean(text.as_ref(), MAX_SPAN)))
    }

    /// Less important words.
    #[must_use]
    pub fn dim(self, text: impl AsRef<str>) -> Self {
        self.with(Span::Dim(clean(text.as_ref(), MAX_SPAN)))
    }

    /// A name, a commit, a command.
    #[must_use]
    pub fn code(self, text: impl AsRef<str>) -> Self {
        self.with(Span::Code(clean(text.as_ref(), MAX_SPAN)))
    }

    /// A link.
    #[must_use]
    pub fn link(self, url: &Url) -> Self {
        self.with(Span::Link(url.clone()))
    }

    /// Calls somebody.
    #[must_use]
    pub fn mention(self, person: impl AsRef<str>) -> Self {
        self.with(Span::Mention(clean(person.as_ref(), MAX_SPAN)))
    }

    /// Another line's spans after these.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The spans.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.0
    }

    /// The words, without any style; code in backticks.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = String::new();
        for span in &self.0 {
            match span {
                Span::Code(text) => {
                    words.push('`');
                    words.push_str(text);
                    words.push('`');
                }
                Span::Mention(text) => {
                    words.push('@');
                    words.push_str(text);
                }
                _ => words.push_str(span.words()),
            }
        }
        words
    }

    fn with(mut self, span: Span) -> Self {
        self.0.push(span);
        self
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new().plain(text)
    }
}

/// Takes out whatever is not for reading: escape sequences whole, control characters, characters that are invisible or
/// turn the direction. Tabs become spaces. At most `max` characters are kept.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max.saturating_mul(4)));
    let mut kept = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let c = match c {
            '\u{1b}' => {
                skip_escape(&mut chars);
                continue;
            }
            '\u{9b}' => {
                skip_csi(&mut chars);
                continue;
            }
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => {
                skip_string(&mut chars);
                continue;
            }
            '\t' | '\n' | '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() || is_unseen(c) => continue,
            c => c,
        };
        if kept == max {
            out.pop();
            out.push('…');
            break;
        }
        out.push(c);
        kept += 1;
    }
    out
}

fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_escape(chars: &mut Chars<'_>) {
    match chars.next() {
        Some('[') => skip_csi(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars),
        // Two-part escapes such as `ESC ( B`.
        Some(c) if (' '..='/').contains(&c) => {
            chars.next();
        }
        _ => {}
    }
}

fn skip_csi(chars: &mut Chars<'_>) {
    while let Some(&c) = chars.peek() {
        // Parameters and intermediates, then one final; anything else is no part of it.
        if !(' '..='~').contains(&c) {
            return;
        }
        chars.next();
        if ('@'..='~').contains(&c) {
            return;
        }
    }
}

fn skip_string(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_taken_out_whole() {
        for (raw, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]8;;http://evil\u{1b}\\b", "ab"),
            ("a\u{1b}]52;c;ZXZpbA==\u{9c}b", "ab"),
            ("a\u{9b}2Jb\u{9d}x\u{9c}c", "abc"),
            ("a\u{1b}P1$r\u{1b}\\b\u{1b}(Bc", "abc"),
            ("over\rwrite\u{8}\u{8}", "overwrite"),
            ("tab\tline\nline", "tab line line"),
            ("evil\u{202e}txt.exe\u{200b}", "eviltxt.exe"),
            ("open \u{1b}[", "open "),
            ("ünï 漢字 ✓", "ünï 漢字 ✓"),
            ("nul\0\u{7f}", "nul"),
        ] {
            assert_eq!(clean(raw, 100), shown, "{raw:?}");
        }
        assert_eq!(clean("abcdef", 3), "ab…");
        assert_eq!(clean("abc", 3), "abc");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_not_for_reading_comes_through(text in proptest::prelude::any::<String>()) {
            let shown = clean(&text, 50);
            proptest::prop_assert!(shown.chars().count() <= 50);
            proptest::prop_assert!(shown.chars().all(|c| !c.is_control() && !is_unseen(c)), "{shown:?}");
        }
    }
}
