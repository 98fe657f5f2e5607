//! The shell around [`Supervisor`]: one task per parent, on the shared pool, so that no actor's
//! thread can keep it from its work.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use weft_protocol::{ActorState, ChaosKind};

use crate::actor::{Actor, ChildSpec};
use crate::core::{Core, Registered};
use crate::life::{End, Life, Row};
use crate::machine::{Action, ChildId, Ending, Event, GaveUp, Plan, Supervisor};
use crate::place::{OwnPlace, Place, Seat};

/// What an office does with an actor of whatever type.
pub(crate) trait Keeper: Send + Sync + 'static {
    fn row(&self) -> &Arc<Row>;
    /// Makes incarnation `number`; `Started` and `Ended` come back.
    fn start(
        self: Arc<Self>,
        number: u64,
        place: Place,
        id: ChildId,
        office: mpsc::UnboundedSender<Command>,
    );
    /// Stops the current incarnation in an orderly way, bounded; `Ended` comes back.
    fn stop(self: Arc<Self>);
    /// Ends the current incarnation now. `abandon`: without waiting for its thread.
    fn kill(&self, end: End, abandon: bool);
    /// It will not be started again, or never was: what waits for it is dropped.
    fn close(&self);
    /// Breaks the current incarnation; `false`: there is none.
    fn chaos(&self, kind: ChaosKind) -> bool;
}

/// What an office is told.
pub(crate) enum Command {
    Add { id: ChildId, keeper: Arc<dyn Keeper>, plan: Plan, ready: Option<oneshot::Sender<()>> },
    Started { id: ChildId, number: u64 },
    Ended { id: ChildId, number: u64, end: End },
    Due { id: ChildId, ticket: u64 },
    Restart { id: ChildId, done: Option<oneshot::Sender<()>> },
    Stop { id: ChildId, done: oneshot::Sender<()> },
    StopAll { done: oneshot::Sender<()> },
    KillAll { abandon: bool },
}

impl ChildSpec {
    pub(crate) const fn plan(&self) -> Plan {
        Plan { restart: self.restart, intensity: self.intensity, backoff: self.backoff }
    }
}

/// An incarnation's children.
pub(crate) struct Crew {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Crew {
    pub(crate) fn of_actor<A: Actor>(
        core: &Arc<Core>,
        path: &str,
        life: &Arc<Life>,
        seat: &Seat,
    ) -> Self {
        let machine = Supervisor::new(A::STRATEGY, false);
        let boss = Boss::Parent { life: life.clone(), path: path.into() };
        Office::open(core, machine, boss, Some(Place::With(seat.clone())))
    }

    /// Ends all children at once; `abandon`: without waiting for their thread.
    pub(crate) async fn kill(self, abandon: bool) {
        let _ = self.commands.send(Command::KillAll { abandon });
        let _ = self.task.await;
    }
}

/// Who hears of it when an office gives up.
enum Boss {
    /// The node.
    Node,
    /// The actor whose children these are.
    Parent { life: Arc<Life>, path: Arc<str> },
}

struct Entry {
    keeper: Arc<dyn Keeper>,
    place: Place,
    number: Option<u64>,
    up: bool,
    ready: Option<oneshot::Sender<()>>,
    restarted: Vec<(u64, oneshot::Sender<()>)>,
    stopped: Vec<oneshot::Sender<()>>,
}

type Waiting = (ChildId, Arc<dyn Keeper>, Plan, Option<oneshot::Sender<()>>);

pub(crate) struct Office {
    core: Arc<Core>,
    machine: Supervisor,
    boss: Boss,
    /// Where children live; `None`: each on a thread of its own.
    place: Option<Place>,
    entries: HashMap<ChildId, Entry>,
    /// Whose name is still taken by one that is on its way out.
    waiting: Vec<Waiting>,
    names: HashMap<Arc<str>, ChildId>,
    commands: mpsc::UnboundedSender<Command>,
    closing: Vec<oneshot::Sender<()>>,
    killing: bool,
    down: bool,
}

impl Office {
    /// The root's.
    pub(crate) fn root(core: &Arc<Core>, machine: Supervisor) -> Crew {
        Self::open(core, machine, Boss::Node, None)
    }

    fn open(core: &Arc<Core>, machine: Supervisor, boss: Boss, place: Option<Place>) -> Crew {
        let (commands, inbox) = mpsc::unbounded_channel();
        let office = Self {
            core: core.clone(),
            machine,
            boss,
            place,
            entries: HashMap::new(),
            waiting: Vec::new(),
            names: HashMap::new(),
            commands: commands.clone(),
            closing: Vec::new(),
            killing: false,
            down: false,
        };
        Crew { commands, task: core.handle.spawn(office.work(inbox)) }
    }

    async fn work(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = inbox.recv().await {
            self.take(command);
            if self.down || (self.killing && self.entries.values().all(|entry| !entry.up)) {
                break;
            }
        }
        for (id, entry) in &self.entries {
            entry.keeper.close();
            self.core.unregister(&entry.keeper.row().path, *id);
        }
        self.refuse_waiting();
        inbox.close();
        while let Ok(command) = inbox.try_recv() {
            if let Command::Add { keeper, .. } = command {
                keeper.close();
            }
        }
    }

