//! The messages that a console shows: which of them may still change, and what of them is drawn. Pure.

use std::collections::BTreeMap;

use super::Look;
use super::paint::{Paint, Part, Row};
use super::screen::{Screen, rows_of};
use super::terminal::Size;
use crate::chat::Place;
use crate::message::Message;

/// The most messages that are drawn as changing; older ones are printed as they stand.
const MAX_CARDS: usize = 50;

/// All messages that may still change.
pub(super) struct Board {
    pub(super) look: Look,
    paint: Paint,
    screen: Screen,
    next_place: u64,
    cards: BTreeMap<u64, Card>,
    /// Printed for good with the next draw.
    above: Vec<Row>,
    /// Line by line: whose thread the last row was in.
    last: Option<u64>,
    /// The line that was drawn last; none: draw in any case.
    drawn_line: Option<String>,
}

struct Card {
    root: Message,
    replies: Vec<Message>,
    noticed: bool,
}

impl Board {
    pub(super) fn new(look: Look, paint: Paint) -> Self {
        Self {
            look,
            paint,
            screen: Screen::default(),
            next_place: 1,
            cards: BTreeMap::new(),
            above: Vec::new(),
            last: None,
            drawn_line: None,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.look, Look::Live(_))
    }

    /// An answer: printed once.
    pub(super) fn answer(&mut self, message: &Message) {
        self.print(message, Part::Answer);
        self.last = None;
    }

    /// A message that will change.
    pub(super) fn post(&mut self, message: Message) -> Place {
        let place = self.next_place;
        self.next_place += 1;
        if !self.is_live() {
            self.print(&message, Part::Root);
            self.last = Some(place);
        }
        self.cards.insert(place, Card { root: message, replies: Vec::new(), noticed: false });
        self.drawn_line = None;
        if self.cards.len() > MAX_CARDS
            && let Some((oldest, _)) = self.cards.first_key_value()
        {
            self.freeze(*oldest);
        }
        Place(place.to_string())
    }

    pub(super) fn update(&mut self, place: &Place, message: Message, last: bool) {
        let Some((place, card)) = self.card(place) else { return };
        let notice = message.notice.clone().filter(|_| !card.noticed);
        card.noticed |= notice.is_some();
        let before = std::mem::replace(&mut card.root, message);
        let after = card.root.clone();
        self.drawn_line = None;
        if !self.is_live()
            && let Some(notice) = notice
        {
            self.print_in(place, &Message::new(crate::message::Tone::Note, notice));
        }
        if !self.is_live() {
            self.print_news(place, &before, &after);
        }
        if last {
            self.freeze(place);
        }
    }

    /// Line by line: of output that goes on, what was not there before; and its title, if that says something else now.
    fn print_news(&mut self, place: u64, before: &Message, after: &Message) {
        if before.block.is_empty() && after.block.is_empty() {
            return;
        }
        let known = (0..=before.block.len().min(after.block.len()))
            .rev()
            .find(|n| before.block[before.block.len() - n..] == after.block[..*n])
            .unwrap_or(0);
        let mut news = after.clone();
        news.lines.clear();
        news.actions.clear();
        news.block.drain(..known);
        if before.title == after.title {
            let blocks = news.block.iter().map(|line| self.paint.output(line));
            self.above.extend(blocks);
            self.last = Some(place);
        } else {
            self.print_in(place, &news);
        }
    }

    pub(super) fn reply(&mut self, place: &Place, message: Message) {
        let live = self.is_live();
        match self.card(place) {
            Some((_, card)) if live => card.replies.push(message),
            Some((place, _)) => self.print_in(place, &message),
            // Its message has been printed for good; the reply says by itself what it is about.
            None => self.answer(&message),
        }
        self.drawn_line = None;
    }

    fn card(&mut self, place: &Place) -> Option<(u64, &mut Card)> {
        let place = place.0.parse().ok()?;
        self.cards.get_mut(&place).map(|card| (place, card))
    }

