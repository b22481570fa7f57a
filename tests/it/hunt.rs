//! A hunt for a secret: in how many places something that must not be seen stands, in any form that a program could have
//! given it. Shares no code with what takes secrets out.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What is looked for.
pub(crate) struct Hunt {
    /// Name of a form, and its bytes.
    forms: Vec<(&'static str, Vec<u8>)>,
    found: Vec<Found>,
    /// How many places were looked at, and their bytes.
    places: usize,
    bytes: u64,
}

/// A place where it stands.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) place: String,
    pub(crate) form: &'static str,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.place, self.form)
    }
}

impl Hunt {
    /// For a password, and for what a login makes of it.
    pub(crate) fn new(user: &str, secret: &str) -> Self {
        let bytes = secret.as_bytes();
        let login = format!("{user}:{secret}");
        let mut forms = vec![
            ("as it is", bytes.to_vec()),
            ("hexadecimal", hex(bytes, false)),
            ("HEXADECIMAL", hex(bytes, true)),
            ("of a URL", percent(bytes, false)),
            ("of a form", percent(bytes, true)),
            ("JSON", json(secret)),
            ("reversed by a shell's quotes", secret.replace('\'', r"'\''").into_bytes()),
            ("XML", xml(secret)),
        ];
        for text in [secret, &login, &format!("{secret}\n")] {
            for shift in 0..3 {
                let padded = [&b"\0\0\0"[..shift], text.as_bytes()].concat();
                for (name, encoded) in [
                    ("base64", STANDARD_NO_PAD.encode(&padded)),
                    ("base64 for URLs", URL_SAFE_NO_PAD.encode(&padded)),
                ] {
                    // The first and the last digits depend on what stands around.
                    let from = [0, 2, 3][shift];
                    let until = encoded.len() - [0, 2, 1][padded.len() % 3].min(encoded.len());
                    forms.push((name, encoded.as_bytes()[from..until].to_vec()));
                }
            }
        }
        forms.push(("as a header has it", STANDARD.encode(&login).into_bytes()));
        forms.retain(|(_, form)| form.len() >= 8);
        forms.sort();
        forms.dedup();
        Self { forms, found: Vec::new(), places: 0, bytes: 0 }
    }

    /// Looks at some bytes.
    pub(crate) fn look(&mut self, place: impl fmt::Display, bytes: &[u8]) {
        self.places += 1;
        self.bytes += bytes.len() as u64;
        for (form, wanted) in &self.forms {
            if memchr::memmem::find(bytes, wanted).is_some() {
                self.found.push(Found { place: place.to_string(), form });
            }
        }
    }

    /// Looks at all files below a folder, and at their names.
    pub(crate) fn look_below(&mut self, folder: &Path) {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path: PathBuf = entry.path();
                self.look(path.display(), path.as_os_str().as_encoded_bytes());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_file() => {
                        let bytes = std::fs::read(&path).unwrap_or_default();
                        self.look(path.display(), &bytes);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Looks at arguments and environment of every process of this machine that can be seen, but for this one's own.
    pub(crate) fn look_at_processes(&mut self) {
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            for what in ["cmdline", "environ"] {
                let bytes = std::fs::read(entry.path().join(what)).unwrap_or_default();
                self.look(format!("/proc/{id}/{what}"), &bytes);
            }
        }
    }

    /// How many places were looked at, and what was found.
    pub(crate) fn end(self) -> (usize, u64, Vec<Found>) {
        (self.places, self.bytes, self.found)
    }

    /// Fails if it stands anywhere.
    pub(crate) fn expect_nothing(self) {
        let (places, bytes, found) = self.end();
        assert!(places > 0 && bytes > 0, "nothing was looked at");
        let list: Vec<String> = found.iter().map(Found::to_string).collect();
        assert!(list.is_empty(), "found in {places} places with {bytes} bytes:\n{}", list.join("\n"));
    }
}

fn hex(bytes: &[u8], upper: bool) -> Vec<u8> {
    let digit = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
    bytes.iter().map(digit).collect::<String>().into_bytes()
}

fn percent(bytes: &[u8], plus: bool) -> Vec<u8> {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(*byte));
            }
            b' ' if plus => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out.into_bytes()
}

fn json(text: &str) -> Vec<u8> {
    let quoted = serde_json::to_string(text).expect("text");
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

fn xml(text: &str) -> Vec<u8> {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;").into_bytes()
}

#[test]
fn a_hunt_finds_what_is_there() {
    let secret = "s3cr3t & <its> \"own\" / words+1%";
    let login = STANDARD.encode(format!("alice:{secret}"));
    let shifted = STANDARD.encode(format!("x{secret}y"));
    for hidden in [
        format!("password={secret};"),
        format!("{{\"password\":{}}}", serde_json::to_string(secret).expect("text")),
        format!("Authorization: Basic {login}"),
        format!("blob {shifted} end"),
        String::from_utf8(hex(secret.as_bytes(), false)).expect("text"),
        String::from_utf8(percent(secret.as_bytes(), true)).expect("text"),
    ] {
        let mut hunt = Hunt::new("alice", secret);
        hunt.look("here", hidden.as_bytes());
        assert!(!hunt.end().2.is_empty(), "{hidden}");
    }
    let mut hunt = Hunt::new("alice", secret);
    hunt.look("here", b"nothing of it: s3cr3t, alice, password");
    hunt.expect_nothing();
}
