//! Backup and restore of a server's data folder: `sdp-server backup` and `sdp-server restore`.
//!
//! A backup is a folder that can be copied with any tool. It is made while the server runs, or without one:
//!
//! ```text
//! 2026-05-04/           0700: its owner alone can read it
//!   sdp.db              the whole database at one moment: catalog, sandboxes, deployments, events, hashes of tokens,
//!                         sealed secrets
//!   logs/<id>.log .idx  the job logs of the deployments in it, as whole lines
//!   backup.json         what it holds, with lengths and checksums
//! ```
//! No token is in it, only their hashes. Git credentials and secrets of services are in it as they are in the database: sealed,
//! and **the key is never part of a backup**. Without it they are worthless, to a thief as to whoever restores. So keep a copy of
//! the key file (`secrets.key_file`, by default `seal.key` in the data folder) somewhere else, and put it back, mode 0600, before
//! the server is started on what was restored; else it makes a new key, people log in again, and services' secrets are set again.
//!
//! It is consistent: the database is copied in one transaction, and the logs, which only grow, after it; so every line that
//! the database speaks of is there. It is whole or not there: files are written under another name, brought to disk, looked
//! through (SQLite's `quick_check`, every line of every log) and then renamed.
//!
//! [`restore`] fills a data folder that is empty, after looking through the backup in the same way. What happened after
//! the backup is forgotten, and agents that still have it are told so when they connect: jobs are dropped, instances that the server
//! does not know are removed. Numbers of events and deployments go on well above those of the backup: none is given twice.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::DeploymentId;
use crate::logs::{self, LogTotals, LogsError};
use crate::store::StoreError;
use crate::store::backup::{self as database, Claim, Contents};

const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const LOGS: &str = "logs";

/// Why a backup was not made, or not restored. Nothing is left half done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is something at the place for the backup.
    #[error("there is something at {} already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The data folder is not empty.
    #[error("the data folder {} is not empty; a restore never replaces anything", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder is no backup.
    #[error("{} is no backup of SDP: {problem}", path.display())]
    NotABackup {
        /// The folder.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The backup is not as it was when it was made.
    #[error("the backup is damaged: {problem}")]
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// The database cannot be copied or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log cannot be copied.
    #[error("a job log cannot be copied")]
    Logs(#[source] LogsError),
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BackupError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "backup_exists",
            Self::NotEmpty { .. } => "data_dir_not_empty",
            Self::NotABackup { .. } => "not_a_backup",
            Self::Damaged { .. } => "backup_damaged",
            Self::Store(error) => error.code(),
            Self::Logs(error) => error.code(),
            Self::Io { .. } => "backup_io",
        }
    }

    /// Whether it is no use to try again before a person has done something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Store(error) => error.needs_a_person(),
            Self::Exists { .. } | Self::NotEmpty { .. } | Self::NotABackup { .. } | Self::Damaged { .. } => {
                true
            }
            Self::Logs(_) | Self::Io { .. } => false,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "choose another name, one a day for example, or remove it first",
            Self::NotEmpty { .. } => "stop the server, move everything out of the folder, and restore again",
            Self::NotABackup { .. } => "give the folder that `sdp-server backup` has made",
            Self::Damaged { .. } => {
                "copy it anew from where it was made, or use another backup; files put in place by hand are no restore"
            }
            Self::Store(error) => error.hint(),
            Self::Logs(error) => error.hint(),
            Self::Io { .. } => "check the place, its permissions and the free space there",
        }
    }
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// By which version of SDP it was made.
    pub version: String,
    /// When.
    pub made_at: Timestamp,
    /// The identity of the database.
    pub database: String,
    /// Its file.
    pub database_file: BackedUpFile,
    /// The newest event in it.
    pub newest_event: u64,
    /// How many deployments are in it.
    pub deployments: u64,
    /// Of how many tokens it has the hash.
    pub tokens: u64,
    /// How many secrets and credentials are sealed in it; the key that opens them is not.
    #[serde(default)]
    pub sealed: u64,
    /// The job logs, those that are not empty.
    pub logs: Vec<BackedUpLog>,
}

