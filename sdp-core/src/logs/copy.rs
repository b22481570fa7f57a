//! Copies one log while it may be growing. For backups and restores; blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::file::paths;
use super::recover::recover;
use super::{LogTotals, LogsError};
use crate::id::DeploymentId;

const CHUNK: usize = 256 * 1024;

/// Copies a log from one folder of logs into another, where it is whole: its lines up to some moment during the copy. None
/// if there is no such log.
pub(crate) fn copy(from: &Path, to: &Path, id: DeploymentId) -> Result<Option<LogTotals>, LogsError> {
    let ((log, idx), (new_log, new_idx)) = (paths(from, id), paths(to, id));
    let failed = |action, path| move |error| LogsError::from_io(action, path, error);
    let mut source = match File::open(&log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        source => source.map_err(failed("open", &log))?,
    };
    let mut copied = make(&new_log).map_err(failed("make", &new_log))?;
    // The log first: the index is written before its lines, so that every line that is copied finds its record.
    io::copy(&mut source, &mut copied).map_err(failed("copy", &log))?;
    let mut records = make(&new_idx).map_err(failed("make", &new_idx))?;
    match File::open(&idx) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        source => {
            let mut source = source.map_err(failed("open", &idx))?;
            io::copy(&mut source, &mut records).map_err(failed("copy", &idx))?;
        }
    }
    if let Ok(at) = source.metadata().and_then(|found| found.modified()) {
        // Lines without a record get the file's time.
        drop(copied.set_modified(at));
    }
    let held = recover(&copied, &records).map_err(failed("mend", &new_log))?;
    let checksum = checksum(&new_log).map_err(failed("read", &new_log))?;
    Ok(Some(LogTotals { lines: held.lines, bytes: held.bytes, checksum }))
}

/// Whether a folder of logs has exactly this one.
pub(crate) fn verify(folder: &Path, id: DeploymentId, expected: LogTotals) -> Result<bool, LogsError> {
    let (log, _) = paths(folder, id);
    let failed = |error| LogsError::from_io("read", &log, error);
    match std::fs::metadata(&log) {
        Ok(found) if found.len() == expected.bytes => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    Ok(checksum(&log).map_err(failed)? == expected.checksum)
}

fn make(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn checksum(path: &Path) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = io::Read::read(&mut file, &mut chunk)?;
        if read == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&chunk[..read]);
    }
}
