//! Getting blobs that this node lacks from the nodes that have them: one after the other, until
//! one gives the right bytes.

use std::time::Duration;

use futures_util::future::join_all;
use weft_link::{Call, Fabric};
use weft_protocol::{BLOB_PART, HaveBlobs, ReadBlobPart, ShippedFile};
use weft_wire::{ActorKind, Address, NodeId};

use super::Receiving;
use crate::actor::Shared;

/// A node may take so long to say what it has.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// And to send a part.
const PART_WITHIN: Duration = Duration::from_secs(20);

/// Makes sure that these are here. `fetching`: told of each that has to be fetched.
///
/// # Errors
/// Which one nobody could give and why, with what to do about it.
pub(crate) async fn ensure(
    shared: &Shared,
    fabric: &Fabric,
    files: &[ShippedFile],
    fetching: impl Fn(&ShippedFile),
) -> Result<(), String> {
    for file in files {
        if shared.blobs.has(&file.digest) {
            continue;
        }
        fetching(file);
        let lock = shared.blobs.fetching(&file.digest);
        let _one = lock.lock().await;
        // Another component of this node may just have fetched it.
        if !shared.blobs.has(&file.digest) {
            fetch(shared, fabric, file).await?;
        }
    }
    Ok(())
}

async fn fetch(shared: &Shared, fabric: &Fabric, file: &ShippedFile) -> Result<(), String> {
    let directory = fabric.directory();
    let peers: Vec<(NodeId, String)> = directory
        .nodes
        .values()
        .filter(|peer| peer.id != fabric.node())
        .map(|peer| (peer.id, peer.name.clone()))
        .collect();
    let asked = peers.into_iter().map(|(id, name)| async move {
        let question = HaveBlobs { digests: vec![file.digest.clone()] };
        let to = Address::on(ActorKind::Runtime, id);
        let answer = fabric.ask(to, question, Call::within(ASK_WITHIN)).await;
        (id, name, answer)
    });
    let mut said = Vec::new();
    for (id, name, answer) in join_all(asked).await {
        match answer {
            Ok(have) if have.contains(&file.digest) => {}
            Ok(_) => continue,
            Err(error) => {
                said.push(format!("{name}: {error}"));
                continue;
            }
        }
        match from(shared, fabric, file, id).await {
            Ok(()) => {
                tracing::debug!(file = file.path, digest = file.digest, from = name, "fetched");
                return Ok(());
            }
            Err(why) => {
                tracing::warn!(
                    file = file.path,
                    digest = file.digest,
                    from = name,
                    why,
                    "a blob could not be fetched: trying the next node"
                );
                said.push(format!("{name}: {why}"));
            }
        }
    }
    let why = if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) };
    Err(format!(
        "file {} (sha256 {}, {} bytes) is on no node that can give it{why}: deploy again from where the file is",
        file.path, file.digest, file.size
    ))
}

async fn from(
    shared: &Shared,
    fabric: &Fabric,
    file: &ShippedFile,
    peer: NodeId,
) -> Result<(), String> {
    let mut receiving = shared.blobs.receive(&file.digest, file.size).map_err(text)?;
    while receiving.received() < file.size {
        let question = ReadBlobPart {
            digest: file.digest.clone(),
            offset: receiving.received(),
            length: u32::try_from(BLOB_PART).unwrap_or(u32::MAX),
        };
        let to = Address::on(ActorKind::Runtime, peer);
        let part = fabric.ask(to, question, Call::within(PART_WITHIN)).await.map_err(text)?;
        receiving = on_disk(move || receiving.add(&part.0).map(|()| receiving)).await?;
    }
    on_disk(move || Receiving::finish(receiving)).await
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, super::BlobError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(text),
        Err(error) => Err(error.to_string()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
