//! The routing map: router → each service → what answers, as a picture. Pure: a [`Map`] in, SVG out.
//!
//! ```text
//! ┌────────┐   ┌──────────┐     ┌────────────────────────┐
//! │ router │──▶│ payments │────▶│ ■ feature/refund  Live │   one row a service: tall where something else than
//! │        │╲  └──────────┘     └────────────────────────┘   the baseline answers, slim where it does
//! └────────┘ ╲▶( ledger   )────▶  ≡ ledger.apps.ocp…
//! ```
//! What answers is told by its shape and its words as well as by its colour; colours come from the style sheet, so the picture is
//! light or dark as the page is, and it moves only where the reader allows it. Nothing in it needs scripts.
//! Limits: [`MOST_DIFFERENT`] services that differ are drawn, and of the others so many that there are [`ENOUGH`] rows, the rest is
//! counted in a last row. Texts are cut to their room in the middle; the whole text is in the row's title and in the table.

use std::collections::BTreeMap;

use maud::{Markup, html};
use sdp_core::api::{MatchRule, SandboxView};
use sdp_core::deployment::Deployment;
use sdp_core::id::DeploymentId;
use sdp_core::name::ServiceName;

use super::super::parts;
use super::super::words::{self, Tone};
use super::way::{self, Kind, Way};

/// Most services drawn that differ from the baseline.
pub(super) const MOST_DIFFERENT: usize = 24;
/// Services that go to the baseline are drawn until there are so many rows.
const ENOUGH: usize = 8;

const WIDTH: i32 = 1040;
const TOP: i32 = 14;
/// A row with a card, one with a line, and the space below each.
const TALL: i32 = 58;
const SLIM: i32 = 34;
const GAP: i32 = 14;
const ROUTER: i32 = 196;
const SERVICE_X: i32 = 292;
const SERVICE: i32 = 216;
const TARGET_X: i32 = 592;
const TARGET: i32 = WIDTH - TARGET_X - 1;

/// What the map is drawn from.
pub(super) struct Map<'a> {
    pub(super) view: &'a SandboxView,
    /// The deployments that started what is drawn.
    pub(super) started: &'a BTreeMap<DeploymentId, Deployment>,
    /// What is on its way, by service.
    pub(super) coming: BTreeMap<&'a ServiceName, &'a Deployment>,
}

enum Row<'a> {
    Way(Way<'a>),
    /// So many more that differ, and that go to the baseline.
    Rest {
        different: usize,
        baseline: usize,
    },
}

struct Placed<'a> {
    row: Row<'a>,
    /// The upper edge, and how tall it is.
    y: i32,
    tall: i32,
}

impl Placed<'_> {
    fn middle(&self) -> i32 {
        self.y + self.tall / 2
    }
}

impl<'a> Map<'a> {
    pub(super) fn render(&self) -> Markup {
        let rows = self.rows();
        let height = rows.last().map_or(TOP, |last| last.y + last.tall).max(TOP + 96) + TOP;
        let name = &self.view.sandbox.name;
        html! {
            svg class="routing" viewBox={ "0 0 " (WIDTH) " " (height) } role="group" aria-labelledby="map-name map-text" {
                title id="map-name" { "Routing map of " (name) }
                desc id="map-text" { (self.summary()) }
                g class="edges" aria-hidden="true" { @for (n, row) in rows.iter().enumerate() { (edge(row, n, rows.len(), height / 2)) } }
                (self.router(height / 2))
                @for row in &rows {
                    @match &row.row {
                        Row::Way(way) => { (self.way(way, row)) }
                        Row::Rest { different, baseline } => { (rest(*different, *baseline, row)) }
                    }
                }
            }
        }
    }

    /// What the picture shows, in a sentence or two.
    pub(super) fn summary(&self) -> String {
        let ways = Way::all(&self.view.routes);
        let of = |kinds: &[Kind]| ways.iter().filter(|way| kinds.contains(&way.kind)).count();
        let mut parts = Vec::new();
        for (kinds, words) in [
            (&[Kind::Own][..], "answered here"),
            (&[Kind::Borrowed], "borrowed"),
            (&[Kind::External], "sent to an address outside"),
            (&[Kind::Down], "answered by nobody"),
            (&[Kind::Baseline, Kind::Instead], "answered by the baseline"),
        ] {
            match of(kinds) {
                0 => {}
                n => parts.push(format!("{} {words}", words::count(n as u64))),
            }
        }
        let all = words::number_of(ways.len(), "service", "services");
        if parts.is_empty() {
            return "The environment has no service yet.".to_owned();
        }
        format!("Of {all}: {}.", parts.join(", "))
    }

