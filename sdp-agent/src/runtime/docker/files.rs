//! What of this machine a container gets to see: the plan's folders and its [`Context`] read-only, and a folder of its own for each
//! writable path.
//!
//! Called by `start` and `release` on a blocking thread. A writable folder lies beneath the instance's own folder and begins
//! as a copy of what the service has at that path; it goes with the instance.
//!
//! Invariant: nothing outside of the agent's own folders is ever mounted. Paths are compared without links, before the
//! container is made and again when it runs; a link where a folder should be is refused, and links are copied as links. What is
//! copied is walked by descriptor, never by path: the builds' user may change it meanwhile.
//!
//! Limits: [`MOST_FILES`] files and [`MOST_BYTES`] bytes are copied for an instance; more is refused.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sdp_core::failure::FailureReason;
use sdp_core::name::WritablePath;

use crate::builder::ContainerPlan;
use crate::config::User;
use crate::runtime::{Context, StartError, context};

/// How much is copied into the writable folders of an instance.
const MOST_FILES: u64 = 20_000;
const MOST_BYTES: u64 = 256 << 20;

/// A folder of this machine in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

/// Where things may lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// All that is built lies beneath it.
    pub(super) work: &'a Path,
    /// The instance's own.
    pub(super) folder: &'a Path,
    /// Whom the container runs as.
    pub(super) user: User,
}

/// Makes the writable folders, and says what to mount. The same again changes nothing.
pub(super) fn prepare(
    places: Places<'_>,
    plan: &ContainerPlan,
    cwd: &Path,
    writable: &BTreeSet<WritablePath>,
    context: Option<&Context>,
) -> Result<Vec<Bound>, StartError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(places.folder).map_err(StartError::Folder)?;
    let mut bounds = Vec::with_capacity(plan.mounts.len() + writable.len());
    for mount in &plan.mounts {
        bounds.push(Bound { source: mount.source.clone(), target: mount.target.clone(), read_only: true });
    }
    unmoved(places, &bounds)?;
    let shown = bounds.clone();
    let service = within(&shown, &plan.source).unwrap_or_else(|| cwd.to_owned());
    let mut room = Room { files: MOST_FILES, bytes: MOST_BYTES };
    for (number, path) in writable.iter().enumerate() {
        // An absolute path stays as it is.
        let target = service.join(path.as_str());
        if context.is_some() && target.starts_with(context::INSIDE) {
            let detail = format!(
                "the writable folder {path} is where a service is told its place ({}); it needs another name",
                context::INSIDE
            );
            return Err(StartError::failed(FailureReason::StartFailed, detail));
        }
        let source = places.folder.join("writable").join(number.to_string());
        let seed = on_host(&shown, &target);
        make(places, path, &source, seed, &mut room)?;
        // What it is mounted on has to be there, for in a read-only folder the engine cannot make it.
        if let Some((top, rest)) = on_host(&bounds, &target) {
            drop(folder_in(top, &rest, true).map_err(|error| unfit(path, &error))?);
        }
        bounds.push(Bound { source, target, read_only: false });
    }
    if let Some(context) = context {
        let source = places.context();
        context.write(&source).map_err(StartError::Folder)?;
        bounds.push(Bound { source, target: context::INSIDE.into(), read_only: true });
    }
    Ok(bounds)
}

impl Places<'_> {
    /// The folder with the instance's context: nothing else is in it.
    fn context(&self) -> PathBuf {
        self.folder.join("context")
    }
}

/// Fails if something of it lies elsewhere than in the agent's folders, or is a link.
pub(super) fn unmoved(places: Places<'_>, bounds: &[Bound]) -> Result<(), StartError> {
    for bound in bounds {
        let is_built = bound.read_only && bound.source != places.context();
        let home = if is_built { places.work } else { places.folder };
        let real = bound.source.canonicalize().map_err(StartError::Folder)?;
        let colon = |path: &Path| path.to_str().is_none_or(|text| text.contains('\0'));
        if real != bound.source || !real.starts_with(home) || real == *home || colon(&bound.target) {
            tracing::error!(path = %bound.source.display(), real = %real.display(), "a folder to mount is not where it should be");
            let detail = "a folder that the container was to see is not where it should be";
            return Err(StartError::failed(FailureReason::UnsafeTree, detail));
        }
    }
    Ok(())
}

