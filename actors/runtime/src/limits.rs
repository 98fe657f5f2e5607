//! Holding a process to the `resources` of its component: by a cgroup of its own (v2 where this
//! node's part of the tree is delegated with its controllers, else v1), else its memory by an
//! rlimit (design §11, orchestration §3.2). What is in force is said.
//!
//! The daemon makes the group and says so in the shim's spec. The shim is in it just while it
//! starts the program, so that the program is from its first instruction on, and removes it at the
//! end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{Access, access};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::{Deserialize, Serialize};
use weft_protocol::{ComponentKey, Resources};

/// Groups of one node are beneath one directory, which starts with this.
const PREFIX: &str = "weft-";
/// Where a service manager puts a daemon whose group is delegated (`DelegateSubgroup=`): the
/// groups of components are beside it, since a group with processes has no controllers beneath it.
const SUBGROUP: &str = "weftd";
/// Over such a time, in µs, the CPU is shared out.
const PERIOD: u64 = 100_000;
/// The kernel grants no less, in µs of a period.
const LEAST: u64 = 1_000;

/// How one process is held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Groups that its program is started in.
    pub groups: Vec<Group>,
    /// Limit of its data, in bytes, where no group limits its memory.
    pub data: Option<u64>,
    /// All of that for people; empty: it is not limited.
    pub text: String,
}

/// A group of the kernel's, made and limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its directory.
    pub dir: PathBuf,
    /// Directory of the group that the shim is in otherwise.
    pub back: PathBuf,
}

/// Where this node can make groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limiter {
    memory: Option<Place>,
    cpu: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    version: u8,
    /// The group that this process is in.
    own: PathBuf,
    /// The one beneath which new ones are made.
    base: PathBuf,
}

/// A hierarchy that is mounted, and where in it this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    version: u8,
    /// Of v1: what it controls.
    controllers: Vec<String>,
    own: PathBuf,
    /// Whether that is its root, which may have both processes and controllers beneath.
    is_root: bool,
}

impl Limiter {
    /// Looks at what this machine has. Of v2 it turns on the controllers for what is beneath its
    /// place, if it may.
    pub(crate) fn detect() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let trees = trees(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let place = |controller: &str| {
            let v2 = trees.iter().filter(|tree| tree.version == 2);
            let v1 = trees.iter().filter(|tree| tree.controllers.iter().any(|c| c == controller));
            v2.filter_map(|tree| unified(tree, controller))
                .chain(v1.map(|tree| Place {
                    version: 1,
                    own: tree.own.clone(),
                    base: tree.own.clone(),
                }))
                .find(|place| access(&place.base, Access::WRITE_OK).is_ok())
        };
        Self { memory: place("memory"), cpu: place("cpu") }
    }

    /// Makes what holds one component. Never fails: what cannot be had is said in the text.
    pub(crate) fn hold(&self, node_id: &str, key: &ComponentKey, wanted: Resources) -> Hold {
        let mut hold = Hold::default();
        let mut said = Vec::new();
        let node: String = node_id.chars().take(12).collect();
        // No name has a dot.
        let name = format!("{}.{}.{}", key.service, key.replica, key.component);
        let beneath = Path::new(&format!("{PREFIX}{node}")).join(name);
        if let Some(bytes) = wanted.memory {
            let text = format!("memory {}", shown(bytes));
            match make(self.memory.as_ref(), &beneath, |version, dir| {
                // Nor in swap, where that can be said.
                let (limit, swap, most) = match version {
                    2 => ("memory.max", "memory.swap.max", 0),
                    _ => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
                };
                fs::write(dir.join(limit), bytes.to_string())?;
                let _ = fs::write(dir.join(swap), most.to_string());
                Ok(())
            }) {
                Ok((group, version)) => {
                    said.push(format!("{text} (cgroup v{version})"));
                    hold.groups.push(group);
                }
                Err(why) => {
                    said.push(format!("{text} of data in each process (rlimit; {why})"));
                    hold.data = Some(bytes);
                }
            }
        }
        if let Some(millis) = wanted.cpu_millis {
            let text = format!("cpu {millis} millicores");
            let quota = (millis.saturating_mul(PERIOD) / 1000).max(LEAST);
            match make(self.cpu.as_ref(), &beneath, |version, dir| match version {
                2 => fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD}")),
                _ => fs::write(dir.join("cpu.cfs_period_us"), PERIOD.to_string())
                    .and_then(|()| fs::write(dir.join("cpu.cfs_quota_us"), quota.to_string())),
            }) {
                Ok((group, version)) => {
                    said.push(format!("{text} (cgroup v{version})"));
                    // With v2 both are one.
                    if !hold.groups.contains(&group) {
                        hold.groups.push(group);
                    }
                }
                Err(why) => said.push(format!("{text} not held ({why})")),
            }
        }
        hold.text = said.join(", ");
        hold
    }
}

