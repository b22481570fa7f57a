//! What the agent checks of its machine before it runs what others wrote: who builds are, what they could read, and what
//! keeps them small. Each line says what to do about it.
//!
//! Called by `hello` at start and whenever it looks again; it reads, and changes nothing. What people see are the lines
//! that are not ok. A program that holds an agent of its own ([`BuildLimits::enforce`](crate::config::BuildLimits) off) runs
//! its own people's code: there the lines say how it is, and are ok.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sdp_core::wire::Preflight;

use crate::config::{Config, User};
use crate::exec::{Isolation, Processes};

/// The first Linux that opens a folder beneath another without races (openat2).
const LEAST_KERNEL: (u32, u32) = (5, 6);

/// All of it. Blocks.
pub(super) fn checks(config: &Config, isolation: &Isolation) -> Vec<Preflight> {
    let asked = config.build.limits.enforce;
    let mut checks = vec![
        build_user(config, isolation.processes(), asked),
        build_limits(isolation, asked),
        build_processes(isolation.processes(), asked),
    ];
    checks.extend(docker_socket(config, asked));
    checks.extend(kernel());
    if asked {
        checks.push(own_memory());
    }
    if config.build.user.is_some() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        checks.push(data_folder(&config.data_dir));
        checks.push(processes(&mounts, isolation.processes()));
    }
    checks
}

fn line(check: &str, ok: bool, detail: impl Into<String>) -> Preflight {
    Preflight { check: check.to_owned(), ok, detail: detail.into() }
}

fn build_user(config: &Config, processes: Processes<'_>, asked: bool) -> Preflight {
    let own = User::own();
    let Some(user) = config.build.user else {
        let who =
            if own.is_root() { "root".to_owned() } else { format!("the agent itself (uid {})", own.uid) };
        let detail = format!(
            "builds run as {who}: what a branch brings can read the agent's token and memory, its mirrors of all repositories \
             and the folders of other builds{}; name a user of its own: user in [build]",
            if own.is_root() { ", and change anything on this machine" } else { "" }
        );
        return line("build_user", !asked, detail);
    };
    let User { uid, gid } = user;
    if let Some(folder) = barred(&config.data_dir, user) {
        let detail = format!(
            "uid {uid} cannot reach its work: {} does not let it through (chmod o+x)",
            folder.display()
        );
        return line("build_user", false, detail);
    }
    let open: Vec<_> = secrets(config).into_iter().filter(|path| may_read(path, user)).collect();
    if let Some(path) = open.first() {
        let detail = format!("uid {uid} can read {}; chmod it to 0600 (folders: 0700)", path.display());
        return line("build_user", false, detail);
    }
    let services = if config.docker.is_some() { "services in containers" } else { "services" };
    let reach = if processes == Processes::Namespace {
        "a build reaches their files, not their processes"
    } else {
        "a build can end them and read their environment"
    };
    let detail = format!(
        "builds run as uid {uid}, gid {gid}: they can read their own folders, the caches and what is open to all; builds and \
         {services} of this agent are one user to each other: {reach}"
    );
    line("build_user", true, detail)
}

/// What nobody but the agent is to read.
fn secrets(config: &Config) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = ["spool", "mirrors"].map(|name| config.data_dir.join(name)).to_vec();
    paths.extend(
        ["/root/.ssh", "/etc/sdp/agent.token", "/etc/shadow", "/etc/docker/key.json"].map(PathBuf::from),
    );
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let Some(home) = variable("HOME") {
        paths.extend(
            [".ssh", ".git-credentials", ".netrc", ".docker/config.json"].map(|name| home.join(name)),
        );
    }
    paths.extend(variable("SDP_AGENT_TOKEN_FILE"));
    paths.extend(variable("CREDENTIALS_DIRECTORY"));
    paths.extend(config.secret_files.iter().cloned());
    paths
}

/// What a user's mode bits allow; access lists are not looked at.
fn allows(path: &Path, user: User, bit: u32) -> Option<bool> {
    let meta = fs::metadata(path).ok()?;
    let shift = if meta.uid() == user.uid {
        6
    } else if meta.gid() == user.gid {
        3
    } else {
        0
    };
    Some(meta.mode() >> shift & bit != 0)
}

/// The first folder on the way to `path`, or itself, that does not let the user through.
fn barred(path: &Path, user: User) -> Option<PathBuf> {
    let mut way: Vec<_> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find(|folder| allows(folder, user, 0o1) == Some(false)).map(Path::to_owned)
}

fn reaches(path: &Path, user: User) -> bool {
    path.parent().is_none_or(|parent| barred(parent, user).is_none())
}

fn may_read(path: &Path, user: User) -> bool {
    allows(path, user, 0o4) == Some(true) && reaches(path, user)
}

