//! The far side of a fetch, a host or a folder on this machine alike: which refs it has, and bringing commits into the mirror.

use git2::Oid;
use sdp_core::failure::FailureReason;
use sdp_core::secret::GitCredential;

use super::config::GitConfig;
use super::control::Control;
use super::fault::{Fault, said};
use super::http::{Host, Roots};
use super::local::Limits;
use super::mirror::Mirror;
use super::pkt::{Capabilities, Part};
use super::refs::Refs;
use super::source::{LocalSource, Source};
use super::text;

/// The most lines of a host's own words that are passed on.
const MAX_SAID: usize = 50;

/// Where to, as whom and under which reins.
pub(super) struct Access<'a> {
    pub(super) source: &'a Source,
    pub(super) credential: Option<&'a GitCredential>,
    pub(super) config: &'a GitConfig,
    pub(super) roots: &'a Roots,
    pub(super) control: &'a Control,
}

pub(super) struct Remote<'a> {
    pub(super) refs: Refs,
    via: Via<'a>,
    config: &'a GitConfig,
    control: &'a Control,
}

enum Via<'a> {
    Http { host: Box<Host<'a>>, capabilities: Capabilities },
    Local(&'a LocalSource),
}

impl<'a> Remote<'a> {
    /// Reads the refs.
    pub(super) fn connect(access: &Access<'a>) -> Result<Self, Fault> {
        let Access { source, credential, config, roots, control } = *access;
        let (refs, via) = match source {
            Source::Http(base) => {
                let mut host = Host::new(base, credential, config, roots, control)?;
                let (refs, capabilities) = host.refs()?;
                (refs, Via::Http { host: Box::new(host), capabilities })
            }
            Source::Local(local) => (local.refs(control)?, Via::Local(local)),
        };
        Ok(Self { refs, via, config, control })
    }

    /// Brings these commits, and all that leads to them, into the mirror.
    pub(super) fn bring(&self, mirror: &Mirror, want: &[Oid]) -> Result<(), Fault> {
        let have = mirror.have()?;
        let mut receiver = mirror.receive(self.config, self.control)?;
        match &self.via {
            Via::Http { host, capabilities } => {
                let mut said = Words::default();
                host.pack(want, &have, *capabilities, |part| {
                    match part {
                        Part::Pack(bytes) => receiver.take(bytes)?,
                        Part::Said(bytes) => said.take(bytes, |line| self.control.line(line)),
                    }
                    Ok(())
                })?;
            }
            Via::Local(local) => {
                // A handle of its own: it sees the local repository's objects as if they were the mirror's.
                let handle = mirror.again()?;
                let limits = Limits { max_objects: self.config.max_objects, control: self.control };
                local
                    .pack(mirror.repo(), handle.repo(), want, &have, &limits, |bytes| receiver.take(bytes))?;
            }
        }
        receiver.finish()?;
        match want.iter().find(|id| !mirror.has(**id)) {
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
