//! Streams of the whole cluster: what is there, merged by time, then what comes, as it comes.
//!
//! Between the two, each node's stream is opened again from a little before, and what was shown
//! is left out. A node that goes away is tried again for as long as somebody listens; one that
//! joins is taken in.

pub(crate) mod alerts;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;
use weft_link::{Closed, ItemSink, Items};
use weft_protocol::{
    ClusterEvents, ClusterLogs, ComponentKey, Event, EventFilter, EventItem, FollowEvents, LogLine,
    LogRow, NodeReply, QueryEvents, ReadLogs,
};
use weft_wire::{AskError, Backoff, WallTime};

use crate::around::{Asker, Member, NODE_TIMEOUT};
use crate::rows::{known, merge_events, wanted};

/// Events of a question without a limit, and the most of one (docs of `EventFilter::limit`).
const EVENTS: u32 = 1_000;
const EVENTS_MOST: u32 = 10_000;
/// Ids of shown events that are remembered: a node's answer after a break starts at most this far
/// back.
const SHOWN: usize = 2 * EVENTS_MOST as usize;
/// How far back logs are read again to go on without a gap; clocks of nodes may differ this much.
const OVERLAP: Duration = Duration::from_secs(60);
/// How often the directory is looked at for nodes that joined.
const LOOK: Duration = Duration::from_secs(1);
/// Between tries at a node that went away.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(300), max: Duration::from_secs(5), jitter: 0.0 };
/// Items that may wait between the nodes' streams and the subscriber's.
const WAITING: usize = 64;

/// What one node's stream brought.
enum Brought<T> {
    Item(Member, T),
    Silent(Member, AskError),
}

/// Serves `ClusterEvents`.
pub(crate) async fn events(
    asker: Asker,
    message: ClusterEvents,
    sink: &ItemSink<ClusterEvents>,
) -> Result<(), Closed> {
    let limit = match message.filter.limit {
        0 => EVENTS,
        limit => limit.min(EVENTS_MOST),
    };
    let filter = EventFilter { limit, ..message.filter };
    let answers = asker.ask_all(QueryEvents { filter: filter.clone() }).await;
    let mut shown = Shown::default();
    let mut newest: HashMap<weft_wire::NodeId, WallTime> = HashMap::new();
    let mut lists = Vec::new();
    let mut silent: Vec<(Member, AskError)> = Vec::new();
    for (member, answer) in answers {
        let list = match answer {
            Ok(list) => list,
            Err(error) => {
                silent.push((member, error));
                continue;
            }
        };
        if let Some(last) = list.iter().map(|event| event.time).max() {
            newest.insert(member.id, last);
        }
        // Also what the merge cuts off counts as shown: it is older than what is shown.
        for event in &list {
            shown.is_new(event.id);
        }
        lists.push(list);
    }
    for event in merge_events(lists, usize::try_from(limit).unwrap_or(usize::MAX)) {
        sink.send(EventItem::Event(Box::new(event))).await?;
    }
    for (member, error) in &silent {
        sink.send(EventItem::Missing(reply(member, error))).await?;
    }
    let mut silent: HashSet<weft_wire::NodeId> = silent.iter().map(|(m, _)| m.id).collect();
    if !message.follow {
        return Ok(());
    }
    let open = move |asker: Asker, member: Member, last: Option<WallTime>| {
        let since = last.or_else(|| newest.get(&member.id).copied()).or(filter.since);
        let filter = EventFilter { since, ..filter.clone() };
        async move { asker.subscribe(member.id, FollowEvents { filter }).await }
    };
    let mut feed = Feed::open(asker, open, |event: &Event| event.time);
    while let Some(from) = feed.next().await {
        match from {
            Brought::Item(member, event) => {
                silent.remove(&member.id);
                if shown.is_new(event.id) {
                    sink.send(EventItem::Event(Box::new(event))).await?;
                }
            }
            Brought::Silent(member, error) => {
                if silent.insert(member.id) {
                    sink.send(EventItem::Missing(reply(&member, &error))).await?;
                }
            }
        }
    }
    Ok(())
}

