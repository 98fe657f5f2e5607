//! A command's input on its way: pieces are taken once, in order, and no faster than the command
//! reads.

use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use weft_protocol::{ExecInput, ExecTaken};
use weft_wire::{Failure, FailureKind};

/// Pieces that wait for a command that does not read.
const WAITING: usize = 4;

/// Which piece is due; pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Order {
    next: u64,
    ended: bool,
}

/// What is to be done with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is due.
    Take,
    /// It was taken before.
    Again,
    /// Nothing is taken any more.
    Over,
    /// Its predecessor has not come.
    Gap,
}

impl Order {
    pub(super) const fn judge(self, sequence: u64) -> Verdict {
        if sequence < self.next {
            Verdict::Again
        } else if self.ended {
            Verdict::Over
        } else if sequence == self.next {
            Verdict::Take
        } else {
            Verdict::Gap
        }
    }

    /// The piece that was due has been taken.
    pub(super) const fn taken(&mut self, end: bool) {
        self.next += 1;
        self.ended = end;
    }
}

/// Where pieces go in.
pub(super) struct Feed(Mutex<(Order, Option<mpsc::Sender<Vec<u8>>>)>);

impl Feed {
    /// A feed, and the end the command's writer reads; that ends after the last piece. Without
    /// input there is none.
    pub(super) fn new(open: bool) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(Mutex::new((Order::default(), open.then_some(sender)))), receiver)
    }

    /// Takes a piece, waiting at most `patience` for room.
    pub(super) async fn take(
        &self,
        message: ExecInput,
        patience: Duration,
    ) -> Result<ExecTaken, Failure> {
        let mut held = self.0.lock().await;
        let (order, sender) = &mut *held;
        match order.judge(message.sequence) {
            Verdict::Again => return Ok(ExecTaken::Yes),
            Verdict::Over => return Ok(ExecTaken::Closed),
            Verdict::Gap => {
                let text = format!(
                    "piece {} of the input came before piece {}",
                    message.sequence, order.next
                );
                return Err(Failure::new(FailureKind::Conflict, text).step("exec"));
            }
            Verdict::Take => {}
        }
        let Some(open) = sender else { return Ok(ExecTaken::Closed) };
        match tokio::time::timeout(patience, open.reserve()).await {
            Err(_) => return Ok(ExecTaken::Later),
            Ok(Err(_)) => return Ok(ExecTaken::Closed),
            Ok(Ok(room)) if !message.bytes.0.is_empty() => room.send(message.bytes.0),
            Ok(Ok(_)) => {}
        }
        order.taken(message.end);
        if message.end {
            *sender = None;
        }
        Ok(ExecTaken::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;
    use weft_protocol::Octets;

    fn piece(sequence: u64, bytes: &[u8], end: bool) -> ExecInput {
        ExecInput { id: Uuid::nil(), sequence, bytes: Octets(bytes.to_vec()), end }
    }

    proptest! {
        /// However pieces are repeated and shuffled, what arrives is what was sent.
        #[test]
        fn input_arrives_once_and_in_order(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 1..20),
            attempts in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (feed, mut inbox) = Feed::new(true);
                let reader = tokio::spawn(async move {
                    let mut all = Vec::new();
                    while let Some(bytes) = inbox.recv().await {
                        all.extend(bytes);
                    }
                    all
                });
                let last = pieces.len() - 1;
                let send = async |at: usize| {
                    let piece = piece(at as u64, &pieces[at], at == last);
                    feed.take(piece, Duration::from_secs(10)).await
                };
                for attempt in attempts {
                    let _ = send(attempt.index(pieces.len())).await;
                }
                for at in 0..pieces.len() {
                    assert_eq!(send(at).await.unwrap(), ExecTaken::Yes);
                }
                assert_eq!(reader.await.unwrap(), pieces.concat());
            });
        }
    }

    #[tokio::test]
    async fn a_command_that_does_not_read_holds_up_its_input() {
        let (feed, mut inbox) = Feed::new(true);
        let full = WAITING as u64;
        for sequence in 0..full {
            let taken = feed.take(piece(sequence, b"x", false), Duration::ZERO).await;
            assert_eq!(taken.unwrap(), ExecTaken::Yes);
        }
        let next = piece(full, b"y", true);
        assert_eq!(feed.take(next.clone(), Duration::ZERO).await.unwrap(), ExecTaken::Later);
        assert_eq!(inbox.recv().await.unwrap(), b"x");
        assert_eq!(feed.take(next.clone(), Duration::ZERO).await.unwrap(), ExecTaken::Yes);
        assert_eq!(feed.take(next, Duration::ZERO).await.unwrap(), ExecTaken::Yes, "again");
        let late = piece(full + 1, b"z", false);
        assert_eq!(feed.take(late, Duration::ZERO).await.unwrap(), ExecTaken::Closed);
        assert!(feed.take(piece(0, b"x", false), Duration::ZERO).await.is_ok());
    }

    #[tokio::test]
    async fn a_gap_is_refused_and_one_that_reads_no_more_is_told() {
        let (feed, inbox) = Feed::new(true);
        let early = feed.take(piece(1, b"x", false), Duration::ZERO).await;
        assert_eq!(early.unwrap_err().kind, FailureKind::Conflict);
        drop(inbox);
        let taken = feed.take(piece(0, b"x", false), Duration::ZERO).await;
        assert_eq!(taken.unwrap(), ExecTaken::Closed);
        let (none, _inbox) = Feed::new(false);
        let taken = none.take(piece(0, b"x", false), Duration::ZERO).await;
        assert_eq!(taken.unwrap(), ExecTaken::Closed);
    }
}
