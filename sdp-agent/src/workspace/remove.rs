//! Removes a folder with all that is in it: never through a link, however deep, and although its folders forbid it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Each level holds a descriptor open; deeper folders are moved up and removed on their own.
const MAX_DEPTH: usize = 64;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `name` in `parent`, whatever it is.
pub(crate) fn tree(parent: &Path, name: &str) -> io::Result<()> {
    let parent = open(parent, FOLDER, Mode::empty())?;
    let mut removal = Removal { parent: parent.as_fd(), name, moved: 0, todo: vec![CString::new(name)?] };
    while let Some(next) = removal.todo.pop() {
        removal.entry(parent.as_fd(), &next, 0)?;
    }
    Ok(())
}

struct Removal<'a> {
    parent: BorrowedFd<'a>,
    name: &'a str,
    moved: usize,
    todo: Vec<CString>,
}

impl Removal<'_> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Linux says ISDIR of a folder, POSIX allows PERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        if depth == MAX_DEPTH {
            self.moved += 1;
            let up = CString::new(format!("{}.{}", self.name, self.moved))?;
            renameat(parent, name, self.parent, &up)?;
            self.todo.push(up);
            return Ok(());
        }
        let folder = open_anyway(parent, name)?;
        for name in children(&folder)? {
            self.entry(folder.as_fd(), &name, depth + 1)?;
        }
        drop(folder);
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn children(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder for reading, and makes sure that entries may be taken out of it.
fn open_anyway(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let path = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) {
        // By descriptor, so that it is this folder and nothing that was put in its place.
        rustix::fs::chmod(format!("/proc/self/fd/{}", path.as_raw_fd()), mode | Mode::RWXU)?;
    }
    Ok(openat(parent, name, FOLDER, Mode::empty())?)
}
