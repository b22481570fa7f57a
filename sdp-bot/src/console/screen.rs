//! The bottom of a terminal, redrawn in place. Pure: it gives the bytes to write.
//!
//! What is drawn (the live rows and the line being typed) is erased and drawn again in one write; what is printed goes above
//! it and stays. The screen knows how many rows it has drawn, also after the terminal has become narrower.

use super::paint::{Row, columns_of};

const PROMPT: &str = "> ";

/// What stands at the bottom now.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// Columns of each row that is drawn, the line being typed last.
    drawn: Vec<usize>,
}

impl Screen {
    /// Prints `above` for good, and draws `live` and the line below it.
    pub(super) fn draw(&mut self, above: &[Row], live: &[Row], line: &str, columns: usize) -> String {
        let mut out = self.erase(columns);
        for row in above.iter().chain(live) {
            out.push_str(&row.painted);
            out.push_str("\r\n");
        }
        let typed = tail(line, columns.saturating_sub(PROMPT.len() + 1));
        out.push_str(PROMPT);
        out.push_str(&typed);
        self.drawn = live.iter().map(|row| row.width).collect();
        self.drawn.push(PROMPT.len() + typed.chars().map(columns_of).sum::<usize>());
        out
    }

    /// Takes away what is drawn.
    pub(super) fn erase(&mut self, columns: usize) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn.is_empty() {
            return String::new();
        }
        let rows: usize = drawn.iter().map(|width| rows_of(*width, columns)).sum();
        match rows - 1 {
            0 => "\r\u{1b}[J".to_owned(),
            up => format!("\r\u{1b}[{up}A\u{1b}[J"),
        }
    }
}

/// How many rows of the terminal so many columns take.
pub(super) fn rows_of(width: usize, columns: usize) -> usize {
    width.div_ceil(columns.max(1)).max(1)
}

/// The end of a line that is too long, so that one sees what one types.
fn tail(line: &str, columns: usize) -> String {
    let mut width = 0;
    let mut kept: Vec<char> = line
        .chars()
        .rev()
        .take_while(|c| {
            width += columns_of(*c);
            width <= columns
        })
        .collect();
    kept.reverse();
    kept.into_iter().collect()
}
