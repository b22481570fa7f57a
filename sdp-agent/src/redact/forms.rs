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
        // In JSON as PHP and .NET write it.
        for (plus, slash) in [("+", "\\/"), ("\\u002B", "/")] {
            forms.insert(standard[first..end].replace('+', plus).replace('/', slash).into_bytes());
        }
    }
}

/// Writes what `special` gives for a character, and all others as they are.
fn write(secret: &str, special: impl Fn(char, &mut String) -> bool) -> String {
    secret.chars().fold(String::with_capacity(secret.len()), |mut out, c| {
        if !special(c, &mut out) {
            out.push(c);
        }
        out
    })
}

/// With a backslash before each of these characters.
fn before(secret: &str, special: &str) -> String {
    write(secret, |c, out| {
        if special.contains(c) {
            out.push('\\');
        }
        false
    })
}

fn json(secret: &str) -> impl Iterator<Item = String> {
    let quoted = serde_json::to_string(secret).unwrap_or_default();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned();
    // `\u` and four digits for these, and for all that is not ASCII where nothing else is to come out.
    let unicode = |text: &str, special: &str, ascii: bool, upper: bool| {
        write(text, |c, out| {
            let is_special = special.contains(c) || (ascii && !c.is_ascii());
            if is_special {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = if upper { write!(out, "\\u{unit:04X}") } else { write!(out, "\\u{unit:04x}") };
                }
            }
            is_special
        })
    };
    let slashes = |text: &str| text.replace('/', "\\/");
    // Go's encoding/json and many others escape what is special in HTML, Gson `=` and `'`, too.
    let html = unicode(&plain, "<>&\u{2028}\u{2029}", false, false);
    let gson = unicode(&plain, "<>&='\u{2028}\u{2029}", false, false);
    let ascii = unicode(&plain, "", true, false);
    let php = slashes(&ascii);
    // PHP when it is to be safe in HTML, and .NET: their digits are in upper case.
    let markup = unicode(&plain, "<>&'", true, true);
    let quotes = |text: &str| text.replace("\\\"", "\\u0022");
    let net = quotes(&unicode(&plain, "<>&'+`\u{7f}", true, true));
    // JSON inside JSON, as structured logs have it.
    let twice = before(&plain, "\\\"");
    let hex = [slashes(&markup), quotes(&markup), quotes(&slashes(&markup)), markup];
    [slashes(&plain), plain, html, gson, ascii, php, net, twice].into_iter().chain(hex)
}

/// What is left as it is in URLs differs from program to program; it is one of these sets.
const LEFT: [&str; 13] = [
    "-._~",
    // PHP's urlencode, Java's URLEncoder and browsers' forms, Python's quote.
    "-._",
    "-._*",
    "-._~/",
    // encodeURIComponent and encodeURI.
    "-._~!'()*",
    "-._~!'()*;/?:@&=+$,#",
    // Go: the user's part, a segment of a path, a path.
    "-._~$&+,;=",
    "-._~$&+=:@",
    "-._~$&+,/:;=@",
    "-._~!$&'()*+,;=",
    "-._~!$&'()*+,;=:@/",
    // As browsers' `URL` sets a user's part and a query.
    "-._~!$&'()*+,%",
    "-._~!$&()*+,%/:;=?@[]\\^`{|}",
];

fn url(secret: &str) -> impl Iterator<Item = String> {
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
    [
        secret.replace('\'', "'\\''"),
        secret.replace('\'', "'\"'\"'"),
        before(secret, "\\\"$`"),
        before(secret, "\\\"$`!"),
        // Between single quotes: PHP's var_export; Python's repr with either quotes.
        before(secret, "\\'"),
        before(secret, "\\"),
        before(secret, " \t\\\"'$`!*?[](){}<>|&;#~=%^"),
        before(secret, " \t\\\"'$`!*?[](){}<>|&;#~"),
        // printf %q.
        before(secret, " \t\\\"'$`!*?[](){}<>|&;,^"),
        octal(secret),
        // `%q` and Debug: like JSON, with their own spelling of control characters.
        secret.escape_debug().collect(),
        secret.escape_default().collect(),
    ]
    .into_iter()
    .chain(printf(secret))
    .chain(xml(secret))
}

fn xml(secret: &str) -> impl Iterator<Item = String> {
    let text = secret.replace('&', "&amp;").replace('<', "&lt;");
    [text.replace('>', "&gt;"), text].into_iter().flat_map(|text| {
        ["'", "&#39;", "&#039;", "&apos;", "&#x27;"].into_iter().flat_map(move |apostrophe| {
            let text = text.replace('\'', apostrophe);
            ["\"", "&#34;", "&quot;", "&#x22;"].map(move |quote| text.replace('"', quote))
        })
    })
}

/// `$'…'` of a shell that knows no UTF-8.
fn octal(secret: &str) -> String {
    write(secret, |c, out| {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == ' ' || c.is_ascii_graphic() => return false,
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:03o}");
                }
            }
        }
        true
    })
}

/// Go's `%q` and `%+q`, Python's `repr` and `ascii`, Rust's `{:?}`: they differ in quotes, in what they take for a letter, and in how
/// they write what is none.
fn printf(secret: &str) -> impl Iterator<Item = String> {
    ["\\", "\\\"", "\\'"].into_iter().flat_map(move |special| {
        [false, true].into_iter().flat_map(move |ascii| {
            [Spelling::Go, Spelling::Python, Spelling::Rust].map(move |spelling| {
                write(secret, |c, out| {
                    let code = u32::from(c);
                    // `escape_debug` knows what is a letter, a digit or a sign.
                    let is_shown =
                        c == ' ' || c.is_ascii_graphic() || (!ascii && c.escape_debug().len() == 1);
                    let _ = match c {
                        c if special.contains(c) => write!(out, "\\{c}"),
                        '\n' => write!(out, "\\n"),
                        '\r' => write!(out, "\\r"),
                        '\t' => write!(out, "\\t"),
                        _ if is_shown => return false,
                        _ => match (spelling, code) {
                            (Spelling::Rust, _) => write!(out, "\\u{{{code:x}}}"),
                            (Spelling::Go, 0x80..=0xffff) | (Spelling::Python, 0x100..=0xffff) => {
                                write!(out, "\\u{code:04x}")
                            }
                            (_, 0x1_0000..) => write!(out, "\\U{code:08x}"),
                            _ => write!(out, "\\x{code:02x}"),
                        },
                    };
                    true
                })
            })
        })
    })
}

#[derive(Clone, Copy)]
enum Spelling {
    Go,
    Python,
    Rust,
}
