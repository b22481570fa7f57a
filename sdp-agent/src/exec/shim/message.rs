//! What an agent and its shim say to each other through their socket: one request, then answers of fixed length.
//!
//! Both ends are the same executable, so there are no versions. Texts are bytes with their length in front.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::super::Kind;
use super::super::isolation::{Admission, By};
use crate::config::User;

/// The longest request: more than Linux takes as arguments and environment of a program.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
/// The length of an answer.
pub(in crate::exec) const ANSWER: usize = 6;

/// A program to start. Without arguments: nothing but a trial.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::exec) struct Request {
    pub(in crate::exec) admission: Admission,
    /// The files to which the program writes to enter its control groups.
    pub(in crate::exec) entrances: Vec<PathBuf>,
    pub(in crate::exec) path: PathBuf,
    pub(in crate::exec) cwd: PathBuf,
    pub(in crate::exec) argv: Vec<OsString>,
    pub(in crate::exec) env: Vec<(OsString, OsString)>,
}

impl Request {
    /// As it is sent.
    ///
    /// # Errors
    /// When no program can be started with it: it is too long, or a text holds a zero byte.
    pub(in crate::exec) fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let Admission { kind, user, counted, by: _ } = self.admission;
        body.extend([u8::from(kind == Kind::Service), u8::from(user.is_some()), u8::from(counted)]);
        let User { uid, gid } = user.unwrap_or(User { uid: 0, gid: 0 });
        body.extend(uid.to_le_bytes());
        body.extend(gid.to_le_bytes());
        put_all(&mut body, self.entrances.iter().map(|path| path.as_os_str()))?;
        put(&mut body, self.path.as_os_str())?;
        put(&mut body, self.cwd.as_os_str())?;
        put_all(&mut body, self.argv.iter().map(OsString::as_os_str))?;
        put_all(&mut body, self.env.iter().flat_map(|(name, value)| [name.as_os_str(), value]))?;
        if body.len() > MAX_REQUEST {
            return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
        }
        Ok([&length(body.len())?, body.as_slice()].concat())
    }

    /// Reads one to its end, and no further.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_REQUEST {
            return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::parse(&mut body.as_slice()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let [service, has_user, counted] = take(rest)?;
        let (uid, gid) = (u32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
        let admission = Admission {
            kind: if service == 1 { Kind::Service } else { Kind::Build },
            user: (has_user == 1).then_some(User { uid, gid }),
            counted: counted == 1,
            by: By::Shim,
        };
        let entrances = texts(rest)?.into_iter().map(PathBuf::from).collect();
        let (path, cwd) = (text(rest)?.into(), text(rest)?.into());
        let argv = texts(rest)?;
        let mut words = texts(rest)?.into_iter();
        let mut env = Vec::new();
        while let Some(name) = words.next() {
            env.push((name, words.next()?));
        }
        rest.is_empty().then_some(Self { admission, entrances, path, cwd, argv, env })
    }

    /// One that starts nothing.
    pub(in crate::exec) fn trial() -> Self {
        let admission = Admission { kind: Kind::Build, user: None, counted: false, by: By::Shim };
        let nowhere = || Path::new("/").to_owned();
        Self {
            admission,
            entrances: Vec::new(),
            path: nowhere(),
            cwd: nowhere(),
            argv: Vec::new(),
            env: Vec::new(),
        }
    }
}

fn length(of: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(of).map_err(|_| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
    Ok(length.to_le_bytes())
}

fn put(into: &mut Vec<u8>, text: &OsStr) -> io::Result<()> {
    if text.as_bytes().contains(&0) {
        // As the standard library says it.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nul byte found in provided data"));
    }
    into.extend(length(text.len())?);
    into.extend(text.as_bytes());
    Ok(())
}

fn put_all<'a>(into: &mut Vec<u8>, texts: impl Iterator<Item = &'a OsStr> + Clone) -> io::Result<()> {
    into.extend(length(texts.clone().count())?);
    texts.into_iter().try_for_each(|text| put(into, text))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

fn count(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(take(rest)?)).ok()
}

fn text(rest: &mut &[u8]) -> Option<OsString> {
    let length = count(rest)?;
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(OsString::from_vec(taken.to_vec()))
}

fn texts(rest: &mut &[u8]) -> Option<Vec<OsString>> {
    let count = count(rest)?;
    // Collected as they come: a count that is not true makes nothing large.
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(text(rest)?);
    }
    Some(texts)
}