    fn rows(&self) -> Vec<Placed<'a>> {
        let (mut different, mut baseline): (Vec<_>, Vec<_>) = Way::all(&self.view.routes)
            .into_iter()
            .partition(|way| way.differs() || self.coming.contains_key(&way.route.service));
        let more = different.len().saturating_sub(MOST_DIFFERENT);
        different.truncate(MOST_DIFFERENT);
        // One that is left out is no shorter than a row that says so.
        let room = ENOUGH.saturating_sub(different.len()).max(3);
        let quiet = if baseline.len() <= room + 1 { 0 } else { baseline.len() - room };
        baseline.truncate(baseline.len() - quiet);
        let mut rows: Vec<_> = different.into_iter().chain(baseline).map(Row::Way).collect();
        if more + quiet > 0 {
            rows.push(Row::Rest { different: more, baseline: quiet });
        }
        let mut y = TOP;
        let place = |row| {
            let is_tall = matches!(&row, Row::Way(way) if way.kind != Kind::Baseline || way.differs() || self.coming.contains_key(&way.route.service));
            let placed = Placed { row, y, tall: if is_tall { TALL } else { SLIM } };
            y += placed.tall + if is_tall { GAP } else { GAP - 4 };
            placed
        };
        rows.into_iter().map(place).collect()
    }

    fn router(&self, middle: i32) -> Markup {
        let access = &self.view.access;
        let y = middle - 46;
        let address = match (&access.host, &access.url) {
            (Some(host), _) => host.to_string(),
            (None, Some(url)) => way::host(url),
            (None, None) => "no router has connected".to_owned(),
        };
        html! {
            g class="router" {
                title { "The router of " (self.view.sandbox.environment) " sends requests that are marked as " (self.view.sandbox.name) "'s: " (address) }
                rect class="box" x="1" y=(y) width=(ROUTER) height="92" rx="14" {}
                path class="sign" d={ "M18 " (y + 33) "h9m0 0c7 0 5-11 13-11h4m-17 11c7 0 5 11 13 11h4M44 " (y + 22) "l-5-4m5 4-5 4M44 " (y + 44) "l-5-4m5 4-5 4" } {}
                text class="strong" x="56" y=(y + 30) { "Router" }
                text class="soft" x="56" y=(y + 48) { "of " (fit(self.view.sandbox.environment.as_str(), 17)) }
                text class="mono" x="18" y=(y + 76) { (fit(&address, 22)) }
            }
        }
    }

    fn way(&self, way: &Way<'_>, row: &Placed<'_>) -> Markup {
        let service = &way.route.service;
        html! {
            g id={ "way-" (service) } class={ "way " (look(way)) } {
                title { (way.sentence()) }
                (self.service(way, row))
                @if row.tall == SLIM { (baseline(way, row)) } @else { (self.target(way, row)) }
            }
        }
    }

    fn service(&self, way: &Way<'_>, row: &Placed<'_>) -> Markup {
        let service = &way.route.service;
        let rule = match &way.route.rule {
            MatchRule::Path { prefix, .. } => prefix.to_string(),
            MatchRule::Host { host } => host.to_string(),
        };
        let locked = self.is_locked(service);
        let (x, y) = (SERVICE_X, row.y);
        let pill = html! {
            rect class="box" x=(x) y=(y) width=(SERVICE) height=(row.tall) rx=(row.tall.min(28) / 2) {}
            @if row.tall == SLIM {
                text class="strong" x=(x + 16) y=(y + 22) { (fit(service.as_str(), 23)) }
            } @else {
                text class="strong" x=(x + 16) y=(y + 25) { (fit(service.as_str(), 23)) }
                text class="soft mono" x=(x + 16) y=(y + 44) { (fit(&rule, if locked { 19 } else { 25 })) }
            }
            @if locked {
                path class="padlock" d={ "M" (x + SERVICE - 26) " " (row.middle() - 1) "h12v9h-12zm2.500 0v-3a3.500 3.500 0 0 1 7 0v3" } { title { "locked" } }
            }
        };
        html! {
            g class="pill" {
                @match &way.route.url {
                    Some(url) if matches!(url.scheme(), "http" | "https") => {
                        a href=(url) target="_blank" rel="noopener noreferrer" aria-label={ "Open " (service) " in this sandbox" } { (pill) }
                    }
                    _ => { (pill) }
                }
            }
        }
    }

    fn is_locked(&self, service: &ServiceName) -> bool {
        self.view.locks.iter().any(|lock| lock.place.service.as_ref().is_none_or(|of| of == service))
    }

    /// The card of what answers.
    fn target(&self, way: &Way<'_>, row: &Placed<'_>) -> Markup {
        let (tone, word) = way.health();
        let coming = self.coming.get(&way.route.service);
        let (x, y) = (TARGET_X, row.y);
        let chip = chip_width(word);
        let started = way.instance().and_then(|instance| self.started.get(&instance.deployment));
        let card = html! {
            rect class="box" x=(x) y=(y) width=(TARGET) height=(TALL) rx="10" {}
            @if way.kind == Kind::Borrowed { rect class="under" x=(x + 4) y=(y + 4) width=(TARGET - 8) height=(TALL - 8) rx="7" {} }
            (shape(way.kind, x + 30, row.middle()))
            // A picture inside the picture: what is too long is cut off, whatever letters it is made of.
            svg x=(x + 58) y=(y) width=(TARGET - 70 - chip) height=(TALL / 2 + 4) {
                text class={ "strong" @if way.kind != Kind::Down { " mono" } } x="0" y="25" { (fit(&way.name(), room(TARGET - 74 - chip))) }
            }
            (chip_at(tone, word, x + TARGET - 12 - chip, y + 10))
        };
        let lead = if started.is_some() { 62 } else { 0 } + if coming.is_some() { 150 } else { 0 };
        html! {
            g class="target" {
                @if let Some(instance) = way.instance() {
                    a href=(super::super::instance::path(instance.id)) aria-label={ "The instance of " (way.route.service) } { (card) }
                } @else { (card) }
                svg x=(x + 58) y=(y + TALL / 2) width=(TARGET - 70 - lead) height=(TALL / 2) {
                    text class="soft" x="0" y="15" { (fit(&way.details().join(" · "), (TARGET - 74 - lead) / 7)) }
                }
                @if let Some(coming) = coming { (self::coming(coming, x + TARGET - 14 - if started.is_some() { 62 } else { 0 }, y + 44)) }
                @if let Some(started) = started {
                    a href=(parts::log_path(started.number)) aria-label={ "The log of deployment " (started.number) } {
                        text class="link" x=(x + TARGET - 14) y=(y + 44) text-anchor="end" { "#" (started.number) }
                    }
                }
            }
        }
    }
}

