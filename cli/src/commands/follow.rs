//! A stream that is followed (`-f`): when it breaks off, that is said and it goes on over the next
//! node that answers, after the last item that was shown.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use uuid::Uuid;
use weft_protocol::{ClusterNodes, ComponentKey, LogLine, NodeRow, NodeState};
use weft_wire::{ActorKind, Address, Backoff, Clock, Subscription, SystemClock, WallTime};

use super::App;
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};

/// How long attaching again is tried, unless `--timeout` says otherwise.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two tries.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(200), max: Duration::from_secs(3), jitter: 0.0 };
/// How often the attached node is asked whether it still is a node that sees the others.
const PULSE: Duration = Duration::from_secs(10);
/// How far back is asked again after a break: nodes' clocks differ, and so do their ways here.
const OVERLAP: Duration = Duration::from_secs(60);
/// Ids of shown events that are remembered.
const REMEMBERED: usize = 20_000;

/// A stream and what was shown of it.
pub(crate) trait Shown {
    /// What is asked for.
    type Wanted: Subscription;

    /// The question: the first time, or after a break for what has not been shown yet.
    fn wanted(&mut self, again: bool) -> Self::Wanted;

    /// Prints an item, unless it was printed before.
    ///
    /// # Errors
    /// When nobody reads any more.
    fn show(&mut self, item: <Self::Wanted as Subscription>::Item) -> Result<()>;

    /// Whether the stream itself says which nodes are missing.
    const NAMES_MISSING: bool;
}

/// Shows a stream until it ends; one that is followed, for as long as some node can be attached to.
///
/// # Errors
/// What the node refuses; exit 5 or 7 when a stream that broke off cannot be taken up again.
pub(crate) async fn run<S: Shown>(
    app: &App,
    mut attached: Attached,
    follow: bool,
    shown: &mut S,
) -> Result<()> {
    let mut again = false;
    loop {
        let broke = match stretch(app, &attached, follow, again, shown).await {
            Ok(()) if !follow => return Ok(()),
            Ok(()) => CliError::new(Exit::NoNode, "ended", "the node ended it"),
            Err(error) if follow && may_pass(&error) => error,
            Err(error) => return Err(error),
        };
        let why = if broke.failure.cause.is_empty() {
            &broke.failure.message
        } else {
            &broke.failure.cause
        };
        app.output.notice(clean(&format!(
            "the stream from {} ended: {why}; attaching again",
            attached.node()
        )));
        attached = attach_again(app).await?;
        app.output.notice(clean(&format!(
            "attached to {}; going on after what was shown last",
            attached.node()
        )));
        again = true;
    }
}

/// From one attachment to its end.
async fn stretch<S: Shown>(
    app: &App,
    attached: &Attached,
    follow: bool,
    again: bool,
    shown: &mut S,
) -> Result<()> {
    let gateway = Address::here(ActorKind::Gateway);
    let mut items = attached.subscribe(gateway, shown.wanted(again), app.question()).await?;
    let watch = async {
        if follow {
            watch(app, attached, S::NAMES_MISSING).await
        } else {
            std::future::pending().await
        }
    };
    tokio::pin!(watch);
    loop {
        let item = tokio::select! {
            item = attached.next(&mut items, !follow, app.question()) => item?,
            lost = &mut watch => return Err(lost),
        };
        match item {
            Some(item) => shown.show(item)?,
            None => return Ok(()),
        }
    }
}

/// Whether another attachment may mend it.
pub(super) fn may_pass(error: &CliError) -> bool {
    matches!(error.exit, Exit::NoNode | Exit::Timeout) || error.code == "overloaded"
}

