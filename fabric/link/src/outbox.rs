//! Bytes on their way into a stream: pushed by many, written in batches by one, bounded.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// A batch buffer larger than this is not kept for the next batch, in bytes.
const KEEP: usize = 512 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's encoding buffer, empty. Encoding happens outside any lock.
pub(crate) fn with_scratch<R>(encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = SCRATCH.take();
    buffer.clear();
    let result = encode(&mut buffer);
    if buffer.capacity() <= KEEP {
        SCRATCH.set(buffer);
    }
    result
}

/// Why bytes were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PushError {
    /// Too many bytes wait already.
    Full,
    /// The stream has ended, and why.
    Closed(Arc<str>),
}

/// The bytes that wait for one stream.
pub(crate) struct Outbox {
    state: Mutex<State>,
    room: Notify,
    limit: usize,
}

struct State {
    buffer: Vec<u8>,
    /// Bytes the writer has taken and not yet written.
    writing: usize,
    closed: Option<Arc<str>>,
    writer: Option<Waker>,
    /// More is coming at once: the writer is not woken yet.
    corked: bool,
}

impl Outbox {
    /// At most `limit` bytes wait before [`PushError::Full`].
    pub(crate) fn new(limit: usize) -> Self {
        let state =
            State { buffer: Vec::new(), writing: 0, closed: None, writer: None, corked: false };
        Self { state: Mutex::new(state), room: Notify::new(), limit }
    }

    /// Appends whole frames, if the bytes that wait already are below the limit.
    pub(crate) fn push(&self, frames: &[u8]) -> Result<(), PushError> {
        self.append(frames, self.limit).map(drop)
    }

    /// Appends whole frames that may not be refused (answers). Returns the bytes that wait; the
    /// caller stops causing more of them, see [`Outbox::room`].
    pub(crate) fn push_always(&self, frames: &[u8]) -> usize {
        self.append(frames, usize::MAX).unwrap_or(0)
    }

    /// Until [`Outbox::uncork`], bytes only gather.
    pub(crate) fn cork(&self) {
        self.state.lock().corked = true;
    }

    /// Ends [`Outbox::cork`]; the caller calls [`Outbox::flush`] next.
    pub(crate) fn uncork(&self) {
        self.state.lock().corked = false;
    }

    fn append(&self, frames: &[u8], limit: usize) -> Result<usize, PushError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            return Err(PushError::Closed(reason.clone()));
        }
        if state.buffer.len() + state.writing >= limit {
            return Err(PushError::Full);
        }
        state.buffer.extend_from_slice(frames);
        let waiting = state.buffer.len() + state.writing;
        let waker = if state.corked { None } else { state.writer.take() };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(waiting)
    }

    /// Bytes that wait or are being written.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.buffer.len() + state.writing
    }

    /// Ends once fewer bytes wait than the limit, or the stream has ended.
    pub(crate) async fn room(&self) {
        loop {
            let changed = self.room.notified();
            {
                let state = self.state.lock();
                if state.closed.is_some() || state.buffer.len() + state.writing < self.limit {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Refuses further bytes; those that wait are dropped.
    pub(crate) fn close(&self, reason: &Arc<str>) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.closed = Some(reason.clone());
            state.buffer = Vec::new();
        }
        let waker = state.writer.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.room.notify_waiters();
    }

    /// Waits for bytes; `false`: closed. `crowded`: whether others are likely to add to them
    /// presently.
    async fn some(&self, crowded: &impl Fn() -> bool) -> bool {
        let open = poll_fn(|context| {
            let mut state = self.state.lock();
            if state.closed.is_some() {
                return Poll::Ready(false);
            }
            if state.buffer.is_empty() {
                state.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(true)
        })
        .await;
        if open && crowded() {
            // Whoever else is ready to send joins this batch: a frame a packet would cost five
            // times as much.
            tokio::task::yield_now().await;
        }
        open
    }

    /// Takes all there is, into an empty `spare`.
    fn take(&self, spare: &mut Vec<u8>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.buffer, spare);
        state.writing = spare.len();
    }

    fn written(&self) {
        let mut state = self.state.lock();
        let was = state.buffer.len() + state.writing;
        state.writing = 0;
        let is = state.buffer.len();
        drop(state);
        if was >= self.limit && is < self.limit {
            self.room.notify_waiters();
        }
    }

    /// Writes batches into `stream` until closed.
    ///
    /// # Errors
    /// The stream's; the outbox is still open then.
    pub(crate) async fn drain<W: AsyncWrite + Unpin>(
        &self,
        stream: &AsyncMutex<W>,
        crowded: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut spare = Vec::new();
        while self.some(&crowded).await {
            self.write(&mut *stream.lock().await, &mut spare).await?;
        }
        Ok(())
    }

    /// Writes what there is now, unless somebody is writing already, who then takes it along.
    ///
    /// # Errors
    /// The stream's.
    pub(crate) async fn flush<W: AsyncWrite + Unpin>(
        &self,
        stream: &AsyncMutex<W>,
        spare: &mut Vec<u8>,
    ) -> io::Result<()> {
        match stream.try_lock() {
            Ok(mut stream) => self.write(&mut *stream, spare).await,
            Err(_) => Ok(()),
        }
    }

    async fn write<W: AsyncWrite + Unpin>(
        &self,
        stream: &mut W,
        spare: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.take(spare);
        if spare.is_empty() {
            return Ok(());
        }
        stream.write_all(spare).await?;
        stream.flush().await?;
        self.written();
        spare.clear();
        if spare.capacity() > KEEP {
            *spare = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_beyond_the_limit_are_refused_until_the_stream_takes_some() {
        let outbox = Arc::new(Outbox::new(100));
        assert_eq!(outbox.push(&[1; 80]), Ok(()));
        assert_eq!(outbox.push(&[2; 80]), Ok(()), "the limit is checked before, not after");
        assert_eq!(outbox.push(&[3; 1]), Err(PushError::Full));
        assert_eq!(outbox.push_always(&[4; 10]), 170);
        let (near, mut far) = tokio::io::duplex(4096);
        let writer = outbox.clone();
        let task =
            tokio::spawn(async move { writer.drain(&AsyncMutex::new(near), || false).await });
        outbox.room().await;
        assert_eq!(outbox.push(&[5; 1]), Ok(()));
        let mut got = [0; 171];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut got).await.expect("reads");
        assert_eq!((got[0], got[80], got[160], got[170]), (1, 2, 4, 5));
        outbox.close(&"over".into());
        assert!(matches!(outbox.push(&[6]), Err(PushError::Closed(reason)) if &*reason == "over"));
        task.await.expect("ends").expect("well");
    }

    #[tokio::test]
    async fn a_stream_that_does_not_move_holds_no_more_than_the_limit() {
        let outbox = Arc::new(Outbox::new(1000));
        let (near, _far) = tokio::io::duplex(16);
        let writer = outbox.clone();
        let task =
            tokio::spawn(async move { writer.drain(&AsyncMutex::new(near), || false).await });
        let mut refused = 0;
        for _ in 0..1000 {
            if outbox.push(&[0; 100]) == Err(PushError::Full) {
                refused += 1;
            }
            tokio::task::yield_now().await;
        }
        assert!(refused > 900, "{refused}");
        assert!(outbox.waiting() <= 1100);
        task.abort();
    }
}
