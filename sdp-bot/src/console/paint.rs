//! Messages to rows of a terminal, with or without colours. Pure.

use crate::message::{Does, Message, Tone};
use crate::text::{Span, Text};

/// Whether colours and weights are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// Colours and weights.
    pub colour: bool,
}

/// A row: what is written, and how many columns it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// With its colours.
    pub(super) painted: String,
    /// Columns.
    pub(super) width: usize,
}

/// Which part of a message's place a row is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// An answer, said once; it offers what one can say next.
    Answer,
    /// The message of a deployment.
    Root,
    /// In a thread.
    Reply,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";
const CYAN: &str = "36";

impl Paint {
    /// All rows of a message. `columns`: rows that are not only ASCII are cut there, because how wide other characters
    /// are is the terminal's own opinion; without it nothing is cut.
    pub(super) fn rows(self, message: &Message, part: Part, columns: Option<usize>) -> Vec<Row> {
        let (first, next, inner) = match part {
            Part::Answer | Part::Root => ("", "  ", "    "),
            Part::Reply => ("  │ ", "  │   ", "  │     "),
        };
        let mut rows = Vec::new();
        let mut row = |indent: &str, pieces: Vec<(String, &'static str)>| {
            rows.push(self.row(indent, pieces, columns));
        };
        let mut title = vec![(format!("{} ", message.tone.mark()), tone_colour(message.tone))];
        title.extend(pieces(&message.title));
        row(first, title);
        for line in &message.lines {
            row(next, pieces(line));
        }
        if let Some(notice) = &message.notice {
            let mut noticed = vec![("! ".to_owned(), YELLOW)];
            noticed.extend(pieces(notice));
            row(next, noticed);
        }
        for line in &message.block {
            row(inner, vec![(line.clone(), "")]);
        }
        let commands: Vec<&str> = message
            .actions
            .iter()
            .filter_map(|action| match &action.does {
                Does::Command(command) => Some(command.as_str()),
                Does::Open(_) => None,
            })
            .collect();
        if !commands.is_empty() && part != Part::Root {
            row(next, vec![(format!("you can say: {}", commands.join(" · ")), DIM)]);
        }
        rows
    }

    /// A row of plain words.
    pub(super) fn words(self, text: &str, style: &'static str, columns: Option<usize>) -> Row {
        self.row("", vec![(text.to_owned(), style)], columns)
    }

    /// What somebody typed, repeated.
    pub(super) fn echo(self, text: &str) -> Row {
        self.words(&format!("> {}", crate::text::clean(text, usize::MAX)), BOLD, None)
    }

    /// A remark of the console itself.
    pub(super) fn remark(self, text: &str, columns: Option<usize>) -> Row {
        self.words(text, DIM, columns)
    }

    /// A line of a program's output, by itself.
    pub(super) fn output(self, text: &str) -> Row {
        self.row("  │     ", vec![(text.to_owned(), "")], None)
    }

    fn row(self, indent: &str, pieces: Vec<(String, &'static str)>, columns: Option<usize>) -> Row {
        let is_ascii = pieces.iter().all(|(text, _)| text.is_ascii());
        let limit = match columns {
            Some(columns) if !is_ascii => columns.saturating_sub(1),
            _ => usize::MAX,
        };
        let mut painted = String::new();
        let mut width = 0;
        for (text, style) in std::iter::once((indent.to_owned(), DIM)).chain(pieces) {
            let mut shown = String::new();
            let mut cut = false;
            for c in text.chars() {
                let wide = columns_of(c);
                if width + wide + 1 > limit {
                    cut = true;
                    break;
                }
                width += wide;
                shown.push(c);
            }
            if cut {
                shown.push('…');
                width += 1;
            }
            if self.colour && !style.is_empty() && !shown.trim().is_empty() {
                painted.push_str(&format!("\u{1b}[{style}m{shown}\u{1b}[0m"));
            } else {
                painted.push_str(&shown);
            }
            if cut {
                break;
            }
        }
        Row { painted, width }
    }
}

/// At least as many columns as any terminal gives the character: too many only cuts a row earlier.
pub(super) fn columns_of(c: char) -> usize {
    match c {
        '…' | '→' | '·' | '│' | '✓' | '✗' | '–' | '▸' => 1,
        '\0'..='\u{2ff}' => 1,
        '\u{370}'..='\u{10ff}' => 1,
        _ => 2,
    }
}

fn tone_colour(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain | Tone::Over => DIM,
        Tone::Waiting | Tone::Working => YELLOW,
        Tone::Good => GREEN,
        Tone::Bad => RED,
        Tone::Note => BLUE,
    }
}

fn pieces(text: &Text) -> Vec<(String, &'static str)> {
    text.spans()
        .iter()
        .map(|span| {
            let words = span.words().to_owned();
            match span {
                Span::Plain(_) => (words, ""),
                Span::Strong(_) => (words, BOLD),
                Span::Dim(_) => (words, DIM),
                Span::Code(_) => (words, CYAN),
                Span::Link(_) => (words, BLUE),
                Span::Mention(_) => (format!("@{words}"), YELLOW),
            }
        })
        .collect()
}
