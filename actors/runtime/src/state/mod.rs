//! One component's life as a pure state machine: what is wanted and what happened go in, what to
//! do comes out. No clock, no I/O, no randomness but what is passed in.
//!
//! ```text
//!            found nothing        StartShim            Started
//!  Looking ───────────────► Idle ───────────► Starting ───────► Up
//!     │  found running       ▲ ▲                 │ failed       │ │ shim lost
//!     └──────────────────────┼─┼──────► Up       ▼              │ └────► Cleaning ─┐
//!                            │ └─timer── Backoff ◄── ended ─────┤                  │
//!                            │                                  ▼ StopShim         │
//!                            └───────── exited ───────────── Stopping              │
//!                            └─────────────────── session is empty ────────────────┘
//! ```
//! Only `Idle` and `Backoff` start a shim, and neither has a process: never two at once.
//!
//! A container takes a shim's place where the component has one. What replaces a container that
//! runs is prepared (its image pulled) before that one is touched; a start that takes long can be
//! cancelled.

mod ending;
pub(crate) mod instance;
pub(crate) mod lease;
mod next;
pub(crate) mod order;
mod probing;
mod status;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weft_protocol::files::ShimExit;
use weft_protocol::{Assignment, ComponentKey, ComponentState, Desired, Health};
use weft_wire::{Backoff, Jitter, WallTime};

use self::instance::{Instance, InstanceId};
use self::next::{Next, NextPhase};

/// A run at least this long resets the backoff and does not count as a failure (design §11).
pub(crate) const GOOD_RUN: Duration = Duration::from_secs(10);
/// So many short runs within [`FAIL_WITHIN`] and the component has failed (orchestration §22b).
pub(crate) const FAIL_COUNT: usize = 5;
/// See [`FAIL_COUNT`].
pub(crate) const FAIL_WITHIN: Duration = Duration::from_secs(600);
/// After the first restart, which comes at once (orchestration §22b).
pub(crate) const BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300), jitter: 0.2 };
/// A container that could not be started so often in a row is told of as refused, and tried on.
pub(crate) const REFUSED_AFTER: u32 = 3;
/// A shim that has not ended a component so long after its grace is not going to.
pub(crate) const STOP_SLACK: Duration = Duration::from_secs(5);

/// What outlives the daemon beside `shim.json` and `container.json`; stored by the shell whenever it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Times it was started again after ending by itself.
    pub(crate) restarts: u64,
    /// How it last ended.
    pub(crate) last_exit: String,
    /// Its end was for good, for this spec hash and epoch.
    pub(crate) settled: Option<Settled>,
    /// The state last told to the monitor; `None`: none ever was.
    pub(crate) state: Option<ComponentState>,
    /// The shim or container whose end has been told.
    pub(crate) ended: Option<InstanceId>,
    /// Spec hash and epoch that it was started for last.
    #[serde(default)]
    pub(crate) ran: Option<(String, u64)>,
}

/// A component that is not to be started again until an operator acts or its spec changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    pub(crate) spec_hash: String,
    pub(crate) epoch: u64,
    /// Given up on, rather than done.
    pub(crate) failed: bool,
    pub(crate) reason: String,
    /// Only because this node starts nothing again (`reconcile.mode = "report"`).
    #[serde(default)]
    pub(crate) reported: bool,
}

/// What a look at the component's directory, and at the node's containers, found when its actor
/// began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It never ran here, or its files are from an earlier boot.
    Nothing,
    /// A live shim, now connected, or a container.
    Running(Instance),
    /// It ended while nobody looked.
    Exited(Instance),
    /// Its shim had died without a word; what was left of it has been killed.
    Lost(Instance, String),
}

/// How well the machine's shell can see what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// As usual.
    Clear,
    /// It is known to run; why nothing more can be learned or done now.
    Dim(String),
    /// Somebody has paused it: it is there and does nothing. How that is to be said.
    Frozen(String),
    /// It is not known whether it runs, and why.
    Blind(String),
}

