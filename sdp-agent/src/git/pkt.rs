//! Git's smart protocol, version 0, as far as a fetch needs it: packets, the advertisement, the request for a pack, the
//! bands of its answer. Bytes in, values out; no socket here.
//!
//! Version 0 because every host speaks it. A request names one or more wanted commits and what is there already, all in
//! one round (`done` at once): the mirror is near to what the host has, so a longer negotiation buys nothing. The
//! capability `thin-pack` is not asked for: completing such packs costs libgit2 time that grows with the square of the
//! update (measured: 22 s for 21,730 objects).

use std::io::{self, Read};

use git2::Oid;
use sdp_core::failure::FailureReason;

use super::fault::{Fault, said, unreachable};
use super::refs::Refs;
use super::text;

/// The longest packet, with its four digits.
const MAX_PACKET: usize = 65520;
/// The longest advertisement that is read, in bytes: some 500,000 branches.
pub(super) const MAX_ADVERTISEMENT: u64 = 64 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Flush,
    Data(&'a [u8]),
}

/// Reads packets one by one; holds one at a time.
pub(super) struct Packets<R> {
    from: R,
    host: String,
    buffer: Vec<u8>,
}

impl<R: Read> Packets<R> {
    pub(super) fn new(from: R, host: &str) -> Self {
        Self { from, host: host.to_owned(), buffer: Vec::new() }
    }

    /// The next packet; none at the end of the answer.
    pub(super) fn next(&mut self) -> Result<Option<Packet<'_>>, Fault> {
        let mut head = [0; 4];
        match self.from.read(&mut head[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => self.from.read_exact(&mut head[1..]).map_err(|error| self.fault(error))?,
            Err(error) => return Err(self.fault(error)),
        }
        let length = std::str::from_utf8(&head)
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| usize::from_str_radix(digits, 16).ok());
        match length {
            Some(0) => Ok(Some(Packet::Flush)),
            Some(length @ 4..=MAX_PACKET) => {
                self.buffer.resize(length - 4, 0);
                self.from
                    .read_exact(&mut self.buffer)
                    .map_err(|error| super::fault::http_read(&self.host, error))?;
                Ok(Some(Packet::Data(&self.buffer)))
            }
            _ => Err(self.garbage()),
        }
    }

    fn fault(&self, error: io::Error) -> Fault {
        super::fault::http_read(&self.host, error)
    }

    fn garbage(&self) -> Fault {
        unreachable(&self.host, "answers with something that is not git's protocol")
    }

    pub(super) fn broken_off(&self) -> Fault {
        unreachable(&self.host, "broke off in the middle of its answer")
    }
}

/// What a host can do, as far as we use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    side_band_64k: bool,
    ofs_delta: bool,
}

