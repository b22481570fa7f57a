use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::*;

mod fuzz;
mod oracle;

const CANARY: &str = "CANARY-7f/Q+x&9\"z'$k\\é~end";

fn through(redactor: &Redactor, chunks: &[&[u8]]) -> String {
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    for chunk in chunks {
        stream.push(chunk, &mut out);
    }
    stream.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn a_secret_that_ends_as_another_begins_has_one_mask() {
    let redactor = Redactor::new(["key-for-builds", "s3cret-of-hello"]);
    assert_eq!(through(&redactor, &[b"with key-for-builds\n", b"more\n"]), "with [redacted]\nmore\n");
    assert_eq!(through(&redactor, &[b"with key-for-builds\n", b"3cret-of-hello\n"]), "with [redacted]\n\n");
}

#[test]
fn a_secret_split_at_every_byte_is_masked_once() {
    let redactor = Redactor::new([CANARY]);
    let text = format!("before {CANARY} after\n");
    for at in 0..text.len() {
        let (a, b) = text.as_bytes().split_at(at);
        assert_eq!(through(&redactor, &[a, b]), "before [redacted] after\n", "split at {at}");
    }
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(through(&redactor, &bytes), "before [redacted] after\n");
}

#[test]
fn every_form_is_masked() {
    let redactor = Redactor::new([CANARY, "user:CANARY-7f/Q+x&9\"z'$k\\é~end"]);
    let hex: String = CANARY.bytes().map(|b| format!("{b:02x}")).collect();
    let url = percent_encoding::utf8_percent_encode(CANARY, percent_encoding::NON_ALPHANUMERIC).to_string();
    let mut forms = vec![
        hex.to_uppercase(),
        hex,
        // NON_ALPHANUMERIC escapes more than any URL needs; what follows the last of `-._~` is what is shared.
        url.replace("%2D", "-").replace("%7E", "~"),
        serde_json::to_string(CANARY).unwrap(),
        CANARY.replace('\'', "'\\''"),
        format!("{CANARY:?}"),
        CANARY.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#39;"),
        CANARY.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;"),
        format!("https://user:{CANARY}@host/"),
    ];
    for before in ["", "u", "us", "user:", "x-token-auth:"] {
        for after in ["", "\n", "ab"] {
            let text = format!("{before}{CANARY}{after}");
            forms.push(STANDARD.encode(&text).trim_end_matches('=').to_owned());
            forms.push(URL_SAFE.encode(&text));
        }
    }
    for form in forms {
        let out = through(&redactor, &[b"<", form.as_bytes(), b">"]);
        assert!(out.contains(MASK), "{form} → {out}");
        let left: usize = out.replace(MASK, "").len();
        assert!(left <= form.len() / 2, "{form} → {out}");
    }
}

#[test]
fn line_ends_and_colours_inside_do_not_hide_it() {
    let redactor = Redactor::new(["hunter2-hunter2"]);
    assert_eq!(through(&redactor, &[b"a hunter2\x1b[31m-hun\x1b[0mter2 b"]), "a [redacted] b");
    assert_eq!(through(&redactor, &[b"a hunter2\x1b[3", b"1m-hunter2 b"]), "a [redacted] b");
    assert_eq!(through(&redactor, &[b"a hunter2-\r\nhunter2 b\n"]), "a [redacted]\n b\n");
    // Broken over lines that come one by one: no more than five bytes are out before it is certain.
    let text = b"a hunter2-hunter2 b\n";
    for at in 3..17 {
        let first = [&text[..at], b"\n"].concat();
        let out = through(&redactor, &[&first, &text[at..]]);
        assert!(out.contains(MASK), "{at}: {out}");
        let shown = out.trim_start_matches("a ").chars().take_while(|c| *c != '\n' && *c != '[').count();
        assert!(shown < SHORTEST, "{at}: {out}");
        assert!(!out.contains("hunter2-"), "{at}: {out}");
        assert_eq!(out.matches('\n').count(), 2, "{at}: {out}");
    }
}

#[test]
fn a_line_that_ends_like_a_secret_begins_is_not_held_back() {
    let redactor = Redactor::new(["secret-value"]);
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    stream.push(b"items\nit is\n", &mut out);
    assert_eq!(out, b"items\nit is\n");
    stream.push(b"ecret-value\n", &mut out);
    assert_eq!(String::from_utf8_lossy(&out), "items\nit is\n[redacted]\n");
}

#[test]
fn odd_secrets_do_no_harm() {
    for short in ["", "a", "12345"] {
        assert!(Redactor::new([short]).is_empty());
    }
    let itself = Redactor::new([MASK]);
    assert_eq!(itself.text("x [redacted] y"), "x [redacted] y");
    let regex = Redactor::new([".*.*.*(["]);
    assert_eq!(regex.text("abcdefgh .*.*.*([ x"), "abcdefgh [redacted] x");
    let key = "-----BEGIN KEY-----\nAAAABBBBCCCC\nDDDDEEEEFFFF\n-----END KEY-----\n";
    let multi = Redactor::new([key]);
    let out = multi.text(key);
    assert!(!out.contains("AAAA") && !out.contains("FFFF"), "{out}");
    assert_eq!(multi.text("only AAAABBBBCCCC here"), "only [redacted] here");
    let letter = |i: u64| char::from(b'a' + u8::try_from((i * i * 7919) % 10_007 % 26).unwrap());
    let long: String = (0..64 * 1024).map(letter).collect();
    assert_eq!(Redactor::new([long.as_str()]).text(&format!("<{long}>")), "<[redacted]>");
}

#[test]
fn adjacent_and_overlapping_secrets_leave_nothing() {
    let redactor = Redactor::new(["abcdefgh", "ghijklmn", "abcdefghXYZ"]);
    assert_eq!(redactor.text("1 abcdefghijklmn 2"), "1 [redacted] 2");
    assert_eq!(redactor.text("1 abcdefghXYZ 2"), "1 [redacted] 2");
    assert_eq!(redactor.text("1 abcdefghXY 2"), "1 [redacted]XY 2");
}

#[test]
fn the_end_of_a_secret_that_may_begin_another_stays_hidden() {
    let redactor = Redactor::new(["abcdefgh", "ghijklmn"]);
    // "gh" is held back until it is certain that it begins nothing, however long that takes.
    assert_eq!(through(&redactor, &[b"1 abcdefgh", b"i", b"j", b"- 2"]), "1 [redacted]ij- 2");
    // And it stays so when there is another secret after it.
    let redactor = Redactor::new(["abcdefgh", "ghi-secret-ghijk", "secret"]);
    assert_eq!(through(&redactor, &[b"1 abcdefghi-secret", b"-g", b"h 2"]), "1 [redacted]i-[redacted]-gh 2");
}

#[test]
fn what_went_out_before_it_was_certain_does_not_take_the_mask_away() {
    // With and without the blank, and with an escaped line feed after it: each is a form.
    let redactor = Redactor::new([" secret-value\n"]);
    assert_eq!(through(&redactor, &[b"\\ se\n", b"cret-valu", b"e", b" end"]), "\\ se\n[redacted] end");
    let redactor = Redactor::new(["abcdefgh", "secret-value"]);
    assert_eq!(through(&redactor, &[b"abcdefghse\n", b"cret-value."]), "[redacted]se\n[redacted].");
}

#[test]
fn debug_shows_nothing() {
    let redactor = Redactor::new([CANARY]);
    assert_eq!(format!("{redactor:?}"), "Redactor(…)");
    assert_eq!(format!("{:?}", redactor.stream()), "RedactStream(…)");
}

proptest! {
    // Making a matcher takes a while without optimisation.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_make_no_difference(
        parts in prop::collection::vec(prop_oneof![
            Just("tok3n-value".to_owned()), Just("tok3n".to_owned()), Just("\n".to_owned()), Just("\x1b[1m".to_owned()),
            Just("other-secret-1".to_owned()), Just("-value".to_owned()), "[a-z \x1b]{0,5}"
        ], 0..12),
        sizes in prop::collection::vec(1..30usize, 1..10),
    ) {
        let text = parts.concat();
        let redactor = Redactor::new(["tok3n-value", "other-secret-1"]);
        let mut chunks = Vec::new();
        let mut rest = text.as_bytes();
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        let out = through(&redactor, &chunks);
        // What is visible across line ends and colours holds no secret, and no line is lost or made.
        prop_assert!(!out.contains("tok3n-value") && !out.contains("other-secret-1"), "{out:?}");
        prop_assert_eq!(out.matches('\n').count(), text.matches('\n').count());
        // Without secrets nothing changes.
        let clean = text.replace("tok3n", "").replace("secret", "");
        prop_assert_eq!(through(&redactor, &[clean.as_bytes()]), clean);
    }

    #[test]
    fn a_planted_secret_never_appears(secret in "[!-~]{6,40}", before in "[a-z\n ]{0,30}", after in "[a-z\n ]{0,30}", at in 0..100usize) {
        let text = format!("{before}{secret}{after}");
        let (a, b) = text.as_bytes().split_at(at.min(text.len()));
        let out = through(&Redactor::new([secret.as_str()]), &[a, b]);
        prop_assert!(out.contains(MASK));
        prop_assert!(!out.replace(MASK, "\0").contains(&secret));
    }
}
