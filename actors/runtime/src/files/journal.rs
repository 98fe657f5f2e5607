//! What a write that is cut off leaves behind: each temporary file is written down before it is
//! made, so that the next start finds it without looking through the data of services.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, unlinkat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_protocol::files::FILES_VERSION;

use super::write::TEMPORARY;
use super::{Home, Refused, Resolver};
use crate::disk::{Durable, make_dir, read_json, write_json};

/// Beneath the node's data directory.
const DIR: &str = "pushes";

/// One temporary file.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    version: u16,
    service: String,
    replica: u32,
    dirs: Vec<String>,
    name: String,
}

/// Where writes are written down.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
}

/// Forgets the temporary file when it is dropped.
pub(super) struct Noted {
    file: PathBuf,
    keep: bool,
}

impl Noted {
    /// Leaves it to the next start.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if !self.keep {
            // What is left refers to a file that is not there, which does no harm.
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

impl Journal {
    /// Of the node with this data directory.
    pub(crate) fn new(data: &Path) -> Self {
        Self { dir: data.join(DIR) }
    }

    pub(super) fn begin(&self, home: &Home, dirs: &[&str], name: &str) -> Result<Noted, Refused> {
        make_dir(&self.dir, 0o700)?;
        let file = self.dir.join(format!("{}.json", Uuid::new_v4()));
        let entry = Entry {
            version: FILES_VERSION,
            service: home.service.clone(),
            replica: home.replica,
            dirs: dirs.iter().map(|&dir| dir.to_owned()).collect(),
            name: name.to_owned(),
        };
        write_json(&file, &entry, Durable::Yes)?;
        Ok(Noted { file, keep: false })
    }
}

/// Removes what writes of an earlier daemon left; how many files.
pub(crate) fn sweep(data: &Path, follow: bool, resolver: Resolver) -> usize {
    let mut removed = 0;
    let dir = data.join(DIR);
    for file in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let file = file.path();
        if let Ok(Some(entry)) = read_json::<Entry>(&file) {
            removed += usize::from(remove(data, follow, resolver, &entry));
        }
        let _ = std::fs::remove_file(&file);
    }
    removed
}

fn remove(data: &Path, follow: bool, resolver: Resolver, entry: &Entry) -> bool {
    if !entry.name.starts_with(TEMPORARY) || entry.name.contains('/') {
        return false;
    }
    let Ok(Some(home)) = Home::open(data, &entry.service, entry.replica, follow, resolver) else {
        return false;
    };
    let Ok(dir) = home.at(&entry.dirs, OFlags::RDONLY | OFlags::DIRECTORY) else { return false };
    unlinkat(dir, &entry.name, AtFlags::empty()).is_ok()
}
