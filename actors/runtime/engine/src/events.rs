//! The engine's events: what triggers a look. They are hints, never the truth; after a gap the
//! answer is to look at everything.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use weft_wire::{Backoff, Clock, SystemClock, WallTime};

use crate::engine::{Engine, LOOK, limited};
use crate::error::{Error, chain};
use crate::raw::{Ask, encode};

/// Asked again for so much before the newest event seen: engines write events out of order by a
/// little, and count in seconds.
const OVERLAP: Duration = Duration::from_secs(3);
/// Of those in the overlap so many are remembered.
const REMEMBERED: usize = 16_384;
/// Notices that nobody has taken; then the engine waits.
const QUEUE: usize = 256;
/// One event is no longer.
const LINE_MOST: usize = 1024 * 1024;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(50), max: Duration::from_secs(2), jitter: 0.0 };

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Happened {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended, with that exit code if the engine tells.
    Died(Option<i64>),
    /// The kernel killed something in it for want of memory.
    OutOfMemory,
    /// It was stopped on request; its end is told apart.
    Stopped,
    /// It was sent a signal.
    Killed,
    /// It was frozen.
    Paused,
    /// It goes on.
    Unpaused,
    /// It is gone.
    Removed,
    /// It has another name.
    Renamed,
    /// Something else, in the engine's word; commands that were run in it are not told.
    Other(String),
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Nanoseconds since the epoch, by the engine.
    pub nanos: i64,
    /// The container's id.
    pub id: String,
    /// The container's name then.
    pub name: String,
    /// What happened.
    pub what: Happened,
}

impl Fact {
    /// When.
    pub fn at(&self) -> WallTime {
        WallTime::from_micros(self.nanos.div_euclid(1000))
    }

