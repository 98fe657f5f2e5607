//! One component's actor: owns its state machine, carries out what the machine says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use weft_protocol::files::{ProcessFile, ShimFile, component_dir};
use weft_protocol::{Assignment, ComponentKey, ComponentStatus, HealthKind, Transition};
use weft_supervision::{Actor, ActorError, Routes, Scope, Timer};

use crate::actor::{Peer, Runtime, Shared};
use crate::boottime::now_ms;
use crate::disk::{Durable, read_json, write_json};
use crate::driver::{self, Hands, Order, container};
use crate::launch::{Problem, peer_variable, probe_target};
use crate::leases::replica;
use crate::link;
use crate::ports::is_free;
use crate::probe::Target;
use crate::shim::STATE_FILE;
use crate::state::lease::Lease;
use crate::state::{Change, Component, Effect, Finding, Input, Memory};

/// Beside `shim.json`: what the machine wants to know again after a restart of the daemon.
const MEMORY_FILE: &str = "component.json";
/// So many transitions that nobody has recorded are kept on disk for each component; the oldest
/// go first.
const UNRECORDED_MOST: usize = 64;

/// `component.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    memory: Memory,
    /// Told, with these ids, but not known to be recorded.
    #[serde(default)]
    unrecorded: VecDeque<Transition>,
}

/// As [`Kept`], to be written.
#[derive(Serialize)]
struct KeptNow<'a> {
    #[serde(flatten)]
    memory: &'a Memory,
    unrecorded: &'a VecDeque<Transition>,
}

/// What is wanted of a component; shared by the runtime, which writes it, and the incarnations of
/// the component's actor, which read it.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) assignment: Option<Assignment>,
    /// Listed no more: stop and forget.
    pub(crate) dropped: bool,
    /// It is what is agreed now, as far as anybody could say; not only what this node's disk says.
    pub(crate) sure: bool,
    pub(crate) cause: &'static str,
}

/// The actor.
pub(crate) struct ComponentActor {
    shared: Arc<Shared>,
    key: ComponentKey,
    wanted: Arc<Mutex<Wanted>>,
    parent: Scope<Runtime>,
    machine: Component,
    /// In `component.json`, so that a daemon that is killed has them again.
    unrecorded: VecDeque<Transition>,
    /// Memory as it was last written with a sync.
    synced: Memory,
    orders: Option<mpsc::Sender<Order>>,
    /// The newest run's shim, as far as it is known.
    shim: Option<ProcessFile>,
    probe: Option<DropGuard>,
    /// What is being got ready to take the place of what runs.
    preparing: Option<DropGuard>,
    /// While it is being started again it is one of few on this node.
    mending: Option<DropGuard>,
    timer: Option<Timer>,
    /// The end of the lease that the shim was told last; `Some(None)`: that it needs none.
    told: Option<Option<u64>>,
}

impl Actor for ComponentActor {
    fn routes(_: &mut Routes<Self>) {}

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        if !self.unrecorded.is_empty() {
            let mut outbox = self.shared.outbox.lock();
            self.unrecorded.iter().cloned().for_each(|change| outbox.push_again(change));
            drop(outbox);
            self.parent.post(|runtime, scope| runtime.flush(scope));
        }
        self.wanted_changed(scope);
        let (orders, inbox) = mpsc::channel(8);
        self.orders = Some(orders);
        let wanted = self.wanted.lock().assignment.as_ref().map(|a| a.spec.driver);
        // The first run of a machine is the one it takes over.
        scope.spawn(driver::take_over(self.hands(scope, 1), wanted, inbox));
        Ok(())
    }
}

