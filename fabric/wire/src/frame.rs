//! Frames: a fixed header, an optional extension, a body (design §4).
//!
//! ```text
//!  0      4     5      6       8        10     11        12             16           20
//!  | len  | kind| flags| id    | version| actor| reserved| correlation  | deadline ms | extension? | body
//! ```
//! Little endian. `len` counts everything behind itself. With [`FLAG_EXTENSION`] the header is
//! followed by a `u16` length and an encoded [`Extension`]; without it the message is for this
//! node, from the peer itself, untraced: the case of most traffic, 20 bytes a frame.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::{AskError, Caller, Target, TraceContext};

/// Bytes of the fixed header.
pub const HEADER: usize = 20;
/// No frame is longer, header and extension included; a longer one ends the stream.
pub const FRAME_MAX: usize = codec::BODY_MAX + 64 * 1024;
/// Bodies over this many bytes travel on a stream of their own (design §4).
pub const INLINE_MAX: usize = 64 * 1024;
/// Header flag: an [`Extension`] follows the header.
pub const FLAG_EXTENSION: u8 = 1;

/// What a frame is for. The numbers are on the wire and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame in each direction of a link.
    Hello = 0,
    /// A request that wants an answer.
    Ask = 1,
    /// A request that wants none.
    Tell = 2,
    /// A good answer to an ask; for a subscription: accepted.
    Reply = 3,
    /// A bad answer: the body is an [`AskError`].
    Error = 4,
    /// The asker no longer wants the answer.
    Cancel = 5,
    /// Opens a subscription; alone on its stream.
    Subscribe = 6,
    /// One element of a subscription.
    Item = 7,
    /// A subscription ended well.
    End = 8,
}

impl Kind {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Hello,
            1 => Self::Ask,
            2 => Self::Tell,
            3 => Self::Reply,
            4 => Self::Error,
            5 => Self::Cancel,
            6 => Self::Subscribe,
            7 => Self::Item,
            8 => Self::End,
            _ => return None,
        })
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Message id; 0 where `kind` needs none.
    pub id: u16,
    /// Version of the body's layout.
    pub version: u16,
    /// Wire number of the actor addressed.
    pub actor: u8,
    /// Ties an answer to its ask; unique among the asks in flight on one stream.
    pub correlation: u32,
    /// What is left of the deadline in ms when the frame was written; 0: none.
    pub deadline_ms: u32,
}

/// What only some frames need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Which node's actor, when not the receiver's.
    pub target: Target,
    /// On whose behalf, when not the peer's own.
    pub caller: Option<Caller>,
    /// The trace this belongs to.
    pub trace: TraceContext,
}

impl Default for Extension {
    fn default() -> Self {
        Self { target: Target::Here, caller: None, trace: TraceContext::default() }
    }
}

/// A whole frame, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: Header,
    /// What it adds, if anything.
    pub extension: Option<Extension>,
    /// The body, still encoded.
    pub body: &'a [u8],
}

/// Why bytes are not a frame. The stream they came on cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is below a header or above [`FRAME_MAX`].
    #[error("frame length {0} is out of bounds ({HEADER} to {FRAME_MAX})")]
    Length(usize),
    /// Unknown kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Flags this version does not know.
    #[error("unknown frame flags {0:#04x}")]
    Flags(u8),
    /// The extension does not fit or does not decode.
    #[error("bad frame extension: {0}")]
    Extension(String),
}