/// Serves `ClusterLogs`.
///
/// # Errors
/// `Ok(Err(_))`: refused; `Err(Closed)`: nobody listens any more.
pub(crate) async fn logs(
    asker: Asker,
    message: ClusterLogs,
    sink: &ItemSink<ClusterLogs>,
) -> Result<Result<(), AskError>, Closed> {
    let state = asker.state().await;
    if let Ok(state) = &state
        && let Err(refusal) = known(state, &message.target)
    {
        return Ok(Err(refusal));
    }
    let began = asker.clock.wall();
    let mut seen = Seen::default();
    let holds = |member: &Member| match &state {
        Ok(state) => wanted(state, Some(&message.target)).iter().any(|w| w.node == Some(member.id)),
        Err(_) => true,
    };
    let mut silent: HashSet<weft_wire::NodeId> = HashSet::new();
    if message.tail != Some(0) {
        let past = ReadLogs {
            target: message.target.clone(),
            replica: message.replica,
            tail: message.tail,
            since: message.since,
            follow: false,
        };
        let mut merge = Merge::open(&asker, &past).await;
        while let Some(next) = merge.next().await {
            match next {
                Brought::Item(member, line) => {
                    seen.note(&member, &line);
                    sink.send(LogRow::Line { node: member.name, line }).await?;
                }
                Brought::Silent(member, error) => {
                    silent.insert(member.id);
                    if holds(&member) {
                        sink.send(missing(&member, &error)).await?;
                    }
                }
            }
        }
    }
    if !message.follow {
        return Ok(Ok(()));
    }
    let again = began.minus(OVERLAP);
    let (target, replica) = (message.target.clone(), message.replica);
    let (asked, tail) = (message.since, message.tail);
    let open = move |asker: Asker, member: Member, last: Option<WallTime>| {
        // First only what comes (or the overlap with what was shown); after a break, from the
        // last line on.
        let (tail, since) = match (last, tail) {
            (Some(last), _) => (None, Some(last)),
            (None, Some(0)) => (Some(0), asked),
            (None, _) => (None, Some(asked.map_or(again, |asked| asked.max(again)))),
        };
        let read = ReadLogs { target: target.clone(), replica, tail, since, follow: true };
        async move { asker.subscribe(member.id, read).await }
    };
    seen.floor = Some(began);
    let mut feed = Feed::open(asker.clone(), open, |line: &LogLine| line.time);
    while let Some(from) = feed.next().await {
        match from {
            Brought::Item(member, line) => {
                silent.remove(&member.id);
                if seen.is_new(&member, &line) {
                    sink.send(LogRow::Line { node: member.name, line }).await?;
                }
            }
            Brought::Silent(member, error) => {
                seen.reopened(&member);
                if silent.insert(member.id) && holds(&member) {
                    sink.send(missing(&member, &error)).await?;
                }
            }
        }
    }
    Ok(Ok(()))
}

fn missing(member: &Member, error: &AskError) -> LogRow {
    LogRow::Missing(reply(member, error))
}

fn reply(member: &Member, error: &AskError) -> NodeReply {
    NodeReply { node: member.name.clone(), error: error.to_string() }
}

