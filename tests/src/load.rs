//! An oracle of sessions: drives them while a test does harm, keeps every acknowledged message, and
//! afterwards compares with the histories that every node has.
//!
//! A sender sends the envelopes of a session one after the other, each first to another node. One
//! of which nothing is known is sent again, the same one, to the next node, until it is
//! acknowledged: a history must then be exactly what was acknowledged, in that order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;
use uuid::Uuid;
use weft_wire::{Clock, SystemClock};

use crate::DEADLINE;
use crate::macp::{Agent, Clients, Envelope, Follower};
use crate::nodes::NetCluster;

/// Senders in the tests' file of tokens.
const SENDERS: usize = 8;
/// Messages of a session, from its start to its commitment.
pub const MESSAGES: usize = 10;
/// A message under way when the load is stopped has this long to be acknowledged.
const SETTLE: Duration = Duration::from_secs(60);
/// Bytes of a message that says something.
const SAID: usize = 64;
/// Histories that are read at once.
const READS: usize = 16;
/// Between two looks at a history that is not whole yet.
const LOOK: Duration = Duration::from_millis(50);

/// Sends until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
    /// Sessions that stay open, and get messages as long as the load lasts.
    pub open: Vec<String>,
}

/// What was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Message ids by session, in the order in which they were sent.
    pub sessions: BTreeMap<String, Vec<String>>,
    /// When, in no strict order.
    times: Vec<Instant>,
    /// Attempts of which nothing was known, by reason.
    pub again: BTreeMap<String, u64>,
    /// What no client may be told, such as a refusal of what is in order.
    pub wrong: Vec<String>,
}

impl Load {
    /// So many `workers` with one whole session after the other, and `open` sessions that go on and
    /// on, over `nodes`.
    pub fn start(clients: &Clients, nodes: &[usize], workers: usize, open: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let book = Arc::new(Mutex::new(Book::default()));
        let open: Vec<String> = (0..open).map(|_| Uuid::new_v4().to_string()).collect();
        let lane = |at: usize| Lane {
            agent: clients.sender(at % SENDERS),
            nodes: nodes.to_vec(),
            at,
            stop: stop.clone(),
            book: book.clone(),
        };
        let mut tasks = Vec::new();
        for at in 0..workers {
            tasks.push(clients.spawn(lane(at).sessions()));
        }
        for (at, session) in open.iter().enumerate() {
            tasks.push(clients.spawn(lane(at).one(session.clone())));
        }
        Self { stop, book, tasks, open }
    }

    /// How many messages were acknowledged so far.
    ///
    /// # Panics
    /// If a sender did.
    pub fn acknowledged(&self) -> usize {
        self.book.lock().expect("no sender panicked").times.len()
    }

