//! Files of this node's replicas, and blobs, as others ask for them; what is done is in `files` and
//! `blobs`, on threads where waiting for a disk holds nobody up.

use std::collections::BTreeSet;

use weft_link::{Call, Reply};
use weft_protocol::{
    EnsureBlobs, FILE_MAX, FILE_MODE, FileContent, HaveBlobs, Octets, PutBlobPart, ReadBlobPart,
    ReadBlobRefs, ReadFile, ReplicaKey, WriteFile, file_about, file_parts,
};
use weft_supervision::{Handle, Scope};
use weft_wire::{ActorKind, Address, Failure, FailureKind, Message};

use crate::actor::{Runtime, Shared};
use crate::blobs::{BlobError, fetch};
use crate::files::{self, Home, Journal, Refused};

/// This node's registry may take so long to say what is in use.
const REFS_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Does something with a disk and answers with what came of it.
fn answer<M: Message>(
    scope: &Scope<Runtime>,
    reply: Reply<M>,
    work: impl FnOnce() -> Result<M::Reply, Failure> + Send + 'static,
) {
    scope.spawn(async move {
        let done = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => Err(Failure::new(FailureKind::Internal, error.to_string())),
        };
        reply.send(done);
    });
}

fn refused(
    shared: &Shared,
    refused: &Refused,
    (step, service, path): (&str, &str, &str),
) -> Failure {
    let help = match refused {
        Refused::TooLarge { .. } => {
            "larger files belong into `files` of the definition, or into a snapshot"
        }
        Refused::HomeIsLink => {
            "[node] follow_linked_data = true in the node's file allows it, if it is meant"
        }
        Refused::Outside | Refused::Loop | Refused::Link | Refused::ThroughFile => {
            "name the file by its own path beneath the data directory"
        }
        Refused::Full(_) => "make room on the node's disk; the file there is as it was",
        _ => "",
    };
    let path: String = path.chars().take(256).collect();
    Failure::new(refused.kind(), format!("{service}:{}: {refused}", path.escape_debug()))
        .node(&shared.config.node_name)
        .service(service)
        .step(step)
        .help(help)
}

impl Handle<WriteFile> for Runtime {
    fn handle(&mut self, message: WriteFile, mut reply: Reply<WriteFile>, scope: &Scope<Self>) {
        let WriteFile { service, replica, path, mode, size, content, check } = message;
        reply.about(&file_about(&service, replica, &path));
        let known =
            !self.components_of(&ReplicaKey { service: service.clone(), replica }).is_empty();
        let shared = self.shared.clone();
        answer(scope, reply, move || {
            let config = &shared.config;
            let (follow, resolver) = (config.follow_linked_data, config.resolver());
            let write = || {
                if size > FILE_MAX || content.0.len() as u64 > FILE_MAX {
                    let size = size.max(content.0.len() as u64);
                    return Err(Refused::TooLarge { size, limit: FILE_MAX });
                }
                let parts = file_parts(&path).map_err(Refused::Path)?;
                let data = &config.data_dir;
                let home = Home::open(data, &service, replica, follow, resolver)?;
                if home.is_none() && !known {
                    return Err(Refused::Path(format!(
                        "replica {replica} of it is not on this node"
                    )));
                }
                if check {
                    return home.map_or(Ok(()), |home| files::check(&home, &parts));
                }
                let home = match home {
                    Some(home) => home,
                    None => Home::create(data, &service, replica, follow, resolver)?,
                };
                let journal = Journal::new(data);
                let mode = mode.unwrap_or(FILE_MODE);
                files::write::<Refused>(&home, &parts, mode, &journal, |file| {
                    std::io::Write::write_all(file, &content.0).map_err(Refused::from)
                })
            };
            write().map_err(|why| refused(&shared, &why, ("push", &service, &path)))
        });
    }
}