/// What is on its way there: its state, which leads to its log. `x` is where it ends.
fn coming(deployment: &Deployment, x: i32, y: i32) -> Markup {
    let (tone, word) = words::deployment_state(deployment);
    html! {
        a class={ "coming " (tone.class()) } href=(parts::log_path(deployment.number)) {
            title { "On its way: " (words::visible(deployment.git_ref.as_str())) ", deployment #" (deployment.number) }
            text x=(x) y=(y) text-anchor="end" { "↻ #" (deployment.number) " " (fit(&word, 12)) }
        }
    }
}

fn baseline(way: &Way<'_>, row: &Placed<'_>) -> Markup {
    let middle = row.middle();
    html! {
        g class="target" {
            (shape(Kind::Baseline, TARGET_X + 30, middle))
            text class="soft" x=(TARGET_X + 58) y=(middle + 5) { "Baseline" }
            svg x=(TARGET_X + 122) y=(row.y) width=(TARGET - 124) height=(SLIM) {
                text class="mono soft" x="0" y=(SLIM / 2 + 5) { (fit(&way.name(), room(TARGET - 128))) }
            }
        }
    }
}

fn rest(different: usize, baseline: usize, row: &Placed<'_>) -> Markup {
    let goes = |n: usize| if n == 1 { "goes" } else { "go" };
    let says = match (different, baseline) {
        (0, n) => format!("{} to the baseline", goes(n)),
        (n, 0) => format!("{} elsewhere: see the table", goes(n)),
        (n, m) => format!(
            "{} {} elsewhere, {} to the baseline",
            words::count(n as u64),
            goes(n),
            words::count(m as u64)
        ),
    };
    let more = words::count((different + baseline) as u64);
    html! {
        g id="way--rest" class="way baseline rest" {
            @for n in (0..3).rev() {
                rect class="box" x=(SERVICE_X + n * 5) y=(row.y + n * 4) width=(SERVICE - n * 10) height=(SLIM) rx="14" {}
            }
            text class="strong" x=(SERVICE_X + 16) y=(row.y + 22) { "and " (more) " more" }
            (shape(Kind::Baseline, TARGET_X + 30, row.middle()))
            text class="soft" x=(TARGET_X + 58) y=(row.middle() + 5) { (says) }
        }
    }
}

/// The classes of what shows a way: its kind, and whether what answers is not well.
fn look(way: &Way<'_>) -> String {
    let is_sick = way.instance().is_some() && way.health().0 == Tone::Bad;
    format!("{}{}", way.kind.class(), if is_sick { " sick" } else { "" })
}

