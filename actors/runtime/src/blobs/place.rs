//! From the store into a replica's data directory, before what needs it is started.

use std::io::{Read, Write};

use ring::digest::{Context, SHA256};
use weft_protocol::{BLOB_PART, ComponentKey, ShippedFile, file_parts};

use super::hex;
use crate::actor::Shared;
use crate::files::{self, Home, Journal, Refused, Stamp};
use crate::launch::Problem;

/// What is known of a placed file: the digest it had, and what it looked like then.
pub(crate) type Placed = std::collections::HashMap<(String, u32, String), (String, Stamp)>;

/// Why a file was not placed.
enum Failed {
    Refused(Refused),
    /// The blob is not, or not any more, what its name says.
    Lacks,
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Puts the files into the data directory of a component's replica, unless they are there. The
/// blobs are here already. A file that runs is replaced, never written to.
pub(crate) fn place(
    shared: &Shared,
    key: &ComponentKey,
    files: &[ShippedFile],
) -> Result<(), Problem> {
    if files.is_empty() {
        return Ok(());
    }
    // Components of one replica start at the same time.
    let _one = shared.placing.lock();
    for file in files {
        one(shared, key, file).map_err(|failed| match failed {
            Failed::Refused(refused) => {
                let text =
                    format!("file {} cannot be put into the data directory: {refused}", file.path);
                match refused {
                    Refused::Io(_) | Refused::Full(_) | Refused::Changing => Problem::Passing(text),
                    _ => Problem::Permanent(text),
                }
            }
            Failed::Lacks => {
                shared.blobs.discard(&file.digest);
                Problem::Passing(format!(
                    "file {} (sha256 {}) is damaged on this node: it is fetched again",
                    file.path, file.digest
                ))
            }
        })?;
    }
    Ok(())
}

fn one(shared: &Shared, key: &ComponentKey, file: &ShippedFile) -> Result<(), Failed> {
    let parts = file_parts(&file.path).map_err(Refused::Path)?;
    let config = &shared.config;
    let (follow, resolver) = (config.follow_linked_data, config.resolver());
    let home = Home::create(&config.data_dir, &key.service, key.replica, follow, resolver)?;
    let placed = (key.service.clone(), key.replica, parts.join("/"));
    let now = files::stamp(&home, &parts)?;
    if let Some(now) = now
        && now.size == file.size
        && now.mode == file.mode & 0o777
    {
        let known = shared
            .placed
            .lock()
            .get(&placed)
            .is_some_and(|known| *known == (file.digest.clone(), now));
        if known || digest(&home, &parts)? == file.digest {
            shared.placed.lock().insert(placed, (file.digest.clone(), now));
            return Ok(());
        }
    }
    let blob = shared.blobs.file(&file.digest).map_err(|error| Refused::Io(error.to_string()))?;
    let mut blob = blob.ok_or(Failed::Lacks)?;
    let journal = Journal::new(&config.data_dir);
    files::write::<Failed>(&home, &parts, file.mode, &journal, |out| {
        let mut context = Context::new(&SHA256);
        copy(&mut blob, |part| {
            context.update(part);
            out.write_all(part)
        })?;
        if hex(context.finish().as_ref()) == file.digest { Ok(()) } else { Err(Failed::Lacks) }
    })?;
    if let Some(now) = files::stamp(&home, &parts)? {
        shared.placed.lock().insert(placed, (file.digest.clone(), now));
    }
    Ok(())
}

fn digest(home: &Home, parts: &[&str]) -> Result<String, Refused> {
    let mut context = Context::new(&SHA256);
    copy(&mut files::open(home, parts)?, |part| {
        context.update(part);
        Ok(())
    })?;
    Ok(hex(context.finish().as_ref()))
}

fn copy(
    from: &mut std::fs::File,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Refused> {
    let mut buffer = vec![0; BLOB_PART];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        take(buffer.get(..read).unwrap_or_default())?;
    }
}