    /// From the engine's line; `None`: it is not about a container, or of no interest.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let event: Event = serde_json::from_slice(line).ok()?;
        if event.kind.as_deref() != Some("container") {
            return None;
        }
        let actor = event.actor.unwrap_or_default();
        let attributes = actor.attributes.unwrap_or_default();
        let code = || {
            let of = |name: &str| attributes.get(name)?.parse().ok();
            of("exitCode").or_else(|| of("containerExitCode"))
        };
        let action = event.action?;
        let what = match action.as_str() {
            "create" => Happened::Created,
            "start" => Happened::Started,
            "die" | "died" => Happened::Died(code()),
            "oom" => Happened::OutOfMemory,
            "stop" => Happened::Stopped,
            "kill" => Happened::Killed,
            "pause" => Happened::Paused,
            "unpause" => Happened::Unpaused,
            "destroy" | "remove" => Happened::Removed,
            "rename" => Happened::Renamed,
            // Probes would flood it.
            exec if exec.starts_with("exec") => return None,
            "cleanup" | "init" | "attach" | "top" | "resize" => return None,
            _ => Happened::Other(action),
        };
        Some(Self {
            nanos: event.time_nano.or(event.time.map(|s| s.saturating_mul(1_000_000_000)))?,
            id: actor.id?,
            name: attributes.get("name").cloned().unwrap_or_default(),
            what,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Action")]
    action: Option<String>,
    #[serde(rename = "Actor")]
    actor: Option<EventActor>,
    time: Option<i64>,
    #[serde(rename = "timeNano")]
    time_nano: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventActor {
    #[serde(rename = "ID")]
    id: Option<String>,
    #[serde(rename = "Attributes")]
    attributes: Option<BTreeMap<String, String>>,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Look at all containers: the watch begins, or there was a gap. Nothing that happens after
    /// this notice goes untold.
    LookAtEverything,
    /// Something happened.
    Fact(Fact),
    /// The engine has gone away; the watch tries to get it back, and says
    /// [`Notice::LookAtEverything`] when it has.
    Lost(String),
}

/// A watch of an engine's events, over as many connections as it takes.
#[derive(Debug)]
pub struct Watch {
    notices: mpsc::Receiver<Notice>,
    task: AbortHandle,
}

impl Watch {
    /// The next notice. `None` only when the runtime ends. Cancel-safe.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Engine {
    /// Watches containers that bear all of these labels (`name` or `name=value`); none: all.
    pub fn watch(&self, labels: Vec<String>) -> Watch {
        let (sender, notices) = mpsc::channel(QUEUE);
        let task = tokio::spawn(watch(self.clone(), labels, sender)).abort_handle();
        Watch { notices, task }
    }
}

async fn watch(engine: Engine, labels: Vec<String>, notices: mpsc::Sender<Notice>) {
    let mut seen = Seen::default();
    let mut attempt = 0u32;
    let mut told = false;
    loop {
        // Read before the connection is made: what happens from here on is told by it.
        let since = seen.since(SystemClock.wall());
        match follow(&engine, &labels, since, &mut seen, &notices, &mut attempt, &mut told).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "the engine's events broke off");
                if !std::mem::replace(&mut told, true) {
                    let lost = Notice::Lost(error.to_string());
                    if notices.send(lost).await.is_err() {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(BACKOFF.delay(attempt, 0.5)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// One connection. `Ok`: nobody listens any more.
async fn follow(
    engine: &Engine,
    labels: &[String],
    since: i64,
    seen: &mut Seen,
    notices: &mpsc::Sender<Notice>,
    attempt: &mut u32,
    told: &mut bool,
) -> Result<(), Error> {
    let what = "follow the engine's events";
    let container = ["container".to_owned()];
    let mut filters = BTreeMap::from([("type", container.as_slice())]);
    if !labels.is_empty() {
        filters.insert("label", labels);
    }
    let filters = serde_json::to_string(&filters).unwrap_or_default();
    let query = format!("/events?since={since}&filters={}", encode(&filters));
    let ask = Ask::get(engine.socket(), what, engine.path(&query));
    // An engine may send the head of its answer only with the first event. So it is enough that it
    // answers at all: what is asked for reaches back to before that.
    limited(what, LOOK, engine.ping()).await?;
    *attempt = 0;
    *told = false;
    if notices.send(Notice::LookAtEverything).await.is_err() {
        return Ok(());
    }
    let mut response = tokio::select! {
        response = ask.send() => response?,
        () = notices.closed() => return Ok(()),
    };
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = response.body_mut().frame() => frame,
            () = notices.closed() => return Ok(()),
        };
        match frame {
            None => return Err(engine.hung_up("its events ended")),
            Some(Err(error)) => return Err(engine.hung_up(chain(&error))),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    buffer.extend_from_slice(data);
                }
            }
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let Some(fact) = Fact::read(&line) else { continue };
            if seen.is_new(&fact) && notices.send(Notice::Fact(fact)).await.is_err() {
                return Ok(());
            }
        }
        // An engine that separates events by nothing.
        if let Some(fact) = Fact::read(&buffer) {
            buffer.clear();
            if seen.is_new(&fact) && notices.send(Notice::Fact(fact)).await.is_err() {
                return Ok(());
            }
        }
        if buffer.len() > LINE_MOST {
            return Err(Error::Answer {
                what: what.to_owned(),
                message: format!("an event of more than {LINE_MOST} bytes"),
            });
        }
    }
}

/// Which events were told, so that what is asked for again is told once.
#[derive(Debug, Default)]
struct Seen {
    newest: Option<i64>,
    order: VecDeque<Fact>,
    told: HashSet<Fact>,
}

impl Seen {
    /// Seconds since the epoch from which to ask. Before the first event: from now.
    fn since(&mut self, now: WallTime) -> i64 {
        let newest = *self.newest.get_or_insert(now.as_micros().saturating_mul(1000));
        newest.saturating_sub(nanos(OVERLAP)).div_euclid(1_000_000_000)
    }

    fn is_new(&mut self, fact: &Fact) -> bool {
        if !self.told.insert(fact.clone()) {
            return false;
        }
        self.newest = self.newest.max(Some(fact.nanos));
        self.order.push_back(fact.clone());
        // What is older than anything that will be asked for is forgotten, a second apart.
        let keep = self.newest.unwrap_or(0).saturating_sub(nanos(OVERLAP) + 1_000_000_000);
        while self
            .order
            .front()
            .is_some_and(|oldest| oldest.nanos < keep || self.order.len() > REMEMBERED)
        {
            if let Some(oldest) = self.order.pop_front() {
                self.told.remove(&oldest);
            }
        }
        true
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_of_both_engines_are_read() {
        let podman = br#"{"status":"die","id":"9a","from":"x","Type":"container","Action":"die","Actor":{"ID":"9a","Attributes":{"containerExitCode":"137","exitCode":"137","image":"x","name":"b","podId":""}},"scope":"local","time":1795249673,"timeNano":1795249673579396493}"#;
        let fact = Fact::read(podman).unwrap();
        assert_eq!(fact.what, Happened::Died(Some(137)));
        assert_eq!((fact.id.as_str(), fact.name.as_str()), ("9a", "b"));
        assert_eq!(fact.at().as_micros(), 1_795_249_673_579_396);
        let read = |kind: &str, action: &str| {
            let line = serde_json::json!({
                "Type": kind, "Action": action, "Actor": {"ID": "1", "Attributes": null}, "time": 5,
            });
            Fact::read(line.to_string().as_bytes()).map(|fact| fact.what)
        };
        assert_eq!(read("container", "destroy"), Some(Happened::Removed));
        assert_eq!(read("container", "remove"), Some(Happened::Removed));
        assert_eq!(read("container", "oom"), Some(Happened::OutOfMemory));
        assert_eq!(read("container", "die"), Some(Happened::Died(None)));
        assert_eq!(read("container", "new"), Some(Happened::Other("new".into())));
        assert_eq!(read("container", "exec_start: sh -c x"), None);
        assert_eq!(read("image", "pull"), None);
        assert_eq!(Fact::read(b"nonsense"), None);
    }

    fn fact(nanos: i64, id: u8) -> Fact {
        Fact { nanos, id: id.to_string(), name: String::new(), what: Happened::Started }
    }

    proptest! {
        /// Events happen; connections break at any point, and each new one tells again from the
        /// second asked for. What happened after the watch began is told exactly once.
        #[test]
        fn every_event_is_told_once_over_any_number_of_connections(
            steps in proptest::collection::vec((0i64..2_000_000_000, 0u8..4), 1..60),
            breaks in proptest::collection::vec(0usize..12, 1..12),
        ) {
            let begin = 1_000_000_000_000;
            let mut at = begin;
            let mut events = Vec::new();
            for (step, id) in steps {
                at += step;
                let event = fact(at, id);
                if events.last() != Some(&event) {
                    events.push(event);
                }
            }
            let mut seen = Seen::default();
            let mut told = Vec::new();
            let breaks = breaks.into_iter().chain(std::iter::once(usize::MAX));
            let mut reached = 0usize;
            for length in breaks {
                let since = seen.since(WallTime::from_micros(begin / 1000));
                let again = events.iter().filter(|event| event.nanos / 1_000_000_000 >= since);
                // Each connection gets `length` events further than the last.
                reached = reached.saturating_add(length).min(events.len());
                for event in again.filter(|e| events.iter().position(|x| x == *e) < Some(reached)) {
                    if seen.is_new(event) {
                        told.push(event.clone());
                    }
                }
            }
            prop_assert_eq!(told, events);
        }
    }
}
