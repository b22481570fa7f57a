//! The secrets of a service on this machine: from its order to its programs, in memory alone.
//!
//! [`crate::job`] takes them before its first step: values come with the order, files are read from the folder that the
//! configuration names (`[secrets] folder`). Builds get them as variables of their environment, the running service and its release
//! command too, and all of them go into the job's [`Redactor`], whoever is given which.
//!
//! Invariant: no value is in the spool, the journal, an argument or a log of the agent. What a *running* service was given is known
//! beyond the agent's life where it must be, or nobody could start it again: in the engine's configuration of its container, or
//! in the process runtime's record (mode 0600). So the machine's root can read it there, as it can read the service's memory.
//! A git credential is never among that.
//!
//! Limits: 64 KiB for a value, 128 KiB for those of a service together. What is too short to be found in output is refused. Of a
//! value that has a structure (a URL, JSON) the whole and its lines are looked for, not its parts.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sdp_core::name::FileName;
use sdp_core::secret::{self, LONGEST, MOST_BYTES_OF_A_SERVICE, Secret};
use sdp_core::wire::{SecretSource, SecretVariable};
use zeroize::Zeroizing;

use crate::config::User;
use crate::redact::Redactor;

/// The secrets of a job.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<Held>);

#[derive(Debug)]
struct Held {
    name: String,
    value: Secret,
    build: bool,
    run: bool,
}

impl Secrets {
    /// Takes the values, and reads those that are in files; builds run as that user. Blocking.
    ///
    /// # Errors
    /// What is missing or cannot be used, as a clause for people; it names the variable and the file.
    pub(crate) fn take(
        variables: Vec<SecretVariable>,
        folder: &Path,
        builds: Option<User>,
    ) -> Result<Self, String> {
        let take = |SecretVariable { name, source, build, run }: SecretVariable| {
            let value = match source {
                SecretSource::Value { value } => value,
                SecretSource::File { file } => {
                    read(folder, &file, builds).map_err(|problem| format!("{name}: {problem}"))?
                }
            };
            Ok(Held { name: name.to_string(), value, build, run })
        };
        let taken = variables.into_iter().map(take).collect::<Result<Vec<_>, String>>()?;
        let bytes: usize = taken.iter().map(|held| held.value.expose().len()).sum();
        if bytes > MOST_BYTES_OF_A_SERVICE {
            return Err(format!("the service's secrets are {bytes} bytes long together; 128 KiB at most"));
        }
        Ok(Self(taken))
    }

    /// All values, for the redactor.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter().map(|held| &held.value)
    }

    /// Those that builds get.
    pub(crate) fn of_builds(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().filter(|held| held.build).map(|held| (held.name.as_str(), &held.value))
    }

    /// Those that the running service gets.
    pub(crate) fn of_the_service(&self) -> BTreeMap<String, Secret> {
        self.0.iter().filter(|held| held.run).map(|held| (held.name.clone(), held.value.clone())).collect()
    }
}

/// What takes these values out.
pub(crate) fn redactor<'a>(values: impl IntoIterator<Item = &'a Secret>) -> Redactor {
    Redactor::new(values.into_iter().map(Secret::expose))
}