/// What happened. Inputs about a shim or container carry the run they belong to; those of an
/// earlier run are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// The look at the directory is done; said once, first.
    Found(Finding),
    /// This is wanted now.
    Assigned(Box<Assignment>, &'static str),
    /// It is wanted no more: stop it and forget it.
    Unassigned,
    /// The look, or the start of this run, cannot be done yet: it waits, for this reason.
    Waits(u64, String),
    /// It runs.
    Started(u64, Instance),
    /// Nothing was started, nothing runs.
    StartFailed(u64, String, Permanence),
    /// After [`Effect::Prepare`]: whether what is wanted could be started here.
    Prepared(u64, Result<(), (String, Permanence)>),
    /// Whether the run can be seen.
    Sight(u64, Sight),
    /// The component ended; nothing of it is left.
    Exited(u64, ShimExit),
    /// Somebody has removed the container; nothing of it is left.
    Gone(u64),
    /// While nothing ran, somebody has started what had ended.
    Surfaced(u64, Instance),
    /// While nothing ran, somebody has removed what was left.
    Vanished(u64),
    /// The shim is gone or silent; its component may not be.
    Lost(u64, String),
    /// After [`Effect::Clean`]: nothing of it is left.
    Cleaned(u64),
    /// A probe's answer; the text says what was wrong.
    Probed(u64, Result<(), String>),
    /// The timer of that number went off.
    Timer(u64),
    /// An operator wants it started anew.
    Restart,
    /// What runs was changed by somebody else: it is stopped, and the start makes it anew.
    Repair,
    /// An operator wants it started if it does not run.
    Revive,
    /// What [`Component::lease`] was told is news.
    Lease,
    /// What is wanted is known to be what is agreed now: see [`Component::hold`].
    Sure,
}

/// Whether trying again could help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permanence {
    /// Not before somebody does something.
    Permanent,
    /// It may: tried again with growing delays, without end.
    Passing,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start what is wanted as this run; answered by `Started`, `StartFailed`, `Exited`, `Gone` or
    /// `Lost`.
    Start(u64),
    /// Do not go on with that start if it has not come so far; answered as it is itself.
    Cancel(u64),
    /// Get ready what is to replace what runs, which stays untouched; answered by `Prepared` of
    /// that number.
    Prepare(u64),
    /// Stop the run; answered by `Exited`, `Gone` or `Lost`.
    Stop(u64, Duration),
    /// Kill the run's shim if it lives, then its session; remove its container. Answered by
    /// `Cleaned`.
    Clean(u64),
    /// Probe this run from now on.
    Probe(u64),
    /// No more probes.
    StopProbe,
    /// Answered by `Timer` of that number; replaces an earlier one.
    SetTimer(u64, Duration),
    /// Tell the monitor.
    Transition(Change),
    /// Status is not what it was.
    StatusChanged,
    /// Memory is not what it was.
    Remember,
    /// Gone: end this component's actor and remove its directory. The last effect.
    Forget,
}

/// A transition, before the shell gives it an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: WallTime,
    pub(crate) desired: Desired,
    pub(crate) prev: ComponentState,
    pub(crate) new: ComponentState,
    pub(crate) cause: String,
    pub(crate) exit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Looking,
    Idle,
    Starting,
    Up,
    Stopping,
    Cleaning,
    Backoff,
    Gone,
}