    fn refuse_waiting(&mut self) {
        for (_, keeper, ..) in self.waiting.drain(..) {
            keeper.close();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Add { id, keeper, plan, ready } => self.add((id, keeper, plan, ready)),
            Command::Started { id, number } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    if let Some(ready) = entry.ready.take() {
                        let _ = ready.send(());
                    }
                    for (after, done) in std::mem::take(&mut entry.restarted) {
                        if number >= after {
                            let _ = done.send(());
                        } else {
                            entry.restarted.push((after, done));
                        }
                    }
                }
                self.decide(Event::Started(id, number));
            }
            Command::Ended { id, number, end } => self.ended(id, number, &end),
            Command::Due { id, ticket } => self.decide(Event::Due(id, ticket)),
            Command::Restart { id, done } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    let after = match entry.number {
                        Some(number) if entry.up => number + 1,
                        Some(number) => number,
                        None => 0,
                    };
                    entry.restarted.extend(done.map(|done| (after, done)));
                    self.decide(Event::RestartAsked(id));
                }
            }
            Command::Stop { id, done } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stopped.push(done);
                    self.decide(Event::StopAsked(id));
                } else {
                    self.waiting.retain(|(waiting, keeper, ..)| {
                        if *waiting == id {
                            keeper.close();
                        }
                        *waiting != id
                    });
                }
            }
            Command::StopAll { done } => {
                self.closing.push(done);
                self.refuse_waiting();
                self.decide(Event::ShutdownAsked);
            }
            Command::KillAll { abandon } => {
                self.killing = true;
                for entry in self.entries.values_mut().filter(|entry| entry.up) {
                    entry.keeper.kill(End::Stopped, abandon);
                }
            }
        }
    }

    fn add(&mut self, (id, keeper, plan, ready): Waiting) {
        if self.killing {
            return keeper.close();
        }
        let path = keeper.row().path.clone();
        if let Some(holder) = self.names.get(&path).copied() {
            // One of that name is there: it goes first.
            self.waiting.retain(|(_, waiting, ..)| {
                let other = waiting.row().path != path;
                if !other {
                    waiting.close();
                }
                other
            });
            self.waiting.push((id, keeper, plan, ready));
            self.decide(Event::StopAsked(holder));
            return;
        }
        let place = self.place.clone().unwrap_or_else(|| {
            Place::Own(OwnPlace::new(self.core.system.clone(), self.core.runtime.clone()))
        });
        if let Place::Own(own) = &place {
            self.core.tops.lock().insert(id, (own.clone(), keeper.clone()));
        }
        self.names.insert(path, id);
        self.core.register(Registered {
            id,
            keeper: keeper.clone(),
            office: self.commands.clone(),
        });
        self.entries.insert(
            id,
            Entry {
                keeper,
                place,
                number: None,
                up: false,
                ready,
                restarted: Vec::new(),
                stopped: Vec::new(),
            },
        );
        self.decide(Event::Added(id, plan));
    }

    fn ended(&mut self, id: ChildId, number: u64, end: &End) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.number != Some(number) {
            return;
        }
        entry.up = false;
        let row = entry.keeper.row();
        row.set_state(ActorState::Restarting, self.core.clock.wall());
        let ending = match end {
            End::Normal | End::Stopped => Ending::Normal,
            End::Failed(_) => Ending::Failed,
            End::Hung(_) => {
                if let Place::Own(own) = &entry.place {
                    own.abandon();
                }
                Ending::Hung
            }
        };
        if !self.killing {
            self.decide(Event::Ended(id, number, ending));
        }
    }

    fn decide(&mut self, event: Event) {
        if self.killing {
            return;
        }
        let actions = self.machine.handle(self.core.clock.now(), self.core.random(), event);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(id, number) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.number = Some(number);
                    entry.up = true;
                    let office = self.commands.clone();
                    entry.keeper.clone().start(number, entry.place.clone(), id, office);
                }
            }
            Action::Stop(id, _) => {
                if let Some(entry) = self.entries.get(&id) {
                    entry.keeper.clone().stop();
                }
            }
            Action::Wait(id, ticket, delay) => {
                let office = self.commands.clone();
                self.core.handle.spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = office.send(Command::Due { id, ticket });
                });
            }
            Action::Forget(id) => self.forget(id),
            Action::Escalate(id, why) => self.escalate(id, why),
            Action::Down => {
                self.down = true;
                for done in self.closing.drain(..) {
                    let _ = done.send(());
                }
            }
        }
    }

    fn forget(&mut self, id: ChildId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        let row = entry.keeper.row();
        entry.keeper.close();
        self.names.remove(&row.path);
        if matches!(self.boss, Boss::Parent { .. }) {
            self.core.unregister(&row.path, id);
        }
        if let Place::Own(own) = &entry.place {
            // Nobody lives there any more; the tree joins it when it stops.
            self.core.ending.lock().extend(own.take_stopped());
            self.core.tops.lock().remove(&id);
        }
        for done in entry.stopped {
            let _ = done.send(());
        }
        let path = row.path.clone();
        if let Some(at) = self.waiting.iter().position(|next| next.1.row().path == path) {
            let next = self.waiting.remove(at);
            self.add(next);
        }
    }

    fn escalate(&mut self, id: ChildId, why: GaveUp) {
        let Some(entry) = self.entries.get(&id) else { return };
        let row = entry.keeper.row();
        row.set_state(ActorState::Failed, self.core.clock.wall());
        let why = format!("{} {why}; last: {}", row.path, row.last_failure());
        match &self.boss {
            Boss::Node => self.core.give_up(why),
            Boss::Parent { life, path } => {
                tracing::warn!(actor = %path, "a child's failures exceed its intensity: {why}");
                life.finish(End::Failed(why));
            }
        }
    }
}
