//! How long something lasts, as people type it: `3h`, `2d`, `1w`; `12 h` is two words, and no lifetime.

use std::fmt;

/// The longest, in hours: a year, as the server has it.
pub const MAX_HOURS: u32 = 8760;

/// Whole hours, from 1 to [`MAX_HOURS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime(u32);

impl Lifetime {
    /// So many hours, if that is a lifetime.
    #[must_use]
    pub fn hours(hours: u32) -> Option<Self> {
        (1..=MAX_HOURS).contains(&hours).then_some(Self(hours))
    }

    /// In hours.
    #[must_use]
    pub fn as_hours(self) -> u32 {
        self.0
    }

    /// Reads it; `None`: it is no lifetime, or too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let of = match unit {
            "h" | "hour" | "hours" => 1,
            "d" | "day" | "days" => 24,
            "w" | "week" | "weeks" => 168,
            _ => return None,
        };
        Self::hours(number.parse::<u32>().ok()?.checked_mul(of)?)
    }
}

impl fmt::Display for Lifetime {
    /// In the largest unit that has no rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            hours if hours.is_multiple_of(168) => write!(f, "{}w", hours / 168),
            hours if hours.is_multiple_of(24) => write!(f, "{}d", hours / 24),
            hours => write!(f, "{hours}h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_days_and_weeks_are_lifetimes_and_nothing_else_is() {
        for (typed, hours) in [
            ("3h", Some(3)),
            ("2d", Some(48)),
            ("1w", Some(168)),
            ("2Days", Some(48)),
            ("8760h", Some(8760)),
            ("8761h", None),
            ("0d", None),
            ("4294967295w", None),
            ("99999999999999999999h", None),
            ("d", None),
            ("3", None),
            ("-3h", None),
            ("3m", None),
            ("", None),
        ] {
            assert_eq!(Lifetime::parse(typed).map(Lifetime::as_hours), hours, "{typed}");
        }
        for (hours, said) in [(1, "1h"), (25, "25h"), (48, "2d"), (336, "2w")] {
            assert_eq!(Lifetime::hours(hours).map(|l| l.to_string()).as_deref(), Some(said));
        }
    }
}