/// From the router to the service, and on to what answers.
fn edge(row: &Placed<'_>, n: usize, of: usize, middle: i32) -> Markup {
    let (kind, look) = match &row.row {
        Row::Way(way) => (way.kind, look(way)),
        Row::Rest { .. } => (Kind::Baseline, Kind::Baseline.class().to_owned()),
    };
    let y = row.middle();
    // They leave the router side by side, in the order in which they arrive.
    let spread = 56.min(i32::try_from(of).unwrap_or(1) * 10);
    let step = i32::try_from(n * 2 + 1).unwrap_or(1) * spread / (2 * i32::try_from(of.max(1)).unwrap_or(1));
    let from = middle - spread / 2 + step;
    let (start, end) = (ROUTER + 1, SERVICE_X);
    let bend = (start + end) / 2;
    let (out, to) = (SERVICE_X + SERVICE, TARGET_X - if row.tall == SLIM { 0 } else { 4 });
    html! {
        g class={ "edge " (look) } {
            path d={ "M" (start) " " (from) "C" (bend) " " (from) " " (bend) " " (y) " " (end) " " (y) } {}
            path d={ "M" (out) " " (y) "H" (to - 4) } {}
            @if kind == Kind::Down { path class="tip" d={ "m" ((out + to) / 2 - 6) " " (y - 6) " 12 12m0-12-12 12" } {} }
            @else { path class="tip" d={ "m" (to - 9) " " (y - 5) " 8 5-8 5" } {} }
        }
    }
}

/// The sign of a kind, around a point: no two have the same outline.
fn shape(kind: Kind, x: i32, y: i32) -> Markup {
    let draw = |d: String| html! { path class="sign" d=(d) {} };
    match kind {
        // A box, seen from above its corner.
        Kind::Own => draw(format!("M{x} {}l11 6v12l-11 6-11-6v-12zm-11 6 11 6 11-6m-11 6v12", y - 12)),
        // Two sheets.
        Kind::Borrowed => draw(format!("M{} {}h12v12h-12zm6-6h12v12h-6", x - 9, y - 3)),
        // A laptop.
        Kind::External => draw(format!("M{} {}h18v12h-18zm-3 15h24", x - 9, y - 8)),
        // A stop sign with a cross.
        Kind::Down => draw(format!("M{} {}h10l7 7v10l-7 7h-10l-7-7v-10zm1 8 8 8m0-8-8 8", x - 5, y - 12)),
        // A triangle with a bang.
        Kind::Instead => draw(format!("M{x} {}l12 21h-24zm0 8v6m0 3v.5", y - 12)),
        // Layers.
        Kind::Baseline => draw(format!("M{x} {}l10 5-10 5-10-5zm-10 9 10 5 10-5m-20 4 10 5 10-5", y - 10)),
    }
}

fn chip_width(word: &str) -> i32 {
    i32::try_from(word.chars().count()).unwrap_or(0) * 8 + 34
}

/// A state: a colour, a mark and a word.
fn chip_at(tone: Tone, word: &str, x: i32, y: i32) -> Markup {
    html! {
        g class={ "chip " (tone.class()) } {
            rect x=(x) y=(y) width=(chip_width(word)) height="20" rx="10" {}
            @match tone {
                Tone::Bad | Tone::Wait => { path d={ "M" (x + 13) " " (y + 6) "l4.500 8h-9z" } {} }
                _ => { circle cx=(x + 13) cy=(y + 10) r="3.500" {} }
            }
            text x=(x + chip_width(word) / 2 + 6) y=(y + 14) text-anchor="middle" { (word) }
        }
    }
}

/// How many letters of the fixed width fit.
fn room(width: i32) -> usize {
    usize::try_from(width * 10 / 83).unwrap_or(0)
}

/// A text that takes no more room than so many narrow letters, cut in the middle: how names begin and end tells them apart.
fn fit(text: &str, room: impl TryInto<usize>) -> String {
    let room = room.try_into().unwrap_or(0);
    let text = words::visible(text);
    let width = |c: char| if u32::from(c) < 0x1100 { 1 } else { 2 };
    if text.chars().map(width).sum::<usize>() <= room {
        return text.into_owned();
    }
    let room = room.saturating_sub(1);
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let fitting = chars.take_while(|c| {
            used += width(*c);
            used <= room
        });
        fitting.collect::<Vec<_>>()
    };
    let tail = take(&mut text.chars().rev(), room / 3);
    let head = take(&mut text.chars(), room - room / 3);
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_beginning_and_their_end() {
        let shown = [
            "feature/refund",
            "feature/refund-in-the-currency-of-the-payment",
            "機能/返金/支払いの通貨で",
            "",
        ]
        .map(|text| fit(text, 20));
        insta::assert_debug_snapshot!(shown, @r#"
        [
            "feature/refund",
            "feature/refun…ayment",
            "機能/返金/支…通貨で",
            "",
        ]
        "#);
        assert_eq!(fit("abc", 0), "…");
    }
}
