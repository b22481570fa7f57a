//! Where on this machine the agent's own control groups are, found from what the kernel says of the process.
//!
//! Called by `cgroup` once. [`locate`] is pure: from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` follow the
//! folders. In v2 the agent's process moves into a leaf of its own, and only if nobody else is left beside the groups.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::LEAF;

/// The folders of one group: in v2 all the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    version: Version,
    pub(super) pids: PathBuf,
    pub(super) memory: PathBuf,
    pub(super) cpu: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Places {
    /// Where the agent may make groups.
    ///
    /// # Errors
    /// Why it may not, as a clause.
    pub(super) fn find() -> Result<Self, String> {
        let read = |path| fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"));
        let found = locate(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        let v2 = match &found.v2 {
            Some(folder) => Self::v2(folder),
            None => Err("there is no cgroup2 file system".to_owned()),
        };
        match (v2, found.v1.get("pids"), found.v1.get("memory")) {
            (Ok(places), ..) => Ok(places),
            (Err(_), Some(pids), Some(memory)) => {
                let cpu = found.v1.get("cpu").filter(|cpu| is_writable(cpu)).cloned();
                let places = Self { version: Version::V1, pids: pids.clone(), memory: memory.clone(), cpu };
                match [pids, memory].into_iter().find(|folder| !is_writable(folder)) {
                    Some(folder) => Err(format!("{} cannot be written to", folder.display())),
                    None => Ok(places),
                }
            }
            (Err(why), ..) => Err(why),
        }
    }

    /// Makes the group ready for others beneath it.
    fn v2(own: &Path) -> Result<Self, String> {
        let delegate = "start the agent as a service with Delegate=yes";
        // Where the agent is in its leaf already (systemd put it there, or another agent in this process), the one above.
        let in_leaf = own.file_name().is_some_and(|name| name == LEAF);
        let base = if in_leaf { own.parent().unwrap_or(own) } else { own };
        let controllers = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &str| controllers.split_whitespace().any(|have| have == name);
        if !has("pids") || !has("memory") {
            return Err(format!("the agent's control group has no controllers pids and memory; {delegate}"));
        }
        if !is_writable(base) || !is_writable(&base.join("cgroup.procs")) {
            return Err(format!("{} cannot be written to; {delegate}", base.display()));
        }
        let leaf = base.join(LEAF);
        let mut moved = false;
        if !in_leaf {
            let made = fs::create_dir(&leaf);
            // 0 is whoever writes.
            moved = fs::write(leaf.join("cgroup.procs"), "0").is_ok();
            if !moved {
                if made.is_ok() {
                    drop(fs::remove_dir(&leaf));
                }
                return Err(format!("the agent cannot move into a group of its own; {delegate}"));
            }
        }
        let enable = |names: &str| fs::write(base.join("cgroup.subtree_control"), names);
        let wanted = if has("cpu") { "+pids +memory +cpu" } else { "+pids +memory" };
        if let Err(error) = enable(wanted).or_else(|_| enable("+pids +memory")) {
            if moved {
                drop(fs::write(base.join("cgroup.procs"), "0"));
                drop(fs::remove_dir(&leaf));
            }
            return Err(if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
                format!("other programs are in the agent's control group; {delegate}")
            } else {
                format!("the agent's control group cannot have others beneath it: {error}; {delegate}")
            });
        }
        let enabled = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
        let cpu = enabled.split_whitespace().any(|name| name == "cpu").then(|| base.to_owned());
        Ok(Self { version: Version::V2, pids: base.to_owned(), memory: base.to_owned(), cpu })
    }

    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// The group of that name in each of them.
    pub(super) fn beneath(&self, name: &str) -> Self {
        Self {
            version: self.version,
            pids: self.pids.join(name),
            memory: self.memory.join(name),
            cpu: self.cpu.as_ref().map(|cpu| cpu.join(name)),
        }
    }

    /// Each folder once.
    pub(super) fn folders(&self) -> Vec<&PathBuf> {
        let mut folders = vec![&self.pids];
        for folder in [Some(&self.memory), self.cpu.as_ref()].into_iter().flatten() {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }

    pub(super) fn describe(&self) -> String {
        let version = if self.is_v2() { "v2" } else { "v1" };
        let cpu = if self.cpu.is_some() { ", cpu" } else { "" };
        format!("cgroup {version}: pids, memory{cpu}")
    }
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The process's own groups.
#[derive(Debug, Default, PartialEq, Eq)]
struct Located {
    v2: Option<PathBuf>,
    /// By controller.
    v1: BTreeMap<String, PathBuf>,
}

fn locate(groups: &str, mounts: &str) -> Located {
    let mut located = Located::default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if number == "0" && controllers.is_empty() {
            located.v2 = folder(mounts, "cgroup2", None, path);
            continue;
        }
        for controller in controllers.split(',') {
            if let Some(folder) = folder(mounts, "cgroup", Some(controller), path) {
                located.v1.insert(controller.to_owned(), folder);
            }
        }
    }
    located
}

/// Where a group's path is mounted. A mount may show only a part of the hierarchy, as in a container.
fn folder(mounts: &str, kind: &str, controller: Option<&str>, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let (fs_kind, options) = (what.next()?, what.nth(1)?);
        let fits = controller.is_none_or(|name| options.split(',').any(|option| option == name));
        if fs_kind != kind || !fits {
            return None;
        }
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let beneath = Path::new(path).strip_prefix(root).ok()?;
        if beneath.components().any(|part| part == std::path::Component::ParentDir) {
            return None;
        }
        let point = Path::new(point);
        Some(if beneath.as_os_str().is_empty() { point.to_owned() } else { point.join(beneath) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_v1_v2_and_inside_a_container() {
        let hybrid = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
42 31 0:39 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let found = locate("8:pids:/\n4:memory:/a/b\n1:cpu,cpuacct:/x\n0::/\n", hybrid);
        let v1 = |name: &str| found.v1[name].to_str().unwrap();
        assert_eq!(v1("pids"), "/sys/fs/cgroup/pids");
        assert_eq!(v1("memory"), "/sys/fs/cgroup/memory/a/b");
        assert_eq!(v1("cpu"), "/sys/fs/cgroup/cpu,cpuacct/x");
        assert_eq!(found.v2.unwrap().to_str(), Some("/sys/fs/cgroup/unified"));

        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = locate("0::/system.slice/sdp-agent.service\n", unified);
        assert_eq!(found.v2.unwrap().to_str(), Some("/sys/fs/cgroup/system.slice/sdp-agent.service"));

        let container =
            "9 8 0:3 /docker/abc /sys/fs/cgroup/pids ro,nosuid master:1 - cgroup cgroup rw,pids\n";
        let found = locate("8:pids:/docker/abc\n", container);
        assert_eq!(found.v1["pids"].to_str(), Some("/sys/fs/cgroup/pids"));
        // Of another namespace: not to be reached from here.
        assert_eq!(locate("8:pids:/elsewhere\n", container), Located::default());
        assert_eq!(locate("0::/../../x\n", unified), Located::default());
    }
}