/// Where a folder of this machine is in the container.
fn within(bounds: &[Bound], source: &Path) -> Option<PathBuf> {
    bounds.iter().find_map(|bound| Some(bound.target.join(source.strip_prefix(&bound.source).ok()?)))
}

/// Which folder of this machine a container's path lies in, and where in it.
fn on_host<'a>(bounds: &'a [Bound], target: &Path) -> Option<(&'a Path, PathBuf)> {
    let nearest = bounds
        .iter()
        .filter_map(|bound| Some((bound, target.strip_prefix(&bound.target).ok()?)))
        .min_by_key(|(_, rest)| rest.components().count());
    nearest.map(|(bound, rest)| (bound.source.as_path(), rest.to_owned()))
}

fn unfit(path: &WritablePath, error: &io::Error) -> StartError {
    let raw = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    match raw {
        Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            let detail = format!("the writable folder {path} is a file or a link in this commit");
            StartError::failed(FailureReason::UnsafeTree, detail)
        }
        _ => StartError::Folder(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

/// A folder, and not what a link in its place leads to.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder beneath another, never through a link; makes what is missing if told so.
fn folder_in(top: &Path, rest: &Path, make: bool) -> io::Result<OwnedFd> {
    let top = rustix::fs::open(top, FOLDER, Mode::empty())?;
    folder_at(top.as_fd(), rest, make)
}

/// As [`folder_in`], beneath one that is open.
fn folder_at(top: BorrowedFd<'_>, rest: &Path, make: bool) -> io::Result<OwnedFd> {
    let mut at = rustix::fs::openat(top, ".", FOLDER, Mode::empty())?;
    for part in rest.components() {
        let Component::Normal(name) = part else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if make {
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        at = rustix::fs::openat(&at, name, FOLDER, Mode::empty())?;
    }
    Ok(at)
}

/// What may still be copied.
struct Room {
    files: u64,
    bytes: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        match (self.files.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(files), Some(left)) => {
                (self.files, self.bytes) = (files, left);
                Ok(())
            }
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
}

fn make(
    places: Places<'_>,
    path: &WritablePath,
    folder: &Path,
    seed: Option<(&Path, PathBuf)>,
    room: &mut Room,
) -> Result<(), StartError> {
    if folder.is_dir() {
        return Ok(());
    }
    // Renamed when it is whole.
    let unfinished = folder.with_extension("new");
    let made = (|| {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&unfinished)?;
        if let Some((top, rest)) = seed {
            match folder_in(top, &rest, false) {
                Ok(from) => copy(from.as_fd(), &unfinished, places.user, room)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        own(&unfinished, places.user)?;
        fs::rename(&unfinished, folder)
    })();
    made.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            let detail = format!(
                "the writable folder {path} has too much in it: at most {MOST_FILES} files and {} MiB are copied",
                MOST_BYTES >> 20
            );
            StartError::failed(FailureReason::StartFailed, detail)
        }
        _ => unfit(path, &error),
    })
}

/// Copies what is in a folder; links as links, and nothing but folders, files and links.
fn copy(from: BorrowedFd<'_>, to: &Path, user: User, room: &mut Room) -> io::Result<()> {
    let mut todo = vec![PathBuf::new()];
    while let Some(rest) = todo.pop() {
        let folder = folder_at(from, &rest, false)?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let rest = rest.join(OsStr::from_bytes(name.to_bytes()));
            let target = to.join(&rest);
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    room.take(0)?;
                    fs::DirBuilder::new().mode(permissions(stat.st_mode) | 0o700).create(&target)?;
                    todo.push(rest);
                }
                FileType::Symlink => {
                    room.take(0)?;
                    let leads_to = rustix::fs::readlinkat(&folder, name, Vec::new())?;
                    std::os::unix::fs::symlink(OsStr::from_bytes(leads_to.to_bytes()), &target)?;
                }
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let opened = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
                    // Of what was opened: something else may stand under its name by now.
                    let stat = rustix::fs::fstat(&opened)?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                        return Err(rustix::io::Errno::NOTDIR.into());
                    }
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    room.take(size)?;
                    let mode = permissions(stat.st_mode);
                    let mut writer =
                        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
                    // It may grow while it is read.
                    io::copy(&mut fs::File::from(opened).take(size), &mut writer)?;
                }
                _ => continue,
            }
            own(&target, user)?;
        }
    }
    Ok(())
}

