//! Proposals: while one entry is in flight, what waits is gathered into the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::engine::EngineError;
use super::group::Inner;
use super::wire::Commands;
use super::{ProposeError, Proposed, Role};

/// No entry gathers more commands.
pub(crate) const ENTRY_COMMANDS: usize = 1024;
/// No entry gathers more bytes, unless one command alone is larger.
pub(crate) const ENTRY_BYTES: usize = 1 << 20;
/// No command is larger, in bytes: it must fit a frame.
pub(crate) const COMMAND_MAX: usize = 8 << 20;
/// Proposals that may wait.
pub(crate) const WAITING: usize = 4096;
/// Bytes of proposals that may wait.
pub(crate) const WAITING_BYTES: usize = 64 << 20;

type Answer = oneshot::Sender<Result<Proposed, ProposeError>>;

/// A proposal that waits.
pub(crate) struct Pending {
    pub(crate) command: Vec<u8>,
    pub(crate) reply: Answer,
    _room: Room,
}

/// Its share of [`WAITING_BYTES`], given back when it waits no longer.
struct Room {
    held: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl Pending {
    /// `None`: there is no room.
    pub(crate) fn new(command: Vec<u8>, reply: Answer, all: &Arc<AtomicUsize>) -> Option<Self> {
        let held = command.len() + 64;
        let room = Room { held, all: all.clone() };
        let before = all.fetch_add(held, Ordering::Relaxed);
        (before + held <= WAITING_BYTES).then_some(Self { command, reply, _room: room })
    }
}

/// What becomes one entry. Pure.
pub(crate) struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T> Batch<T> {
    pub(crate) fn new(first: T, bytes: usize) -> Self {
        Self { items: vec![first], bytes }
    }

    /// Takes another, or gives it back: then this is full.
    pub(crate) fn add(&mut self, item: T, bytes: usize) -> Option<T> {
        if self.items.len() >= ENTRY_COMMANDS || self.bytes + bytes > ENTRY_BYTES {
            return Some(item);
        }
        self.bytes += bytes;
        self.items.push(item);
        None
    }

    pub(crate) fn into_items(self) -> Vec<T> {
        self.items
    }
}

/// Proposes what comes through `queue` until the group stops.
pub(crate) async fn run(group: Arc<Inner>, mut queue: mpsc::Receiver<Pending>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(pending) => pending,
            None => tokio::select! {
                () = group.stopped() => return,
                pending = queue.recv() => match pending {
                    Some(pending) => pending,
                    None => return,
                },
            },
        };
        if first.reply.is_closed() {
            continue;
        }
        let bytes = first.command.len();
        let mut batch = Batch::new(first, bytes);
        while let Ok(pending) = queue.try_recv() {
            if pending.reply.is_closed() {
                continue;
            }
            let bytes = pending.command.len();
            if let Some(back) = batch.add(pending, bytes) {
                next = Some(back);
                break;
            }
        }
        let (commands, replies) =
            batch.into_items().into_iter().map(|p| (p.command, p.reply)).unzip();
        if !flight(&group, &mut queue, &mut next, commands, replies).await {
            return;
        }
    }
}

/// One entry in flight. `false`: the group stops.
async fn flight(
    group: &Arc<Inner>,
    queue: &mut mpsc::Receiver<Pending>,
    next: &mut Option<Pending>,
    commands: Vec<Vec<u8>>,
    mut replies: Vec<Answer>,
) -> bool {
    let engine = match group.engine() {
        Ok(engine) => engine,
        Err(error) => {
            answer(group, replies, Err(error));
            return true;
        }
    };
    let write = engine.write(Commands::new(commands));
    tokio::pin!(write);
    let lost = async {
        let mut status = group.watch();
        let _ = status.wait_for(|status| status.role != Role::Leader).await;
    };
    tokio::select! {
        () = group.stopped() => return false,
        result = &mut write => {
            answer(group, replies, result);
            return true;
        }
        () = lost => {}
    }
    // It leads no longer. Whether the entry will be committed is for others to decide; what has
    // not been sent is told at once. Only here may the entry be given up: a leader without a
    // majority that did would fill its log.
    let outcome = {
        let given_up = join_all(replies.iter_mut().map(oneshot::Sender::closed));
        tokio::pin!(given_up);
        loop {
            if let Some(pending) = next.take() {
                let _ = pending.reply.send(Err(group.not_leader()));
            }
            tokio::select! {
                () = group.stopped() => return false,
                result = &mut write => break Some(result),
                _ = &mut given_up => break None,
                pending = queue.recv() => match pending {
                    Some(pending) => *next = Some(pending),
                    None => return false,
                },
            }
        }
    };
    if let Some(result) = outcome {
        answer(group, replies, result);
    }
    true
}

fn answer(
    group: &Arc<Inner>,
    replies: Vec<Answer>,
    result: Result<(u64, Vec<Vec<u8>>), EngineError>,
) {
    match result {
        Ok((index, answers)) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(Ok(Proposed { index, answer }));
            }
        }
        Err(error) => {
            let error = group.explain(error);
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}