/// Ids of shown events, the newest so many.
#[derive(Debug, Default)]
struct Shown {
    ids: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Shown {
    fn is_new(&mut self, id: Uuid) -> bool {
        let new = self.ids.insert(id);
        if new {
            self.order.push_back(id);
            if self.order.len() > SHOWN
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
        new
    }
}

/// How far each component's log was shown. Lines carry no id: those of the last moment are
/// counted.
#[derive(Debug, Default)]
struct Seen {
    last: HashMap<(weft_wire::NodeId, ComponentKey), Mark>,
    /// Lines of components never shown count from here on.
    floor: Option<WallTime>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    time: WallTime,
    /// Lines of that moment that were shown.
    shown: u32,
    /// Of those, how many the stream has brought again.
    again: u32,
}

impl Seen {
    fn note(&mut self, member: &Member, line: &LogLine) {
        let key = (member.id, line.key.clone());
        match self.last.get_mut(&key) {
            Some(mark) if mark.time == line.time => mark.shown += 1,
            Some(mark) if mark.time > line.time => {}
            _ => {
                self.last.insert(key, Mark { time: line.time, shown: 1, again: 0 });
            }
        }
    }

    fn is_new(&mut self, member: &Member, line: &LogLine) -> bool {
        let key = (member.id, line.key.clone());
        match self.last.get_mut(&key) {
            None => {
                if self.floor.is_some_and(|floor| line.time < floor.minus(OVERLAP)) {
                    return false;
                }
            }
            Some(mark) if line.time < mark.time => {
                return false;
            }
            Some(mark) if line.time == mark.time && mark.again < mark.shown => {
                mark.again += 1;
                return false;
            }
            Some(_) => {}
        }
        self.note(member, line);
        if let Some(mark) = self.last.get_mut(&key) {
            // Lines of one moment come one after the other: this one is not brought again by the
            // same stream, only by the next.
            mark.again = mark.shown;
        }
        true
    }

    /// A stream was opened again: lines of the last moment will come again.
    fn reopened(&mut self, member: &Member) {
        for ((node, _), mark) in &mut self.last {
            if *node == member.id {
                mark.again = 0;
            }
        }
    }
}

/// Streams that end, merged by time; each is in order already. Holds one line of each.
struct Merge {
    heads: Vec<Head>,
    out: VecDeque<Brought<LogLine>>,
}

struct Head {
    member: Member,
    items: Items<LogLine>,
    line: Option<LogLine>,
}

impl Merge {
    async fn open(asker: &Asker, read: &ReadLogs) -> Self {
        let opened = futures_util::future::join_all(asker.members().into_iter().map(|member| {
            let read = read.clone();
            async move {
                let opened = asker.subscribe(member.id, read).await;
                (member, opened)
            }
        }))
        .await;
        let mut merge = Self { heads: Vec::new(), out: VecDeque::new() };
        let mut heads = Vec::new();
        for (member, opened) in opened {
            match opened {
                Ok(items) => heads.push(Head { member, items, line: None }),
                Err(error) => merge.out.push_back(Brought::Silent(member, error)),
            }
        }
        let filled = futures_util::future::join_all(heads.into_iter().map(fill)).await;
        for filled in filled {
            merge.keep(filled);
        }
        merge
    }

    fn keep(&mut self, filled: Result<Option<Head>, (Member, AskError)>) {
        match filled {
            Ok(Some(head)) => self.heads.push(head),
            Ok(None) => {}
            Err((member, error)) => self.out.push_back(Brought::Silent(member, error)),
        }
    }

    async fn next(&mut self) -> Option<Brought<LogLine>> {
        if let Some(from) = self.out.pop_front() {
            return Some(from);
        }
        let oldest = self
            .heads
            .iter()
            .enumerate()
            .min_by_key(|(_, head)| {
                (head.line.as_ref().map(|line| line.time), head.member.name.clone())
            })
            .map(|(at, _)| at)?;
        let mut head = self.heads.swap_remove(oldest);
        let member = head.member.clone();
        let line = head.line.take()?;
        let filled = fill(head).await;
        self.keep(filled);
        Some(Brought::Item(member, line))
    }
}

/// The next line of a stream; `None`: it has ended.
async fn fill(mut head: Head) -> Result<Option<Head>, (Member, AskError)> {
    match tokio::time::timeout(NODE_TIMEOUT, head.items.next()).await {
        Ok(Some(Ok(line))) => {
            head.line = Some(line);
            Ok(Some(head))
        }
        Ok(Some(Err(error))) => Err((head.member, error)),
        Ok(None) => Ok(None),
        Err(_) => Err((head.member, AskError::Timeout)),
    }
}

/// One stream of all nodes' streams, for as long as it is read.
struct Feed<T> {
    receiver: mpsc::Receiver<Brought<T>>,
    /// Ends them all when dropped.
    _tasks: JoinSet<()>,
}

impl<T: Send + 'static> Feed<T> {
    fn open<O, F>(asker: Asker, open: O, time: fn(&T) -> WallTime) -> Self
    where
        O: Fn(Asker, Member, Option<WallTime>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Items<T>, AskError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut nodes: HashMap<weft_wire::NodeId, tokio::task::AbortHandle> = HashMap::new();
            let mut followers = JoinSet::new();
            loop {
                let members = asker.members();
                nodes.retain(|id, task| {
                    let stays = members.iter().any(|member| member.id == *id);
                    if !stays {
                        task.abort();
                    }
                    stays
                });
                for member in members {
                    if !nodes.contains_key(&member.id) {
                        let id = member.id;
                        let follower =
                            follow(asker.clone(), member, open.clone(), time, sender.clone());
                        nodes.insert(id, followers.spawn(follower));
                    }
                }
                while followers.try_join_next().is_some() {}
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { receiver, _tasks: tasks }
    }

    async fn next(&mut self) -> Option<Brought<T>> {
        self.receiver.recv().await
    }
}

async fn follow<T, O, F>(
    asker: Asker,
    member: Member,
    open: O,
    time: fn(&T) -> WallTime,
    sender: mpsc::Sender<Brought<T>>,
) where
    T: Send + 'static,
    O: Fn(Asker, Member, Option<WallTime>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Items<T>, AskError>> + Send + 'static,
{
    let mut last: Option<WallTime> = None;
    let mut attempt = 0;
    loop {
        let error = match open(asker.clone(), member.clone(), last).await {
            Ok(mut items) => loop {
                match items.next().await {
                    Some(Ok(item)) => {
                        attempt = 0;
                        last = last.max(Some(time(&item)));
                        if sender.send(Brought::Item(member.clone(), item)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => break error,
                    None => break AskError::Unreachable("its stream ended".into()),
                }
            },
            Err(error) => error,
        };
        if sender.send(Brought::Silent(member.clone(), error)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY.delay(attempt, 0.5)).await;
        attempt = attempt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
