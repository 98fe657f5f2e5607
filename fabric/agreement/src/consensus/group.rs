//! One group on this node: its replica, kept running, and the handle to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_link::Fabric;
use weft_wire::{Backoff, Clock, NodeId};

use super::engine::{Engine, EngineError, Heart, LogStore, MachineStore, View, Views};
use super::fresh::Lead;
use super::propose::{self, COMMAND_MAX, Pending, WAITING};
use super::wire::{Append, AppendAnswer, Ballot, InstallAnswer, Point};
use super::{
    ConsensusConfig, ConsensusError, GroupStatus, ProposeError, Proposed, Role, Timing, campaign,
    voters,
};

/// A change of members is given up after this long per step.
const CHANGE: Duration = Duration::from_secs(10);
/// A new voter must have caught up within.
const CATCH_UP: Duration = Duration::from_secs(30);
/// A checkpoint that was asked for must be there within.
const CHECKPOINT: Duration = Duration::from_secs(60);
/// A member this many entries behind has caught up.
const NEAR: u64 = 64;
/// Between attempts to open a replica again whose storage failed.
const REOPEN: Backoff =
    Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5), jitter: 0.0 };

/// A group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// What a group is made of; shared by its tasks and handles.
pub(crate) struct Inner {
    name: String,
    node: NodeId,
    config: Arc<ConsensusConfig>,
    fabric: Fabric,
    heart: Heart,
    clock: Arc<dyn Clock>,
    log: LogStore,
    machine: MachineStore,
    /// `None` while it is down.
    engine: Mutex<Option<Engine>>,
    view: Mutex<View>,
    status: watch::Sender<Arc<GroupStatus>>,
    queue: mpsc::Sender<Pending>,
    waiting: Arc<AtomicUsize>,
    /// When a leader last showed that it lives.
    heard: Mutex<Option<Instant>>,
    /// As leader: how surely it still is.
    pub(super) lead: Mutex<Lead>,
    /// The leader that was last heard then is gone, as membership says.
    gone: Mutex<Option<Instant>>,
    nudge: Notify,
    /// The last vote granted to another, and when.
    granted: Mutex<Option<(NodeId, Instant)>>,
    began: Instant,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    pub(super) async fn open(
        name: &str,
        config: Arc<ConsensusConfig>,
        (fabric, heart): (Fabric, Heart),
        log: LogStore,
        machine: MachineStore,
    ) -> Result<Arc<Self>, ConsensusError> {
        let engine =
            Engine::start(name, &config, &fabric, &heart, log.clone(), machine.clone()).await;
        let engine = engine.map_err(|error| ConsensusError::Failed {
            group: name.to_owned(),
            cause: machine.broken().unwrap_or_else(|| match error {
                EngineError::Down(text) | EngineError::Refused(text) => text,
                other => format!("{other:?}"),
            }),
        })?;
        let mut views = engine.views();
        let view = views.now();
        let status = status_of(name, &view, log.committed(), None);
        let (queue, waiting) = mpsc::channel(WAITING);
        let this = Arc::new(Self {
            name: name.to_owned(),
            node: fabric.node(),
            config,
            began: fabric.clock().now(),
            clock: fabric.clock(),
            fabric,
            heart,
            log,
            machine,
            engine: Mutex::new(Some(engine)),
            view: Mutex::new(view),
            status: watch::Sender::new(Arc::new(status)),
            queue,
            waiting: Arc::default(),
            heard: Mutex::default(),
            lead: Mutex::default(),
            gone: Mutex::default(),
            nudge: Notify::new(),
            granted: Mutex::default(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        this.heart.count(true);
        this.tasks.spawn(this.clone().keep(views));
        this.tasks.spawn(propose::run(this.clone(), waiting));
        this.tasks.spawn(campaign::run(this.clone()));
        this.tasks.close();
        Ok(this)
    }

    /// The replica, if it runs.
    pub(super) fn engine(&self) -> Result<Engine, EngineError> {
        let engine = self.engine.lock().clone();
        engine.ok_or_else(|| EngineError::Down("the group does not run here at present".into()))
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<GroupStatus>> {
        self.status.subscribe()
    }

    pub(super) async fn stopped(&self) {
        self.cancel.cancelled().await;
    }

    pub(super) fn not_leader(&self) -> ProposeError {
        ProposeError::NotLeader { leader: self.view.lock().leader.filter(|id| *id != self.node) }
    }

    /// A leader's entries, or that it lives.
    pub(super) async fn append(&self, append: Append) -> Result<AppendAnswer, EngineError> {
        let vote = append.vote;
        let answer = self.engine()?.on_append(append).await?;
        self.heard(&vote, &answer);
        Ok(answer)
    }

    /// A leader has been heard, unless its message was refused.
    fn heard(&self, leader: &Ballot, answer: &AppendAnswer) {
        if leader.elected && !matches!(answer, AppendAnswer::Outvoted(_)) {
            *self.heard.lock() = Some(self.clock.now());
        }
    }

    /// As [`Inner::heard`], by a piece of an image.
    pub(super) fn heard_by_image(&self, leader: &Ballot, answer: &InstallAnswer) {
        let outvoted = matches!(answer, InstallAnswer::Taken(known) if known.term > leader.term);
        if leader.elected && !outvoted {
            *self.heard.lock() = Some(self.clock.now());
        }
    }

    /// This node granted another its vote.
    pub(super) fn grants(&self, candidate: NodeId) {
        *self.granted.lock() = Some((candidate, self.clock.now()));
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.config.timing
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// When it was opened.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// Follows how far the log is applied here.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.machine.applied()
    }

    pub(super) fn view(&self) -> View {
        self.view.lock().clone()
    }

    pub(super) fn heard_at(&self) -> Option<Instant> {
        *self.heard.lock()
    }

    /// When the leader was last heard that membership says is gone.
    pub(super) fn gone(&self) -> Option<Instant> {
        *self.gone.lock()
    }

    pub(super) fn granted(&self) -> Option<(NodeId, Instant)> {
        *self.granted.lock()
    }

    /// The end of the log.
    pub(super) fn last(&self) -> Option<Point> {
        self.log.last()
    }

    /// Waits until membership has said something.
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// What the caller is told.
    pub(super) fn explain(&self, error: EngineError) -> ProposeError {
        match error {
            EngineError::NotLeader(leader) => {
                ProposeError::NotLeader { leader: leader.filter(|id| *id != self.node) }
            }
            EngineError::NoQuorum => ProposeError::NoQuorum,
            EngineError::Refused(text) => ProposeError::Refused(text),
            EngineError::Down(text) => {
                if self.cancel.is_cancelled() {
                    ProposeError::Stopped
                } else if let Some(text) = self.machine.broken() {
                    ProposeError::Storage(text)
                } else {
                    match self.log.fault() {
                        Some(fault) if fault.full => ProposeError::Full(fault.text),
                        Some(fault) => ProposeError::Storage(fault.text),
                        None => ProposeError::Storage(text),
                    }
                }
            }
        }
    }

    fn publish(&self, view: View, failed: Option<String>) {
        let new = status_of(&self.name, &view, self.log.committed(), failed);
        self.lead.lock().heard(view.quorum_age, self.clock.now());
        *self.view.lock() = view;
        self.status.send_if_modified(|status| {
            // Time passing is no news.
            let age = |of: &GroupStatus| GroupStatus { quorum_age: None, ..of.clone() };
            let news = age(status) != age(&new);
            *status = Arc::new(new);
            news
        });
    }

    /// Publishes what the replica says, and replaces it when its storage failed.
    async fn keep(self: Arc<Self>, mut views: Views) {
        let mut attempt = 0;
        loop {
            let opened_at = views.now().last_log;
            let why = loop {
                let view = views.now();
                if let Some(why) = view.down {
                    break why;
                }
                if view.last_log > opened_at {
                    attempt = 0;
                }
                self.publish(view, None);
                tokio::select! {
                    () = self.stopped() => return,
                    there = views.changed() => if !there {
                        break views.now().down.unwrap_or_else(|| "the replica has ended".into());
                    },
                }
            };
            if self.cancel.is_cancelled() {
                return;
            }
            let engine = self.engine.lock().take();
            if let Some(engine) = engine {
                engine.stop().await;
            }
            self.fail(&why);
            views = match self.reopen(&mut attempt).await {
                Some(views) => views,
                None => return,
            };
        }
    }

    fn fail(&self, why: &str) {
        let why = match self.explain(EngineError::Down(why.to_owned())) {
            ProposeError::Full(text) | ProposeError::Storage(text) => text,
            other => other.to_string(),
        };
        tracing::error!(group = %self.name, error = %why, "the group does not run here");
        let view = self.view.lock().clone();
        let view = View { leader: None, role: Role::Learner, ..view };
        let view = View { matched: Default::default(), quorum_age: None, ..view };
        self.publish(view, Some(why));
    }

    /// Tries until it works; `None`: the group stops, or the machine cannot go on.
    async fn reopen(&self, attempt: &mut u32) -> Option<Views> {
        loop {
            if self.machine.broken().is_some() {
                self.stopped().await;
                return None;
            }
            tokio::select! {
                () = self.stopped() => return None,
                () = tokio::time::sleep(REOPEN.delay(*attempt, 0.5)) => {}
            }
            *attempt = attempt.saturating_add(1);
            if self.log.probe().await.is_err() {
                continue;
            }
            let (log, machine) = (self.log.clone(), self.machine.clone());
            let start =
                Engine::start(&self.name, &self.config, &self.fabric, &self.heart, log, machine);
            match start.await {
                Ok(engine) => {
                    tracing::info!(group = %self.name, "the group runs here again");
                    let views = engine.views();
                    *self.engine.lock() = Some(engine);
                    return Some(views);
                }
                Err(error) => {
                    tracing::warn!(group = %self.name, ?error, "the group could not be opened again");
                }
            }
        }
    }

    pub(super) async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
        self.heart.count(false);
        let engine = self.engine.lock().take();
        if let Some(engine) = engine {
            engine.stop().await;
        }
    }
}

fn status_of(name: &str, view: &View, committed: u64, failed: Option<String>) -> GroupStatus {
    let applied = view.applied.unwrap_or(0);
    GroupStatus {
        name: name.to_owned(),
        leader: view.leader,
        term: view.term,
        role: view.role,
        last_log: view.last_log.unwrap_or(0),
        committed: committed.max(applied),
        applied,
        checkpoint: view.checkpoint.unwrap_or(0),
        voters: view.voters.clone(),
        joint: view.configs.len() > 1,
        learners: view.learners.clone(),
        matched: view.matched.clone(),
        quorum_age: view.quorum_age,
        leader_seen: None,
        failed,
    }
}

impl Group {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Makes this node the only voter of a new group. Does nothing if the group exists.
    ///
    /// # Errors
    /// [`ConsensusError::Failed`].
    pub async fn bootstrap(&self) -> Result<(), ConsensusError> {
        self.found(BTreeSet::from([self.inner.node])).await
    }

    /// Makes `voters`, this node among them, the voters of a new group; each of them is told the
    /// same ones. Does nothing if the group exists.
    ///
    /// # Errors
    /// [`ConsensusError::Failed`].
    pub async fn found(&self, voters: BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        let done = async { self.inner.engine()?.initialize(voters).await };
        done.await.map_err(|error| self.failed(error))
    }

    /// Whether it was never bootstrapped and has received nothing.
    pub fn is_empty(&self) -> bool {
        let view = self.inner.view.lock();
        view.last_log.is_none() && view.configs.is_empty()
    }

    /// Has `command` agreed on and applied, with whatever else waits, and gives the machine's
    /// answer. At most 8 MiB.
    ///
    /// # Errors
    /// [`ProposeError`]; it says whether the command may still be applied.
    pub async fn propose(
        &self,
        command: Vec<u8>,
        within: Duration,
    ) -> Result<Proposed, ProposeError> {
        self.submit(command, within)?.await
    }

    /// As [`Group::propose`], but the command has its place in the queue when this returns: while
    /// this node leads, commands are agreed on in the order in which they were submitted. One whose
    /// future is dropped before its turn comes is left out.
    ///
    /// # Errors
    /// [`ProposeError`] if it is not even queued: the command was not and will not be applied.
    pub fn submit(
        &self,
        command: Vec<u8>,
        within: Duration,
    ) -> Result<impl Future<Output = Result<Proposed, ProposeError>> + Send + use<>, ProposeError>
    {
        if command.len() > COMMAND_MAX {
            return Err(ProposeError::Refused(format!(
                "a command of {} bytes: at most {COMMAND_MAX} are agreed on at once",
                command.len()
            )));
        }
        self.leading()?;
        let overloaded = || ProposeError::Overloaded(self.inner.name.clone());
        let (reply, answer) = oneshot::channel();
        let pending = Pending::new(command, reply, &self.inner.waiting).ok_or_else(overloaded)?;
        self.inner.queue.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        Ok(async move {
            match tokio::time::timeout(within, answer).await {
                Err(_) => Err(ProposeError::NoQuorum),
                Ok(Err(_)) => Err(ProposeError::Stopped),
                Ok(Ok(result)) => result,
            }
        })
    }

    /// Leader only. An index by which every command acknowledged before the call is applied here,
    /// confirmed by a majority during the call: a read of the machine is then up to date.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn barrier(&self, within: Duration) -> Result<u64, ProposeError> {
        self.leading()?;
        let confirmed = async {
            loop {
                let (term, asked) = (self.inner.view.lock().term, self.inner.now());
                match self.engine()?.read_point().await {
                    // One lost message is no lost majority.
                    Err(EngineError::NoQuorum) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Ok(index) => {
                        self.inner.lead.lock().confirmed(term, asked);
                        return Ok(index);
                    }
                    Err(error) => return Err(self.inner.explain(error)),
                }
            }
        };
        tokio::time::timeout(within, confirmed).await.unwrap_or(Err(ProposeError::NoQuorum))
    }

    /// As it is now.
    pub fn status(&self) -> Arc<GroupStatus> {
        let status = self.inner.status.borrow().clone();
        match *self.inner.heard.lock() {
            Some(at) if status.role != Role::Leader => {
                Arc::new(GroupStatus { leader_seen: Some(at), ..GroupStatus::clone(&status) })
            }
            _ => status,
        }
    }

    /// Every change; `quorum_age` alone is none, and `leader_seen` is only in [`Group::status`].
    pub fn watch(&self) -> watch::Receiver<Arc<GroupStatus>> {
        self.inner.watch()
    }

    /// Leader only. Makes `node` receive the log without a vote; does not wait until it has it.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ProposeError> {
        self.leading()?;
        let known = {
            let view = self.inner.view.lock();
            view.voters.contains(&node) || view.learners.contains(&node)
        };
        if known {
            return Ok(());
        }
        self.step(async { self.inner.engine()?.add(BTreeSet::from([node])).await }).await
    }

    /// Leader only. Makes exactly `voters` vote and exactly `learners` follow, in up to four
    /// entries; new voters must have caught up (30 s) before they count. May be called again after
    /// an error, also on another leader, and goes on from there.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] with the reason, nothing being changed, when the present or the
    /// new voters have no majority in `live`; otherwise as [`Group::propose`].
    pub async fn set_voters(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        live: &BTreeSet<NodeId>,
    ) -> Result<(), ProposeError> {
        self.leading()?;
        let view = self.inner.view.lock().clone();
        voters::check(&view.configs, &voters, &learners, live).map_err(ProposeError::Refused)?;
        let members: BTreeSet<NodeId> = view.voters.union(&view.learners).copied().collect();
        let wanted: BTreeSet<NodeId> = voters.union(&learners).copied().collect();
        let missing: BTreeSet<NodeId> = wanted.difference(&members).copied().collect();
        if !missing.is_empty() {
            self.step(async { self.engine_raw()?.add(missing).await }).await?;
        }
        let new: BTreeSet<NodeId> =
            voters.difference(&view.voters).filter(|id| live.contains(id)).copied().collect();
        self.caught_up(&new).await?;
        if view.configs.len() != 1 || view.voters != voters {
            self.step(async { self.engine_raw()?.vote_by(voters).await }).await?;
        }
        let gone: BTreeSet<NodeId> = members.difference(&wanted).copied().collect();
        // A leader that is no voter any more has stepped down; the next one drops the rest.
        if !gone.is_empty() && wanted.contains(&self.inner.node) {
            self.step(async { self.engine_raw()?.drop_learners(gone).await }).await?;
        }
        Ok(())
    }

    /// Membership says the leader is dead: this node, if it votes, stands for election as soon as
    /// the others may grant it, which is `election_max` after it was last heard; without this it
    /// waits longer. Nothing happens if the leader is heard again meanwhile, or if no majority of
    /// the voters would grant it. Voters start one after the other.
    pub fn stand_for_election(&self) {
        *self.inner.gone.lock() = self.inner.heard_at();
        self.inner.nudge.notify_one();
    }

    /// Makes a checkpoint of all that is applied now, synced when this returns; the log below it
    /// is then cut as the configuration says.
    ///
    /// # Errors
    /// [`ConsensusError::Failed`].
    pub async fn checkpoint(&self) -> Result<(), ConsensusError> {
        let mut status = self.watch();
        let target = status.borrow_and_update().applied;
        if target == 0 {
            return Ok(());
        }
        self.inner.machine.forget_checkpoint_trouble();
        let done = async {
            loop {
                if status.borrow_and_update().checkpoint >= target {
                    return Ok(());
                }
                let asked = async { self.inner.engine()?.checkpoint().await };
                asked.await.map_err(|error| self.failed(error))?;
                // One that was under way when this was asked for may hold less: ask again.
                let _ = tokio::time::timeout(Duration::from_millis(500), status.changed()).await;
                if let Some(cause) = self.inner.machine.checkpoint_trouble() {
                    return Err(ConsensusError::Failed { group: self.name().to_owned(), cause });
                }
            }
        };
        tokio::time::timeout(CHECKPOINT, done).await.unwrap_or_else(|_| {
            Err(ConsensusError::Failed {
                group: self.name().to_owned(),
                cause: "no checkpoint within 60 s".into(),
            })
        })
    }

    /// Refuses at once what only a leader can do.
    fn leading(&self) -> Result<(), ProposeError> {
        if self.inner.cancel.is_cancelled() {
            return Err(ProposeError::Stopped);
        }
        self.engine()?;
        // The lock is let go before `not_leader` takes it.
        let role = self.inner.view.lock().role;
        if role == Role::Leader { Ok(()) } else { Err(self.inner.not_leader()) }
    }

    fn engine(&self) -> Result<Engine, ProposeError> {
        self.inner.engine().map_err(|error| self.inner.explain(error))
    }

    fn engine_raw(&self) -> Result<Engine, EngineError> {
        self.inner.engine()
    }

    async fn step(
        &self,
        work: impl Future<Output = Result<(), EngineError>>,
    ) -> Result<(), ProposeError> {
        match tokio::time::timeout(CHANGE, work).await {
            Err(_) => Err(ProposeError::NoQuorum),
            Ok(result) => result.map_err(|error| self.inner.explain(error)),
        }
    }

    /// Waits until the leader has brought `nodes` near the end of its log.
    async fn caught_up(&self, nodes: &BTreeSet<NodeId>) -> Result<(), ProposeError> {
        let mut status = self.watch();
        let near = |status: &GroupStatus, id: &NodeId| {
            *id == self.inner.node
                || status.matched.get(id).is_some_and(|at| at + NEAR >= status.last_log && *at > 0)
        };
        let all = status.wait_for(|status| {
            status.role != Role::Leader || nodes.iter().all(|id| near(status, id))
        });
        match tokio::time::timeout(CATCH_UP, all).await {
            Ok(Ok(status)) if status.role == Role::Leader => Ok(()),
            Ok(Ok(_)) => Err(self.inner.not_leader()),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => {
                let status = self.status();
                let behind: Vec<String> =
                    nodes.iter().filter(|id| !near(&status, id)).map(ToString::to_string).collect();
                Err(ProposeError::Refused(format!(
                    "not caught up within {} s, so they cannot vote yet: {}",
                    CATCH_UP.as_secs(),
                    behind.join(", ")
                )))
            }
        }
    }

    fn failed(&self, error: EngineError) -> ConsensusError {
        let cause = self.inner.explain(error);
        match cause {
            ProposeError::Stopped => ConsensusError::Stopped,
            cause => {
                ConsensusError::Failed { group: self.name().to_owned(), cause: cause.to_string() }
            }
        }
    }
}
