//! What is stored: entries of a group's log, sessions and groups as bytes. Each begins with the
//! version of its layout; a session is its log, so a snapshot and a replay cannot differ.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_wire::codec::{self, CodecError};

use super::{Record, Session, Sessions};

/// Layout that this build writes and the newest it reads. Records and entries grow at the end.
pub const FORMAT: u16 = 1;

/// Why bytes cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer build.
    #[error(
        "layout {found}, this program reads up to {FORMAT}: run a version of weft at least as new as the one that wrote it"
    )]
    Version {
        /// Its layout.
        found: u16,
    },
    /// Not what was written: a bit has changed.
    #[error("a bit of it has changed since it was written")]
    Damaged,
    /// The bytes end too early or are too many.
    #[error("{0}")]
    Length(&'static str),
    /// One session of a group cannot be read; the others can, by [`Sessions::salvage`].
    #[error("session `{session}`: {why}")]
    Session {
        /// Its id; `?` if that cannot be read either.
        session: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not what they should be, or one value is over 16 MiB.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One command of a group's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// Records that a session gets, all or none.
    Records {
        /// Its id.
        session: String,
        /// Length of its log when the leader checked; with another length nothing is done.
        base: u64,
        /// At least one.
        records: Vec<Record>,
    },
    /// Sessions that have ended leave memory, each as one value.
    Archive {
        /// Their ids; those that have not ended, or are not there, are passed over.
        sessions: Vec<String>,
    },
    /// A session comes back from the archive, to be changed; nothing if it is in memory.
    Recall {
        /// All of it.
        #[serde(with = "whole")]
        session: Box<Session>,
    },
    /// No session begins here any more in these slots ([`super::slot`]); those that are here stay.
    Seal {
        /// The slots.
        slots: Vec<u8>,
    },
}

/// A session within an entry, as [`Session::to_bytes`] has it.
mod whole {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de, ser};

    use super::Session;

    pub(super) fn serialize<S: Serializer>(
        session: &Session,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        session.to_bytes().map_err(ser::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<Session>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Session::from_bytes(&bytes).map(Box::new).map_err(de::Error::custom)
    }
}

/// An entry as bytes.
///
/// # Errors
/// [`FormatError::Codec`] over 16 MiB.
pub fn encode_entry(entry: &Entry) -> Result<Vec<u8>, FormatError> {
    let mut out = versioned();
    front(&mut out, entry);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(entry, &mut out)?;
    codec::seal(&mut out, at);
    Ok(out)
}

/// What an entry is about, with a checksum of its own: a length, and of records the session's id.
fn front(out: &mut Vec<u8>, entry: &Entry) {
    let id = match entry {
        Entry::Records { session, .. } => session.as_bytes(),
        _ => &[],
    };
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    // An id is shorter; one that is not could not be told if it were damaged.
    out.push(u8::try_from(id.len()).unwrap_or(0));
    out.extend_from_slice(if id.len() < 256 { id } else { &[] });
    codec::seal(out, at);
}

/// Takes an entry apart: the session's id, if it is one of records, and the rest.
fn apart(bytes: &[u8]) -> Result<(Option<&str>, &[u8]), FormatError> {
    let body = body(bytes)?;
    let length = usize::from(*body.get(4).ok_or(FormatError::Damaged)?);
    let (front, rest) = body.split_at_checked(5 + length).ok_or(FormatError::Damaged)?;
    let front = codec::checked(front).ok_or(FormatError::Damaged)?;
    let id = front.get(1..).unwrap_or_default();
    let id = std::str::from_utf8(id).map_err(|_| FormatError::Damaged)?;
    Ok(((!id.is_empty()).then_some(id), rest))
}

/// The entry that [`encode_entry`] wrote.
///
/// # Errors
/// [`FormatError`]; arbitrary bytes never panic.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, FormatError> {
    let (_, rest) = apart(bytes)?;
    Ok(codec::decode(codec::checked(rest).ok_or(FormatError::Damaged)?)?)
}

/// Of bytes that were an entry of records, and are damaged: the session that it was about. `None`:
/// that cannot be told, or it was of another kind.
pub fn entry_about(bytes: &[u8]) -> Option<&str> {
    apart(bytes).ok()?.0
}

/// The version, for a body to be appended.
pub(crate) fn versioned() -> Vec<u8> {
    FORMAT.to_le_bytes().to_vec()
}

/// What is behind the version, if this build reads it.
pub(crate) fn body(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (version, body) =
        bytes.split_first_chunk::<2>().ok_or(FormatError::Length("shorter than its version"))?;
    match u16::from_le_bytes(*version) {
        FORMAT => Ok(body),
        found => Err(FormatError::Version { found }),
    }
}

/// What is behind the version and the checksum, if it is what was written.
fn whole_body(bytes: &[u8]) -> Result<&[u8], FormatError> {
    codec::checked(body(bytes)?).ok_or(FormatError::Damaged)
}