    /// It will hardly change again: it moves up, out of what is drawn.
    fn freeze(&mut self, place: u64) {
        let Some(card) = self.cards.remove(&place) else { return };
        if self.is_live() {
            self.print(&card.root, Part::Root);
            for reply in &card.replies {
                self.print(reply, Part::Reply);
            }
        }
    }

    fn print(&mut self, message: &Message, part: Part) {
        self.above.extend(self.paint.rows(message, part, None));
        self.drawn_line = None;
    }

    /// Line by line: in a thread, with its message's first line again where another came between.
    fn print_in(&mut self, place: u64, message: &Message) {
        if self.last != Some(place)
            && let Some(card) = self.cards.get(&place)
        {
            let words = card.root.title.words().replace('`', "");
            let about =
                self.paint.remark(&format!("  {}", words.split(": ").next().unwrap_or_default()), None);
            self.above.push(about);
        }
        self.last = Some(place);
        self.print(message, Part::Reply);
    }

    /// What somebody typed, where the terminal has not shown it already.
    pub(super) fn echo(&mut self, text: &str) {
        if self.look != Look::Lines {
            self.above.push(self.paint.echo(text));
            self.last = None;
            self.drawn_line = None;
        }
    }

    /// A remark of the console itself.
    pub(super) fn say(&mut self, text: &str) {
        self.above.push(self.paint.remark(text, None));
        self.drawn_line = None;
    }

    pub(super) fn resized(&mut self) {
        self.drawn_line = None;
    }

    /// What has to be written for everything to be seen; empty if nothing changed.
    pub(super) fn draw(&mut self, line: &str) -> String {
        let Look::Live(size) = self.look else { return self.drain("\n") };
        if self.drawn_line.as_deref() == Some(line) {
            return String::new();
        }
        self.drawn_line = Some(line.to_owned());
        let (columns, rows) = size.now();
        let live = self.live_rows(columns, rows.saturating_sub(2));
        let above = std::mem::take(&mut self.above);
        self.screen.draw(&above, &live, line, columns)
    }

    /// The last words: everything that was drawn stays, as it stands.
    pub(super) fn finish(&mut self) -> String {
        let size = match self.look {
            Look::Live(size) => size,
            _ => Size::Fixed(80, 24),
        };
        for place in self.cards.keys().copied().collect::<Vec<_>>() {
            self.freeze(place);
        }
        let erased = self.screen.erase(size.now().0);
        erased + &self.drain(if self.is_live() { "\r\n" } else { "\n" })
    }

    fn drain(&mut self, end: &str) -> String {
        self.above.drain(..).map(|row| row.painted + end).collect()
    }

    /// The messages that may still change, as many rows as fit: first the threads of older ones give way, then the older
    /// ones themselves.
    fn live_rows(&self, columns: usize, room: usize) -> Vec<Row> {
        let rows = |message: &Message, part| self.paint.rows(message, part, Some(columns));
        let height = |rows: &[Row]| rows.iter().map(|row| rows_of(row.width, columns)).sum::<usize>();
        let mut shown: Vec<Vec<Row>> = Vec::new();
        let mut left = room;
        let mut hidden = 0;
        for card in self.cards.values().rev() {
            let root = rows(&card.root, Part::Root);
            let replies: Vec<Row> = card.replies.iter().flat_map(|reply| rows(reply, Part::Reply)).collect();
            let mut both = root.clone();
            both.extend(replies);
            let first: Vec<Row> = root.iter().take(1).cloned().collect();
            let fitting = [both, root, first].into_iter().find(|rows| height(rows) < left);
            match fitting {
                Some(rows) if hidden == 0 => {
                    left -= height(&rows);
                    shown.push(rows);
                }
                _ => hidden += 1,
            }
        }
        if hidden > 0 && left > 0 {
            shown.push(vec![self.paint.remark(&format!("and {hidden} more"), Some(columns))]);
        }
        shown.into_iter().rev().flatten().collect()
    }
}
