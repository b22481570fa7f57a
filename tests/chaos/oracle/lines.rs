//! What a build printed against what a log holds of it. Pure.
//!
//! No line of a build is like another (each has its number), so that of every line that is not where it should be it can be
//! said whether it was lost, doubled or moved.

use std::collections::HashMap;

use sdp_core::wire::{CUT_MARKER, MAX_LINE};

/// What the agent keeps of a line that is too long.
const KEPT: usize = MAX_LINE - 40;

/// What is wrong with a stream of a log: the word that it is counted by, and where.
pub(crate) type Fault = (&'static str, String);

/// The lines of what was printed. What comes after the last line feed is a line, too.
pub(crate) fn split(printed: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = printed.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// A line as it must stand in the log: one that is too long is cut, and says so.
pub(crate) fn as_logged(line: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if line.len() <= MAX_LINE {
        return line.into();
    }
    let marker = format!(" [{} bytes left out]{CUT_MARKER}", line.len() - KEPT);
    [&line[..KEPT], marker.as_bytes()].concat().into()
}

/// Whether this may be what has come of a line whose end was never printed.
fn is_beginning(of: &[u8], logged: &[u8]) -> bool {
    of.starts_with(logged)
        || logged.ends_with(CUT_MARKER.as_bytes()) && logged.len() > KEPT && of.starts_with(&logged[..KEPT])
}

/// Holds a log's lines of one stream against what was printed. `whole`: the build ended by itself, so that nothing may be
/// missing at the end either; else the log is a beginning of it, and may end within a line.
pub(crate) fn compare(printed: &[&[u8]], logged: &[&[u8]], whole: bool) -> Vec<Fault> {
    let expected: Vec<_> = printed.iter().map(|line| as_logged(line)).collect();
    if logged.len() <= expected.len()
        && (!whole || logged.len() == expected.len())
        && logged.iter().zip(&expected).all(|(logged, expected)| *logged == expected.as_ref())
    {
        return Vec::new();
    }
    let places: HashMap<&[u8], usize> =
        expected.iter().enumerate().map(|(at, line)| (line.as_ref(), at)).collect();
    let mut faults = Vec::new();
    let mut times_seen = vec![0u32; expected.len()];
    let mut highest = None;
    for (n, line) in logged.iter().enumerate() {
        let Some(&place) = places.get(line) else {
            let next = highest.map_or(0, |highest| highest + 1);
            let is_torn_end = !whole
                && n + 1 == logged.len()
                && printed.get(next).is_some_and(|printed| is_beginning(printed, line));
            if !is_torn_end {
                faults.push(("differs", differing(n, expected.get(n).map(AsRef::as_ref), line)));
            }
            continue;
        };
        times_seen[place] += 1;
        if times_seen[place] > 1 {
            faults.push(("doubled", format!("printed line {} stands again at {}", place + 1, n + 1)));
        } else if highest.is_some_and(|highest| place < highest) {
            faults.push(("reordered", format!("printed line {} stands at {}", place + 1, n + 1)));
        }
        highest = highest.max(Some(place));
    }
    let due = if whole { expected.len() } else { highest.map_or(0, |highest| highest + 1) };
    let missing: Vec<usize> =
        (0..due).filter(|place| times_seen[*place] == 0).map(|place| place + 1).collect();
    if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
        let (many, printed) = (missing.len(), expected.len());
        faults.push(("lost", format!("{many} lines, the first is {first}, the last {last} of {printed}")));
    }
    faults
}

/// `line 7 differs from byte 12 on: "…" instead of "…"`.
fn differing(n: usize, expected: Option<&[u8]>, found: &[u8]) -> String {
    let expected = expected.unwrap_or_default();
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let excerpt = |bytes: &[u8]| {
        let from = same.saturating_sub(8).min(bytes.len());
        bytes[from..(same + 24).min(bytes.len())].escape_ascii().to_string()
    };
    let (found, expected) = (excerpt(found), excerpt(expected));
    format!("line {} differs from byte {same} on: \"{found}\" instead of \"{expected}\"", n + 1)
}

/// Where two copies of the same bytes part, if they do.
pub(crate) fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    (left.len() != right.len() || same < left.len()).then_some(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(faults: &[Fault]) -> Vec<&'static str> {
        faults.iter().map(|(word, _)| *word).collect()
    }

    fn lines(text: &str) -> Vec<&[u8]> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect()
    }

    #[test]
    fn what_is_lost_doubled_or_moved_is_told_apart() {
        let printed = lines("aa bb cc dd ee");
        for (logged, whole, expected) in [
            ("aa bb cc dd ee", true, &[][..]),
            ("aa bb cc", false, &[]),
            ("", false, &[]),
            ("aa bb cc", true, &["lost"]),
            ("aa bb cc d", false, &[]),
            ("aa bb cc d", true, &["differs", "lost"]),
            ("aa cc d", false, &["lost"]),
            ("aa bb dd ee", true, &["lost"]),
            ("aa bb dd", false, &["lost"]),
            ("aa bb bb cc dd ee", true, &["doubled"]),
            ("aa bb cc dd ee ee", false, &["doubled"]),
            ("aa cc bb dd ee", true, &["reordered"]),
            ("aa bx cc dd ee", true, &["differs", "lost"]),
            ("aa b cc", false, &["differs", "lost"]),
            ("aa bb cc dd ee ff", false, &["differs"]),
        ] {
            let faults = compare(&printed, &lines(logged), whole);
            assert_eq!(words(&faults), expected, "{logged}: {faults:?}");
        }
        let faults = compare(&printed, &lines("aa ee"), true);
        assert_eq!(faults, [("lost", "3 lines, the first is 2, the last 4 of 5".to_owned())]);
        let faults = compare(&printed, &lines("aa bx cc dd ee"), true);
        assert_eq!(faults[0].1, "line 2 differs from byte 1 on: \"bx\" instead of \"bb\"");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_as_the_agent_says_it_does() {
        let long = vec![b'x'; MAX_LINE + 100];
        let logged = as_logged(&long);
        assert!(
            logged.ends_with(b"x [140 bytes left out] \xe2\x80\xa6 [line cut at 64 KiB]"),
            "{:?}",
            logged.len()
        );
        assert_eq!(as_logged(&long[..MAX_LINE]).len(), MAX_LINE);
        // Cut where the build was killed: less was left out than in the end.
        let less = as_logged(&long[..MAX_LINE + 1]);
        assert_eq!(compare(&[&long], &[&less], false), []);
        assert_eq!(words(&compare(&[&long], &[&less], true)), ["differs", "lost"]);
    }

    #[test]
    fn printed_bytes_fall_into_lines() {
        assert_eq!(split(b"a\n\nb"), [&b"a"[..], b"", b"b"]);
        assert_eq!(split(b"a\n"), [&b"a"[..]]);
        assert_eq!(split(b""), [&b""[..]; 0]);
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
    }
}
