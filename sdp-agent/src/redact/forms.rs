//! The forms in which programs print a secret. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::{LONG, SHORTEST};

/// Everything to look for; nothing for a secret that is too short.
pub(super) fn forms(secret: &str) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    for text in [secret, secret.trim()] {
        if text.len() < SHORTEST {
            continue;
        }
        forms.insert(text.as_bytes().to_vec());
        for line in text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST) {
            forms.insert(line.as_bytes().to_vec());
        }
        base64(text.as_bytes(), &mut forms);
        forms.extend(json(text).map(String::into_bytes));
        if text.len() <= LONG {
            forms.extend(url(text).map(String::into_bytes));
            forms.extend(hex(text).map(String::into_bytes));
            forms.extend(escaped(text).map(String::into_bytes));
        }
    }
    forms
}

/// At each of the three offsets that a secret can have in what is encoded: only the characters that depend on it alone.
fn base64(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for offset in 0..3 {
        let text = [&[0; 2][..offset], secret].concat();
        let first = (offset * 8).div_ceil(6);
        let end = text.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            forms.insert(engine.encode(&text).as_bytes()[first..end].to_vec());
        }
        // In a URL + / are escaped.
        let standard = STANDARD_NO_PAD.encode(&text);
        for (plus, slash) in [("%2B", "%2F"), ("%2b", "%2f")] {
            forms.insert(standard[first..end].replace('+', plus).replace('/', slash).into_bytes());
        }
    }
}

fn json(secret: &str) -> impl Iterator<Item = String> {
    let quoted = serde_json::to_string(secret).unwrap_or_default();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let slashes = plain.replace('/', "\\/");
    // Go's encoding/json and many others escape what is special in HTML.
    let html = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")]
        .into_iter()
        .fold(plain.clone(), |text, (from, to)| text.replace(from, to));
    let ascii = plain.chars().fold(String::new(), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        out
    });
    // JSON inside JSON, as structured logs have it.
    let twice = plain.replace('\\', "\\\\").replace('"', "\\\"");
    [plain, slashes, html, ascii, twice].into_iter()
}

/// What is escaped in URLs differs from program to program; what they leave is one of these sets.
fn url(secret: &str) -> impl Iterator<Item = String> {
    const LEFT: [&str; 4] = ["-._~", "-._~!'()*", "-._~!$&'()*+,;=", "-._~!$&'()*+,;=:@/"];
    LEFT.into_iter().flat_map(move |left| {
        [true, false].into_iter().flat_map(move |upper| {
            let text = secret.bytes().fold(String::new(), |mut out, byte| {
                if byte.is_ascii_alphanumeric() || left.as_bytes().contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    let _ = if upper { write!(out, "%{byte:02X}") } else { write!(out, "%{byte:02x}") };
                }
                out
            });
            let form = text.replace("%20", "+");
            [text, form]
        })
    })
}

fn hex(secret: &str) -> impl Iterator<Item = String> {
    let digits = |upper: bool, between: &str| {
        let digits =
            secret.bytes().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        digits.collect::<Vec<_>>().join(between)
    };
    let mut forms = Vec::new();
    for upper in [false, true] {
        for between in ["", " ", ":", "\\x"] {
            forms.push(digits(upper, between));
        }
    }
    forms.into_iter()
}

/// As shells, XML and printf-like functions write it.
fn escaped(secret: &str) -> impl Iterator<Item = String> {
    let before = |special: &str| {
        secret.chars().fold(String::new(), |mut out, c| {
            if special.contains(c) {
                out.push('\\');
            }
            out.push(c);
            out
        })
    };
    let markup = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let xml = ["'", "&#39;", "&apos;", "&#x27;"].into_iter().flat_map(move |apostrophe| {
        let text = markup.replace('\'', apostrophe);
        ["\"", "&#34;", "&quot;", "&#x22;"].map(move |quote| text.replace('"', quote))
    });
    [
        secret.replace('\'', "'\\''"),
        secret.replace('\'', "'\"'\"'"),
        before("\\\"$`"),
        before("\\\"$`!"),
        before("\\'"),
        before(" \t\\\"'$`!*?[](){}<>|&;#~=%^"),
        before(" \t\\\"'$`!*?[](){}<>|&;#~"),
        before(" \t\\\"'$`!*?[](){}<>|&;,^"),
        // `%q` and Debug: like JSON, with their own spelling of control characters.
        secret.escape_debug().collect(),
        secret.escape_default().collect(),
    ]
    .into_iter()
    .chain(xml)
}