/// Appends one frame to `out`; `body` writes the body. Returns the bytes written.
///
/// # Errors
/// What `body` returns, or [`CodecError::TooLarge`]; `out` is then as it was before.
pub fn write(
    out: &mut Vec<u8>,
    header: Header,
    extension: Option<&Extension>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<usize, CodecError> {
    let start = out.len();
    let flags = if extension.is_some() { FLAG_EXTENSION } else { 0 };
    out.extend_from_slice(&[0; 4]);
    out.push(header.kind as u8);
    out.push(flags);
    out.extend_from_slice(&header.id.to_le_bytes());
    out.extend_from_slice(&header.version.to_le_bytes());
    out.push(header.actor);
    out.push(0);
    out.extend_from_slice(&header.correlation.to_le_bytes());
    out.extend_from_slice(&header.deadline_ms.to_le_bytes());
    let written = (|| {
        if let Some(extension) = extension {
            let at = out.len();
            out.extend_from_slice(&[0; 2]);
            let used = codec::encode_into(extension, out)?;
            let short = u16::try_from(used).map_err(|_| CodecError::TooLarge(used))?;
            out[at..at + 2].copy_from_slice(&short.to_le_bytes());
        }
        body(out)?;
        let total = out.len() - start;
        match u32::try_from(total - 4) {
            Ok(len) if total <= FRAME_MAX => {
                out[start..start + 4].copy_from_slice(&len.to_le_bytes());
                Ok(total)
            }
            _ => Err(CodecError::TooLarge(total)),
        }
    })();
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// How many bytes the frame at the start of `bytes` takes in all, once four bytes are there.
/// `Ok(None)`: more bytes are needed to tell.
///
/// # Errors
/// [`FrameError::Length`] as soon as the length is known to be a lie or out of bounds.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let total = (u32::from_le_bytes(*prefix) as usize).saturating_add(4);
    if (HEADER..=FRAME_MAX).contains(&total) {
        Ok(Some(total))
    } else {
        Err(FrameError::Length(total))
    }
}

/// Reads the frame at the start of `bytes`, and how many bytes it took. `Ok(None)`: it is not
/// all there yet.
///
/// # Errors
/// [`FrameError`]; never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(total) = length(bytes)? else { return Ok(None) };
    let Some(frame) = bytes.get(..total) else { return Ok(None) };
    let kind = Kind::from_wire(frame[4]).ok_or(FrameError::Kind(frame[4]))?;
    let flags = frame[5];
    if flags & !FLAG_EXTENSION != 0 {
        return Err(FrameError::Flags(flags));
    }
    let u16_at = |at: usize| u16::from_le_bytes([frame[at], frame[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let header = Header {
        kind,
        id: u16_at(6),
        version: u16_at(8),
        actor: frame[10],
        correlation: u32_at(12),
        deadline_ms: u32_at(16),
    };
    let mut body = &frame[HEADER..];
    let extension = if flags & FLAG_EXTENSION == 0 {
        None
    } else {
        let (len, rest) = body
            .split_first_chunk::<2>()
            .ok_or_else(|| FrameError::Extension("no room for its length".into()))?;
        let (encoded, rest) = rest
            .split_at_checked(usize::from(u16::from_le_bytes(*len)))
            .ok_or_else(|| FrameError::Extension("longer than its frame".into()))?;
        body = rest;
        Some(codec::decode(encoded).map_err(|error| FrameError::Extension(error.to_string()))?)
    };
    Ok(Some((Frame { header, extension, body }, total)))
}

/// Appends an error answer to the ask `correlation`.
///
/// # Errors
/// As [`write()`].
pub fn write_error(
    out: &mut Vec<u8>,
    correlation: u32,
    error: &AskError,
) -> Result<usize, CodecError> {
    let header =
        Header { kind: Kind::Error, id: 0, version: 1, actor: 0, correlation, deadline_ms: 0 };
    write(out, header, None, |out| codec::encode_into(error, out).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, NodeId, Role};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn header(kind: Kind) -> Header {
        Header { kind, id: 7, version: 2, actor: 1, correlation: 9, deadline_ms: 250 }
    }

    #[test]
    fn the_header_bytes_are_pinned() {
        let mut out = Vec::new();
        write(&mut out, header(Kind::Ask), None, |out| {
            out.extend_from_slice(b"xy");
            Ok(())
        })
        .expect("writes");
        assert_eq!(
            out,
            [18, 0, 0, 0, 1, 0, 7, 0, 2, 0, 1, 0, 9, 0, 0, 0, 250, 0, 0, 0, b'x', b'y']
        );
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused_before_its_body_is_awaited() {
        for len in [0u32, 15, FRAME_MAX as u32, u32::MAX] {
            assert!(matches!(length(&len.to_le_bytes()), Err(FrameError::Length(_))), "{len}");
        }
    }

    #[test]
    fn a_body_that_fails_to_encode_leaves_the_buffer_as_it_was() {
        let mut out = vec![1, 2, 3];
        let result = write(&mut out, header(Kind::Ask), None, |_| Err(CodecError::TooLarge(0)));
        assert!(result.is_err());
        assert_eq!(out, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(body: Vec<u8>, with: bool, trace: u128, span: u64, id: u128) {
            let extension = with.then(|| Extension {
                target: Target::Named("n2".into()),
                caller: Some(Caller {
                    identity: Identity::Local { uid: 0, pid: 7 },
                    role: Role::Admin,
                    via: Some(NodeId::new(Uuid::from_u128(id))),
                }),
                trace: TraceContext { trace, span },
            });
            let mut out = Vec::new();
            let used = write(&mut out, header(Kind::Tell), extension.as_ref(), |out| {
                out.extend_from_slice(&body);
                Ok(())
            }).expect("writes");
            prop_assert_eq!(used, out.len());
            for cut in 0..out.len().min(40) {
                prop_assert_eq!(read(&out[..cut]).expect("no lie"), None);
            }
            let (frame, total) = read(&out).expect("reads").expect("whole");
            prop_assert_eq!(total, out.len());
            prop_assert_eq!(frame.header, header(Kind::Tell));
            prop_assert_eq!(frame.extension, extension);
            prop_assert_eq!(frame.body, &body[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
        }

        #[test]
        fn arbitrary_bytes_behind_a_true_length_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), HEADER..256)
        ) {
            let len = (bytes.len() as u32 - 4).to_le_bytes();
            bytes[..4].copy_from_slice(&len);
            let _ = read(&bytes);
        }
    }
}