/// Nothing of it makes anybody somebody else.
fn permissions(mode: u32) -> u32 {
    mode & 0o777 | 0o600
}

/// Gives it to the container's user; only root can, and only root needs to.
fn own(path: &Path, user: User) -> io::Result<()> {
    if user == User::own() {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Mount;
    use std::collections::BTreeMap;

    struct Fixture {
        folder: tempfile::TempDir,
        plan: ContainerPlan,
        context: Option<Context>,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let source = folder.path().join("work/d/source");
            fs::create_dir_all(source.join("app/storage/logs")).unwrap();
            fs::write(source.join("app/storage/seed.db"), "seed").unwrap();
            fs::write(source.join("app/index.php"), "<?php").unwrap();
            let plan = ContainerPlan {
                image: "php:8.3-apache".parse().unwrap(),
                mounts: vec![Mount { source: source.clone(), target: "/src".into() }],
                source: source.join("app"),
                tmpfs: Vec::new(),
                capabilities: Vec::new(),
                env: BTreeMap::new(),
            };
            Self { folder, plan, context: None }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn prepare(&self, writable: &[&str]) -> Result<Vec<Bound>, String> {
            let (work, folder) = (self.at("work"), self.at("instances/i"));
            let places = Places { work: &work, folder: &folder, user: User::own() };
            let writable = writable.iter().map(|path| path.parse().unwrap()).collect();
            prepare(places, &self.plan, Path::new("/src/app"), &writable, self.context.as_ref())
                .map_err(|error| error.to_string())
        }
    }

    #[test]
    fn each_writable_folder_is_a_copy_beneath_the_instances_own() {
        let fixture = Fixture::new();
        std::os::unix::fs::symlink("/etc/shadow", fixture.at("work/d/source/app/storage/link")).unwrap();
        let paths = ["/var/lib/app", "storage", "storage/logs/deep", "new/cache"];
        let bounds = fixture.prepare(&paths).unwrap();
        let targets: Vec<_> =
            bounds.iter().map(|bound| (bound.target.to_str().unwrap(), bound.read_only)).collect();
        let expected = [
            ("/src", true),
            ("/var/lib/app", false),
            ("/src/app/new/cache", false),
            ("/src/app/storage", false),
            ("/src/app/storage/logs/deep", false),
        ];
        assert_eq!(targets, expected);
        let storage = fixture.at("instances/i/writable/2");
        assert_eq!(bounds[3].source, storage);
        assert_eq!(fs::read_to_string(storage.join("seed.db")).unwrap(), "seed");
        assert_eq!(
            fs::read_link(storage.join("link")).unwrap(),
            Path::new("/etc/shadow"),
            "a link stays one"
        );
        assert!(storage.join("logs/deep").is_dir(), "what the inner one is mounted on");
        assert!(fixture.at("work/d/source/app/new/cache").is_dir(), "what it is mounted on");
        fs::write(storage.join("seed.db"), "changed").unwrap();
        assert_eq!(fixture.prepare(&paths).unwrap(), bounds);
        assert_eq!(fs::read_to_string(storage.join("seed.db")).unwrap(), "changed", "made once");
        assert_eq!(fs::read_to_string(fixture.at("work/d/source/app/storage/seed.db")).unwrap(), "seed");
    }

    #[test]
    fn the_context_is_the_agents_and_read_only() {
        let mut fixture = Fixture::new();
        fixture.context = Some(crate::runtime::context::tests::context());
        let bounds = fixture.prepare(&["storage"]).unwrap();
        let folder = fixture.at("instances/i/context");
        let expected = Bound { source: folder.clone(), target: "/run/sdp".into(), read_only: true };
        assert_eq!(bounds.last(), Some(&expected));
        assert!(fs::read_to_string(folder.join("context.json")).unwrap().contains("\"qa-42\""));
        fs::remove_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink(fixture.at("work/d"), &folder).unwrap();
        let (work, own) = (fixture.at("work"), fixture.at("instances/i"));
        let places = Places { work: &work, folder: &own, user: User::own() };
        assert!(unmoved(places, &bounds).is_err(), "a link in its place");
        insta::assert_snapshot!(fixture.prepare(&["/run/sdp/own"]).unwrap_err(), @r"the writable folder /run/sdp/own is where a service is told its place (/run/sdp); it needs another name");
    }

    #[test]
    fn links_and_folders_elsewhere_are_refused() {
        let mut fixture = Fixture::new();
        let app = fixture.at("work/d/source/app");
        std::os::unix::fs::symlink("/etc", app.join("link")).unwrap();
        let mut said = vec![
            fixture.prepare(&["link"]).unwrap_err(),
            fixture.prepare(&["link/deeper"]).unwrap_err(),
            fixture.prepare(&["index.php"]).unwrap_err(),
        ];
        assert!(!Path::new("/etc/deeper").exists());
        let link = fixture.at("work/d/link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        for source in ["/etc".into(), link, fixture.at("work")] {
            fixture.plan.mounts[0].source = source;
            said.push(fixture.prepare(&[]).unwrap_err());
        }
        insta::assert_snapshot!(said.join("\n"), @r"
        the writable folder link is a file or a link in this commit
        the writable folder link/deeper is a file or a link in this commit
        the writable folder index.php is a file or a link in this commit
        a folder that the container was to see is not where it should be
        a folder that the container was to see is not where it should be
        a folder that the container was to see is not where it should be
        ");
    }

    #[test]
    fn what_is_copied_is_what_was_opened_whatever_stands_in_its_place_then() {
        let fixture = Fixture::new();
        let elsewhere = fixture.at("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("secret"), "x").unwrap();
        let storage = fixture.at("work/d/source/app/storage");
        let opened = folder_in(&fixture.at("work/d/source"), Path::new("app/storage"), false).unwrap();
        fs::rename(&storage, fixture.at("moved")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &storage).unwrap();
        let to = fixture.at("to");
        fs::create_dir(&to).unwrap();
        let mut room = Room { files: 10, bytes: 1000 };
        copy(opened.as_fd(), &to, User::own(), &mut room).unwrap();
        assert_eq!(fs::read_to_string(to.join("seed.db")).unwrap(), "seed");
        assert!(to.join("logs").is_dir() && !to.join("secret").exists());
        assert_eq!((room.files, room.bytes), (8, 996));
        // The same one level deeper.
        fs::remove_dir(fixture.at("moved/logs")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, fixture.at("moved/logs")).unwrap();
        assert!(folder_at(opened.as_fd(), Path::new("logs"), false).is_err());
    }

    #[test]
    fn too_much_is_refused_and_nothing_half_done_is_used() {
        let fixture = Fixture::new();
        let big = fs::File::create(fixture.at("work/d/source/app/storage/big")).unwrap();
        big.set_len(MOST_BYTES + 1).unwrap();
        insta::assert_snapshot!(fixture.prepare(&["storage"]).unwrap_err(), @"the writable folder storage has too much in it: at most 20000 files and 256 MiB are copied");
        fs::remove_file(fixture.at("work/d/source/app/storage/big")).unwrap();
        assert!(fixture.prepare(&["storage"]).is_ok());
    }
}