/// Reads an advertisement: `# service=…`, a flush, then the refs with the capabilities behind the first.
pub(super) fn read_advertisement<R: Read>(from: R, host: &str) -> Result<(Refs, Capabilities), Fault> {
    let mut packets = Packets::new(from, host);
    let mut refs = Refs::default();
    let mut capabilities = Capabilities::default();
    let mut first = true;
    match packets.next()? {
        Some(Packet::Data(line)) if line.starts_with(b"# service=git-upload-pack") => {}
        Some(Packet::Data(line)) if line.starts_with(b"ERR ") => return Err(refused(host, &line[4..])),
        _ => return Err(packets.garbage()),
    }
    if packets.next()? != Some(Packet::Flush) {
        return Err(packets.garbage());
    }
    loop {
        let line = match packets.next()? {
            Some(Packet::Data(line)) => line,
            Some(Packet::Flush) => return Ok((refs, capabilities)),
            None => return Err(packets.broken_off()),
        };
        if let Some(text) = line.strip_prefix(b"ERR ") {
            return Err(refused(host, text));
        }
        let (line, offered) = match line.iter().position(|b| *b == 0) {
            Some(at) if first => (&line[..at], &line[at + 1..]),
            _ => (line, &b""[..]),
        };
        if first {
            first = false;
            for word in offered.split(|b| matches!(b, b' ' | b'\n')) {
                match word {
                    b"side-band-64k" => capabilities.side_band_64k = true,
                    b"ofs-delta" => capabilities.ofs_delta = true,
                    b"object-format=sha256" => return Err(sha256()),
                    _ => {
                        if let Some(target) = word.strip_prefix(b"symref=HEAD:") {
                            refs.head = std::str::from_utf8(target).ok().map(str::to_owned);
                        }
                    }
                }
            }
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.starts_with(b"shallow ") {
            continue;
        }
        let Some((id, name)) = split_ref(line) else { return Err(packets.garbage()) };
        // An empty repository says only what it can do; a name that is not UTF-8 cannot be asked for.
        if name != b"capabilities^{}"
            && let Ok(name) = std::str::from_utf8(name)
        {
            refs.push(name, id);
        }
    }
}

pub(super) fn sha256() -> Fault {
    said(
        FailureReason::RepoNotAllowed,
        "the repository names its commits by SHA-256, which the agent cannot read yet",
    )
}

fn split_ref(line: &[u8]) -> Option<(Oid, &[u8])> {
    let space = line.iter().position(|b| *b == b' ')?;
    let id = std::str::from_utf8(&line[..space]).ok().filter(|id| id.len() == 40)?;
    Some((Oid::from_str(id).ok()?, &line[space + 1..]))
}

fn refused(host: &str, text: &[u8]) -> Fault {
    unreachable(host, format_args!("says: {}", text::one_line(text, 200)))
}

/// The body of a request for a pack.
pub(super) fn want_request(want: &[Oid], have: &[Oid], capabilities: Capabilities) -> Result<Vec<u8>, Fault> {
    if !capabilities.side_band_64k {
        return Err(said(
            FailureReason::GitUnreachable,
            "the git host is too old: it does not offer side-band-64k",
        ));
    }
    let mut body = Vec::new();
    for (at, id) in want.iter().enumerate() {
        let ofs_delta = if capabilities.ofs_delta { " ofs-delta" } else { "" };
        let with = if at == 0 {
            format!(" side-band-64k{ofs_delta} agent=git/2.40.0-sdp-{}", env!("CARGO_PKG_VERSION"))
        } else {
            String::new()
        };
        packet(&mut body, &format!("want {id}{with}\n"));
    }
    body.extend_from_slice(b"0000");
    for id in have {
        packet(&mut body, &format!("have {id}\n"));
    }
    packet(&mut body, "done\n");
    Ok(body)
}

fn packet(body: &mut Vec<u8>, line: &str) {
    body.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

/// What the answer to a request for a pack consists of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Bytes of the pack.
    Pack(&'a [u8]),
    /// Progress, for people; any piece of it.
    Said(&'a [u8]),
}

/// Reads the answer to a request for a pack until its end.
pub(super) fn read_pack<R: Read>(
    from: R,
    host: &str,
    mut each: impl FnMut(Part<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut packets = Packets::new(from, host);
    let mut begun = false;
    loop {
        let data = match packets.next()? {
            Some(Packet::Data(data)) => data,
            Some(Packet::Flush) if begun => return Ok(()),
            Some(Packet::Flush) => continue,
            None => return Err(packets.broken_off()),
        };
        match data.split_first() {
            _ if !begun && data.starts_with(b"ERR ") => {
                return Err(Fault::NotHandedOut { said: text::one_line(&data[4..], 200) });
            }
            _ if !begun && (data.starts_with(b"ACK ") || data.starts_with(b"NAK")) => {}
            Some((1, pack)) => {
                begun = true;
                each(Part::Pack(pack))?;
            }
            Some((2, words)) => each(Part::Said(words))?,
            Some((3, words)) => return Err(refused(host, words)),
            _ => return Err(packets.garbage()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::refs::Ref;
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";

    fn answer(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            if *line == "0000" {
                out.extend_from_slice(b"0000");
            } else {
                packet(&mut out, line);
            }
        }
        out
    }

    fn detail(fault: Fault) -> String {
        fault.into_failure(sdp_core::deployment::Step::Fetch, None).detail
    }

    #[test]
    fn an_advertisement_gives_refs_capabilities_and_the_default_branch() {
        let bytes = answer(&[
            "# service=git-upload-pack\n",
            "0000",
            &format!(
                "{A} HEAD\0multi_ack side-band-64k thin-pack ofs-delta symref=HEAD:refs/heads/main agent=git/2\n"
            ),
            &format!("{A} refs/heads/main\n"),
            &format!("{B} refs/tags/v1\n"),
            &format!("{A} refs/tags/v1^{{}}\n"),
            "0000",
        ]);
        let (refs, capabilities) = read_advertisement(&bytes[..], "host").expect("good");
        assert_eq!(refs.head.as_deref(), Some("refs/heads/main"));
        let names: Vec<&str> = refs.list.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["HEAD", "refs/heads/main", "refs/tags/v1"]);
        assert_eq!(
            refs.list[2],
            Ref { name: "refs/tags/v1".into(), id: B.parse().unwrap(), peeled: Some(A.parse().unwrap()) }
        );
        assert_eq!(capabilities, Capabilities { side_band_64k: true, ofs_delta: true });
    }

    #[test]
    fn an_empty_repository_has_no_refs() {
        let zero = "0".repeat(40);
        let bytes = answer(&[
            "# service=git-upload-pack\n",
            "0000",
            &format!("{zero} capabilities^{{}}\0side-band-64k\n"),
            "0000",
        ]);
        assert!(read_advertisement(&bytes[..], "host").expect("good").0.list.is_empty());
    }

    #[test]
    fn a_ref_that_is_not_utf8_does_not_hide_the_others() {
        let mut bytes = answer(&["# service=git-upload-pack\n", "0000"]);
        bytes.extend_from_slice(format!("{:04x}{A} refs/heads/\u{0}x\n", 4 + 40 + 15).as_bytes());
        let mut bad = format!("{B} refs/heads/_\n").into_bytes();
        *bad.iter_mut().rev().nth(1).unwrap() = 0xff;
        bytes.extend_from_slice(format!("{:04x}", bad.len() + 4).as_bytes());
        bytes.extend_from_slice(&bad);
        bytes.extend_from_slice(&answer(&[&format!("{B} refs/heads/good\n"), "0000"]));
        let (refs, _) = read_advertisement(&bytes[..], "host").expect("good");
        assert_eq!(refs.list.last().map(|r| r.name.as_str()), Some("refs/heads/good"));
    }

    #[test]
    fn garbage_is_one_clear_error() {
        let html = b"<html><body>please log in</body></html>";
        let long = [b"ffff".as_slice(), &[b'x'; 70_000]].concat();
        let plus = b"+004# service".to_vec();
        let sha256 = answer(&[
            "# service=git-upload-pack\n",
            "0000",
            &format!("{A} HEAD\0object-format=sha256\n"),
            "0000",
        ]);
        let cut = answer(&["# service=git-upload-pack\n", "0000", &format!("{A} HEAD\0x\n")]);
        let error = answer(&["ERR access denied\u{1b}[31m\n"]);
        let all: Vec<String> = [html.as_slice(), &long, &plus, b"", &sha256, &cut, &error]
            .into_iter()
            .map(|bytes| detail(read_advertisement(bytes, "host").expect_err("garbage")))
            .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
    host answers with something that is not git's protocol
    host answers with something that is not git's protocol
    host answers with something that is not git's protocol
    host answers with something that is not git's protocol
    the repository names its commits by SHA-256, which the agent cannot read yet
    host broke off in the middle of its answer
    host says: access denied [31m
    "#);
    }

    #[test]
    fn a_request_names_what_is_wanted_and_what_is_there() {
        let capabilities = Capabilities { side_band_64k: true, ofs_delta: true };
        let body =
            want_request(&[A.parse().unwrap(), B.parse().unwrap()], &[B.parse().unwrap()], capabilities)
                .unwrap();
        let text = String::from_utf8(body).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!(text, @r#"
    0065want 1111111111111111111111111111111111111111 side-band-64k ofs-delta agent=git/2.40.0-sdp-VERSION
    0032want 2222222222222222222222222222222222222222
    00000032have 2222222222222222222222222222222222222222
    0009done
    "#);
        assert!(want_request(&[A.parse().unwrap()], &[], Capabilities::default()).is_err());
    }

    #[test]
    fn an_answer_is_pack_and_words() {
        let bytes = answer(&["NAK\n", "\u{2}Counting\n", "\u{1}PACK", "\u{1}more", "0000"]);
        let mut pack = Vec::new();
        let mut words = Vec::new();
        read_pack(&bytes[..], "host", |part| {
            match part {
                Part::Pack(bytes) => pack.extend_from_slice(bytes),
                Part::Said(bytes) => words.extend_from_slice(bytes),
            }
            Ok(())
        })
        .expect("good");
        assert_eq!((pack.as_slice(), words.as_slice()), (&b"PACKmore"[..], &b"Counting\n"[..]));

        let not_ours = answer(&["ERR upload-pack: not our ref 123\n"]);
        assert!(matches!(read_pack(&not_ours[..], "host", |_| Ok(())), Err(Fault::NotHandedOut { .. })));
        for bad in [
            answer(&["NAK\n", "\u{1}PACK"]),
            answer(&["NAK\n", "\u{3}died\n"]),
            answer(&["hello"]),
            Vec::new(),
        ] {
            assert!(read_pack(&bad[..], "host", |_| Ok(())).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let with_head = [answer(&["# service=git-upload-pack\n", "0000"]), bytes.clone()].concat();
            drop(read_advertisement(&with_head[..], "host"));
            drop(read_pack(&bytes[..], "host", |_| Ok(())));
        }
    }
}