fn build_limits(isolation: &Isolation, asked: bool) -> Preflight {
    let limits = isolation.limits();
    match isolation.enforced() {
        Ok(how) => {
            let mut detail = format!(
                "each build: {} processes, {} MiB",
                limits.pids.unwrap_or_default(),
                limits.memory_mib.unwrap_or_default()
            );
            if let Some(millis) = limits.cpu_millis {
                detail += &format!(", {:.1} cores", f64::from(millis) / 1000.0);
            }
            line("build_limits", true, format!("{detail} ({how})"))
        }
        Err(why) => {
            let user =
                if isolation.user().is_some() { "; the build user's processes are counted" } else { "" };
            line("build_limits", !asked, format!("not enforced, because {why}{user}"))
        }
    }
}

/// Either way they die with the agent; a namespace also keeps them from each other, and costs the agent a capability with which
/// it could do almost anything. So its lack is said, and is no fault.
fn build_processes(processes: Processes<'_>, asked: bool) -> Preflight {
    match processes {
        Processes::Namespace => {
            let detail = "each build has a PID namespace of its own: it sees no other processes, and ends with the agent";
            line("build_processes", true, detail)
        }
        Processes::Subreaper { why } => {
            let detail = format!(
                "builds end with the agent, found by their parents; they have no PID namespaces, because {why}"
            );
            line("build_processes", true, detail)
        }
        Processes::Children => {
            let detail = "if the agent is killed its builds go on until it starts again: its program is not one that runs them \
                          (shim in BuildConfig)";
            line("build_processes", !asked, detail)
        }
    }
}

/// Who may write to the engine's socket is root.
fn docker_socket(config: &Config, asked: bool) -> Option<Preflight> {
    let user = config.build.user.unwrap_or_else(User::own);
    let sockets = ["/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"].map(Path::new);
    let socket = sockets.into_iter().find(|socket| socket.exists())?;
    let open = user.is_root() || (allows(socket, user, 0o2) == Some(true) && reaches(socket, user));
    let in_group =
        config.build.user.is_none() && rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok();
    Some(if open || in_group {
        let detail = format!(
            "builds can use {}, which makes them root on this machine; name a user for builds that is not in its group",
            socket.display()
        );
        line("docker_socket", !asked, detail)
    } else {
        line("docker_socket", true, format!("builds cannot use {}", socket.display()))
    })
}

fn kernel() -> Option<Preflight> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    let detail = if (major, minor) >= LEAST_KERNEL {
        format!("Linux {release}")
    } else {
        format!(
            "Linux {release}: without openat2 (5.6) a service's folder is checked by name, not by descriptor, and a build that \
             swaps it for a link at the right moment is not noticed"
        )
    };
    Some(line("kernel", (major, minor) >= LEAST_KERNEL, detail))
}

/// Tokens and credentials pass through the agent: nobody but root may read its memory, nor a core file be made of it.
fn own_memory() -> Preflight {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
    let hidden = dumpable_behavior() == Ok(DumpableBehavior::NotDumpable);
    let core = getrlimit(Resource::Core).maximum;
    if hidden && core == Some(0) {
        return line("core_dumps", true, "none of the agent, its builds and its services");
    }
    line("core_dumps", false, "the agent's memory can be dumped: its program could not switch that off")
}

/// A file system of its own keeps builds from filling the machine's; without set-uid bits and devices what they leave is harmless.
fn data_folder(folder: &Path) -> Preflight {
    use rustix::fs::StatVfsMountFlags;
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return line("data_folder", false, "it cannot be looked at");
    };
    let wanted = [("nosuid", StatVfsMountFlags::NOSUID), ("nodev", StatVfsMountFlags::NODEV)];
    let missing: Vec<_> =
        wanted.iter().filter(|(_, flag)| !stat.f_flag.contains(*flag)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return line("data_folder", true, "mounted nosuid, nodev");
    }
    let detail = format!(
        "{} is mounted without {}; best a file system of its own, with them",
        folder.display(),
        missing.join(", ")
    );
    line("data_folder", false, detail)
}

fn processes(mounts: &str, processes: Processes<'_>) -> Preflight {
    if processes == Processes::Namespace {
        return line("hidepid", true, "builds see their own processes alone");
    }
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc")).unwrap_or_default();
    let options = proc.rsplit(' ').next().unwrap_or_default();
    let hidden = options
        .split(',')
        .filter_map(|option| option.strip_prefix("hidepid="))
        .any(|how| matches!(how, "1" | "2" | "4" | "noaccess" | "invisible" | "ptraceable"));
    if hidden {
        return line("hidepid", true, "builds do not see others' processes");
    }
    let detail = "builds see the command lines of all processes: mount -o remount,hidepid=invisible,gid=<the agent's group> /proc";
    line("hidepid", false, detail)
}

#[cfg(test)]
mod tests;
