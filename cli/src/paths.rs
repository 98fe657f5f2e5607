//! Where things lie by default, and files that appear whole or not at all.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{CliError, Result};

/// The environment, read once; tests pass their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub(crate) config_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub(crate) data_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Whether the user is root.
    pub(crate) root: bool,
}

impl Env {
    /// This process's.
    pub(crate) fn read() -> Self {
        // The XDG specification has relative paths ignored.
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|v: &OsString| !v.is_empty())
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self {
            home: path("HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            data_home: path("XDG_DATA_HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// `/var/lib/weft` for root, else `$XDG_DATA_HOME/weft/<name>` or
    /// `~/.local/share/weft/<name>`.
    ///
    /// # Errors
    /// When no home is known.
    pub(crate) fn data_dir(&self, name: &str) -> Result<PathBuf> {
        if self.root {
            return Ok(PathBuf::from("/var/lib/weft"));
        }
        self.data_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".local/share")))
            .map(|dir| dir.join("weft").join(name))
            .ok_or_else(|| {
                CliError::usage("neither HOME nor XDG_DATA_HOME is set").help("use --data DIR")
            })
    }
}

/// `path` made absolute without asking the file system, `.` and `..` resolved by name.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(|e| CliError::io("resolve", path, &e))?;
    Ok(normal(&whole))
}

/// `.` and `..` resolved by name.
pub(crate) fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Makes a directory and its parents, new ones with mode 0700.
///
/// # Errors
/// Names the directory.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| CliError::io("make directory", path, &e))
}

/// Writes a file whole or not at all, with mode 0600, replacing what was there; a file that was
/// there keeps its mode.
///
/// # Errors
/// Names the file; the old one stays.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    let fail = |e: std::io::Error| CliError::io("write", path, &e);
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = std::fs::metadata(path).map(|m| m.mode() & 0o777).unwrap_or(0o600);
    let mut file = tempfile::Builder::new().prefix(".weft-").tempfile_in(dir).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// A directory in the making: lies beside its place, and takes it only when it is whole. Dropped
/// before that, it is gone.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: tempfile::TempDir,
    target: PathBuf,
}

impl Staging {
    /// Starts one for `target`, which must not exist or be an empty directory.
    ///
    /// # Errors
    /// Names the directory and what to do: it already has a node or files, or its parent cannot
    /// be written.
    pub(crate) fn start(target: &Path) -> Result<Self> {
        check_free(target)?;
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| {
            CliError::usage(format!("{} cannot be a data directory", target.display()))
                .help("use --data DIR")
        })?;
        make_private_dir(parent)?;
        let dir = tempfile::Builder::new()
            .prefix(".weft-new-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(|e| CliError::io("make a directory in", parent, &e))?;
        Ok(Self { dir, target: target.to_owned() })
    }

    /// Where to write meanwhile.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Moves it to its place.
    ///
    /// # Errors
    /// When somebody else took the place meanwhile; nothing is left behind.
    pub(crate) fn finish(self) -> Result<()> {
        std::fs::rename(self.dir.path(), &self.target)
            .map_err(|e| CliError::io("make", &self.target, &e))?;
        // It is no longer where it would be removed from.
        let _ = self.dir.keep();
        Ok(())
    }
}

/// Refuses a place that is taken.
///
/// # Errors
/// Names what is there and what to do.
pub(crate) fn check_free(target: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CliError::io("use", target, &error)),
    };
    if entries.is_none() {
        return Ok(());
    }
    let what = target.display();
    let error = match std::fs::read_to_string(target.join("node.json")) {
        Ok(text) => match serde_json::from_str::<weft_protocol::files::NodeSeed>(&text) {
            Ok(seed) => CliError::failed(format!(
                "{what} already belongs to node {} ({}) of cluster {}",
                seed.name, seed.node, seed.cluster
            )),
            Err(_) => CliError::failed(format!("{what} already belongs to a node")),
        }
        .help(format!(
            "start it with `weftd run --config {what}/node.toml`, choose another directory with \
             --data, or remove this one if the node is not needed any more"
        )),
        Err(_) => CliError::failed(format!("{what} is not empty"))
            .help("choose an empty or new directory with --data"),
    };
    Err(error.step("check data directory"))
}

/// Opens a log for appending, made with mode 0600.
///
/// # Errors
/// Names the file.
pub(crate) fn open_log(path: &Path) -> Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| CliError::io("open", path, &e))
}

/// The last `lines` lines of a text file, of its last 64 KiB; empty if it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(64 * 1024)))?;
        let mut bytes = Vec::new();
        file.take(64 * 1024).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("temp dir")
    }

    #[test]
    fn a_directory_in_the_making_takes_its_place_whole_or_leaves_nothing() {
        let dir = scratch();
        let target = dir.path().join("a/b/n1");
        let staging = Staging::start(&target).expect("starts");
        std::fs::write(staging.path().join("x"), "1").expect("writes");
        drop(staging);
        assert!(!target.exists());
        let left: Vec<_> = std::fs::read_dir(dir.path().join("a/b")).expect("reads").collect();
        assert!(left.is_empty(), "{left:?}");
        let staging = Staging::start(&target).expect("starts");
        std::fs::write(staging.path().join("x"), "1").expect("writes");
        staging.finish().expect("moves");
        assert_eq!(std::fs::read_to_string(target.join("x")).expect("reads"), "1");
    }

    #[test]
    fn an_empty_directory_may_be_taken_and_a_used_one_may_not() {
        let dir = scratch();
        let target = dir.path().join("n1");
        std::fs::create_dir(&target).expect("makes");
        Staging::start(&target).expect("empty is free").finish().expect("moves");
        std::fs::write(target.join("file"), "").expect("writes");
        let error = Staging::start(&target).expect_err("taken");
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn a_directory_of_a_node_is_refused_by_that_nodes_name() {
        let dir = scratch();
        let seed = weft_protocol::files::NodeSeed {
            version: 1,
            cluster: "c1".into(),
            node: weft_wire::NodeId::new(uuid::Uuid::nil()),
            name: "n7".into(),
            bootstrap: None,
            peers: vec![],
        };
        let text = serde_json::to_string(&seed).expect("serialises");
        std::fs::write(dir.path().join("node.json"), text).expect("writes");
        let error = check_free(dir.path()).expect_err("taken").to_string();
        assert!(error.contains("node n7") && error.contains("--data"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = scratch();
        let path = dir.path().join("f");
        write_file(&path, "one").expect("writes");
        assert_eq!(std::fs::metadata(&path).expect("is").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
        write_file(&path, "two").expect("writes");
        assert_eq!(std::fs::metadata(&path).expect("is").mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "two");
    }

    #[test]
    fn defaults_follow_the_environment() {
        let env = Env { home: Some("/home/a".into()), ..Env::default() };
        assert_eq!(env.data_dir("n1").expect("known"), Path::new("/home/a/.local/share/weft/n1"));
        let root = Env { root: true, ..Env::default() };
        assert_eq!(root.data_dir("n1").expect("known"), Path::new("/var/lib/weft"));
    }

    #[test]
    fn dots_are_resolved_by_name() {
        assert_eq!(normal(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = scratch();
        let path = dir.path().join("log");
        std::fs::write(&path, "a\nb\nc\n").expect("writes");
        assert_eq!(tail(&path, 2), ["b", "c"]);
        assert!(tail(&dir.path().join("none"), 2).is_empty());
    }
}
