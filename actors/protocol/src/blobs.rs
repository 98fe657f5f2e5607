//! Files that come with a definition (`files`, orchestration §3.1), as blobs named by their SHA-256.
//!
//! Agreed state carries names and digests only; the bytes lie on the nodes and are fetched from
//! whichever has them (docs/decisions/0017).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId};

use crate::{Octets, file_parts};

/// All shipped files of a service are not larger together, in bytes (orchestration §3.1).
pub const SHIPPED_MAX: u64 = 256 << 20;
/// A service ships no more files.
pub const SHIPPED_FILES_MAX: usize = 1_000;
/// Bytes of a blob in one message, at most.
pub const BLOB_PART: usize = 1 << 20;

/// A file that is shipped into each replica's data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShippedFile {
    /// As the definition names it: where it lies beside the definition, and beneath the replica's
    /// data directory.
    pub path: String,
    /// Permission bits; setuid, setgid and sticky are left out.
    pub mode: u32,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of its content, lower-case hex; empty: it was not read yet.
    pub digest: String,
}

impl ShippedFile {
    /// Named, not read yet.
    pub fn named(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Whether `path`, as a command has it, means this file.
    pub fn is(&self, path: &str) -> bool {
        file_parts(path).is_ok_and(|parts| file_parts(&self.path) == Ok(parts))
    }
}

/// Whether a text is a SHA-256 in lower-case hex; only such a text ever becomes a file's name.
pub fn valid_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a service may ship these files.
///
/// # Errors
/// Which may not and why, for people.
pub fn check_shipped(files: &[ShippedFile]) -> Result<(), String> {
    if files.len() > SHIPPED_FILES_MAX {
        return Err(format!("`files` lists {}, at most {SHIPPED_FILES_MAX}", files.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut all = 0u64;
    for file in files {
        let path = file.path.escape_debug();
        let parts = file_parts(&file.path).map_err(|why| format!("`files`: `{path}`: {why}"))?;
        if !seen.insert(parts) {
            return Err(format!("`files` lists `{path}` twice"));
        }
        if !valid_digest(&file.digest) {
            return Err(format!("`files`: `{path}` was not shipped with the definition"));
        }
        all = all.saturating_add(file.size);
    }
    if all > SHIPPED_MAX {
        return Err(format!("`files` have {all} bytes together; a service ships at most 256 MiB"));
    }
    Ok(())
}

macro_rules! message {
    ($name:ident, $id:literal, $actor:ident, $text:literal, $allow:ident, $reply:ty) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::$actor;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::Bulk;
            const ALLOW: Allow = Allow::$allow;
            const IDEMPOTENT: bool = true;
            type Reply = $reply;
        }
    };
}

/// Which of these blobs does no node that answers have?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindBlobs {
    /// Which.
    pub digests: Vec<String>,
}
message!(FindBlobs, 522, Gateway, "gateway.find-blobs", ADMINS, Vec<String>);

/// Which of these blobs does this node have?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaveBlobs {
    /// Which.
    pub digests: Vec<String>,
}
message!(HaveBlobs, 222, Runtime, "runtime.have-blobs", ADMINS, Vec<String>);

/// A part of a blob for this node, in order. With the last one the digest is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBlobPart {
    /// Of the whole blob.
    pub digest: String,
    /// Of the whole blob, in bytes.
    pub size: u64,
    /// Where this part begins; if that is not where the node is, nothing is taken.
    pub offset: u64,
    /// At most [`BLOB_PART`] bytes.
    pub part: Octets,
}
message!(PutBlobPart, 223, Runtime, "runtime.put-blob", ADMINS, BlobProgress);

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobProgress {
    /// Bytes that are there, from the beginning: the next part begins here.
    pub received: u64,
    /// All is there and has that digest.
    pub complete: bool,
}

/// A part of a blob that this node has; shorter than asked for only at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBlobPart {
    /// Which.
    pub digest: String,
    /// From here.
    pub offset: u64,
    /// So many bytes, at most [`BLOB_PART`].
    pub length: u32,
}
message!(ReadBlobPart, 224, Runtime, "runtime.read-blob", NODES, Octets);

/// Has this node fetch those of the files that it lacks from the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnsureBlobs {
    /// Which.
    pub files: Vec<ShippedFile>,
}
message!(EnsureBlobs, 225, Runtime, "runtime.ensure-blobs", ADMINS, ());

/// Digests of all blobs that a kept revision of any service refers to, as this node knows agreed
/// state; refused while it does not know whether that still holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBlobRefs {}
message!(ReadBlobRefs, 120, Registry, "registry.blob-refs", NODES, Vec<String>);

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> ShippedFile {
        ShippedFile { path: path.into(), mode: 0o755, size, digest: "ab".repeat(32) }
    }

    #[test]
    fn only_a_lower_case_sha256_is_a_digest() {
        assert!(valid_digest(&"0f".repeat(32)));
        for bad in ["", "ab", &"0F".repeat(32), &"../".repeat(22)[..64], &"0g".repeat(32)] {
            assert!(!valid_digest(bad), "{bad}");
        }
    }

    #[test]
    fn a_service_ships_files_of_its_own_within_the_limits() {
        assert_eq!(check_shipped(&[file("./a", 1), file("b/c", SHIPPED_MAX - 1)]), Ok(()));
        for (files, says) in [
            (vec![file("./a", 1), file("a", 1)], "twice"),
            (vec![file("../a", 1)], "`..`"),
            (vec![file("a", SHIPPED_MAX + 1)], "256 MiB"),
            (["a", "b", "c"].map(|path| file(path, SHIPPED_MAX / 2)).to_vec(), "256 MiB"),
            (vec![ShippedFile::named("a")], "not shipped"),
        ] {
            let refused = check_shipped(&files).expect_err(says);
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_command_means_a_file_however_it_writes_its_path() {
        assert!(file("./hello", 1).is("hello") && file("bin/a", 1).is("./bin//a"));
        assert!(!file("./hello", 1).is("/hello") && !file("hello", 1).is("bin/hello"));
    }
}
