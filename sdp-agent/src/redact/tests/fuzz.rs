//! Random secrets, written as programs write them, broken and cut at random: an [`Oracle`] must not be able to read them, and
//! what stands around them must come out byte for byte.
//!
//! `SDP_REDACT_CASES=1000000` for more cases than the 20,000 of each run, `SDP_REDACT_SEED=7` for others or to repeat one.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::super::{MASK, Redactor, SHORTEST};
use super::oracle::Oracle;

/// Splitmix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).expect("small")).expect("small")
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    fn text(&mut self, alphabet: &str, length: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const SPECIAL: &str = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

fn secret(random: &mut Random) -> String {
    let length = 6 + random.below(35);
    match random.below(10) {
        0 | 1 => format!("ghp_{}", random.text(LETTERS, length)),
        2 | 3 => random.text(&format!("{LETTERS}{SPECIAL}{SPECIAL}"), length),
        4 => random.text(SPECIAL, length),
        5 => random.text("aäéß漢字😀\u{a0}\u{2028}zq\"'\\/&<%+ 7", length),
        6 => format!(" {}\n", random.text(LETTERS, length)),
        7 => random.text(".*+?[](){}^$|\\ab1", length),
        8 => {
            let line_end = random.of(&["\n", "\r\n"]);
            let lines: Vec<String> = (0..2 + random.below(5))
                .map(|_| {
                    let length = 3 + random.below(60);
                    random.text(&format!("{LETTERS}+/="), length)
                })
                .collect();
            format!("-----BEGIN KEY-----{line_end}{}{line_end}-----END KEY-----\n", lines.join(line_end))
        }
        _ => {
            let length = 150 + random.below(700);
            random.text(&format!("{LETTERS}._-+/"), length)
        }
    }
}

/// As somebody's program writes it. Not what the product makes of it: each is what the named function does.
fn written(random: &mut Random, secret: &str) -> (&'static str, String) {
    let left = |left: &str, upper: bool, plus: bool| {
        let mut out = String::new();
        for byte in secret.bytes() {
            match byte {
                byte if byte.is_ascii_alphanumeric() || left.as_bytes().contains(&byte) => {
                    out.push(char::from(byte));
                }
                b' ' if plus => out.push('+'),
                byte if upper => write!(out, "%{byte:02X}").expect("a string"),
                byte => write!(out, "%{byte:02x}").expect("a string"),
            }
        }
        out
    };
    let upper = random.below(2) == 0;
    match random.below(34) {
        0..=2 => ("as it is", secret.to_owned()),
        3 => ("JSON.stringify", json(secret, "", false, false)),
        4 => ("Go's json.Marshal", json(secret, "<>&\u{2028}\u{2029}", false, false)),
        5 => ("PHP's json_encode", json(secret, "", false, true).replace('/', "\\/")),
        6 => ("Python's json.dumps", json(secret, "", false, true)),
        7 => (".NET's JsonSerializer", net(secret)),
        8 => ("JSON in JSON", json(&json(secret, "", false, false), "", false, false)),
        9 => ("PHP's JSON_HEX_TAG and its kind", json(secret, "<>&'", true, true)),
        10 => ("encodeURIComponent", left("-_.!~*'()", true, false)),
        11 => ("encodeURI", left("-_.!~*'();/?:@&=+$,#", true, false)),
        12 => ("Go's url.QueryEscape", left("-_.~", true, true)),
        13 => ("Go's url.PathEscape", left("-_.~$&+=:@", true, false)),
        14 => ("Go's url.UserPassword", left("-_.~$&+,;=", true, false)),
        15 => ("PHP's urlencode", left("-_.", true, true)),
        16 => ("Java's URLEncoder", left("-_.*", true, true)),
        17 => ("Python's quote", left("-_.~/", true, false)),
        18 => ("a URL's user part", left("!$%&'()*+,-._~", true, false)),
        19 => ("curl, git", left("-_.~", upper, false)),
        20 => ("Go's html.EscapeString", html(secret, "&#39;", "&#34;", true)),
        21 => ("PHP's htmlspecialchars", html(secret, "&#039;", "&quot;", true)),
        22 => ("an XML text", html(secret, "'", "\"", random.below(2) == 0)),
        23 => ("an XML attribute", html(secret, random.of(&["'", "&apos;", "&#x27;"]), "&quot;", upper)),
        24 => ("a shell's trace", format!("'{}'", secret.replace('\'', "'\\''"))),
        25 => ("shlex.quote", format!("'{}'", secret.replace('\'', "'\"'\"'"))),
        26 => ("printf %q", before(secret, " \t!\"$&'()*;<>?[\\]^`{|},")),
        27 => ("$'…'", octal(secret)),
        28 => {
            let go = |ascii| quoted(secret, ascii, false);
            if upper { ("Go's %q", go(false)) } else { ("Go's %+q", go(true)) }
        }
        29 => ("Rust's {:?}", format!("{secret:?}")),
        30 => ("Python's repr", repr(secret)),
        31 => ("PHP's var_export", format!("'{}'", before(secret, "\\'"))),
        32 => {
            let between = random.of(&["", "", ":", " "]);
            let digits =
                secret.bytes().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
            ("hex", digits.collect::<Vec<_>>().join(between))
        }
        _ => {
            let length = random.below(7);
            let login =
                format!("{}{secret}{}", random.text(LETTERS, length), random.of(&["", "", "\n", "x"]));
            match random.below(6) {
                0 => ("base64", STANDARD.encode(login)),
                1 => ("base64 without =", STANDARD_NO_PAD.encode(login)),
                2 => ("base64url", URL_SAFE.encode(login)),
                3 => ("base64url without =", URL_SAFE_NO_PAD.encode(login)),
                4 => ("base64 in PHP's JSON", STANDARD.encode(login).replace('/', "\\/")),
                _ => {
                    let text = STANDARD.encode(login);
                    ("base64 in a URL", text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))
                }
            }
        }
    }
}

