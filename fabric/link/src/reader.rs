//! Frames out of a byte stream, many per read, never more memory than has arrived.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_wire::frame::{self, Frame, FrameError};

/// How much is read at once, in bytes.
const READ: usize = 64 * 1024;
/// What a frame on a shared stream may be long: an inline body, an extension, a header.
pub(crate) const INLINE_FRAME_MAX: usize = frame::INLINE_MAX + frame::HEADER + 2 + 64 * 1024;

/// Why no more frames come from a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The stream gave out.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// What came is no frame, or one that may not come here.
    #[error("{0}")]
    Lie(String),
}

impl From<FrameError> for ReadError {
    fn from(error: FrameError) -> Self {
        Self::Lie(error.to_string())
    }
}

/// Reads frames.
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Refuses frames over `limit` bytes.
    pub(crate) fn new(stream: R, limit: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), limit }
    }

    /// From now on refuses frames over `limit` bytes.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    fn check(&self, length: usize) -> Result<usize, ReadError> {
        if length > self.limit {
            let limit = self.limit;
            return Err(ReadError::Lie(format!(
                "a frame of {length} bytes where {limit} is the most"
            )));
        }
        Ok(length)
    }

    /// Every whole frame that has arrived, at least one; `None`: the stream ended well.
    /// Cancelling loses nothing.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let mut whole = 0;
            let mut missing = frame::HEADER;
            while let Some(length) = frame::length(self.buffer.get(whole..).unwrap_or_default())? {
                let end = whole + self.check(length)?;
                if end > self.buffer.len() {
                    missing = end - self.buffer.len();
                    break;
                }
                whole = end;
            }
            if whole > 0 {
                return Ok(Some(self.buffer.split_to(whole).freeze()));
            }
            if !self.more(missing).await? {
                return Ok(None);
            }
        }
    }

    /// Exactly one frame; `None`: the stream ended well. For a frame over the inline size a share
    /// of `budget` (in KiB) is taken before its body is awaited, and held with it.
    pub(crate) async fn one(
        &mut self,
        budget: Option<&Arc<Semaphore>>,
    ) -> Result<Option<(Bytes, Option<OwnedSemaphorePermit>)>, ReadError> {
        let mut share = None;
        loop {
            let mut missing = frame::HEADER;
            if let Some(length) = frame::length(&self.buffer)? {
                let length = self.check(length)?;
                if let Some(budget) = budget
                    && share.is_none()
                    && length > frame::INLINE_MAX
                {
                    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
                    share = budget.clone().acquire_many_owned(kib).await.ok();
                }
                if self.buffer.len() >= length {
                    return Ok(Some((self.buffer.split_to(length).freeze(), share)));
                }
                missing = length - self.buffer.len();
            }
            if !self.more(missing).await? {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self, missing: usize) -> Result<bool, ReadError> {
        let room = self.buffer.capacity() - self.buffer.len();
        // Never into a small rest: a read costs the same whatever it brings.
        if room < missing.clamp(READ / 4, READ) {
            self.buffer.reserve(READ);
        }
        if self.stream.read_buf(&mut self.buffer).await? > 0 {
            return Ok(true);
        }
        if self.buffer.has_remaining() { Err(ReadError::Cut) } else { Ok(false) }
    }

    /// Waits until the stream ends or gives something that is not expected.
    pub(crate) async fn ended(&mut self) {
        let _ = self.more(1).await;
    }

    /// Puts a frame back in front of what was read.
    pub(crate) fn put_back(&mut self, frame: &Bytes) {
        let rest = std::mem::take(&mut self.buffer);
        self.buffer.extend_from_slice(frame);
        self.buffer.unsplit(rest);
    }
}

/// Reads the frame at the start of `rest` (which holds whole frames) and moves past it, with its
/// body as a cheap slice of `chunk`. `None`: no more.
pub(crate) fn next_frame<'a>(
    chunk: &'a Bytes,
    at: &mut usize,
) -> Result<Option<(Frame<'a>, Bytes)>, ReadError> {
    let rest = chunk.get(*at..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    let (frame, used) = frame::read(rest)?.ok_or(ReadError::Cut)?;
    *at += used;
    let body = chunk.slice(*at - frame.body.len()..*at);
    Ok(Some((frame, body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::frame::{Header, Kind};

    fn frames(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            let header = Header {
                kind: Kind::Tell,
                id: 1,
                version: 1,
                actor: 0,
                correlation: n as u32,
                deadline_ms: 0,
            };
            frame::write(&mut out, header, None, |out| {
                out.extend_from_slice(body);
                Ok(())
            })
            .expect("writes");
        }
        out
    }

    async fn read_all(bytes: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut reader = FrameReader::new(bytes, limit);
        let mut bodies = Vec::new();
        while let Some(chunk) = reader.chunk().await? {
            let mut at = 0;
            while let Some((_, body)) = next_frame(&chunk, &mut at)? {
                bodies.push(body.to_vec());
            }
        }
        Ok(bodies)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn a_length_over_the_limit_of_the_stream_is_a_lie_before_its_body_arrives() {
        let mut bytes = (1_000_000u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 16]);
        assert!(matches!(block_on(read_all(&bytes, INLINE_FRAME_MAX)), Err(ReadError::Lie(_))));
        assert!(matches!(block_on(read_all(&bytes, frame::FRAME_MAX)), Err(ReadError::Cut)));
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_and_in_order_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cut in 1usize..700,
        ) {
            let bytes = frames(&bodies);
            let got = block_on(async {
                let (mut near, far) = tokio::io::duplex(cut);
                let (out, ()) = tokio::join!(
                    async {
                        let mut reader = FrameReader::new(far, INLINE_FRAME_MAX);
                        let mut got = Vec::new();
                        while let Some(chunk) = reader.chunk().await.expect("true frames") {
                            let mut at = 0;
                            while let Some((_, body)) = next_frame(&chunk, &mut at).expect("reads") {
                                got.push(body.to_vec());
                            }
                        }
                        got
                    },
                    async {
                        tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await.expect("writes");
                        drop(near);
                    }
                );
                out
            });
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            frame_like: bool,
        ) {
            let mut bytes = bytes;
            if frame_like && bytes.len() >= frame::HEADER {
                let len = (bytes.len() as u32 - 4).to_le_bytes();
                bytes[..4].copy_from_slice(&len);
                bytes[4] %= 9;
                bytes[5] %= 2;
            }
            let _ = block_on(read_all(&bytes, INLINE_FRAME_MAX));
            let _ = block_on(FrameReader::new(&bytes[..], frame::FRAME_MAX).one(None));
        }
    }
}
