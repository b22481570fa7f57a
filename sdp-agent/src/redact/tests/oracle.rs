//! Whether a secret can be read out of what was printed: decodes all of a text in every way there is, and searches. Slow, and
//! shares no code with [`forms`](super::super::forms), which encodes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

type Decode = fn(&[u8]) -> Vec<u8>;

/// What somebody who sees the text could make of it: each of these decodings, and those of what JSON, a URL or XML hid.
const DECODINGS: [(&str, Decode); 11] = [
    ("percent", |text| percent(text, false)),
    ("form", |text| percent(text, true)),
    ("backslash", backslash),
    ("octal", octal),
    ("XML", entities),
    ("shell", shell),
    ("hex", |text| hex(text, 0)),
    ("hex at the other half", |text| hex(text, 1)),
    ("hex with colons", |text| hex(&without(text, b":"), 0)),
    ("hex with spaces", |text| hex(&without(text, b" "), 0)),
    ("base64", base64),
];

/// Looks for one secret.
pub(super) struct Oracle {
    secret: Vec<u8>,
    window: usize,
    /// Which two bytes any window begins with: nearly every place is ruled out by them.
    begins: Vec<bool>,
}

impl Oracle {
    /// For any `window` consecutive bytes of a secret.
    pub(super) fn new(secret: &str, window: usize) -> Self {
        let secret = visible(secret.as_bytes());
        let window = window.clamp(2, secret.len().max(2));
        let mut begins = vec![false; 1 << 16];
        for pair in secret[..secret.len().saturating_sub(window - 2)].windows(2) {
            begins[place(pair)] = true;
        }
        Self { secret, window, begins }
    }

    /// In which decoding it stands, and where.
    pub(super) fn find(&self, text: &[u8]) -> Option<String> {
        let text = visible(text);
        if let Some(found) = self.find_in(&text) {
            return Some(format!("as it is: {found}"));
        }
        for (name, decode) in DECODINGS {
            let decoded = decode(&text);
            if decoded == text {
                continue;
            }
            if let Some(found) = self.find_in(&visible(&decoded)) {
                return Some(format!("{name}: {found}"));
            }
            if !matches!(name, "percent" | "backslash" | "XML") {
                continue;
            }
            for (inner, decode) in [("backslash", backslash as Decode), ("base64", base64)] {
                if let Some(found) = self.find_in(&visible(&decode(&decoded))) {
                    return Some(format!("{inner} in {name}: {found}"));
                }
            }
        }
        None
    }

    fn find_in(&self, text: &[u8]) -> Option<String> {
        text.windows(self.window)
            .filter(|window| self.begins[place(window)])
            .find(|window| self.secret.windows(self.window).any(|wanted| wanted == *window))
            .map(|window| format!("{:?}", String::from_utf8_lossy(window)))
    }
}

fn place(pair: &[u8]) -> usize {
    usize::from(pair[0]) << 8 | usize::from(pair[1])
}

/// Without line ends and ANSI sequences.
fn visible(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' | b'\r' => {}
            0x1b if bytes.peek() == Some(&b'[') => {
                bytes.next();
                while bytes.next().is_some_and(|byte| !byte.is_ascii_alphabetic()) {}
            }
            other => out.push(other),
        }
    }
    out
}

fn without(text: &[u8], unwanted: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| !unwanted.contains(byte)).collect()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The number that a text begins with, in so many digits.
fn number(text: &[u8], digits: usize, radix: u32) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..digits)?).ok()?;
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