pub(super) async fn attach_again(app: &App) -> Result<Attached> {
    let end = SystemClock.now() + app.global.timeout.unwrap_or(AGAIN);
    for attempt in 0u32.. {
        match app.attach().await {
            Ok(attached) => return Ok(attached),
            Err(error) if !may_pass(&error) => return Err(error),
            Err(error) => {
                let delay = RETRY.delay(attempt, 0.5);
                if SystemClock.now() + delay >= end {
                    return Err(error);
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
    Err(CliError::timeout("no node could be attached to again"))
}

/// Resolves when the attached node is no source any more although its connection stands: it does
/// not answer, or is not of the cluster. Says when another one cannot be seen through it.
async fn watch(app: &App, attached: &Attached, names_missing: bool) -> CliError {
    let mut silent = BTreeSet::new();
    loop {
        tokio::time::sleep(PULSE).await;
        let gateway = Address::here(ActorKind::Gateway);
        match attached.ask(gateway, ClusterNodes {}, app.question()).await {
            Ok(rows) => {
                if is_out(&rows, attached.node()) {
                    let text = format!("{} is not a node of the cluster any more", attached.node());
                    return CliError::new(Exit::NoNode, "unreachable", text);
                }
                if !names_missing {
                    for line in changes(&mut silent, &rows) {
                        app.output.notice(clean(&line));
                    }
                }
            }
            Err(error) if may_pass(&error) => return error,
            // What cannot be asked cannot be watched; the stream itself still may go on.
            Err(_) => return std::future::pending().await,
        }
    }
}

fn is_out(rows: &[NodeRow], name: &str) -> bool {
    rows.iter().any(|row| row.name == name && row.state == NodeState::Left)
}

/// Lines about nodes that have fallen silent or are back.
fn changes(silent: &mut BTreeSet<String>, rows: &[NodeRow]) -> Vec<String> {
    let now: BTreeSet<String> = rows
        .iter()
        .filter(|row| {
            matches!(row.state, NodeState::Suspect | NodeState::DaemonDown | NodeState::Lost)
        })
        .map(|row| row.name.clone())
        .collect();
    let mut lines: Vec<String> = now
        .difference(silent)
        .map(|name| format!("node {name} does not answer: what happens there is missing here"))
        .collect();
    lines.extend(silent.difference(&now).map(|name| format!("node {name} answers again")));
    *silent = now;
    lines
}

/// Which events were shown.
#[derive(Debug, Default)]
pub(crate) struct ShownEvents {
    ids: HashSet<Uuid>,
    order: VecDeque<Uuid>,
    first: Option<WallTime>,
    last: Option<WallTime>,
}

impl ShownEvents {
    /// Takes note; whether it is new. `again`: the stream broke off before.
    pub(crate) fn is_new(&mut self, id: Uuid, time: WallTime, again: bool) -> bool {
        // What was there and is older than the first was left out on purpose (`--tail`).
        if (again && self.first.is_some_and(|first| time < first)) || !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.first = self.first.or(Some(time));
        self.last = self.last.max(Some(time));
        true
    }

    /// From when on to ask after a break; `None`: nothing was shown.
    pub(crate) fn since(&self) -> Option<WallTime> {
        self.last.map(|last| last.minus(OVERLAP).max(self.first.unwrap_or(last)))
    }
}

/// How far each component's log was shown. Lines carry no id: those of one moment are counted.
#[derive(Debug)]
pub(crate) struct ShownLines {
    marks: HashMap<(String, ComponentKey), Mark>,
    last: Option<WallTime>,
    /// Lines of components of which nothing was shown count from here on.
    began: WallTime,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    time: WallTime,
    /// Lines of that moment that were shown.
    shown: u32,
    /// Of those, how many are still to come again.
    due: u32,
}

impl ShownLines {
    pub(crate) fn new(began: WallTime) -> Self {
        Self { marks: HashMap::new(), last: None, began }
    }

    /// Takes note of a line; whether it is to be shown. `again`: the stream broke off before, so
    /// that lines may come twice.
    pub(crate) fn is_new(&mut self, node: &str, line: &LogLine, again: bool) -> bool {
        let key = (node.to_owned(), line.key.clone());
        let shown = match self.marks.get_mut(&key) {
            None if again && line.time < self.began => return false,
            Some(mark) if again && line.time < mark.time => return false,
            Some(mark) if again && line.time == mark.time && mark.due > 0 => {
                mark.due -= 1;
                return false;
            }
            Some(mark) if mark.time == line.time => mark.shown + 1,
            _ => 1,
        };
        self.marks.insert(key, Mark { time: line.time, shown, due: 0 });
        self.last = self.last.max(Some(line.time));
        true
    }

    /// A new stretch begins: the lines of each last moment will come again.
    pub(crate) fn reopened(&mut self) {
        for mark in self.marks.values_mut() {
            mark.due = mark.shown;
        }
    }

    /// From when on to ask after a break.
    pub(crate) fn since(&self) -> WallTime {
        self.last.unwrap_or(self.began).minus(OVERLAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{LogStream, NodeRole};
    use weft_wire::NodeId;

    const fn at(seconds: i64) -> WallTime {
        WallTime::from_micros(seconds * 1_000_000)
    }

    fn line(replica: u32, seconds: i64, text: &str) -> LogLine {
        LogLine {
            key: ComponentKey { service: "web".into(), replica, component: "api".into() },
            time: at(seconds),
            stream: LogStream::Stdout,
            text: text.into(),
        }
    }

    fn node(name: &str, state: NodeState) -> NodeRow {
        NodeRow {
            name: name.into(),
            id: NodeId::new(Uuid::nil()),
            state,
            role: NodeRole::Learner,
            address: String::new(),
            version: String::new(),
            zone: String::new(),
            last_seen_ms: None,
            rtt_us: None,
            components: 0,
            reason: String::new(),
        }
    }

    #[test]
    fn after_a_break_each_event_is_shown_once_and_what_was_left_out_stays_out() {
        let mut shown = ShownEvents::default();
        assert_eq!(shown.since(), None);
        let id = Uuid::from_u128;
        assert!(shown.is_new(id(1), at(100), false) && shown.is_new(id(2), at(500), false));
        assert_eq!(shown.since(), Some(at(440)));
        // Again what was there, something older that `--tail` had left out, something late, and
        // something new.
        assert!(!shown.is_new(id(2), at(500), true));
        assert!(!shown.is_new(id(9), at(99), true));
        assert!(shown.is_new(id(3), at(480), true) && shown.is_new(id(4), at(501), true));
        assert_eq!(shown.since(), Some(at(441)));
    }

    #[test]
    fn after_a_break_each_line_is_shown_once_also_of_one_moment() {
        let mut shown = ShownLines::new(at(90));
        for (replica, text) in [(1, "a"), (1, "b"), (2, "c")] {
            assert!(shown.is_new("n1", &line(replica, 100, text), false));
        }
        assert_eq!(shown.since(), at(40));
        shown.reopened();
        // The same three, then a third line of that moment and a later one.
        for (replica, text) in [(1, "a"), (1, "b"), (2, "c")] {
            assert!(!shown.is_new("n1", &line(replica, 100, text), true), "{text}");
        }
        assert!(shown.is_new("n1", &line(1, 100, "d"), true));
        assert!(shown.is_new("n1", &line(1, 101, "e"), true));
        assert!(!shown.is_new("n1", &line(1, 99, "old"), true));
        // Never shown before: from the command's beginning on.
        assert!(!shown.is_new("n3", &line(3, 89, "f"), true));
        assert!(shown.is_new("n3", &line(3, 91, "g"), true));
    }

    #[test]
    fn a_node_that_falls_silent_is_named_once_and_so_is_its_return() {
        let mut silent = BTreeSet::new();
        let rows = |state| [node("n1", NodeState::Ready), node("n2", state)];
        assert!(changes(&mut silent, &rows(NodeState::Ready)).is_empty());
        let lines = changes(&mut silent, &rows(NodeState::Lost));
        assert!(matches!(lines.as_slice(), [line] if line.contains("n2 does not answer")));
        assert!(changes(&mut silent, &rows(NodeState::Suspect)).is_empty());
        let lines = changes(&mut silent, &rows(NodeState::Ready));
        assert_eq!(lines, ["node n2 answers again"]);
        assert!(is_out(&rows(NodeState::Left), "n2") && !is_out(&rows(NodeState::Left), "n1"));
    }

    #[test]
    fn a_refusal_ends_the_stream_and_a_broken_connection_does_not() {
        let error = |exit, code| CliError::new(exit, code, "x");
        assert!(may_pass(&error(Exit::NoNode, "unreachable")));
        assert!(may_pass(&error(Exit::Timeout, "timeout")));
        assert!(may_pass(&error(Exit::Failed, "overloaded")));
        assert!(!may_pass(&error(Exit::NotAllowed, "denied")));
        assert!(!may_pass(&error(Exit::Failed, "not-found")));
        assert!(!may_pass(&error(Exit::Unauthenticated, "unauthenticated")));
    }
}