impl Handle<ReadFile> for Runtime {
    fn handle(&mut self, message: ReadFile, mut reply: Reply<ReadFile>, scope: &Scope<Self>) {
        let ReadFile { service, replica, path } = message;
        reply.about(&file_about(&service, replica, &path));
        let owners = self.users_of(&ReplicaKey { service: service.clone(), replica });
        let shared = self.shared.clone();
        answer(scope, reply, move || {
            let config = &shared.config;
            let (follow, resolver) = (config.follow_linked_data, config.resolver());
            let read = || {
                let parts = file_parts(&path).map_err(Refused::Path)?;
                let home = Home::open(&config.data_dir, &service, replica, follow, resolver)?;
                files::read(&home.ok_or(Refused::Missing)?, &parts, FILE_MAX, &owners)
            };
            let found = read().map_err(|why| refused(&shared, &why, ("pull", &service, &path)))?;
            Ok(FileContent { mode: found.mode, content: Octets(found.bytes) })
        });
    }
}

fn blob_failure(shared: &Shared, step: &str, error: &BlobError) -> Failure {
    let failure = Failure::new(error.kind(), error.to_string());
    failure.node(&shared.config.node_name).step(step)
}

impl Handle<HaveBlobs> for Runtime {
    fn handle(&mut self, message: HaveBlobs, reply: Reply<HaveBlobs>, scope: &Scope<Self>) {
        let shared = self.shared.clone();
        answer(scope, reply, move || Ok(shared.blobs.have(&message.digests)));
    }
}

impl Handle<PutBlobPart> for Runtime {
    fn handle(&mut self, message: PutBlobPart, mut reply: Reply<PutBlobPart>, scope: &Scope<Self>) {
        reply.about(&message.digest.chars().take(64).collect::<String>());
        let (shared, now) = (self.shared.clone(), scope.now());
        answer(scope, reply, move || {
            let PutBlobPart { digest, size, offset, part } = message;
            let put = shared.blobs.put(&digest, size, offset, &part.0, now);
            put.map_err(|error| blob_failure(&shared, "take a shipped file", &error))
        });
    }
}

impl Handle<ReadBlobPart> for Runtime {
    fn handle(&mut self, message: ReadBlobPart, reply: Reply<ReadBlobPart>, scope: &Scope<Self>) {
        let shared = self.shared.clone();
        answer(scope, reply, move || {
            match shared.blobs.read(&message.digest, message.offset, message.length) {
                Ok(Some(part)) => Ok(Octets(part)),
                Ok(None) => Err(Failure::new(FailureKind::NotFound, "this blob is not here")
                    .node(&shared.config.node_name)),
                Err(error) => Err(blob_failure(&shared, "read a blob", &error)),
            }
        });
    }
}

impl Handle<EnsureBlobs> for Runtime {
    fn handle(&mut self, message: EnsureBlobs, reply: Reply<EnsureBlobs>, scope: &Scope<Self>) {
        let (shared, fabric) = (self.shared.clone(), scope.fabric().clone());
        scope.spawn(async move {
            let digests: Vec<_> = message.files.iter().map(|file| file.digest.clone()).collect();
            // They are about to be referred to.
            shared.blobs.have(&digests);
            let done = fetch::ensure(&shared, &fabric, &message.files, |_| {}).await;
            reply.send(done.map_err(|why| {
                Failure::new(FailureKind::Unavailable, why)
                    .node(&shared.config.node_name)
                    .step("fetch shipped files")
            }));
        });
    }
}

impl Runtime {
    /// Removes blobs that nothing refers to any more.
    pub(crate) fn sweep_blobs(&mut self, scope: &Scope<Self>) {
        let (shared, fabric) = (self.shared.clone(), scope.fabric().clone());
        let now = scope.now();
        scope.spawn(async move {
            let to = Address::here(ActorKind::Registry);
            let referred = match fabric.ask(to, ReadBlobRefs {}, Call::within(REFS_WITHIN)).await {
                Ok(referred) => referred.into_iter().collect::<BTreeSet<_>>(),
                // Nothing is removed while nobody knows.
                Err(error) => return tracing::debug!(%error, "blobs in use are not known"),
            };
            let grace = shared.config.blob_grace;
            let swept =
                tokio::task::spawn_blocking(move || shared.blobs.sweep(&referred, now, grace));
            match swept.await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(blobs)) => tracing::info!(blobs, "blobs that nothing refers to removed"),
                Ok(Err(error)) => tracing::warn!(%error, "old blobs cannot be removed"),
            }
        });
    }
}
