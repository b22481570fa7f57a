//! A repository at a git host: which refs it has, and bringing commits into the mirror.

use git2::Oid;
use sdp_core::failure::FailureReason;
use sdp_core::secret::GitCredential;

use super::config::GitConfig;
use super::control::Control;
use super::fault::{Fault, said};
use super::http::{Host, Roots};
use super::mirror::Mirror;
use super::pkt::{Capabilities, Part};
use super::refs::Refs;
use super::source::HttpSource;
use super::text;

/// The most lines of a host's own words that are passed on.
const MAX_SAID: usize = 50;

pub(super) struct Remote<'a> {
    pub(super) refs: Refs,
    host: Host<'a>,
    capabilities: Capabilities,
    config: &'a GitConfig,
    control: &'a Control,
}

impl<'a> Remote<'a> {
    /// Reads the refs.
    pub(super) fn connect(
        source: &HttpSource,
        credential: Option<&GitCredential>,
        config: &'a GitConfig,
        roots: &Roots,
        control: &'a Control,
    ) -> Result<Self, Fault> {
        let mut host = Host::new(&source.base, credential, config, roots, control)?;
        let (refs, capabilities) = host.refs()?;
        Ok(Self { refs, host, capabilities, config, control })
    }

    /// Brings these commits, and all that leads to them, into the mirror.
    pub(super) fn bring(&self, mirror: &Mirror, want: &[Oid]) -> Result<(), Fault> {
        let have = mirror.have()?;
        let mut receiver = mirror.receive(self.config, self.control)?;
        let mut words = Words::default();
        self.host.pack(want, &have, self.capabilities, |part| {
            match part {
                Part::Pack(bytes) => receiver.take(bytes)?,
                Part::Said(bytes) => words.take(bytes, |line| self.control.line(line)),
            }
            Ok(())
        })?;
        receiver.finish()?;
        match want.iter().find(|id| !mirror.store().has(**id)) {
            None => Ok(()),
            Some(id) => Err(said(
                FailureReason::GitUnreachable,
                format!("what was sent does not hold the commit {id}"),
            )),
        }
    }
}

/// Puts a host's words together to lines. What is overwritten on a terminal (`\r`) is left out.
#[derive(Default)]
struct Words {
    line: Vec<u8>,
    lines: usize,
}

impl Words {
    fn take(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\r' => self.line.clear(),
                b'\n' => {
                    let line = text::one_line(&self.line, 200);
                    self.line.clear();
                    if !line.is_empty() && self.lines < MAX_SAID {
                        self.lines += 1;
                        say(&format!("remote: {line}"));
                    }
                }
                byte if self.line.len() < 1000 => self.line.push(*byte),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_words_become_whole_lines() {
        let mut words = Words::default();
        let mut lines = Vec::new();
        for piece in ["Counting: 1%\rCounting", ": 100%, done.\nWel", "come \x1b[31m!\n\n"] {
            words.take(piece.as_bytes(), |line| lines.push(line.to_owned()));
        }
        assert_eq!(lines, ["remote: Counting: 100%, done.", "remote: Welcome  [31m!"]);
        for _ in 0..100 {
            words.take(b"x\n", |line| lines.push(line.to_owned()));
        }
        assert_eq!(lines.len(), MAX_SAID);
    }
}