/// A secret from a file that nobody but the agent, and whoever administers it, can read.
fn read(folder: &Path, name: &FileName, builds: Option<User>) -> Result<Secret, String> {
    let no_follow = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let of = |problem: &str| format!("the file {name} in {} {problem}", folder.display());
    let opened = OpenOptions::new().read(true).custom_flags(no_follow).open(folder.join(name.as_str()));
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file {name} in {}", folder.display()),
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => of("is a link"),
        _ => of(&format!("cannot be read: {error}")),
    })?;
    let about = file.metadata().map_err(|error| of(&format!("cannot be read: {error}")))?;
    if !about.is_file() {
        return Err(of("is no file"));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(of(&format!("is open to everybody (mode {mode:04o}); chmod 640 or 600")));
    }
    // Without a user of their own builds are the agent, and nothing can be kept from them.
    if let Some(user) = builds
        && (about.uid() == user.uid || (about.gid() == user.gid && mode & 0o070 != 0))
    {
        return Err(of("can be read by the user of builds"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let most = LONGEST as u64 + 2;
    file.by_ref()
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(|error| of(&format!("cannot be read: {error}")))?;
    let text = str::from_utf8(&bytes).map_err(|_| of("is no text"))?;
    let value = text.strip_suffix('\n').unwrap_or(text);
    secret::check_value(value).map_err(|unfit| of(&format!("cannot be used: {unfit}")))?;
    Ok(Secret::new(value))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn variable(name: &str, source: SecretSource, build: bool, run: bool) -> SecretVariable {
        SecretVariable { name: name.parse().unwrap(), source, build, run }
    }

    fn file(name: &str) -> SecretSource {
        SecretSource::File { file: name.parse().unwrap() }
    }

    #[test]
    fn each_goes_where_it_is_given_and_all_are_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("payments-db");
        fs::write(&path, "from-a-file\n\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let value = |text: &str| SecretSource::Value { value: Secret::new(text) };
        let variables = vec![
            variable("A", value("for-builds"), true, false),
            variable("B", value("for-the-service"), false, true),
            variable("C", file("payments-db"), true, true),
        ];
        let secrets = Secrets::take(variables, folder.path(), None).unwrap();
        let build: Vec<_> = secrets.of_builds().map(|(name, value)| (name, value.expose())).collect();
        assert_eq!(build, [("A", "for-builds"), ("C", "from-a-file\n")], "one line feed is cut");
        let run = secrets.of_the_service();
        let run: Vec<_> = run.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(run, [("B", "for-the-service"), ("C", "from-a-file\n")]);
        let redactor = redactor(secrets.values());
        let out = redactor.text("for-builds, for-the-service, from-a-file");
        assert_eq!(out, "[redacted], [redacted], [redacted]");
        assert!(!format!("{secrets:?}").contains("for-"), "{secrets:?}");
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (own, nobody) = (User::own(), User { uid: 64_100, gid: 64_100 });
        let put = |name: &str, text: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        put("good", "hunter2", 0o640);
        put("open", "hunter2", 0o644);
        put("short", "abc\n", 0o600);
        put("long", &"ab".repeat(LONGEST), 0o600);
        fs::write(folder.path().join("binary"), [0xff; 20]).unwrap();
        fs::set_permissions(folder.path().join("binary"), Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("good", folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let take = |name: &str, builds| {
            Secrets::take(vec![variable("DB", file(name), false, true)], folder.path(), builds)
                .map(drop)
                .map_err(|problem| problem.replace(&folder.path().display().to_string(), "FOLDER"))
        };
        assert_eq!(take("good", None), Ok(()));
        assert_eq!(take("good", Some(nobody)), Ok(()));
        let said = ["absent", "open", "short", "long", "binary", "link", "folder"]
            .map(|name| take(name, None).expect_err(name))
            .join("\n");
        insta::assert_snapshot!(said, @r"
        DB: there is no file absent in FOLDER
        DB: the file open in FOLDER is open to everybody (mode 0644); chmod 640 or 600
        DB: the file short in FOLDER cannot be used: the value is too short to be kept out of logs
        DB: the file long in FOLDER cannot be used: the value is too long
        DB: the file binary in FOLDER is no text
        DB: the file link in FOLDER is a link
        DB: the file folder in FOLDER is no file
        ");
        let by_builds = take("good", Some(own)).expect_err("it is theirs");
        assert!(by_builds.contains("can be read by the user of builds"), "{by_builds}");
        let by_group =
            take("good", Some(User { uid: 64_100, gid: own.gid })).expect_err("it is their group's");
        assert!(by_group.contains("can be read by the user of builds"), "{by_group}");
    }

    #[test]
    fn together_they_are_not_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let variables = |count| {
            let value = || SecretSource::Value { value: Secret::new("ab".repeat(LONGEST / 2)) };
            (0..count).map(|n| variable(&format!("V{n}"), value(), true, true)).collect::<Vec<_>>()
        };
        assert!(Secrets::take(variables(2), folder.path(), None).is_ok());
        assert!(Secrets::take(variables(3), folder.path(), None).is_err());
    }
}