/// Appends a value with its length (`u32`, little endian) in front.
fn framed(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    let length = u32::try_from(out.len() - at - 4)
        .map_err(|_| FormatError::Length("one value is over 4 GiB"))?;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// Takes the next value with its length.
fn frame<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], FormatError> {
    const SHORT: FormatError = FormatError::Length("it ends within a value");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| SHORT)?;
    let value = rest.get(..length).ok_or(SHORT)?;
    *bytes = rest.get(length..).unwrap_or_default();
    Ok(value)
}

impl Session {
    /// The session as one value: its id and its log, of any length, each record up to 16 MiB.
    ///
    /// # Errors
    /// [`FormatError`] for a record over that.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.write(&mut out)?;
        Ok(out)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let at = out.len();
        out.extend_from_slice(&versioned());
        out.extend_from_slice(&[0; 4]);
        framed(out, |out| {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(self.id().as_bytes());
            codec::seal(&mut out[at..], 0);
            Ok(())
        })?;
        for record in self.log() {
            framed(out, |out| Ok(codec::encode_into(record.as_ref(), out).map(|_| ())?))?;
        }
        codec::seal(out, at + 2);
        Ok(())
    }

    /// The session that [`Session::to_bytes`] wrote, by a replay of its log.
    ///
    /// # Errors
    /// [`FormatError`]; arbitrary bytes never panic.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut rest = whole_body(bytes)?;
        let id = codec::checked(frame(&mut rest)?).ok_or(FormatError::Damaged)?;
        let id = std::str::from_utf8(id)
            .map_err(|_| FormatError::Length("the session's id is not text"))?;
        let mut log = Vec::new();
        while !rest.is_empty() {
            log.push(Arc::new(codec::decode::<Record>(frame(&mut rest)?)?));
        }
        Self::replay(id, log).ok_or(FormatError::Length("the log does not begin with a start"))
    }
}

impl Sessions {
    /// How many have left memory, which slots are sealed, what was put aside, and all sessions that
    /// have not left, by id. Equal groups give equal bytes.
    ///
    /// # Errors
    /// [`FormatError`] for a record over 16 MiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = versioned();
        // The head has a checksum of its own: nothing else says what is in it.
        framed(&mut out, |out| {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&self.archived().to_le_bytes());
            framed(out, |out| {
                out.extend(self.sealed());
                Ok(())
            })?;
            for (id, piece) in
                self.damaged().iter().flat_map(|(id, all)| all.iter().map(move |p| (id, p)))
            {
                for value in [id.as_bytes(), piece.as_slice()] {
                    framed(out, |out| {
                        out.extend_from_slice(value);
                        Ok(())
                    })?;
                }
            }
            codec::seal(&mut out[at..], 0);
            Ok(())
        })?;
        for session in self.iter() {
            framed(&mut out, |out| session.write(out))?;
        }
        Ok(out)
    }

    /// The group that [`Sessions::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`FormatError`]; arbitrary bytes never panic. A damaged session is named.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let (sessions, damaged) = Self::salvage(bytes)?;
        match damaged.into_iter().next() {
            None => Ok(sessions),
            Some((session, why)) => Err(FormatError::Session { session, why: why.to_string() }),
        }
    }

    /// As [`Sessions::from_bytes`], but damaged sessions are put aside and told, with what is wrong.
    /// Only for a node that is alone: a replica without one is no replica any more.
    ///
    /// # Errors
    /// [`FormatError`] if it cannot be told where sessions begin and end, or which one is damaged.
    pub fn salvage(bytes: &[u8]) -> Result<(Self, Vec<(String, FormatError)>), FormatError> {
        let short = FormatError::Length("shorter than its head");
        let mut rest = body(bytes)?;
        let head = codec::checked(frame(&mut rest)?).ok_or(FormatError::Damaged)?;
        let (archived, mut head) = head.split_first_chunk::<8>().ok_or(short)?;
        let mut sessions = Self::default();
        sessions.has_archived(u64::from_le_bytes(*archived));
        sessions.seal(frame(&mut head)?.iter().copied());
        while !head.is_empty() {
            let (id, piece) = (frame(&mut head)?, frame(&mut head)?);
            let id = std::str::from_utf8(id).map_err(|_| FormatError::Damaged)?;
            sessions.put_aside(id, piece.to_vec());
        }
        let mut damaged = Vec::new();
        while !rest.is_empty() {
            let session = frame(&mut rest)?;
            match Session::from_bytes(session) {
                Ok(session) => sessions.insert(session),
                Err(why) => {
                    let id = name(session).ok_or(FormatError::Damaged)?;
                    sessions.put_aside(&id, session.to_vec());
                    damaged.push((id, why));
                }
            }
        }
        Ok((sessions, damaged))
    }
}

/// The id of a session that may be damaged, if that is what was written.
fn name(session: &[u8]) -> Option<String> {
    let mut rest = body(session).ok()?.get(4..)?;
    let id = codec::checked(frame(&mut rest).ok()?)?;
    Some(std::str::from_utf8(id).ok()?.to_owned())
}
