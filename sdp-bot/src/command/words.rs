//! A line, as chats and phones hand it over, cut into words.

use super::Mistake;

/// One word; quotes keep spaces inside a word together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// The word, unquoted.
    pub(super) text: String,
    /// Whether it was quoted, so that it is taken as it is.
    pub(super) quoted: bool,
}

/// Cuts a line into words. Backticks and angle brackets around words, typographic quotes, dashes and spaces are undone.
pub(super) fn split(line: &str) -> Result<Vec<Word>, Mistake> {
    let mut words = Vec::new();
    let mut current = Word { text: String::new(), quoted: false };
    let mut began = false;
    let mut open: Option<char> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if let Some(end) = open {
            match c {
                c if c == end => open = None,
                '\\' if chars.peek().is_some_and(|next| *next == end || *next == '\\') => {
                    current.text.extend(chars.next());
                }
                c => current.text.push(c),
            }
            continue;
        }
        match c {
            c if c.is_whitespace() => {
                if std::mem::take(&mut began) {
                    words.push(std::mem::replace(&mut current, Word { text: String::new(), quoted: false }));
                }
                continue;
            }
            '"' => open = Some('"'),
            '\u{201c}' => open = Some('\u{201d}'),
            // A phone makes both ends alike at times.
            '\u{201d}' => open = Some('\u{201d}'),
            '`' => continue,
            // Also behind the `=` of `payments=<address|text>`.
            '<' if !began || current.text.ends_with('=') => {
                current.text.push_str(&link(&mut chars));
                began = true;
                continue;
            }
            '\u{2014}' | '\u{2013}' if !began => current.text.push_str("--"),
            '\u{200b}'..='\u{200f}' | '\u{feff}' => continue,
            c => current.text.push(c),
        }
        current.quoted |= open.is_some();
        began = true;
    }
    if open.is_some() {
        return Err(Mistake::new("unfinished_quote", "A quotation mark is never closed.")
            .hint("put a \" at the end of the text, or leave both away"));
    }
    if began {
        words.push(current);
    }
    Ok(words)
}

/// `<address|text>` or `<address>`, after the `<`: the address. `<payments>` is taken as the word.
fn link(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let inside: String = chars.by_ref().take_while(|c| *c != '>').collect();
    let address = inside.split('|').next().unwrap_or_default();
    address.trim().to_owned()
}

/// A word so that [`split`] gives it back as it is.
pub(super) fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_whitespace() || "\"\u{201c}\u{201d}`<\\\u{2014}\u{2013}\u{feff}".contains(c))
        && !text.chars().any(|c| ('\u{200b}'..='\u{200f}').contains(&c));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}
