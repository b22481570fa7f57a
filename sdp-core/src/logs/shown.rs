//! What a line says when it is shown: control sequences are gone, what a carriage return overwrote is gone, and what
//! cannot be seen is spelled out.
//!
//! Called by the search, so that it finds what people see and nothing else. The log page does the same with colours
//! (`ansi.js`); the two must agree, which a test in a browser compares line by line. All loops are linear.

use std::borrow::Cow;

/// Whether a stretch of lines is shown as it is: printable ASCII, tabs and line feeds. Without an early end, so that the
/// compiler can look at many bytes at once.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .fold(true, |plain, byte| plain & (matches!(byte, 0x20..=0x7e) | matches!(byte, b'\t' | b'\n')))
}

/// The text of a line, without its line feed.
pub(super) fn shown(line: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(line);
    let visible = text.trim_end_matches('\r').len();
    if !text[..visible].chars().any(is_hidden) {
        return match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..visible]),
            Cow::Owned(mut text) => {
                text.truncate(visible);
                Cow::Owned(text)
            }
        };
    }
    let mut rest = &text[..visible];
    if !moves(rest) {
        return Cow::Owned(flowing(rest));
    }
    let mut row = Row::default();
    while let Some(c) = rest.chars().next() {
        if is_hidden(c) {
            if let Some((erase, after)) = sequence(rest) {
                rest = after;
                if let Some(erase) = erase {
                    row.erase(erase);
                }
                continue;
            }
            row.control(c);
        } else {
            row.put(Cell::Char(c));
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(row.text())
}

/// Whether the line may be more than one run of text after the other. (Erasing to the end does nothing at the end.)
fn moves(text: &str) -> bool {
    text.contains(['\r', '\u{8}', '\u{9b}']) || text.contains("[1K") || text.contains("[2K")
}

/// Most lines with colours: text only ever follows text.
fn flowing(mut rest: &str) -> String {
    let mut out = String::with_capacity(rest.len());
    while let Some(at) = rest.find(is_hidden) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((_, after)) = sequence(rest) {
            rest = after;
        } else if let Some(c) = rest.chars().next() {
            if let Some(cell) = spelled(c) {
                cell.write(&mut out);
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    out.push_str(rest);
    out
}

/// How a character that cannot be seen is shown; `None`: not at all.
fn spelled(c: char) -> Option<Cell> {
    match c {
        '\u{7}' | '\u{e}' | '\u{f}' | '\u{9c}' => None,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).map(Cell::Char),
        '\u{7f}' => Some(Cell::Char('\u{2421}')),
        _ => Some(Cell::Spelled(c)),
    }
}

/// Cannot be seen, or turns text around. A tab is text.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[derive(Clone, Copy)]
enum Cell {
    Blank,
    Char(char),
    /// Shown as its number.
    Spelled(char),
}

impl Cell {
    fn write(self, out: &mut String) {
        match self {
            Self::Blank => out.push(' '),
            Self::Char(c) => out.push(c),
            Self::Spelled(c) => out.push_str(&format!("\u{27e8}U+{:04X}\u{27e9}", u32::from(c))),
        }
    }
}

/// "Erase in line".
#[derive(Clone, Copy)]
enum Erase {
    ToEnd,
    ToStart,
    All,
}

/// A line of a terminal without an end on the right.
#[derive(Default)]
struct Row {
    cells: Vec<Cell>,
    column: usize,
}

impl Row {
    fn put(&mut self, cell: Cell) {
        if self.column >= self.cells.len() {
            self.cells.resize(self.column + 1, Cell::Blank);
        }
        self.cells[self.column] = cell;
        self.column += 1;
    }

    fn control(&mut self, c: char) {
        match c {
            '\r' => self.column = 0,
            '\u{8}' => self.column = self.column.saturating_sub(1),
            _ => {
                if let Some(cell) = spelled(c) {
                    self.put(cell);
                }
            }
        }
    }

    fn erase(&mut self, what: Erase) {
        match what {
            Erase::ToEnd => self.cells.truncate(self.column),
            Erase::ToStart if self.column + 1 < self.cells.len() => {
                // What is left of the first blank cell is blank already, so repeating it costs nothing.
                for cell in self.cells[..=self.column].iter_mut().rev() {
                    if matches!(cell, Cell::Blank) {
                        break;
                    }
                    *cell = Cell::Blank;
                }
            }
            // The column stays where it is.
            Erase::ToStart | Erase::All => self.cells.clear(),
        }
    }

    fn text(self) -> String {
        let mut out = String::with_capacity(self.cells.len() + 16);
        for cell in self.cells {
            cell.write(&mut out);
        }
        out
    }
}

/// If a control sequence begins here: what it erases, and what comes after it. A sequence without its end is as long as
/// what belongs to it for certain; a string sequence (OSC, DCS …) without its end is its introducer alone, so that it
/// hides nothing.
fn sequence(text: &str) -> Option<(Option<Erase>, &str)> {
    if let Some(body) = text.strip_prefix("\u{1b}[").or_else(|| text.strip_prefix('\u{9b}')) {
        return Some(control_sequence(body));
    }
    let is_string = |c| matches!(c, ']' | 'P' | 'X' | '^' | '_');
    let string = text.strip_prefix('\u{1b}').and_then(|text| text.strip_prefix(is_string));
    let is_string_c1 = |c| matches!(c, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}');
    if let Some(body) = string.or_else(|| text.strip_prefix(is_string_c1)) {
        let ends = |c| matches!(c, '\u{7}' | '\u{1b}' | '\u{90}' | '\u{98}' | '\u{9c}'..='\u{9f}');
        let end = &body[body.find(ends).unwrap_or(body.len())..];
        let after = ["\u{7}", "\u{1b}\\", "\u{9c}"].into_iter().find_map(|mark| end.strip_prefix(mark));
        return Some((None, after.unwrap_or(body)));
    }
    let after = text.strip_prefix('\u{1b}')?;
    let end = after.trim_start_matches(|c| matches!(c, ' '..='/'));
    Some((None, end.strip_prefix(|c| matches!(c, '0'..='~')).unwrap_or(after)))
}

/// After `CSI`: parameters, intermediates, a final character.
fn control_sequence(body: &str) -> (Option<Erase>, &str) {
    let after = body.trim_start_matches(|c| matches!(c, '0'..='?'));
    let parameters = &body[..body.len() - after.len()];
    let end = after.trim_start_matches(|c| matches!(c, ' '..='/'));
    let plain = end.len() == after.len();
    let Some(rest) = end.strip_prefix(|c| matches!(c, '@'..='~')) else { return (None, end) };
    let erase = match parameters {
        "" | "0" => Erase::ToEnd,
        "1" => Erase::ToStart,
        "2" => Erase::All,
        _ => return (None, rest),
    };
    ((plain && end.starts_with('K')).then_some(erase), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_a_terminal_would_show_of_it() {
        let lines: &[&[u8]] = &[
            b"plain\ttext",
            "na\u{ef}ve \u{1f980}".as_bytes(),
            b"\x1b[31mre\x1b[1;32md\x1b[0m",
            b" 10% [#  ]\r 50% [## ]\r\x1b[K100% [###]",
            b"crlf\r\r",
            b"ab\x08\x08cd\x08e",
            b"\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x1b\\ \x1b]52;c;aGk=\x07\x1b]0;owned\x07end",
            b"\x1b]0;never ends",
            b"\x1bPq#0\x1b\\dcs\x1b[2J\x1b[1000000C\x1b[?25l.\x1b[31",
            b"\x1b(Bcharset\x1b#8\x1b",
            "\u{9b}31mc1\u{9d}0;t\u{9c}\u{85}".as_bytes(),
            "evil\u{202e}gnp.exe\u{200b}".as_bytes(),
            b"nul\x00 bell\x07 del\x7f bad\xff\xc3",
            b"abc\x1b[2Kd",
            b"abcdef\x08\x08\x08\x1b[1KX",
            b"abcdef\r\x1b[1Kx",
            b"long text\rshort",
            b"",
            b"\r",
        ];
        let shown: Vec<_> = lines.iter().map(|line| shown(line).into_owned()).collect();
        insta::assert_debug_snapshot!(shown, @r#"
        [
            "plain\ttext",
            "naïve 🦀",
            "red",
            "100% [###]",
            "crlf",
            "ce",
            "click end",
            "0;never ends",
            "dcs.",
            "charset",
            "c1⟨U+0085⟩",
            "evil⟨U+202E⟩gnp.exe⟨U+200B⟩",
            "nul␀ bell del␡ bad��",
            "   d",
            "   Xef",
            "xbcdef",
            "shorttext",
            "",
            "",
        ]
        "#);
    }

    #[test]
    fn a_line_that_flows_reads_the_same_cell_by_cell() {
        for line in [
            "a\u{1b}[31mb\u{1b}[Kc\u{0}\u{7}\u{7f}",
            "\u{1b}]0;t\u{7}x\u{202e}\u{85}\u{1b}",
            "\u{9c}é\u{1b}[0Ky",
        ] {
            assert!(!moves(line));
            // A step back from the first column goes nowhere.
            assert_eq!(shown(line.as_bytes()), shown(format!("\u{8}{line}").as_bytes()));
        }
    }

    #[test]
    fn printable_ascii_is_plain_and_nothing_else() {
        for byte in 0..=255u8 {
            let line = [b'a', byte];
            if is_plain(&line) && byte != b'\n' {
                assert_eq!(shown(&line).as_bytes(), line);
            } else {
                assert!(byte == b'\n' || !matches!(byte, b' '..=b'~' | b'\t'), "{byte}");
            }
        }
    }
}