/// What a container is held to, in the words of [`Hold::text`].
pub(crate) fn by_engine(wanted: Resources) -> String {
    let memory = wanted.memory.map(|bytes| format!("memory {} (engine)", shown(bytes)));
    let cpu = wanted.cpu_millis.map(|millis| format!("cpu {millis} millicores (engine)"));
    memory.into_iter().chain(cpu).collect::<Vec<_>>().join(", ")
}

/// `64 MiB`, or bytes.
fn shown(bytes: u64) -> String {
    match bytes {
        bytes if bytes != 0 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes => format!("{bytes} bytes"),
    }
}

/// Makes a group, or takes the one that is there, and limits it. One at a time: the directory above
/// is shared, and a shim that ends may remove it at any moment.
fn make(
    place: Option<&Place>,
    beneath: &Path,
    limit: impl Fn(u8, &Path) -> io::Result<()>,
) -> Result<(Group, u8), String> {
    static ONE: Mutex<()> = Mutex::new(());
    let Some(place) = place else { return Err("no cgroup that this node may use".into()) };
    let _one = ONE.lock();
    let dir = place.base.join(beneath);
    let attempt = || {
        if let Some(parent) = dir.parent() {
            create(parent)?;
            enable(place, parent);
        }
        let fresh = create(&dir)?;
        limit(place.version, &dir).inspect_err(|_| {
            if fresh {
                let _ = fs::remove_dir(&dir);
            }
        })
    };
    let made = match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => attempt(),
        made => made,
    };
    match made {
        Ok(()) => Ok((Group { dir, back: place.own.clone() }, place.version)),
        Err(error) => Err(format!("cgroup: {error}")),
    }
}

/// Whether it was not there.
fn create(dir: &Path) -> io::Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Of v2, has the groups beneath have their controllers.
fn enable(place: &Place, dir: &Path) {
    if place.version == 2 {
        for controller in ["+memory", "+cpu"] {
            let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
        }
    }
}

/// The place in the unified hierarchy at which a controller can be had, if there is one.
fn unified(tree: &Tree, controller: &str) -> Option<Place> {
    let apart = tree.own.file_name().is_some_and(|name| name == SUBGROUP);
    let base = match (apart, tree.is_root) {
        (true, _) => tree.own.parent()?.to_owned(),
        (false, true) => tree.own.clone(),
        (false, false) => return None,
    };
    let has = |file: &str| {
        let text = fs::read_to_string(base.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|name| name == controller)
    };
    if !has("cgroup.controllers") {
        return None;
    }
    if !has("cgroup.subtree_control") {
        fs::write(base.join("cgroup.subtree_control"), format!("+{controller}")).ok()?;
    }
    Some(Place { version: 2, own: tree.own.clone(), base })
}

