//! Text from far sides, made fit to be shown: one line, no control or direction-changing characters, bounded.

/// At most `max` characters of `bytes` (lossy UTF-8) as one line.
pub(super) fn one_line(bytes: &[u8], max: usize) -> String {
    // Four bytes a character at most; what lies behind need not be looked at.
    let bytes = &bytes[..bytes.len().min(max.saturating_mul(4).saturating_add(4))];
    let mut out = String::new();
    for (count, c) in String::from_utf8_lossy(bytes).trim().chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        let hidden = c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}');
        out.push(if hidden { ' ' } else { c });
    }
    out
}

/// A number of bytes as people read it.
pub(super) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => return format!("{bytes} bytes"),
        1024..1_048_576 => (1024.0, "KiB"),
        1_048_576..1_073_741_824 => (1_048_576.0, "MiB"),
        _ => (1_073_741_824.0, "GiB"),
    };
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let value = bytes as f64 / unit;
    format!("{value:.1} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_far_side_becomes_one_harmless_line() {
        assert_eq!(one_line(b"a\x1b[31mb\r\nc\0d", 100), "a [31mb  c d");
        assert_eq!(one_line("x\u{202E}y".as_bytes(), 100), "x y");
        assert_eq!(one_line(b"\xff\xfe", 100), "\u{FFFD}\u{FFFD}");
        assert_eq!(one_line("éééé".as_bytes(), 3), "ééé…");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(12), "12 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(2 << 30), "2.0 GiB");
    }
}