/// What a shim says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Answer {
    /// The program runs.
    Started,
    /// It does not, and the system said why.
    Failed(Stage, i32),
    /// It has ended, with this status as the system gives it; others that it has started may still be there.
    Ended(i32),
    /// None of them is left.
    Gone,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Stage {
    /// The namespace is made.
    Namespace,
    /// Its `/proc` is mounted.
    Proc,
    /// The shim itself gets ready.
    Init,
    /// The control group is opened.
    Group,
    /// The program is started.
    Program,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Namespace, Self::Proc, Self::Init, Self::Group, Self::Program];

    /// What could not be done, with the system's reason; of the program itself the reason alone.
    pub(in crate::exec) fn fault(self, errno: i32) -> io::Error {
        let error = io::Error::from_raw_os_error(errno);
        let what = match self {
            Self::Namespace => "a PID namespace cannot be made",
            Self::Proc => "/proc cannot be mounted in a namespace",
            Self::Init => "what runs the program cannot start",
            Self::Group => "its control group cannot be entered",
            Self::Program => return error,
        };
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}

impl Answer {
    pub(super) fn bytes(self) -> [u8; ANSWER] {
        let (what, stage, [a, b, c, d]) = match self {
            Self::Started => (0, 0, [0; 4]),
            Self::Failed(stage, errno) => (1, stage as u8, errno.to_le_bytes()),
            Self::Ended(status) => (2, 0, status.to_le_bytes()),
            Self::Gone => (3, 0, [0; 4]),
        };
        [what, stage, a, b, c, d]
    }

    /// None if it is none.
    pub(in crate::exec) fn parse(bytes: [u8; ANSWER]) -> Option<Self> {
        let [what, stage, a, b, c, d] = bytes;
        let value = i32::from_le_bytes([a, b, c, d]);
        Some(match what {
            0 => Self::Started,
            1 => Self::Failed(*Stage::ALL.get(usize::from(stage))?, value),
            2 => Self::Ended(value),
            3 => Self::Gone,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let admission = Admission {
            kind: Kind::Service,
            user: Some(User { uid: 64100, gid: 64101 }),
            counted: true,
            by: By::Shim,
        };
        Request {
            admission,
            entrances: vec!["/sys/fs/cgroup/sdp/cgroup.procs".into()],
            path: "/usr/bin/env".into(),
            cwd: "/tmp".into(),
            argv: vec!["env".into(), "".into(), OsString::from_vec(vec![0xff, b'\n'])],
            env: vec![("A".into(), "b=c".into()), ("EMPTY".into(), "".into())],
        }
    }

    #[test]
    fn a_request_comes_as_it_was_sent_and_no_byte_of_what_follows_is_taken() {
        for sent in [request(), Request::trial()] {
            let mut bytes = sent.bytes().unwrap();
            bytes.extend(b"more");
            let mut rest = bytes.as_slice();
            assert_eq!(Request::read(&mut rest).unwrap(), sent);
            assert_eq!(rest, b"more");
        }
    }

    #[test]
    fn half_a_request_is_none() {
        let bytes = request().bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Request::read(&mut &bytes[..end]).is_err(), "{end}");
            // Nor with a length that is right.
            let body = bytes.get(4..end).unwrap_or_default();
            let shorter = [&length(body.len()).unwrap(), body].concat();
            assert!(Request::read(&mut shorter.as_slice()).is_err(), "{end}");
        }
        assert!(Request::read(&mut [0xff; 8].as_slice()).is_err());
    }

    #[test]
    fn what_no_program_can_be_started_with_is_not_sent() {
        let odd = Request { env: vec![("A".into(), "b\0c".into())], ..request() };
        assert_eq!(odd.bytes().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let long = Request { argv: vec!["x".repeat(MAX_REQUEST).into()], ..request() };
        assert_eq!(long.bytes().unwrap_err().kind(), io::ErrorKind::ArgumentListTooLong);
    }

    #[test]
    fn answers_come_as_they_were_sent() {
        let failed = Stage::ALL.map(|stage| Answer::Failed(stage, 26));
        for sent in [Answer::Started, Answer::Ended(0x8b), Answer::Ended(7 << 8), Answer::Gone]
            .into_iter()
            .chain(failed)
        {
            assert_eq!(Answer::parse(sent.bytes()), Some(sent));
        }
        assert_eq!(Answer::parse([9; ANSWER]), None);
        assert_eq!(Answer::parse([1, 200, 0, 0, 0, 0]), None);
    }
}
