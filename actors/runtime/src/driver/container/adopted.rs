//! Containers that somebody else made and a service adopted (orchestration §5.1): they bear no
//! labels, so the component's file says which it is. The first start of anything else replaces it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use weft_engine::Summary;
use weft_protocol::Assignment;
use weft_protocol::files::FILES_VERSION;

use super::{ContainerFile, FILE, Hands, read};
use crate::disk::{Durable, make_dir, write_json};

/// An adopted container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    /// Its id.
    pub(crate) id: String,
    /// Hash of the definition that was made of it.
    pub(crate) spec_hash: String,
    /// The component's start epoch then.
    pub(crate) epoch: u64,
    /// The component has been assigned here since: from then on the container is its own. Before,
    /// nobody touches it.
    pub(crate) taken: bool,
}

impl Adopted {
    /// Whether it is that container.
    pub(super) fn is(&self, one: &Summary) -> bool {
        one.id == self.id && one.owner.is_none()
    }

    /// Whether it is an instance of what is wanted: nothing was deployed or restarted since.
    pub(super) fn is_of(&self, assignment: &Assignment) -> bool {
        self.spec_hash == assignment.spec_hash
            && (assignment.made..=assignment.epoch).contains(&self.epoch)
    }
}

/// The container that a component has adopted.
pub(crate) fn adopted(dir: &Path) -> Option<Adopted> {
    read(dir).adopted
}

/// Notes it before the component is assigned.
///
/// # Errors
/// The file system's.
pub(crate) fn note_adopted(dir: &Path, name: &str, adopted: Adopted) -> io::Result<()> {
    make_dir(dir, 0o700)?;
    let file = ContainerFile {
        version: FILES_VERSION,
        name: name.to_owned(),
        adopted: Some(adopted),
        ..ContainerFile::default()
    };
    write_json(&dir.join(FILE), &file, Durable::Yes)
}

/// Forgets it again; one that is the component's own by now stays.
///
/// # Errors
/// The file system's.
pub(crate) fn let_go(dir: &Path) -> io::Result<()> {
    if adopted(dir).is_some_and(|adopted| !adopted.taken) {
        std::fs::remove_file(dir.join(FILE))?;
    }
    Ok(())
}

/// The component is assigned: the container is its own from now on.
pub(super) async fn take(hands: &Hands) {
    let dir = hands.dir();
    let taken = tokio::task::spawn_blocking(move || {
        let mut file = read(&dir);
        let Some(adopted) = file.adopted.as_mut().filter(|adopted| !adopted.taken) else {
            return Ok(());
        };
        adopted.taken = true;
        write_json(&dir.join(FILE), &file, Durable::Yes)
    });
    if let Ok(Err(error)) = taken.await {
        tracing::warn!(%error, component = %hands.key, "an adopted container is not taken over");
    }
}