/// A file in a backup, as it was when the backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackedUpFile {
    /// How many bytes.
    pub bytes: u64,
    /// CRC-32 over these.
    pub crc32: u32,
}

impl BackedUpFile {
    fn read(path: &Path) -> Result<Self, BackupError> {
        let read = || {
            let mut file = File::open(path)?;
            let mut sum = Sum { hasher: crc32fast::Hasher::new(), bytes: 0 };
            io::copy(&mut file, &mut sum)?;
            Ok(Self { bytes: sum.bytes, crc32: sum.hasher.finalize() })
        };
        read().map_err(failed("read", path))
    }
}

/// Takes bytes for their checksum alone.
struct Sum {
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A job log in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackedUpLog {
    /// Whose.
    pub deployment: DeploymentId,
    /// How many lines.
    pub lines: u64,
    /// How many bytes.
    pub bytes: u64,
    /// CRC-32 over these.
    pub crc32: u32,
}

impl Manifest {
    fn new(contents: &Contents, database_file: BackedUpFile, logs: Vec<BackedUpLog>) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: Timestamp::now(),
            database: contents.database.clone(),
            database_file,
            newest_event: contents.newest_event,
            deployments: contents.deployments.len() as u64,
            tokens: contents.tokens,
            sealed: contents.sealed,
            logs,
        }
    }
}

impl std::fmt::Display for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (lines, bytes) =
            self.logs.iter().fold((0, 0), |(lines, bytes), log| (lines + log.lines, bytes + log.bytes));
        write!(
            f,
            "{} deployments, events up to {}, hashes of {} tokens, {} job logs with {lines} lines ({} KiB); ",
            self.deployments,
            self.newest_event,
            self.tokens,
            self.logs.len(),
            bytes.div_ceil(1024),
        )?;
        match self.sealed {
            0 => f.write_str("no credentials"),
            sealed => write!(f, "{sealed} sealed secrets, without the key that opens them"),
        }
    }
}

/// Makes a backup of a data folder, beside a server that may be running on it or not. Blocks.
///
/// # Errors
/// [`BackupError`]; then there is no backup at the place.
pub fn backup(data_dir: &Path, to: &Path) -> Result<Manifest, BackupError> {
    // Without a slash at its end, so that a name can be made from it.
    let to: &Path = &to.components().collect::<PathBuf>();
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    // A name that nobody else has: what is beside the place is not ours to remove.
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.part", uuid::Uuid::now_v7()));
    let part = Part::make(name.into())?;
    let copy = part.folder.join(database::FILE);
    let contents = database::copy(data_dir, &copy)?;
    make_private(&copy)?;
    let database_file = BackedUpFile::read(&copy)?;
    let (logs, copies) = (data_dir.join(LOGS), part.folder.join(LOGS));
    make_folder(&copies)?;
    let mut copied = Vec::new();
    for id in &contents.deployments {
        if let Some(LogTotals { lines, bytes, checksum }) =
            logs::copy(&logs, &copies, *id).map_err(BackupError::Logs)?
        {
            copied.push(BackedUpLog { deployment: *id, lines, bytes, crc32: checksum });
        }
    }
    let manifest = Manifest::new(&contents, database_file, copied);
    write_manifest(&part.folder.join(MANIFEST), &manifest)?;
    part.become_whole(to)?;
    Ok(manifest)
}

/// What a backup says that it holds; it is not looked through.
///
/// # Errors
/// [`BackupError::NotABackup`].
pub fn manifest(backup: &Path) -> Result<Manifest, BackupError> {
    let wrong = |problem: String| BackupError::NotABackup { path: backup.to_owned(), problem };
    let path = backup.join(MANIFEST);
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(format!("{MANIFEST}: {error}")))?;
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format =
        serde_json::from_str(&text).map_err(|error| wrong(format!("{MANIFEST}: {error}")))?;
    if format.format != FORMAT {
        return Err(wrong(format!("its format is {}, this version knows {FORMAT}", format.format)));
    }
    serde_json::from_str(&text).map_err(|error| wrong(format!("{MANIFEST}: {error}")))
}

