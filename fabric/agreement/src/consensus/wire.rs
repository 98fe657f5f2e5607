//! What crosses links and lies in files: our own types, never openraft's layouts.
//!
//! Messages 720–759. Their bytes and those of stored entries are pinned by `tests/golden`.

use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_wire::codec::{self, CodecError};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId, NodeId};

/// Bytes, encoded at once rather than one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// The commands of one entry. Shared: the log's cache, replication and the machine hold the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commands {
    pub(crate) list: Arc<Vec<Vec<u8>>>,
    /// Read from a disk that changed them: some are not what was agreed on.
    pub(crate) is_damaged: bool,
}

impl Commands {
    pub(crate) fn new(list: Vec<Vec<u8>>) -> Self {
        Self { list: Arc::new(list), is_damaged: false }
    }
}

impl Serialize for Commands {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Bytes<'a>(&'a [u8]);
        impl Serialize for Bytes<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        let mut seq = serializer.serialize_seq(Some(self.list.len()))?;
        for command in self.list.iter() {
            seq.serialize_element(&Bytes(command))?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Commands;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of bytes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Commands, A::Error> {
                let mut commands = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
                while let Some(Blob(command)) = seq.next_element()? {
                    commands.push(command);
                }
                Ok(Commands::new(commands))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Who stood for election or leads, in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) node: NodeId,
    /// A majority has granted it: it leads.
    pub(crate) elected: bool,
}

/// One place in the log, as its leader wrote it.
///
/// Ordered as Raft compares logs: a later term is more than any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) index: u64,
}

/// The members of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    /// One set of voters; two while they change (joint consensus). Ascending.
    pub(crate) configs: Vec<Vec<NodeId>>,
    /// Everybody, learners too. Ascending.
    pub(crate) nodes: Vec<NodeId>,
}

/// What an entry holds. Append only: the order is on the wire and in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Payload {
    /// A new leader's first entry.
    Blank,
    /// Proposals gathered into one entry.
    Commands(Commands),
    /// New members.
    Members(Members),
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) at: Point,
    pub(crate) payload: Payload,
}

impl Item {
    /// Some of its commands are not what was agreed on.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(&self.payload, Payload::Commands(commands) if commands.is_damaged)
    }
}

/// What comes with an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageMeta {
    /// The last entry it holds.
    pub(crate) last: Option<Point>,
    /// The entry that set the members.
    pub(crate) members_at: Option<Point>,
    pub(crate) members: Members,
    /// Differs between two images of a group.
    pub(crate) id: String,
}

macro_rules! message {
    ($name:ident -> $reply:ty, $id:literal, $text:literal, $class:ident) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Agreement;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::$class;
            const ALLOW: Allow = Allow::NODES;
            type Reply = $reply;
        }
    };
}

/// A candidate asks for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskVote {
    pub(crate) group: String,
    pub(crate) vote: Ballot,
    pub(crate) last: Option<Point>,
}
message!(AskVote -> VoteAnswer, 720, "agreement.vote", System);

/// The answer: the highest vote the voter knows, and where its log ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteAnswer {
    pub(crate) vote: Ballot,
    pub(crate) granted: bool,
    pub(crate) last: Option<Point>,
}

/// The leader's entries; without any, a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) group: String,
    pub(crate) vote: Ballot,
    pub(crate) prev: Option<Point>,
    pub(crate) items: Vec<Item>,
    pub(crate) committed: Option<Point>,
}
message!(Append -> AppendAnswer, 721, "agreement.append", System);

/// Appends without entries, of several groups: what a leader of many shows that it lives by. The
/// answers in their order; none where the group could not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beats {
    pub(crate) beats: Vec<Append>,
}
message!(Beats -> Vec<Option<AppendAnswer>>, 724, "agreement.beats", System);

/// How a follower took them. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    /// All of them, durably.
    Taken,
    /// Up to here.
    Partly(Option<Point>),
    /// Its log differs at `prev`.
    Conflict,
    /// It knows a higher vote.
    Outvoted(Ballot),
}

/// A voter asks before it stands whether it would be granted the vote. Nothing follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskSupport {
    pub(crate) group: String,
    pub(crate) candidate: NodeId,
    /// The end of its log.
    pub(crate) last: Option<Point>,
}
message!(AskSupport -> bool, 723, "agreement.support", System);

/// A follower asks its leader how far it must have applied the log to hold all that was
/// acknowledged before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskHead {
    pub(crate) group: String,
}
message!(AskHead -> u64, 725, "agreement.head", Request);

/// A piece of an image, at most 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Install {
    pub(crate) group: String,
    pub(crate) vote: Ballot,
    pub(crate) meta: ImageMeta,
    pub(crate) offset: u64,
    pub(crate) data: Blob,
    pub(crate) done: bool,
}
message!(Install -> InstallAnswer, 722, "agreement.install", Bulk);

/// How a follower took it. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InstallAnswer {
    /// Written; the highest vote it knows.
    Taken(Ballot),
    /// It expected another piece: start again.
    Mismatch { expected_id: String, expected_offset: u64, id: String, offset: u64 },
}

/// Version of what is stored: the first byte. Behind it the checksum of the rest.
const STORED: u8 = 1;
/// Bytes in front of a stored value.
const FRONT: usize = 5;

fn layout(version: u8) -> CodecError {
    CodecError::Decode(format!(
        "stored layout {version}, this program knows {STORED}: run a version of weft at least as new as the one that wrote it"
    ))
}

/// Encodes a value for the log or a checkpoint.
pub(crate) fn store<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![STORED, 0, 0, 0, 0];
    codec::encode_into(value, &mut out)?;
    codec::seal(&mut out, 1);
    Ok(out)
}

/// Decodes what [`store`] wrote.
pub(crate) fn load<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&STORED, body)) => match codec::checked(body) {
            Some(body) => codec::decode(body),
            None => Err(CodecError::Decode("it is not what was written: a bit has changed".into())),
        },
        Some((version, _)) => Err(layout(*version)),
        None => Err(CodecError::Decode("nothing stored".into())),
    }
}

/// An entry for the log: where it is, with a checksum of its own, and what it is.
pub(crate) fn store_item(item: &Item) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![STORED];
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(&item.at, &mut out)?;
    codec::seal(&mut out, 1);
    let length = u8::try_from(out.len() - FRONT).unwrap_or(u8::MAX);
    out.insert(1, length);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(&item.payload, &mut out)?;
    codec::seal(&mut out, at);
    Ok(out)
}

/// What [`store_item`] wrote. Where an entry is must be what was written; what it is may not be, if
/// it can be read as commands all the same: some of those are damaged.
pub(crate) fn load_item(bytes: &[u8]) -> Result<Item, CodecError> {
    let damaged = || CodecError::Decode("it is not what was written: a bit has changed".into());
    let (version, rest) = bytes.split_first().ok_or_else(damaged)?;
    if *version != STORED {
        return Err(layout(*version));
    }
    let (length, rest) = rest.split_first().ok_or_else(damaged)?;
    let (front, behind) = rest.split_at_checked(4 + usize::from(*length)).ok_or_else(damaged)?;
    let at = codec::decode(codec::checked(front).ok_or_else(damaged)?)?;
    if let Some(payload) = codec::checked(behind) {
        return Ok(Item { at, payload: codec::decode(payload)? });
    }
    match behind.get(4..).map(codec::decode::<Payload>) {
        Some(Ok(Payload::Commands(commands))) => {
            let commands = Commands { is_damaged: true, ..commands };
            Ok(Item { at, payload: Payload::Commands(commands) })
        }
        _ => Err(damaged()),
    }
}
