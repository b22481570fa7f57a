//! What an instance is told of its place among the other services, as a file: the same as its `SDP_*` variables, for programs that
//! rather read JSON. The job makes it, both runtimes write it before each start and name it in [`VARIABLE`].
//!
//! A process finds it in its instance's folder, a container in [`INSIDE`], a folder of the agent's that it cannot write to. It stays
//! for as long as the instance does, also across restarts, and goes with the instance's folder.
//!
//! Invariant: there is a whole file or none, and a file that is right is not written again, so that a full disk keeps nobody from
//! being started again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use sdp_core::name::{CommitId, EnvironmentName, RoutingKey, SandboxName, ServiceName};
use sdp_core::wire::JobSpec;
use serde::{Deserialize, Serialize};
use url::Url;

/// The variable with the file's path.
pub const VARIABLE: &str = "SDP_CONTEXT";
/// The file's name.
pub const FILE: &str = "context.json";
/// The folder with the file, inside of a container.
pub const INSIDE: &str = "/run/sdp";

/// Where an instance is among the other services. The order of the fields is that of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its sandbox.
    pub sandbox: SandboxName,
    /// The sandbox's environment.
    pub environment: EnvironmentName,
    /// What marks requests as the sandbox's.
    pub routing_key: RoutingKey,
    /// What it runs.
    pub commit: CommitId,
    /// The service that it is.
    pub service: ServiceName,
    /// Where it reaches each service of the environment.
    pub routes: BTreeMap<ServiceName, Url>,
}

impl Context {
    /// What there is to tell an instance of that job; none if its sandbox is gone.
    #[must_use]
    pub fn of(spec: &JobSpec, commit: &CommitId) -> Option<Self> {
        let place = spec.place.as_ref()?;
        Some(Self {
            sandbox: spec.sandbox.clone(),
            environment: place.environment.clone(),
            routing_key: place.key.clone(),
            commit: commit.clone(),
            service: spec.service.clone(),
            routes: place.routes.clone(),
        })
    }

    /// The file. The same context, the same text.
    fn text(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Writes the file into a folder, which is made if need be: everybody may read it, and only the agent write. Blocking.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let (text, file) = (self.text()?, folder.join(FILE));
        if fs::read_to_string(&file).is_ok_and(|known| known == text) {
            return Ok(());
        }
        if !folder.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(folder)?;
            // Whatever the agent's umask is.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        let unfinished = folder.join(".context.json.new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut writer = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&unfinished)?;
        writer.set_permissions(fs::Permissions::from_mode(0o644))?;
        writer.write_all(text.as_bytes())?;
        writer.sync_all()?;
        fs::rename(&unfinished, file)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::runtime) fn context() -> Context {
        let route = |service: &str| {
            let url = format!("http://127.0.0.1:8081/~qa-42/~{service}/");
            (service.parse().unwrap(), url.parse().unwrap())
        };
        Context {
            sandbox: "qa-42".parse().unwrap(),
            environment: "staging".parse().unwrap(),
            routing_key: RoutingKey::from_random([7; 16]),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
            service: "payments".parse().unwrap(),
            routes: ["payments", "order-items"].map(route).into(),
        }
    }

    #[test]
    fn the_file_as_programs_read_it() {
        insta::assert_snapshot!(context().text().unwrap(), @r#"
        {
          "sandbox": "qa-42",
          "environment": "staging",
          "routing_key": "rk_hyboqd4ahyboqd4ahyboqd4aha",
          "commit": "0123456789abcdef0123456789abcdef01234567",
          "service": "payments",
          "routes": {
            "order-items": "http://127.0.0.1:8081/~qa-42/~order-items/",
            "payments": "http://127.0.0.1:8081/~qa-42/~payments/"
          }
        }
        "#);
    }

    #[test]
    fn everybody_reads_it_and_one_that_is_right_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("context");
        context().write(&folder).unwrap();
        let file = folder.join(FILE);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&file)), (0o755, 0o644));
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let first = inode(&file);
        context().write(&folder).unwrap();
        assert_eq!(inode(&file), first);
        // What a program that may write there has made of it does not last.
        fs::write(&file, "{}").unwrap();
        fs::write(folder.join(".context.json.new"), "half").unwrap();
        context().write(&folder).unwrap();
        let read: Context = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(read, context());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