/// Fills an empty data folder from a backup; it is made if it is not there. Blocks.
///
/// # Errors
/// [`BackupError`]; then the folder is as empty as it was.
pub fn restore(backup: &Path, data_dir: &Path) -> Result<Manifest, BackupError> {
    let manifest = manifest(backup)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.map_err(failed("make", data_dir))?;
    let not_empty = || BackupError::NotEmpty { folder: data_dir.to_owned() };
    if !Claim::is_worth_taking(data_dir)? {
        return Err(not_empty());
    }
    let claim = Claim::take(data_dir)?;
    if !claim.is_empty {
        return Err(not_empty());
    }
    let part = Part::make(data_dir.join(database::PART))?;
    let copy = part.folder.join(database::FILE);
    let source = backup.join(database::FILE);
    std::fs::copy(&source, &copy).map_err(failed("copy", &source))?;
    make_private(&copy)?;
    if BackedUpFile::read(&copy)? != manifest.database_file {
        let problem = format!("{} is not as it was copied", database::FILE);
        return Err(BackupError::Damaged { problem });
    }
    let contents = database::look_through(&copy)?;
    let expected = (&manifest.database, manifest.newest_event, manifest.deployments);
    let found = (&contents.database, contents.newest_event, contents.deployments.len() as u64);
    if found != expected {
        let problem = format!("{} does not hold what {MANIFEST} says", database::FILE);
        return Err(BackupError::Damaged { problem });
    }
    let (from, copies) = (backup.join(LOGS), part.folder.join(LOGS));
    make_folder(&copies)?;
    for log in &manifest.logs {
        let expected = LogTotals { lines: log.lines, bytes: log.bytes, checksum: log.crc32 };
        let copied = logs::copy(&from, &copies, log.deployment).map_err(BackupError::Logs)?;
        let whole = logs::verify(&copies, log.deployment, expected).map_err(BackupError::Logs)?;
        if copied != Some(expected) || !whole {
            let problem = format!("the log of deployment {} is not as it was copied", log.deployment);
            return Err(BackupError::Damaged { problem });
        }
    }
    part.sync()?;
    // The database last: where logs are and no database, no server makes a new one.
    let logs = data_dir.join(LOGS);
    std::fs::rename(&copies, &logs).map_err(failed("rename", &copies))?;
    if let Err(error) = claim.fill(data_dir) {
        // A database that could not be taken back keeps its logs.
        if !data_dir.join(database::FILE).exists() {
            drop(std::fs::remove_dir_all(&logs));
        }
        return Err(error.into());
    }
    Ok(manifest)
}

/// What a data folder has and had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The newest event that its database has.
    pub newest_event: u64,
    /// The newest event that is known to have been committed to it.
    pub committed: u64,
}

/// Lets a server start on a database from which committed events are missing (`database_behind`): what is left is taken for
/// the truth, as after a restore. Where nothing is missing, nothing is changed.
///
/// # Errors
/// When a server runs on the folder, or the database is damaged or none of SDP's.
pub async fn accept_loss(data_dir: &Path) -> Result<Loss, BackupError> {
    let (newest_event, committed) = crate::store::accept_loss(data_dir).await?;
    Ok(Loss { newest_event, committed })
}

/// A folder that is not whole yet; it goes when it does not become so.
struct Part {
    folder: PathBuf,
}

impl Part {
    /// What is there already is not touched, and an error.
    fn make(folder: PathBuf) -> Result<Self, BackupError> {
        make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Brings everything on its file system to disk: one call, however many files there are.
    fn sync(&self) -> Result<(), BackupError> {
        let folder = File::open(&self.folder).map_err(failed("open", &self.folder))?;
        rustix::fs::syncfs(&folder).map_err(|error| failed("sync", &self.folder)(error.into()))
    }

    fn become_whole(self, place: &Path) -> Result<(), BackupError> {
        self.sync()?;
        std::fs::rename(&self.folder, place).map_err(failed("rename", &self.folder))?;
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nothing is there any more if all went well.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path: path.clone(), source }
}

fn make_folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path))
}

fn make_private(path: &Path) -> Result<(), BackupError> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(failed("change the mode of", path))
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let mut text =
        serde_json::to_vec_pretty(manifest).map_err(|error| failed("write", path)(error.into()))?;
    text.push(b'\n');
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(&text)).map_err(failed("write", path))
}