/// Why a process is being stopped, or how it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We wanted it; for this cause.
    Wanted(&'static str),
    /// Its probe failed.
    Probe,
    /// By itself.
    Own(&'static str),
}

/// What came of a run.
#[derive(Debug, Clone, Copy)]
enum Ending<'a> {
    Exit(&'a ShimExit),
    /// With its shim, or with its container.
    Killed,
    /// The container, by somebody else.
    Removed,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Component {
    key: ComponentKey,
    assignment: Option<Assignment>,
    unassigned: bool,
    phase: Phase,
    state: ComponentState,
    since: WallTime,
    health: Health,
    reason: String,
    memory: Memory,
    run: u64,
    instance: Option<Instance>,
    up_since: Option<Instant>,
    end: Option<End>,
    lost: String,
    /// What the probe said that failed; empty: the last run that was probed was well.
    bad_probe: String,
    cause: &'static str,
    failures: VecDeque<Instant>,
    in_a_row: u32,
    restart_requested: bool,
    /// It is for a repair.
    repairs: bool,
    is_restart: bool,
    timer: u64,
    bad_probes: u32,
    /// Why a fenced component may not be started now; `None`: it holds a lease.
    no_lease: Option<String>,
    held: bool,
    /// Spec hash and epoch that the newest run was started for.
    started_for: (String, u64),
    /// The start under way has been cancelled.
    cancelled: bool,
    /// What is to take the place of what runs.
    next: Next,
    /// Containers that could not be started, in a row.
    failed_starts: u32,
    /// What ends by itself is told of, and not started again.
    reports: bool,
    /// The newest run ended so soon that what was asked for has not come to be.
    ended_soon: bool,
    /// What runs was started by somebody else.
    surfaced: bool,
    effects: Vec<Effect>,
}

/// Why what is wanted is not started.
const HELD: &str = "not started: no leader has been heard of since this daemon started, and it may run elsewhere by now";

struct Now {
    now: Instant,
    wall: WallTime,
    random: Jitter,
}

impl Component {
    pub(crate) fn new(key: ComponentKey, memory: Memory, wall: WallTime) -> Self {
        let state = match memory.state {
            None => ComponentState::Pending,
            // What had no process then has none now, unless the look finds one.
            Some(
                still @ (ComponentState::Stopped
                | ComponentState::Exited
                | ComponentState::Failed
                | ComponentState::Removed),
            ) => still,
            Some(_) => ComponentState::Unknown,
        };
        Self {
            key,
            assignment: None,
            unassigned: false,
            phase: Phase::Looking,
            state,
            since: wall,
            health: Health::Unknown,
            reason: String::new(),
            memory,
            run: 0,
            instance: None,
            up_since: None,
            end: None,
            lost: String::new(),
            bad_probe: String::new(),
            cause: "deploy",
            failures: VecDeque::new(),
            in_a_row: 0,
            restart_requested: false,
            repairs: false,
            is_restart: false,
            timer: 0,
            bad_probes: 0,
            no_lease: Some(String::new()),
            held: false,
            started_for: Default::default(),
            cancelled: false,
            next: Next::default(),
            failed_starts: 0,
            reports: false,
            ended_soon: false,
            surfaced: false,
            effects: Vec::new(),
        }
    }

    /// Before the first input: what is wanted is what was last heard, maybe long ago. What runs is
    /// taken over and started again when it ends; what does not run may be another node's by now
    /// and is not started before [`Input::Sure`].
    pub(crate) const fn hold(&mut self) {
        self.held = true;
    }

    /// Before the first input: whether what ends by itself is only told of, until somebody acts
    /// (`reconcile.mode = "report"`).
    pub(crate) fn reports(&mut self, reports: bool) {
        self.reports = reports;
        if !reports && self.memory.settled.as_ref().is_some_and(|settled| settled.reported) {
            self.memory.settled = None;
        }
    }

    /// Whether it is being started again because it ended by itself.
    pub(crate) fn is_mending(&self) -> bool {
        self.phase == Phase::Starting && self.cause == "reconcile"
    }

    /// Whether it waits for [`Input::Sure`].
    pub(crate) const fn is_held(&self) -> bool {
        self.held
    }

    /// Takes one input. `random` is in 0.0..1.0 and used for at most one delay.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        wall: WallTime,
        random: Jitter,
        input: Input,
    ) -> Vec<Effect> {
        let before = (self.status(), self.memory.clone());
        let at = Now { now, wall, random };
        if self.phase != Phase::Gone {
            self.take(&at, input);
        }
        if before.1 != self.memory {
            self.effects.push(Effect::Remember);
        }
        if before.0 != self.status() && self.phase != Phase::Gone {
            self.effects.push(Effect::StatusChanged);
        }
        // The last effect, whatever else was to be said.
        if let Some(index) = self.effects.iter().position(|e| *e == Effect::Forget) {
            let forget = self.effects.remove(index);
            self.effects.push(forget);
        }
        std::mem::take(&mut self.effects)
    }

    /// What holds of the lease of its replica, told before each input; of no account unless it is
    /// fenced. `Some`: there is none, and why.
    pub(crate) fn lease(&mut self, none: Option<String>) {
        self.no_lease = none;
    }

    /// Whether there may be a process, or is about to be.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Backoff | Phase::Gone)
    }

    /// Why it waits for a lease, if it does.
    fn waits(&self) -> Option<&str> {
        self.no_lease.as_deref().filter(|_| self.assignment.as_ref().is_some_and(|a| a.fenced))
    }

    /// What is wanted, as last heard.
    pub(crate) fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }

    /// What runs, as it was reported.
    pub(crate) fn instance(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }

    /// The number of the newest run.
    pub(crate) const fn run(&self) -> u64 {
        self.run
    }

    /// What outlives the daemon.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    fn desired(&self) -> Desired {
        match &self.assignment {
            _ if self.unassigned => Desired::Stopped,
            Some(assignment) => assignment.desired,
            // Taken over, and nobody has said yet what is wanted.
            None => Desired::Ignore,
        }
    }

    fn take(&mut self, at: &Now, input: Input) {
        match input {
            Input::Found(finding) if self.phase == Phase::Looking => self.found(at, finding),
            Input::Assigned(assignment, cause) => self.assigned(*assignment, cause),
            Input::Unassigned => self.unassigned = true,
            Input::Sure => self.held = false,
            Input::Restart => {
                self.repairs = false;
                // One that is being started is being started anew.
                self.restart_requested =
                    self.desired() == Desired::Running && self.phase != Phase::Starting;
                if self.next.phase == NextPhase::Refused {
                    self.next = self.next.anew();
                }
            }
            Input::Repair if self.phase == Phase::Up && !self.restart_requested => {
                self.restart_requested = self.desired() == Desired::Running;
                self.repairs = self.restart_requested;
            }
            Input::Revive => {
                self.restart_requested |= self.desired() == Desired::Running
                    && matches!(self.phase, Phase::Idle | Phase::Backoff);
            }
            Input::Waits(run, why)
                if self.phase == Phase::Looking
                    || run == self.run && self.phase == Phase::Starting =>
            {
                self.reason = why;
            }
            Input::Prepared(number, answer) if number == self.next.number => {
                self.prepared(at, answer);
            }
            Input::Sight(run, sight) if run == self.run && self.has_process() => {
                self.seen(at, sight);
            }
            Input::Started(run, file) if run == self.run && self.phase == Phase::Starting => {
                self.started(at, file);
            }
            Input::StartFailed(run, reason, permanence)
                if run == self.run && self.phase == Phase::Starting =>
            {
                self.start_failed(at, reason, permanence);
            }
            Input::Exited(run, exit) if run == self.run && self.has_process() => {
                let end = self.end.take().unwrap_or(End::Own(if exit.requested {
                    // Nobody here asked: somebody sent the shim a SIGTERM.
                    "signal"
                } else {
                    "self"
                }));
                self.ended(at, Ending::Exit(&exit), end);
            }
            Input::Gone(run) if run == self.run && self.has_process() => {
                let end = self.end.take().unwrap_or(End::Own("self"));
                self.ended(at, Ending::Removed, end);
            }
            Input::Surfaced(run, instance)
                if run == self.run && matches!(self.phase, Phase::Idle | Phase::Backoff) =>
            {
                self.surfaced(at, instance);
            }
            Input::Vanished(run)
                if run == self.run
                    && matches!(self.phase, Phase::Idle | Phase::Backoff)
                    && matches!(self.state, ComponentState::Exited | ComponentState::Failed) =>
            {
                self.transition(at.wall, ComponentState::Removed, "engine", "");
            }
            Input::Lost(run, why) if run == self.run && self.has_process() => {
                self.lost = why;
                self.clean();
            }
            Input::Cleaned(run) if run == self.run && self.phase == Phase::Cleaning => {
                let end = self.end.take().unwrap_or(End::Own("shim"));
                self.ended(at, Ending::Killed, end);
            }
            Input::Probed(run, answer) if run == self.run && self.phase == Phase::Up => {
                self.probed(at, answer);
            }
            Input::Timer(timer) if timer == self.timer => match self.phase {
                // `decide` starts it, if it may.
                Phase::Backoff => self.phase = Phase::Idle,
                Phase::Stopping => {
                    self.lost = "it was not stopped in time".to_owned();
                    self.clean();
                }
                Phase::Up if self.next.phase == NextPhase::Waiting => {
                    self.next.phase = NextPhase::Idle;
                }
                _ => {}
            },
            _ => {}
        }
        self.decide(at);
    }

    const fn has_process(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Up | Phase::Stopping)
    }

    fn found(&mut self, at: &Now, finding: Finding) {
        self.phase = Phase::Idle;
        self.reason.clear();
        match finding {
            Finding::Nothing => {
                if let Some(settled) = &self.memory.settled {
                    self.reason.clone_from(&settled.reason);
                } else if self.reports && self.has_run() {
                    self.lost_unseen(at);
                }
            }
            Finding::Running(file) => {
                self.run += 1;
                // It is what this node runs: it goes on doing so, also when it ends.
                self.held = false;
                self.phase = Phase::Up;
                let ran = at.wall.since(file.started_at);
                self.up_since = Some(at.now.checked_sub(ran).unwrap_or(at.now));
                self.instance = Some(file);
                self.transition(at.wall, ComponentState::Running, "takeover", "");
                self.begin_probing();
            }
            Finding::Exited(file) if self.memory.ended.as_ref() == Some(&file.id) => {
                if let Some(settled) = &self.memory.settled {
                    self.reason.clone_from(&settled.reason);
                }
            }
            Finding::Exited(file) => {
                let exit = file.exit.clone();
                let ran = exit.as_ref().map_or(Duration::ZERO, |e| e.at.since(file.started_at));
                self.up_since = Some(at.now.checked_sub(ran).unwrap_or(at.now));
                self.instance = Some(file);
                let requested = exit.as_ref().is_some_and(|e| e.requested);
                let end = if requested { End::Wanted("takeover") } else { End::Own("self") };
                self.ended(at, exit.as_ref().map_or(Ending::Killed, Ending::Exit), end);
            }
            Finding::Lost(file, why) => {
                self.up_since = Some(at.now);
                self.lost = why;
                self.instance = Some(file);
                self.ended(at, Ending::Killed, End::Own("shim"));
            }
        }
    }

    fn assigned(&mut self, assignment: Assignment, cause: &'static str) {
        // Of a place that was given up since: whoever said it knew less than was known here.
        if self.assignment.as_ref().is_some_and(|known| assignment.generation < known.generation) {
            return;
        }
        self.unassigned = false;
        let first = self.assignment.is_none();
        let same = self.assignment.as_ref().is_some_and(|old| {
            old.spec_hash == assignment.spec_hash && old.epoch == assignment.epoch
        });
        let settled_by_this = self.memory.settled.as_ref().is_some_and(|settled| {
            settled.spec_hash == assignment.spec_hash && settled.epoch == assignment.epoch
        });
        if !same || self.desired() != assignment.desired {
            self.surfaced = false;
        }
        if !same {
            self.bad_probe.clear();
            self.next = self.next.anew();
            self.failed_starts = 0;
            self.cause = match &self.assignment {
                Some(old) if old.spec_hash == assignment.spec_hash => "operator",
                _ => cause,
            };
            if !settled_by_this {
                self.forgive();
            }
        } else if let Some(old) = &self.assignment
            && old.desired != assignment.desired
        {
            self.cause = "operator";
            if assignment.desired == Desired::Running {
                self.forgive();
            }
        }
        self.assignment = Some(assignment);
        if first && self.phase == Phase::Up {
            self.begin_probing();
        }
    }

    /// A fresh start: what failed before no longer counts.
    fn forgive(&mut self) {
        self.failures.clear();
        self.in_a_row = 0;
        self.is_restart = false;
        if self.memory.settled.take().is_some() {
            self.reason.clear();
        }
        if self.phase == Phase::Backoff {
            self.phase = Phase::Idle;
            self.timer += 1;
        }
    }

    /// Brings what is nearer to what is wanted, as far as it can be now.
    fn decide(&mut self, at: &Now) {
        let differs = match (&self.assignment, &self.instance) {
            // A copy that is about to go is not changed any more.
            (Some(want), Some(have)) if want.leaving.is_empty() => {
                want.spec_hash != have.spec_hash || want.epoch != have.epoch
            }
            _ => false,
        };
        match self.phase {
            Phase::Up => {
                let why = match self.desired() {
                    _ if self.unassigned => Some("undeploy"),
                    // Somebody else's doing: told of, like everything that nobody asked for here.
                    Desired::Stopped if self.reports && self.surfaced => None,
                    Desired::Stopped => Some("operator"),
                    Desired::Running if differs && !self.is_next_ready() => {
                        self.prepare();
                        None
                    }
                    Desired::Running if self.restart_requested && self.repairs => Some("reconcile"),
                    Desired::Running if self.restart_requested => Some("operator"),
                    Desired::Running if differs => Some(self.cause),
                    Desired::Running | Desired::Ignore => None,
                };
                if let Some(cause) = why {
                    self.stop(at, End::Wanted(cause));
                }
            }
            Phase::Starting => {
                let other = match &self.assignment {
                    Some(want) if want.leaving.is_empty() => {
                        want.spec_hash != self.started_for.0 || want.epoch != self.started_for.1
                    }
                    _ => false,
                };
                if (other || self.desired() != Desired::Running) && !self.cancelled {
                    self.cancelled = true;
                    self.effects.push(Effect::Cancel(self.run));
                }
            }
            Phase::Idle | Phase::Backoff => {
                if self.unassigned {
                    self.phase = Phase::Gone;
                    self.transition(at.wall, ComponentState::Removed, "undeploy", "");
                    self.effects.push(Effect::Forget);
                    return;
                }
                if self.desired() == Desired::Running
                    && (self.restart_requested
                        || self.phase == Phase::Idle && self.memory.settled.is_none())
                    && let Some(why) = self.waits()
                {
                    self.reason = match why {
                        "" => "waits for a lease".to_owned(),
                        why => format!("waits for a lease: {why}"),
                    };
                    return;
                }
                match self.desired() {
                    Desired::Running if self.is_unsure() => {}
                    Desired::Running if self.restart_requested => {
                        self.restart_requested = false;
                        self.cause = if self.repairs { "reconcile" } else { "operator" };
                        self.repairs = false;
                        self.forgive();
                        self.start(at);
                    }
                    Desired::Running => {
                        if self.phase == Phase::Idle && self.memory.settled.is_none() {
                            self.start(at);
                        }
                    }
                    Desired::Stopped => {
                        self.phase = Phase::Idle;
                        self.timer += 1;
                        self.reason.clear();
                        self.transition(at.wall, ComponentState::Stopped, "operator", "");
                    }
                    Desired::Ignore => {
                        self.phase = Phase::Idle;
                        self.timer += 1;
                    }
                }
            }
            Phase::Looking | Phase::Stopping | Phase::Cleaning | Phase::Gone => {}
        }
    }

    fn start(&mut self, at: &Now) {
        self.phase = Phase::Starting;
        self.restart_requested = false;
        self.run += 1;
        self.timer += 1;
        self.instance = None;
        self.end = None;
        self.cancelled = false;
        self.next = self.next.anew();
        self.started_for = self
            .assignment
            .as_ref()
            .map_or_else(Default::default, |want| (want.spec_hash.clone(), want.epoch));
        self.memory.ran = Some(self.started_for.clone());
        self.ended_soon = false;
        self.surfaced = false;
        if std::mem::take(&mut self.is_restart) {
            self.memory.restarts += 1;
        }
        let cause = self.cause;
        self.transition(at.wall, ComponentState::Starting, cause, "");
        self.effects.push(Effect::Start(self.run));
    }

    fn started(&mut self, at: &Now, file: Instance) {
        self.phase = Phase::Up;
        let ran = at.wall.since(file.started_at).min(FAIL_WITHIN);
        self.up_since = Some(at.now.checked_sub(ran).unwrap_or(at.now));
        let started_at = file.started_at;
        self.instance = Some(file);
        self.failed_starts = 0;
        self.reason.clear();
        self.bad_probes = 0;
        if self.begin_probing() {
            self.reason = "waits for its first good probe".to_owned();
            // Of the run before, which ended for it.
            if !self.bad_probe.is_empty() {
                self.reason.push_str(&format!("; the last one failed: {}", self.bad_probe));
            }
        } else {
            let cause = self.cause;
            self.transition(started_at, ComponentState::Running, cause, "");
        }
    }

    fn stop(&mut self, at: &Now, end: End) {
        let grace = self.assignment.as_ref().map_or(Duration::from_secs(10), |a| a.spec.stop_grace);
        self.phase = Phase::Stopping;
        self.end = Some(end);
        self.effects.push(Effect::StopProbe);
        let cause = match end {
            End::Wanted(cause) | End::Own(cause) => cause,
            End::Probe => "probe",
        };
        self.transition(at.wall, ComponentState::Stopping, cause, "");
        self.effects.push(Effect::Stop(self.run, grace));
        self.set_timer(grace + STOP_SLACK);
    }

    fn clean(&mut self) {
        self.phase = Phase::Cleaning;
        self.timer += 1;
        self.effects.push(Effect::StopProbe);
        self.effects.push(Effect::Clean(self.run));
    }

    fn set_timer(&mut self, after: Duration) {
        self.timer += 1;
        self.effects.push(Effect::SetTimer(self.timer, after));
    }

    fn transition(&mut self, at: WallTime, new: ComponentState, cause: &str, exit: &str) {
        if self.state == new {
            return;
        }
        self.effects.push(Effect::Transition(Change {
            at,
            desired: self.desired(),
            prev: self.state,
            new,
            cause: cause.to_owned(),
            exit: exit.to_owned(),
        }));
        self.state = new;
        self.since = at;
        self.memory.state = Some(new);
    }
}

#[cfg(test)]
mod tests;