fn json(text: &str, escaped: &str, upper: bool, ascii: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' || escaped.contains(c) || (ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    if upper { write!(out, "\\u{unit:04X}") } else { write!(out, "\\u{unit:04x}") }
                        .expect("a string");
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// All that is special in HTML too, the quotes among it; its digits are upper case.
fn net(text: &str) -> String {
    let text = json(text, "<>&'+`\"", true, true);
    text.replace("\\\"", "\\u0022")
}

fn html(text: &str, apostrophe: &str, quote: &str, greater: bool) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let text = if greater { text.replace('>', "&gt;") } else { text };
    text.replace('\'', apostrophe).replace('"', quote)
}

fn before(text: &str, special: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if special.contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn octal(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'\'' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b' '..=b'~' => out.push(char::from(byte)),
            byte => write!(out, "\\{byte:03o}").expect("a string"),
        }
    }
    format!("$'{out}'")
}

fn quoted(text: &str, ascii: bool, single: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' if !single => out.push_str("\\\""),
            '\'' if single => out.push_str("\\'"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if u32::from(c) > 0xffff && ascii => write!(out, "\\U{:08x}", u32::from(c)).expect("a string"),
            // No letters, and blanks that are not the ASCII one.
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{a0}' if single => out.push_str("\\xa0"),
            '\u{a0}' => out.push_str("\\u00a0"),
            c if !c.is_ascii() && ascii => write!(out, "\\u{:04x}", u32::from(c)).expect("a string"),
            c => out.push(c),
        }
    }
    out
}

fn repr(text: &str) -> String {
    if text.contains('\'') && !text.contains('"') {
        format!("\"{}\"", quoted(text, false, true).replace("\\'", "'"))
    } else {
        format!("'{}'", quoted(text, false, true))
    }
}

/// With line ends and colours in it, as terminals and mail programs make them.
fn broken(random: &mut Random, text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    match random.below(4) {
        0 => {
            let (width, line_end) = (8 + random.below(70), random.of(&["\n", "\r\n"]));
            for (at, c) in chars.iter().enumerate() {
                if at > 0 && at % width == 0 {
                    out.push_str(line_end);
                }
                out.push(*c);
            }
        }
        1 => {
            for c in &chars {
                if random.below(6) == 0 {
                    out.push_str(random.of(&[
                        "\x1b[31m",
                        "\x1b[0m",
                        "\x1b[1;38;5;196m",
                        "\x1b[K",
                        "\n",
                        "\r\n",
                        "\r",
                    ]));
                }
                out.push(*c);
            }
        }
        _ => out.push_str(text),
    }
    out
}

