//! Files of a replica's data directory, pushed and pulled (orchestration §11).
//!
//! An operator asks the gateway, which finds the replicas' nodes and asks their runtimes. What a
//! path may be is said here once, for the command, for what is agreed, and for the node that
//! resolves it.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_wire::{ActorKind, Allow, Class, Failure, Message, MessageId};

/// No file that is pushed or pulled is larger, in bytes (orchestration §11).
pub const FILE_MAX: u64 = 4 << 20;
/// Mode of a pushed file whose own is not known.
pub const FILE_MODE: u32 = 0o600;
/// A component of a path is not longer, in bytes.
const COMPONENT_MAX: usize = 255;
/// A path is not longer, in bytes.
const PATH_MAX: usize = 4096;

/// Bytes, written and read as a whole; in the codec's form the same as a `Vec<u8>`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;
        impl Visitor<'_> for Take {
            type Value = Octets;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Octets, E> {
                Ok(Octets(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Octets, E> {
                Ok(Octets(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Take)
    }
}

/// The components of a path beneath a replica's data directory, at least one, `.` and doubled
/// slashes left out. Nothing is decoded: `%2e%2e` is a name.
///
/// # Errors
/// Why it is none, for people (orchestration §11, cases 3 to 9).
pub fn file_parts(path: &str) -> Result<Vec<&str>, String> {
    if path.is_empty() {
        return Err("the path is empty: name a file".into());
    }
    if path.len() > PATH_MAX {
        return Err(format!("the path has {} bytes, at most {PATH_MAX} are taken", path.len()));
    }
    if path.chars().any(char::is_control) {
        return Err("the path has control characters".into());
    }
    if path.starts_with('/') {
        return Err("the path is absolute: give it relative to the data directory".into());
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    if last.is_empty() || last == "." {
        return Err("the path names a directory: name a file".into());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("the path has `..` in it".into());
    }
    if let Some(part) = parts.iter().find(|part| part.len() > COMPONENT_MAX) {
        return Err(format!(
            "a name in the path has {} bytes, at most {COMPONENT_MAX} are taken",
            part.len()
        ));
    }
    Ok(parts)
}

/// What a request for a file is about, as the audit has it: `<service>:<path>`, or
/// `<service>/<replica>:<path>`; cut at 512 characters.
pub fn file_about(service: &str, replica: u32, path: &str) -> String {
    let (service, path) = (service.escape_debug(), path.escape_debug());
    let replica = if replica == 0 { String::new() } else { format!("/{replica}") };
    format!("{service}{replica}:{path}").chars().take(512).collect()
}

macro_rules! message {
    ($name:ident, $id:literal, $actor:ident, $text:literal, $reply:ty) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::$actor;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::Bulk;
            const ALLOW: Allow = Allow::ADMINS;
            const IDEMPOTENT: bool = true;
            type Reply = $reply;
        }
    };
}

/// Writes a file into the data directory of a service's replicas, whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushFile {
    /// Whose.
    pub service: String,
    /// Only this replica; 0: all.
    pub replica: u32,
    /// Beneath the data directory.
    pub path: String,
    /// Permission bits; `None`: not known.
    pub mode: Option<u32>,
    /// Bytes of the file, also where `content` is left out.
    pub size: u64,
    /// All of it.
    pub content: Octets,
    /// Only say whether it would be taken; `content` is empty then.
    pub check: bool,
}
message!(PushFile, 520, Gateway, "gateway.push", PushedFile);

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedFile {
    /// By replica.
    pub replicas: Vec<PushedReplica>,
}

/// What became of it in one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedReplica {
    /// Which.
    pub replica: u32,
    /// Name of its node.
    pub node: String,
    /// Why it does not have the file; `None`: it has.
    pub error: Option<Failure>,
}

/// Reads a file of a replica's data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullFile {
    /// Whose.
    pub service: String,
    /// Which replica; 0: the only one there is.
    pub replica: u32,
    /// Beneath the data directory.
    pub path: String,
}
message!(PullFile, 521, Gateway, "gateway.pull", PulledFile);

/// Answer to [`PullFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledFile {
    /// Which replica's.
    pub replica: u32,
    /// Name of its node.
    pub node: String,
    /// The file.
    pub file: FileContent,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Permission bits.
    pub mode: u32,
    /// All of it.
    pub content: Octets,
}

/// [`PushFile`] for one replica of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Whose.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Beneath the data directory.
    pub path: String,
    /// Permission bits; `None`: not known.
    pub mode: Option<u32>,
    /// Bytes of the file.
    pub size: u64,
    /// All of it.
    pub content: Octets,
    /// Only say whether it would be taken.
    pub check: bool,
}
message!(WriteFile, 220, Runtime, "runtime.write-file", ());

/// [`PullFile`] for one replica of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    /// Whose.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Beneath the data directory.
    pub path: String,
}
message!(ReadFile, 221, Runtime, "runtime.read-file", FileContent);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_doubled_slashes_are_left_out_and_nothing_is_decoded() {
        assert_eq!(file_parts("./a//b/./c"), Ok(vec!["a", "b", "c"]));
        for literal in ["%2e%2e", "..%2f", "a\\b", "..\\x", "\u{ff0e}\u{ff0e}", "...", "..a"] {
            assert_eq!(file_parts(literal), Ok(vec![literal]));
        }
    }

    #[test]
    fn what_is_no_path_of_a_file_is_refused() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(2050) + "a";
        for bad in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "a/",
            "a/.",
            "a/..",
            "../a",
            "a/../b",
            "a/..//b",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            &long,
            &deep,
        ] {
            assert!(file_parts(bad).is_err(), "{bad:?}");
        }
        assert!(file_parts(&"a".repeat(255)).is_ok());
    }
}