fn percent(text: &[u8], plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], number(&text[at + 1..], 2, 16)) {
            (b'%', Some(byte)) => {
                out.push(u8::try_from(byte).expect("two digits"));
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    out
}

/// JSON, C, Go, Rust, Python, shells: `\n`, `\x0a`, `\u000a`, `\u{a}`, `\U0000000a`, and `\` before anything else.
fn backslash(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut units: Vec<u16> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at + 1..];
        let (code, length) = match (text[at], rest.first()) {
            (b'\\', Some(b'u')) if rest.get(1) == Some(&b'{') => {
                let end = rest.iter().position(|byte| *byte == b'}').unwrap_or(0);
                (number(&rest[2.min(end)..], end.saturating_sub(2), 16), end + 2)
            }
            (b'\\', Some(b'u')) => (number(&rest[1..], 4, 16), 6),
            (b'\\', Some(b'U')) => (number(&rest[1..], 8, 16), 10),
            _ => (None, 0),
        };
        if let Some(code) = code {
            if let Ok(unit) = u16::try_from(code) {
                units.push(unit);
            } else if let Some(c) = char::from_u32(code) {
                units.extend(c.encode_utf16(&mut [0; 2]).iter());
            }
            at += length;
            continue;
        }
        flush(&mut units, &mut out);
        match (text[at], rest.first()) {
            (b'\\', Some(b'x')) if number(&rest[1..], 2, 16).is_some() => {
                out.push(number(&rest[1..], 2, 16).and_then(|code| u8::try_from(code).ok()).unwrap_or(0));
                at += 4;
            }
            (b'\\', Some(next)) => {
                out.push(match next {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                at += 2;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    flush(&mut units, &mut out);
    out
}

fn flush(units: &mut Vec<u16>, out: &mut Vec<u8>) {
    out.extend(String::from_utf16_lossy(units).bytes());
    units.clear();
}

/// `$'…'` of a shell: `\303\251`, and `\` before quotes.
fn octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], number(&text[at + 1..], 3, 8).and_then(|code| u8::try_from(code).ok())) {
            (b'\\', Some(code)) => {
                out.push(code);
                at += 4;
            }
            (b'\\', None) => {
                out.extend(text.get(at + 1));
                at += 2;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn entities(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let end = text[at..].iter().take(10).position(|byte| *byte == b';');
        if let (b'&', Some(end)) = (text[at], end) {
            let name = String::from_utf8_lossy(&text[at + 1..at + end]).into_owned();
            let code = match name.as_str() {
                "amp" => Some('&'),
                "lt" => Some('<'),
                "gt" => Some('>'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                _ => name.strip_prefix('#').and_then(|number| {
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(digits) => u32::from_str_radix(digits, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)
                }),
            };
            if let Some(c) = code {
                out.extend(c.to_string().bytes());
                at += end + 1;
                continue;
            }
        }
        out.push(text[at]);
        at += 1;
    }
    out
}

/// `'\''` and `'"'"'` in what stands between single quotes.
fn shell(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.first() {
        let quote = [&b"'\\''"[..], b"'\"'\"'"].into_iter().find_map(|quote| rest.strip_prefix(quote));
        out.push(if quote.is_some() { b'\'' } else { *byte });
        rest = quote.unwrap_or(&rest[1..]);
    }
    out
}

/// Pairs of digits; a run of them may begin in the middle of another's byte.
fn hex(text: &[u8], offset: usize) -> Vec<u8> {
    runs(
        text,
        |byte| digit(byte).is_some(),
        |run, out| {
            let pairs = run.get(offset..).unwrap_or_default().chunks_exact(2);
            out.extend(pairs.filter_map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)));
        },
    )
}

/// Each run of digits, begun at each of four places.
fn base64(text: &[u8]) -> Vec<u8> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&STANDARD, config);
    let text: Vec<u8> = text
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    runs(
        &text,
        |byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/',
        |run, out| {
            for begin in 0..4.min(run.len()) {
                let run = &run[begin..];
                // One digit alone at the end says nothing.
                let whole = if run.len() % 4 == 1 { run.len() - 1 } else { run.len() };
                out.extend(engine.decode(&run[..whole]).unwrap_or_default());
                out.push(0);
            }
        },
    )
}

/// What each run of bytes of a kind means, with something between that is in no secret.
fn runs(text: &[u8], belongs: impl Fn(u8) -> bool, decode: impl Fn(&[u8], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    for run in text.split(|byte| !belongs(*byte)).filter(|run| run.len() > 3) {
        decode(run, &mut out);
        out.push(0);
    }
    out
}

#[test]
fn it_reads_what_programs_write() {
    let oracle = Oracle::new("pa'ss\"wörd<&>/x", 15);
    for text in [
        "see pa'ss\"wörd<&>/x here",
        "pa'ss\"w\x1b[31mör\r\nd<&>/x",
        "pa%27ss%22w%c3%b6rd%3C%26%3E%2Fx",
        r#"pa'ss\"w\u00f6rd\u003c\u0026\u003e\/x"#,
        r#"{"a":"{\"b\":\"pa'ss\\\"wörd<&>/x\"}"}"#,
        r#"$'pa\'ss"w\303\266rd<&>/x'"#,
        "pa&#39;ss&quot;wörd&lt;&amp;&gt;/x",
        r#"'pa'\''ss"wörd<&>/x'"#,
        "70612773732277c3b672643c263e2f78",
        "706127737322 77c3b672643c263e2f78",
        "f70612773732277c3b672643c263e2f78",
        "70:61:27:73:73:22:77:c3:b6:72:64:3c:26:3e:2f:78",
        "cGEnc3Mid8O2cmQ8Jj4veA",
        "cGEnc3Mid8O2cmQ8Jj4veA%3D%3D",
        "dXNlcjpwYSdzcyJ3w7ZyZDwmPi94",
    ] {
        assert!(oracle.find(text.as_bytes()).is_some(), "{text}");
    }
    assert!(Oracle::new("pa'ss\"wörd<&>/x", 5).find(b"only 7061277373 of it").is_some());
    assert_eq!(oracle.find("nothing pa'ss wörd".as_bytes()), None);
}
