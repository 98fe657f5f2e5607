//! The receiving end of a subscription.

use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use weft_wire::{AskError, Failure, FailureKind, codec};

use crate::link::{Element, element};
use crate::mailbox::ITEMS_WAITING;
use crate::reader::FrameReader;

/// A subscription's items, in order. `None` from [`Items::next`]: it ended well.
#[derive(Debug)]
pub struct Items<T> {
    receiver: mpsc::Receiver<Result<T, AskError>>,
}

impl<T> Items<T> {
    /// The next item; an error is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<T, AskError>> {
        self.receiver.recv().await
    }

    pub(crate) fn new(receiver: mpsc::Receiver<Result<T, AskError>>) -> Self {
        Self { receiver }
    }
}

/// Decodes what a stream brings, as fast as the consumer takes it. `held` is dropped with it;
/// `why` knows better than the stream why a connection ended.
pub(crate) fn decode<T, R>(
    handle: &Handle,
    mut reader: FrameReader<R>,
    held: impl Send + 'static,
    why: impl Fn() -> Option<String> + Send + 'static,
) -> Items<T>
where
    T: serde::de::DeserializeOwned + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ITEMS_WAITING);
    handle.spawn(async move {
        let _held = held;
        loop {
            let next = tokio::select! {
                next = element(&mut reader) => next,
                () = sender.closed() => return,
            };
            let item = match next {
                Element::End => return,
                Element::Item(body) => codec::decode(&body).map_err(|error| {
                    AskError::Failed(
                        Failure::new(FailureKind::Unsupported, "an item cannot be read")
                            .cause(error),
                    )
                }),
                Element::Error(AskError::Unreachable(reason)) => {
                    Err(AskError::Unreachable(why().unwrap_or(reason)))
                }
                Element::Error(error) => Err(error),
            };
            let last = item.is_err();
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    Items::new(receiver)
}