impl ComponentActor {
    /// Makes the actor from what is on disk and what is wanted.
    pub(crate) fn make(
        shared: Arc<Shared>,
        key: ComponentKey,
        wanted: Arc<Mutex<Wanted>>,
        parent: Scope<Runtime>,
        wall: weft_wire::WallTime,
    ) -> Self {
        let path = component_dir(&shared.config.data_dir, &key).join(MEMORY_FILE);
        let Kept { memory, unrecorded } = match read_json::<Kept>(&path) {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be read: starting without it");
                Kept::default()
            }
        };
        let synced = memory.clone();
        shared.book.lock().busy(&key, true);
        let mut machine = Component::new(key.clone(), memory, wall);
        machine.reports(shared.config.report_only);
        if !wanted.lock().sure {
            machine.hold();
        }
        Self {
            shared,
            key,
            wanted,
            parent,
            machine,
            unrecorded,
            synced,
            orders: None,
            shim: None,
            probe: None,
            preparing: None,
            mending: None,
            timer: None,
            told: None,
        }
    }

    /// Reads again what is wanted.
    pub(crate) fn wanted_changed(&mut self, scope: &Scope<Self>) {
        let (input, sure) = {
            let wanted = self.wanted.lock();
            let input = match &wanted.assignment {
                _ if wanted.dropped => Some(Input::Unassigned),
                Some(assignment) => {
                    Some(Input::Assigned(Box::new(assignment.clone()), wanted.cause))
                }
                None => None,
            };
            (input, wanted.sure)
        };
        match input {
            Some(input) => self.input(scope, input),
            None => self.publish(),
        }
        // After it: nothing is started that was wanted before.
        if sure && self.machine.is_held() {
            self.input(scope, Input::Sure);
        }
    }

    /// An operator wants it started anew.
    pub(crate) fn restart(&mut self, scope: &Scope<Self>) {
        self.input(scope, Input::Restart);
    }

    /// Its container was changed behind our back: it is stopped, and the start makes it anew.
    pub(crate) fn repair(&mut self, scope: &Scope<Self>) {
        self.input(scope, Input::Repair);
    }

    /// An operator wants it started if it does not run.
    pub(crate) fn revive(&mut self, scope: &Scope<Self>) {
        self.input(scope, Input::Revive);
    }

    /// The lease of its replica is not what it was.
    pub(crate) fn lease_changed(&mut self, scope: &Scope<Self>) {
        self.input(scope, Input::Lease);
    }

    /// Has the machine take an input, and carries out what it says.
    pub(crate) fn input(&mut self, scope: &Scope<Self>, input: Input) {
        let lease = {
            let mut book = self.shared.book.lock();
            if let Input::Found(found) = &input
                && let Finding::Running(file) | Finding::Exited(file) | Finding::Lost(file, _) =
                    found
                && let Some(until) = file.lease
            {
                book.took_over(&self.key, file.generation, until);
                self.shared.leased.notify_one();
            }
            book.lease(&replica(&self.key), now_ms())
        };
        self.machine.lease(match &lease {
            Lease::Until(_) => None,
            Lease::Waits(why) => Some(why.clone()),
        });
        match &input {
            // Several times a second.
            Input::Lease => {}
            // Its environment may hold secrets, which are for no log.
            Input::Assigned(assignment, cause) => tracing::debug!(
                component = %self.key,
                revision = assignment.revision,
                epoch = assignment.epoch,
                desired = ?assignment.desired,
                cause,
                "assigned"
            ),
            input => tracing::debug!(component = %self.key, ?input, "component"),
        }
        let effects = self.machine.handle(scope.now(), scope.wall(), random_share(), input);
        self.shared.book.lock().busy(&self.key, self.machine.is_busy());
        if !self.machine.is_mending() {
            self.mending = None;
        }
        // A ghost does nothing: its successor has taken over.
        if !scope.epoch().is_current() {
            return;
        }
        // On disk before anything is done about it: what a killed daemon had seen is told by the
        // next one, with the same ids.
        let mut told = 0;
        for effect in &effects {
            if let Effect::Transition(change) = effect {
                let transition = self.transition(change.clone());
                self.unrecorded.push_back(transition);
                told += 1;
            }
        }
        while self.unrecorded.len() > UNRECORDED_MOST.max(told) {
            self.unrecorded.pop_front();
        }
        if told > 0 || effects.contains(&Effect::Remember) {
            self.remember();
        }
        self.tell_shim(&lease);
        if told > 0 {
            let first = self.unrecorded.len() - told;
            self.tell(first);
        }
        for effect in effects {
            if !scope.epoch().is_current() {
                return;
            }
            self.carry_out(scope, effect);
        }
    }

    fn carry_out(&mut self, scope: &Scope<Self>, effect: Effect) {
        match effect {
            Effect::Start(run) => self.start(scope, run),
            Effect::Stop(_, grace) => {
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                self.order(Order::Stop { grace_ms });
            }
            Effect::Cancel(_) => self.order(Order::Cancel),
            Effect::Prepare(number) => self.prepare(scope, number),
            Effect::Clean(run) => self.clean(scope, run),
            Effect::Probe(run) => self.start_probe(scope, run),
            Effect::StopProbe => self.probe = None,
            Effect::SetTimer(number, after) => {
                self.timer = Some(scope.after(after, move |actor, scope| {
                    actor.input(scope, Input::Timer(number));
                }));
            }
            Effect::StatusChanged => self.publish(),
            // Done before everything else.
            Effect::Transition(_) | Effect::Remember => {}
            Effect::Forget => {
                let (key, parent) = (self.key.clone(), self.parent.clone());
                let hands = self.hands(scope, 0);
                scope.spawn(async move {
                    // Its directory is what says that there may be one: it stays until then.
                    if container::may_be(&hands.dir()) {
                        container::remove(&hands).await;
                    }
                    parent.post(move |runtime, scope| runtime.forget(scope, key));
                });
            }
        }
    }

    /// Has the shim know until when its component may run.
    fn tell_shim(&mut self, lease: &Lease) {
        let Some(assignment) = self.machine.assignment() else { return };
        let until = match (assignment.fenced, lease) {
            (true, Lease::Until(until)) => Some(*until),
            // It ends as it was told.
            (true, Lease::Waits(_)) => return,
            (false, _) => None,
        };
        let had = self.told.is_some() || self.machine.instance().is_some_and(|f| f.lease.is_some());
        if self.machine.instance().is_none() || self.told == Some(until) || until.is_none() && !had
        {
            return;
        }
        if let Some(orders) = &self.orders
            && orders.try_send(Order::Lease { until_ms: until }).is_ok()
        {
            self.told = Some(until);
        }
    }

    fn order(&self, order: Order) {
        // A shim that takes no orders is dealt with by the machine's timer.
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(order);
        }
    }

    fn start(&mut self, scope: &Scope<Self>, run: u64) {
        let Some(assignment) = self.machine.assignment().cloned() else { return };
        let (orders, inbox) = mpsc::channel(8);
        self.orders = Some(orders);
        self.told = None;
        self.shim = None;
        let turn = self.machine.is_mending().then(|| {
            let begun = CancellationToken::new();
            self.mending = Some(begun.clone().drop_guard());
            (self.shared.mending.clone(), begun)
        });
        scope.spawn(driver::run(self.hands(scope, run), assignment, inbox, turn));
    }

    fn hands(&self, scope: &Scope<Self>, run: u64) -> Hands {
        Hands { shared: self.shared.clone(), key: self.key.clone(), scope: scope.clone(), run }
    }

    /// The shim of that run; 0: of the one that was taken over.
    pub(crate) fn launched(&mut self, run: u64, shim: Option<ProcessFile>) {
        if self.machine.run() == run {
            self.shim = shim;
        }
    }

    fn prepare(&mut self, scope: &Scope<Self>, number: u64) {
        let Some(assignment) = self.machine.assignment().cloned() else { return };
        let hands = self.hands(scope, self.machine.run());
        let token = CancellationToken::new();
        self.preparing = Some(token.clone().drop_guard());
        scope.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                answer = driver::prepare(&hands, &assignment) => {
                    hands.say(Input::Prepared(number, answer));
                }
            }
        });
    }

    fn clean(&mut self, scope: &Scope<Self>, run: u64) {
        let dir = component_dir(&self.shared.config.data_dir, &self.key);
        let known = self.shim.clone();
        let running = self.machine.instance().and_then(|instance| instance.shim().cloned());
        self.orders = None;
        let hands = self.hands(scope, run);
        scope.spawn_then(
            async move {
                let written = read_json::<ShimFile>(&dir.join(STATE_FILE)).ok().flatten();
                let written = written.map(|file| file.shim);
                for shim in known.or(running).into_iter().chain(written) {
                    link::clean(&shim).await;
                }
                if container::may_be(&dir) {
                    container::remove(&hands).await;
                }
            },
            move |actor, (), scope| actor.input(scope, Input::Cleaned(run)),
        );
    }

    fn start_probe(&mut self, scope: &Scope<Self>, run: u64) {
        let Some(spec) = self.machine.assignment().map(|assignment| &assignment.spec) else {
            return;
        };
        let Some(instance) = self.machine.instance() else { return };
        let Some(check) = spec.health.clone() else { return };
        let host = self.shared.config.host;
        let target = match (check.kind, instance.container()) {
            (HealthKind::Exec, "") => {
                Some(Target::Process(component_dir(&self.shared.config.data_dir, &self.key)))
            }
            (HealthKind::Exec, id) => {
                Some(Target::Container { engines: self.shared.engines.clone(), id: id.to_owned() })
            }
            _ => probe_target(spec, host, &instance.ports).map(Target::Net),
        };
        let Some(target) = target else { return };
        let token = CancellationToken::new();
        self.probe = Some(token.clone().drop_guard());
        let scope = scope.clone();
        scope.clone().spawn(async move {
            let tell = |answer| {
                scope.post(move |actor, scope| actor.input(scope, Input::Probed(run, answer)))
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = crate::probe::watch(check, target, tell) => {}
            }
        });
    }

    fn transition(&self, change: Change) -> Transition {
        Transition {
            id: Uuid::now_v7(),
            time: change.at,
            key: self.key.clone(),
            desired: change.desired,
            prev_state: change.prev,
            new_state: change.new,
            cause: change.cause,
            exit: change.exit,
        }
    }

    /// Tells the monitor of the newest transitions, from number `first` of those kept.
    fn tell(&self, first: usize) {
        for transition in self.unrecorded.iter().skip(first) {
            tracing::info!(
                component = %self.key,
                from = %transition.prev_state,
                to = %transition.new_state,
                cause = transition.cause,
                exit = transition.exit,
                "component changed"
            );
            self.shared.outbox.lock().push(transition.clone());
        }
        self.parent.post(|runtime, scope| runtime.flush(scope));
    }

    /// The monitor has recorded these.
    pub(crate) fn recorded(&mut self, ids: &[Uuid]) {
        let before = self.unrecorded.len();
        self.unrecorded.retain(|transition| !ids.contains(&transition.id));
        if self.unrecorded.len() != before {
            self.remember();
        }
    }

    fn publish(&self) {
        let mut status: ComponentStatus = self.machine.status();
        let host = self.shared.config.host;
        status.urls = status
            .ports
            .iter()
            .map(|(_, port)| format!("http://{}", std::net::SocketAddr::new(host, *port)))
            .collect();
        self.parent.post(move |runtime, _| runtime.publish(status));
    }

    /// How it ended, and that it is not to be started again, outlives a power cut, as the shim's
    /// own word does; the rest has to outlive no more than this process.
    fn remember(&mut self) {
        let dir = component_dir(&self.shared.config.data_dir, &self.key);
        let path = dir.join(MEMORY_FILE);
        let memory = self.machine.memory();
        let durable = if memory.settled.is_some()
            || memory.settled != self.synced.settled
            || memory.ended != self.synced.ended
        {
            Durable::Yes
        } else {
            Durable::No
        };
        let kept = KeptNow { memory, unrecorded: &self.unrecorded };
        let written =
            crate::disk::make_dir(&dir, 0o700).and_then(|()| write_json(&path, &kept, durable));
        match written {
            Ok(()) if durable == Durable::Yes => self.synced = memory.clone(),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be written");
            }
        }
    }
}