/// The hierarchies of `/proc/self/mountinfo` in which `/proc/self/cgroup` has this process.
fn trees(mounts: &str, own: &str) -> Vec<Tree> {
    let places: Vec<(Vec<&str>, &str)> = own
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers.split(',').filter(|c| !c.is_empty()).collect(), path))
        })
        .collect();
    let tree = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => 2,
            "cgroup" => 1,
            _ => return None,
        };
        let options: Vec<&str> = kind.nth(1)?.split(',').collect();
        let mount: Vec<&str> = mount.split(' ').collect();
        let (root, point) = (*mount.get(3)?, *mount.get(4)?);
        let (controllers, path) = places.iter().find(|(controllers, _)| match version {
            2 => controllers.is_empty(),
            _ => !controllers.is_empty() && controllers.iter().all(|c| options.contains(c)),
        })?;
        // What is mounted may be a part of the hierarchy only.
        let path = Path::new(path).strip_prefix(root).ok()?;
        let own = Path::new(point).join(path);
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Some(Tree { version, controllers, is_root: path.as_os_str().is_empty(), own })
    };
    mounts.lines().filter_map(tree).collect()
}

impl Hold {
    /// Moves this process into the groups.
    ///
    /// # Errors
    /// When that cannot be; it may be in some of them then.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.groups.iter().try_for_each(|group| join(&group.dir))
    }

    /// Moves it back.
    ///
    /// # Errors
    /// When that cannot be.
    pub(crate) fn leave(&self) -> io::Result<()> {
        self.groups.iter().try_for_each(|group| join(&group.back))
    }

    /// Limits a process that was started where no group limits it.
    ///
    /// # Errors
    /// It has ended, or the limit is above what this process may have itself.
    pub(crate) fn limit(&self, pid: Option<Pid>) -> io::Result<()> {
        let Some(bytes) = self.data else { return Ok(()) };
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        prlimit(pid, Resource::Data, limit)?;
        Ok(())
    }

    /// How many processes the kernel has killed in the groups because their memory was used up.
    pub(crate) fn kills(&self) -> u64 {
        let count = |dir: &Path, file: &str| {
            let text = fs::read_to_string(dir.join(file)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        let of = |group: &Group| {
            count(&group.dir, "memory.events")
                .or_else(|| count(&group.dir, "memory.oom_control"))
                .unwrap_or(0)
        };
        self.groups.iter().map(of).sum()
    }

    /// Removes the groups, and the node's directory of them if they were the last.
    pub(crate) fn remove(&self) {
        for group in &self.groups {
            let _ = fs::remove_dir(&group.dir);
            if let Some(parent) = group.dir.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

fn join(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
nonsense
";

    #[test]
    fn hierarchies_are_found_where_they_are_mounted_and_this_process_is() {
        let own = "4:memory:/a/b\n2:cpuacct,cpu:/\n1:name=systemd:/\n0::/x.service/weftd\n";
        let found = trees(MOUNTS, own);
        let of = |n: usize| (found[n].version, found[n].own.to_str().unwrap(), found[n].is_root);
        assert_eq!(of(0), (1, "/sys/fs/cgroup/cpu,cpuacct/", true));
        assert_eq!(of(1), (1, "/sys/fs/cgroup/memory/b", false));
        assert_eq!(of(2), (2, "/sys/fs/cgroup/unified/x.service/weftd", false));
        assert_eq!(found.len(), 3);
        // Of what is mounted, this process is not in the part.
        assert!(trees(MOUNTS, "4:memory:/other\n").is_empty());
        assert!(trees("", own).is_empty() && trees(MOUNTS, "").is_empty());
    }

    #[test]
    fn without_a_cgroup_memory_is_held_by_an_rlimit_and_that_is_said() {
        let key = ComponentKey { service: "s".into(), replica: 1, component: "c".into() };
        let wanted = Resources { cpu_millis: Some(250), memory: Some(64 << 20) };
        let hold = Limiter::default().hold("n", &key, wanted);
        assert_eq!((hold.groups.len(), hold.data), (0, Some(64 << 20)));
        assert_eq!(
            hold.text,
            "memory 64 MiB of data in each process (rlimit; no cgroup that this node may use), \
             cpu 250 millicores not held (no cgroup that this node may use)"
        );
        assert_eq!(Limiter::default().hold("n", &key, Resources::default()), Hold::default());
    }
}
