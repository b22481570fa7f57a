//! What of this machine a container gets to see: the plan's folders read-only, and a folder of its own for each writable path.
//!
//! Called by `start` and `release` on a blocking thread. A writable folder lies beneath the instance's own folder and begins
//! as a copy of what the service has at that path; it goes with the instance.
//!
//! Invariant: nothing outside of the agent's own folders is ever mounted. Paths are compared without links, before the
//! container is made and again when it runs; a link where a folder should be is refused, and links are copied as links.
//!
//! Limits: [`MOST_FILES`] files and [`MOST_BYTES`] bytes are copied for an instance; more is refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sdp_core::failure::FailureReason;
use sdp_core::name::WritablePath;

use crate::builder::ContainerPlan;
use crate::config::User;
use crate::runtime::StartError;

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
        let source = places.folder.join("writable").join(number.to_string());
        let seed = on_host(&shown, &target);
        make(places, path, &source, seed, &mut room)?;
        // What it is mounted on has to be there, for in a read-only folder the engine cannot make it.
        if let Some((top, rest)) = on_host(&bounds, &target) {
            drop(folder_in(top, &rest, true).map_err(|error| unfit(path, &error))?);
        }
        bounds.push(Bound { source, target, read_only: false });
    }
    Ok(bounds)
}

/// Fails if something of it lies elsewhere than in the agent's folders, or is a link.
pub(super) fn unmoved(places: Places<'_>, bounds: &[Bound]) -> Result<(), StartError> {
    for bound in bounds {
        let home = if bound.read_only { places.work } else { places.folder };
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

/// Opens a folder beneath another, never through a link; makes what is missing if told so.
fn folder_in(top: &Path, rest: &Path, make: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, flags, Mode::empty())?;
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
        at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
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
                Ok(_) => copy(&top.join(rest), &unfinished, places.user, room)?,
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
fn copy(from: &Path, to: &Path, user: User, room: &mut Room) -> io::Result<()> {
    let mut todo = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = todo.pop() {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            let meta = entry.metadata()?;
            // Nothing of it makes anybody somebody else.
            let mode = meta.permissions().mode() & 0o777 | 0o600;
            if kind.is_dir() {
                room.take(0)?;
                fs::DirBuilder::new().mode(mode | 0o700).create(&target)?;
                todo.push((source, target.clone()));
            } else if kind.is_symlink() {
                room.take(0)?;
                std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            } else if kind.is_file() {
                room.take(meta.len())?;
                let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
                let mut reader = fs::OpenOptions::new().read(true).custom_flags(no_follow).open(&source)?;
                let mut writer =
                    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
                io::copy(&mut reader, &mut writer)?;
            } else {
                continue;
            }
            own(&target, user)?;
        }
    }
    Ok(())
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
            Self { folder, plan }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn prepare(&self, writable: &[&str]) -> Result<Vec<Bound>, String> {
            let (work, folder) = (self.at("work"), self.at("instances/i"));
            let places = Places { work: &work, folder: &folder, user: User::own() };
            let writable = writable.iter().map(|path| path.parse().unwrap()).collect();
            prepare(places, &self.plan, Path::new("/src/app"), &writable).map_err(|error| error.to_string())
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
    fn too_much_is_refused_and_nothing_half_done_is_used() {
        let fixture = Fixture::new();
        let big = fs::File::create(fixture.at("work/d/source/app/storage/big")).unwrap();
        big.set_len(MOST_BYTES + 1).unwrap();
        insta::assert_snapshot!(fixture.prepare(&["storage"]).unwrap_err(), @"the writable folder storage has too much in it: at most 20000 files and 256 MiB are copied");
        fs::remove_file(fixture.at("work/d/source/app/storage/big")).unwrap();
        assert!(fixture.prepare(&["storage"]).is_ok());
    }
}