/// What stands around: words, tags, colours, bytes that are no text. No letter of it is special, so it does not belong to
/// what is written.
fn around(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(8) {
        match random.below(7) {
            0 => out.extend(b"\n"),
            1 => out.extend(b"\x1b[32m"),
            2 => out.extend([0xff, 0xc3, 0x28]),
            3 => out.extend(b"go: downloading "),
            4 => out.extend("✓ ünï ".bytes()),
            5 => out.extend(MASK.bytes()),
            _ => {
                let length = random.below(20);
                out.extend(random.text(&format!("{LETTERS}  .,-"), length).bytes());
            }
        }
    }
    out
}

fn through(random: &mut Random, redactor: &Redactor, text: &[u8]) -> Vec<u8> {
    let most = random.of(&[&1, &3, &40, &100_000]);
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((1 + random.below(*most)).min(rest.len()));
        stream.push(chunk, &mut out);
        rest = after;
    }
    stream.finish(&mut out);
    out
}

/// The same with one character in the middle changed, so that it is no secret; or half of it.
fn nearly(random: &mut Random, secret: &str) -> String {
    let chars: Vec<char> = secret.chars().collect();
    let middle = chars.len() / 2;
    if random.below(2) == 0 {
        return chars[..middle].iter().collect();
    }
    let other = if chars[middle] == '0' { '1' } else { '0' };
    chars.iter().enumerate().map(|(at, c)| if at == middle { other } else { *c }).collect()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn an_oracle_cannot_read_what_was_taken_out_and_all_else_is_as_it_was() {
    const TEXTS: u64 = 80;
    let cases = variable("SDP_REDACT_CASES").unwrap_or(20_000);
    let seed = variable("SDP_REDACT_SEED").unwrap_or(1);
    for round in 0..cases.div_ceil(TEXTS) {
        let seed = seed + round;
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let secret = secret(&mut random);
        let redactor = Redactor::new([secret.as_str()]);
        // Less than that is not worth hiding, and may be seen where a line breaks it.
        let trimmed = if secret.trim().len() < SHORTEST { secret.as_str() } else { secret.trim() };
        let oracle = Oracle::new(trimmed, SHORTEST);
        for _ in 0..TEXTS {
            let (before, after) = (around(&mut random), around(&mut random));
            let context = |kind: &str, text: &[u8], out: &[u8]| {
                let (text, out) = (String::from_utf8_lossy(text), String::from_utf8_lossy(out));
                format!(
                    "SDP_REDACT_SEED={seed}: {kind}\n  secret {secret:?}\n  text   {text:?}\n  out    {out:?}"
                )
            };
            if random.below(4) == 0 {
                let text = [before, nearly(&mut random, &secret).into_bytes(), after].concat();
                // Of several lines each is a secret; of a long one each piece.
                if secret.trim().contains('\n') || secret.len() > super::super::PIECE {
                    continue;
                }
                let out = through(&mut random, &redactor, &text);
                assert!(out == text, "{}", context("changed", &text, &out));
                continue;
            }
            let (kind, written) = written(&mut random, &secret);
            let written = broken(&mut random, &written);
            let text = [&before, written.as_bytes(), &after].concat();
            let out = through(&mut random, &redactor, &text);
            let shown = String::from_utf8_lossy(&out).into_owned();
            assert!(shown.contains(MASK), "{}", context(kind, &text, &out));
            assert!(out.starts_with(&before) && out.ends_with(&after), "{}", context(kind, &text, &out));
            // A mask is no part of any secret or of any encoding; nor is what stands around.
            let instead = &out[before.len()..out.len() - after.len()];
            if let Some(found) = oracle.find(&replace(instead, MASK.as_bytes(), b"\0\0")) {
                panic!("{found} in {}", context(kind, &text, &out));
            }
            let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines(&out), lines(&text), "{}", context(kind, &text, &out));
        }
    }
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}