    /// Waits until so many more messages are acknowledged.
    ///
    /// # Panics
    /// If they are not within [`DEADLINE`], with what the senders were told.
    #[track_caller]
    pub fn goes_on(&self, cluster: &NetCluster, more: usize) {
        let target = self.acknowledged() + more;
        let start = SystemClock.now();
        while self.acknowledged() < target {
            if start.elapsed() > DEADLINE {
                let book = self.book.lock().expect("no sender panicked").clone();
                let states: Vec<_> = (0..cluster.len()).map(|node| cluster.status(node)).collect();
                panic!("nothing is acknowledged: {:?} {:?} {states:#?}", book.again, book.wrong);
            }
            // The pause between two looks.
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until the sessions that stay open have begun.
    ///
    /// # Panics
    /// If they have not within [`DEADLINE`].
    #[track_caller]
    pub fn began(&self, cluster: &NetCluster) {
        cluster.wait_until("the open sessions have begun", DEADLINE, |_| {
            let book = self.book.lock().expect("no sender panicked");
            self.open.iter().all(|id| book.sessions.contains_key(id)).then_some(())
        });
    }

    /// Ends it, after the messages under way; what was acknowledged.
    ///
    /// # Panics
    /// If a sender did.
    pub fn stop(mut self, clients: &Clients) -> Book {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            clients.join(task);
        }
        let book = self.book.lock().expect("no sender panicked");
        book.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One sender's task.
struct Lane {
    agent: Agent,
    nodes: Vec<usize>,
    at: usize,
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
}

impl Lane {
    async fn sessions(self) {
        let mut turn = self.at;
        while !self.stopped() {
            let session = Uuid::new_v4().to_string();
            for number in 0..MESSAGES {
                turn += 1;
                if !self.takes(turn, &self.message(&session, number)).await {
                    break;
                }
            }
        }
    }

    /// A session is sent to its end also when the load is stopped.
    fn message(&self, session: &str, number: usize) -> Envelope {
        match number {
            0 => self.agent.start(session),
            1 => self.agent.proposal(session, SAID),
            8 => self.agent.vote(session),
            9 => self.agent.commitment(session),
            _ => self.agent.evaluation(session, SAID),
        }
    }

    async fn one(self, session: String) {
        for number in 0.. {
            let envelope = match number {
                0 | 1 => self.message(&session, number),
                _ => self.agent.evaluation(&session, SAID),
            };
            if !self.takes(self.at + number, &envelope).await || self.stopped() {
                return;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether it was acknowledged, which is noted.
    async fn takes(&self, first: usize, envelope: &Envelope) -> bool {
        let mut end = None;
        let go_on = |why: &str| {
            let mut book = self.book.lock().expect("no sender panicked");
            *book.again.entry(why.to_owned()).or_default() += 1;
            if !self.stopped() {
                return true;
            }
            SystemClock.now() < *end.get_or_insert_with(|| SystemClock.now() + SETTLE)
        };
        let done = self.agent.deliver(&self.nodes, first, envelope, go_on).await;
        let mut book = self.book.lock().expect("no sender panicked");
        let ok = done.is_ok();
        match done {
            Ok(()) => {
                let ids = book.sessions.entry(envelope.session_id.clone()).or_default();
                ids.push(envelope.message_id.clone());
                book.times.push(SystemClock.now());
            }
            Err(why) => book.wrong.push(format!("{}: {why}", envelope.session_id)),
        }
        ok
    }
}

impl Book {
    /// How many messages were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.times.len()
    }

    /// The longest time between two acknowledgements.
    pub fn longest_silence(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let gaps = times.windows(2).filter_map(|pair| Some(*pair.last()? - *pair.first()?));
        gaps.max().unwrap_or_default()
    }

    /// Takes another's sessions.
    pub fn add(&mut self, other: Self) {
        self.sessions.extend(other.sessions);
        self.times.extend(other.times);
        self.wrong.extend(other.wrong);
        for (why, count) in other.again {
            *self.again.entry(why).or_default() += count;
        }
    }

    /// Compares with the histories that each of `nodes` has, once it has had time to catch up.
    pub fn compared(&self, clients: &Clients, nodes: &[usize]) -> Compared {
        let give_up = SystemClock.now() + 2 * DEADLINE;
        let mut found = Compared {
            nodes: nodes.len(),
            sessions: self.sessions.len(),
            acknowledged: self.acknowledged(),
            silence: self.longest_silence(),
            wrong: self.wrong.clone(),
            ..Compared::default()
        };
        let mut first: Option<BTreeMap<String, Vec<Envelope>>> = None;
        for &node in nodes {
            let observer = clients.observer();
            let sessions = self.sessions.clone();
            let read = clients.run(async move {
                let reads = sessions.into_iter().map(|(session, ids)| {
                    let observer = observer.clone();
                    async move {
                        let there = whole(&observer, node, &session, ids.len(), give_up).await;
                        (session, there)
                    }
                });
                stream::iter(reads).buffer_unordered(READS).collect::<Vec<_>>().await
            });
            let mut histories = BTreeMap::new();
            for (session, there) in read {
                match there {
                    Ok(there) => {
                        self.look(node, &session, &there, &mut found);
                        histories.insert(session, there);
                    }
                    Err(why) => {
                        found.lost += self.sessions.get(&session).map_or(0, Vec::len);
                        found.wrong.push(format!("node {node}: {session} cannot be read: {why}"));
                    }
                }
            }
            match &first {
                None => first = Some(histories),
                Some(first) => {
                    let other = |(id, there): (&String, &Vec<Envelope>)| {
                        first.get(id).is_some_and(|known| known != there).then(|| id.clone())
                    };
                    let differ: Vec<String> = histories.iter().filter_map(other).collect();
                    if !differ.is_empty() {
                        found.wrong.push(format!("node {node} has other histories: {differ:?}"));
                    }
                }
            }
        }
        found
    }

    fn look(&self, node: usize, session: &str, there: &[Envelope], found: &mut Compared) {
        let Some(ids) = self.sessions.get(session) else { return };
        let there: Vec<&String> = there.iter().map(|envelope| &envelope.message_id).collect();
        let unique: BTreeSet<&String> = there.iter().copied().collect();
        let lost = ids.iter().filter(|id| !unique.contains(id)).count();
        found.lost += lost;
        found.duplicated += there.len() - unique.len();
        // One may be there that was never acknowledged: the last, if its sender gave up.
        let known = there.get(..ids.len()).unwrap_or(&there);
        let more = there.len().saturating_sub(ids.len());
        let gave_up = self.wrong.iter().any(|why| why.starts_with(session));
        if lost > 0 || !known.iter().copied().eq(ids) || more > usize::from(gave_up) {
            found.wrong.push(format!(
                "node {node}: {session} has {} of {} acknowledged messages, {} in all: {there:?} \
                 instead of {ids:?}",
                ids.len() - lost,
                ids.len(),
                there.len(),
            ));
        }
    }

    /// Asserts that followers have what was acknowledged of their sessions, each once and in order.
    ///
    /// # Panics
    /// If one has not within [`DEADLINE`], or has anything else.
    #[track_caller]
    pub fn assert_followed(&self, cluster: &NetCluster, followers: &[Follower]) {
        for follower in followers {
            let ids = self.sessions.get(&follower.session).expect("a session of this load");
            cluster.wait_until(&format!("{} is whole", follower.session), DEADLINE, |_| {
                let got = follower.got();
                assert!(got.wrong.is_empty(), "{:?}", got.wrong);
                (got.ids.len() >= ids.len()).then_some(())
            });
            let got = follower.got();
            let differs = got.ids.iter().zip(ids).position(|(got, id)| got != id);
            assert_eq!(differs, None, "{} of {}", follower.session, ids.len());
            assert_eq!(got.ids.len(), ids.len(), "{}: {:?}", follower.session, got.breaks);
        }
    }
}

/// A history once it has so many envelopes, or at the end of the time whatever there is.
async fn whole(
    observer: &Agent,
    node: usize,
    session: &str,
    messages: usize,
    give_up: Instant,
) -> Result<Vec<Envelope>, String> {
    loop {
        let read = observer.history(node, session, 0).await;
        let enough = read.as_ref().is_ok_and(|there| there.len() >= messages);
        if enough || SystemClock.now() > give_up {
            return read.map_err(|status| format!("{:?}: {}", status.code(), status.message()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What came of a comparison. Counts are over all nodes.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    nodes: usize,
    sessions: usize,
    acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: usize,
    /// There more than once.
    pub duplicated: usize,
    silence: Duration,
    /// What else is not as it must be.
    pub wrong: Vec<String>,
}

impl Compared {
    /// Asserts that nothing is lost, twice there, or different on two nodes.
    ///
    /// # Panics
    /// If anything is, with the first of it.
    #[track_caller]
    pub fn assert_kept(&self) {
        let first = self.wrong.get(..self.wrong.len().min(8)).unwrap_or_default();
        assert!(self.wrong.is_empty(), "{self}; {} wrong: {first:#?}", self.wrong.len());
        assert_eq!((self.lost, self.duplicated), (0, 0), "{self}");
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages of {} sessions acknowledged, {} lost, {} duplicated on {} nodes, longest \
             time without an acknowledgement {} ms",
            self.acknowledged,
            self.sessions,
            self.lost,
            self.duplicated,
            self.nodes,
            self.silence.as_millis()
        )
    }
}