/// In 0.0..1.0.
fn random_share() -> f64 {
    let bits = u32::try_from(random() & 0xffff_ffff).unwrap_or(0);
    f64::from(bits) / 4_294_967_296.0
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().1.rotate_left(16)
}

impl Shared {
    /// The ports of a component that is about to start: those it had, except what is in use.
    pub(crate) fn ports_for(
        &self,
        key: &ComponentKey,
        spec: &weft_protocol::ComponentSpec,
        wall: weft_wire::WallTime,
    ) -> Result<Vec<u16>, Problem> {
        let host = self.config.host;
        let free = |port| is_free(host, port);
        self.change_ports(|ports| ports.ensure(key, &spec.routes, wall, random, free, free))
            .map_err(|error| Problem::Passing(error.to_string()))
    }

    /// `PEER_…` of the other components of its replica that have ports.
    pub(crate) fn peers_of(&self, key: &ComponentKey) -> Vec<(String, String)> {
        let peers = self.peers.lock();
        let ports = self.ports.lock();
        let mut variables = Vec::new();
        for (peer, Peer { routes, .. }) in peers.iter() {
            if peer.service != key.service || peer.replica != key.replica || peer == key {
                continue;
            }
            for route in routes {
                if let Some(port) = ports.get(peer, route) {
                    variables.push((
                        peer_variable(&peer.component, route),
                        format!("{}:{port}", self.config.host),
                    ));
                }
            }
        }
        variables
    }
}

/// Retry of a post that found a mailbox full.
pub(crate) const POST_RETRY: Duration = Duration::from_millis(100);
