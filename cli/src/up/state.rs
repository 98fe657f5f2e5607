//! What `up` remembers for `down`: `<dir>/up.json`, and where the last directory was.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_protocol::files::{FILES_VERSION, ProcessFile, ShimFile};

use crate::error::{CliError, Result};
use crate::paths::{Env, make_private_dir, write_file};

const FILE: &str = "up.json";

/// `up.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpFile {
    /// Version of the writer.
    pub(crate) version: u16,
    /// Whether `up` made the directory, so that `down` removes it.
    pub(crate) made_dir: bool,
    /// The nodes, in order.
    pub(crate) nodes: Vec<String>,
    /// A service that `up` deployed; empty: none.
    pub(crate) service: String,
}

impl UpFile {
    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// Names the file when it is damaged or from a newer version.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::io("read", &path, &error)),
        };
        let file: Self = serde_json::from_str(&text).map_err(|error| {
            CliError::failed(format!("{} is damaged", path.display())).cause(error)
        })?;
        if file.version > FILES_VERSION {
            return Err(CliError::failed(format!(
                "{} was written by a newer version of weft",
                path.display()
            ))
            .help("use that version"));
        }
        Ok(Some(file))
    }

    /// Writes it.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CliError::failed("cannot write up.json").cause(error))?;
        write_file(&dir.join(FILE), &text)
    }
}

/// The daemon that a data directory names, running or not.
pub(crate) fn daemon(data: &Path) -> Option<ProcessFile> {
    read_json(&data.join("weftd.json"))
}

/// Every shim that a data directory names, ended or not.
pub(crate) fn shims(data: &Path) -> Vec<ShimFile> {
    let mut found = Vec::new();
    for service in entries(&data.join("components")) {
        for replica in entries(&service) {
            for component in entries(&replica) {
                found.extend(read_json::<ShimFile>(&component.join("shim.json")));
            }
        }
    }
    found
}

/// Whether a component of this data directory has, or may have, a container.
pub(crate) fn has_containers(data: &Path) -> bool {
    let of = |dirs: Vec<PathBuf>| dirs.into_iter().flat_map(|dir| entries(&dir)).collect();
    let components: Vec<PathBuf> = of(of(entries(&data.join("components"))));
    components.iter().any(|component| component.join("container.json").exists())
}

/// Components of this data directory whose container Weft made, as `service/replica/component`.
/// Those that were adopted stay when the cluster goes.
pub(crate) fn containers(data: &Path) -> Vec<String> {
    let root = data.join("components");
    let of = |dirs: Vec<PathBuf>| dirs.into_iter().flat_map(|dir| entries(&dir)).collect();
    let components: Vec<PathBuf> = of(of(entries(&root)));
    let made = |dir: &PathBuf| {
        let file: Option<serde_json::Value> = read_json(&dir.join("container.json"));
        file.is_some_and(|file| file.get("adopted").is_none_or(serde_json::Value::is_null))
    };
    let name = |dir: PathBuf| Some(dir.strip_prefix(&root).ok()?.to_str()?.to_owned());
    components.into_iter().filter(made).filter_map(name).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    all.sort();
    all
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Where the last `up` is remembered: `$XDG_RUNTIME_DIR/weft/up`, else
/// `<temp>/weft-up-<uid>/last`.
fn pointer(env: &Env) -> PathBuf {
    match &env.runtime_dir {
        Some(dir) => dir.join("weft").join("up"),
        None => {
            let uid = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("weft-up-{uid}")).join("last")
        }
    }
}

/// Remembers a directory. Failing is no harm: `down --dir` needs no memory.
pub(crate) fn remember(env: &Env, dir: &Path) {
    let pointer = pointer(env);
    let Some(parent) = pointer.parent() else { return };
    if make_private_dir(parent).is_ok() && is_ours(parent) {
        let _ = write_file(&pointer, &dir.to_string_lossy());
    }
}

/// The directory of the last `up`, if it is still one.
pub(crate) fn last(env: &Env) -> Option<PathBuf> {
    let pointer = pointer(env);
    if !is_ours(pointer.parent()?) {
        return None;
    }
    let dir = PathBuf::from(std::fs::read_to_string(&pointer).ok()?.trim_end_matches('\n'));
    (dir.is_absolute() && dir.join(FILE).exists()).then_some(dir)
}

/// Forgets a directory, if it is the one remembered.
pub(crate) fn forget(env: &Env, dir: &Path) {
    let pointer = pointer(env);
    if std::fs::read_to_string(&pointer).is_ok_and(|text| Path::new(text.trim_end()) == dir) {
        let _ = std::fs::remove_file(&pointer);
        if let Some(parent) = pointer.parent() {
            // Only if nothing else is in it.
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// In a shared temporary directory others can make a directory of that name first.
fn is_ours(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir).is_ok_and(|meta| {
        meta.is_dir()
            && meta.uid() == rustix::process::geteuid().as_raw()
            && meta.mode() & 0o022 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn env(dir: &Path) -> Env {
        Env { runtime_dir: Some(dir.to_owned()), ..Env::default() }
    }

    fn up_dir(dir: &Path) -> PathBuf {
        let up = dir.join("cluster");
        std::fs::create_dir(&up).expect("makes");
        let file = UpFile {
            version: FILES_VERSION,
            made_dir: true,
            nodes: vec!["n1".into()],
            service: String::new(),
        };
        file.write(&up).expect("writes");
        assert_eq!(UpFile::read(&up), Ok(Some(file)));
        up
    }

    #[test]
    fn the_last_directory_is_remembered_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let env = env(dir.path());
        assert_eq!(last(&env), None);
        let up = up_dir(dir.path());
        remember(&env, &up);
        assert_eq!(last(&env), Some(up.clone()));
        forget(&env, Path::new("/another"));
        assert_eq!(last(&env), Some(up.clone()));
        forget(&env, &up);
        assert_eq!(last(&env), None);
    }

    #[test]
    fn a_pointer_in_a_directory_that_others_may_write_is_not_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let env = env(dir.path());
        let up = up_dir(dir.path());
        remember(&env, &up);
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path().join("weft"), open).expect("mode");
        assert_eq!(last(&env), None);
    }

    #[test]
    fn a_directory_without_up_json_is_not_one_of_ours() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(UpFile::read(dir.path()), Ok(None));
        std::fs::write(dir.path().join(FILE), "{").expect("writes");
        assert!(UpFile::read(dir.path()).is_err_and(|e| e.to_string().contains("damaged")));
    }
}
