//! The runtime actor: an actor per component under it, and being told what is wanted of them;
//! `answers`: the rest of what it is asked.

mod answers;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, broadcast};
use uuid::Uuid;
use weft_engine::Search;
use weft_link::{Call, Refusal, Reply};
use weft_protocol::files::{FILES_VERSION, component_dir};
use weft_protocol::{
    Assign, Assignment, CheckSpec, ClaimContainers, ComponentKey, ComponentState, ComponentStatus,
    EnsureBlobs, Exec, ExecInput, ExecResize, FindForeign, HaveBlobs, ListComponents, Observed,
    PutBlobPart, ReadBlobPart, ReadDuty, ReadEngine, ReadFile, ReadLogs, ReadOddities, ReadUsage,
    RemoveData, ReplicaKey, RestartComponents, RestartPolicy, StartComponents, WatchComponents,
    WriteFile,
};
use weft_supervision::{
    Actor, ActorError, Child, ChildSpec, Factory, Handle, Incarnation, Intensity, Routes, Scope,
};
use weft_wire::{ActorKind, Address, Failure, FailureKind};

use crate::blobs::{Blobs, place::Placed};
use crate::component::{ComponentActor, POST_RETRY, Wanted, random};
use crate::disk::{Durable, make_dir, read_json, write_json};
use crate::driver::engines::Engines;
use crate::driver::recipe;
use crate::exec::Session;
use crate::files::{Resolver, sweep};
use crate::leases;
use crate::limits::Limiter;
use crate::odd::{Looked, REPAIR_EVERY};
use crate::outbox::Outbox;
use crate::ports::{Ports, is_free};
use crate::shim::{SPEC_FILE, ShimSpec};
use crate::state::lease::{Book, Lease};
use crate::state::order::{Verdict, judge};
use crate::turns::MENDING;

pub(crate) const ASSIGNMENTS_FILE: &str = "assignments.json";
const PORTS_FILE: &str = "route-ports.json";
/// The monitor may take so long to record a batch.
const RECORD_WITHIN: Duration = Duration::from_secs(5);
/// Between attempts while it is away.
const RECORD_RETRY: Duration = Duration::from_millis(250);
/// A component's directory, with what it has to tell, waits no longer for the monitor before it
/// is removed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks at whether they are recorded.
const LAST_WORDS_LOOK: Duration = Duration::from_millis(10);

/// What a runtime is made of.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// The node's name, as components see it in `WEFT_NODE`.
    pub node_name: String,
    /// The program called as `<it> shim --spec <file>`: see [`crate::shim::program_beside`].
    pub shim_program: PathBuf,
    /// Host side of routes; loopback.
    pub host: IpAddr,
    /// A log this long, in bytes, is rotated; 10 MiB.
    pub log_bytes: u64,
    /// Files kept of each log, the current one included; 5.
    pub log_files: u32,
    /// The node's id: the label by which its containers are known.
    pub node_id: String,
    /// How to look for a container engine; `None`: this node runs processes only.
    pub engine: Option<Search>,
    /// Containers may mount what is outside the data directory.
    pub allow_host_mounts: bool,
    /// Network of containers whose definition names none; empty: the engine's own.
    pub default_network: String,
    /// User of containers whose definition names none; empty: the image's.
    pub default_user: String,
    /// What ends by itself is told of and not started again (`reconcile.mode = "report"`).
    pub report_only: bool,
    /// Containers that were changed behind Weft's back are made anew (`reconcile.mode = "full"`).
    pub repair: bool,
    /// The directories of services and replicas may be symbolic links.
    pub follow_linked_data: bool,
    /// A blob that nothing refers to stays so long; 1 h.
    pub blob_grace: Duration,
    /// Between two looks for such blobs; 10 min.
    pub blob_sweep: Duration,
}

impl RuntimeConfig {
    /// The usual limits, on loopback.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        node_name: impl Into<String>,
        shim_program: impl Into<PathBuf>,
    ) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_name: node_name.into(),
            shim_program: shim_program.into(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            log_bytes: 10 << 20,
            log_files: 5,
            node_id: String::new(),
            engine: None,
            allow_host_mounts: false,
            default_network: String::new(),
            default_user: String::new(),
            report_only: false,
            repair: false,
            follow_linked_data: false,
            blob_grace: Duration::from_secs(3600),
            blob_sweep: Duration::from_secs(600),
        }
    }

    /// Who resolves paths of files on this machine.
    pub(crate) fn resolver(&self) -> Resolver {
        Resolver::detect()
    }
}

/// Makes the runtime actor. Every incarnation finds its components again by their directories:
/// those that run keep running, with the same pids.
pub fn factory(config: RuntimeConfig) -> impl Factory<Runtime> {
    let shared = Arc::new(Shared {
        engines: Engines::new(config.engine.clone(), config.node_id.clone()),
        limiter: OnceLock::new(),
        blobs: Blobs::new(&config.data_dir),
        placed: Mutex::default(),
        placing: Mutex::new(()),
        opened: Mutex::new(false),
        config,
        ports: Mutex::new(Ports::default()),
        peers: Mutex::new(BTreeMap::new()),
        begun: OnceLock::new(),
        outbox: Mutex::new(Outbox::default()),
        book: Mutex::new(Book::default()),
        leased: Notify::new(),
        mending: Arc::new(Semaphore::new(MENDING)),
        taken: Mutex::new(None),
        stale: Mutex::new(BTreeSet::new()),
        board: Mutex::new(BTreeMap::new()),
        looked: Mutex::default(),
        execs: Mutex::new(BTreeMap::new()),
        news: broadcast::channel(1024).0,
    });
    move |_: Incarnation| -> Making {
        let shared = shared.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || Runtime::load(shared))
                .await
                .map_err(ActorError::new)?
        })
    }
}

type Making = Pin<Box<dyn Future<Output = Result<Runtime, ActorError>> + Send>>;

/// What the incarnations of the runtime and its components have in common.
/// What others of the node have to know of a component.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Names of its routes.
    pub(crate) routes: Vec<String>,
    pub(crate) restart: RestartPolicy,
}

pub(crate) struct Shared {
    pub(crate) config: RuntimeConfig,
    /// The container engine.
    pub(crate) engines: Arc<Engines>,
    /// How processes are held to their resources.
    limiter: OnceLock<Limiter>,
    /// Files that came with definitions.
    pub(crate) blobs: Blobs,
    /// Those of them that are known to be in place.
    pub(crate) placed: Mutex<Placed>,
    /// Held while they are put there.
    pub(crate) placing: Mutex<()>,
    /// What an earlier daemon left is removed.
    opened: Mutex<bool>,
    pub(crate) ports: Mutex<Ports>,
    /// What others of this node have to know of every assigned component.
    pub(crate) peers: Mutex<BTreeMap<ComponentKey, Peer>>,
    /// When this daemon's first runtime began.
    pub(crate) begun: OnceLock<Instant>,
    pub(crate) outbox: Mutex<Outbox>,
    /// Leases of fenced replicas.
    pub(crate) book: Mutex<Book>,
    /// There may be a lease to see to.
    pub(crate) leased: Notify,
    /// Turns of those that are started again because they ended.
    pub(crate) mending: Arc<Semaphore>,
    /// The position acted upon last in this process, and what was said there.
    taken: Mutex<Option<(u64, Vec<Assignment>)>>,
    /// Was run while this node was out of contact, is not its any more, and has not stopped yet.
    stale: Mutex<BTreeSet<ComponentKey>>,
    pub(crate) board: Mutex<BTreeMap<ComponentKey, ComponentStatus>>,
    /// Containers that were compared with what they are made from.
    pub(crate) looked: Mutex<Looked>,
    /// Commands that operators run.
    pub(crate) execs: Mutex<BTreeMap<Uuid, Arc<Session>>>,
    pub(crate) news: broadcast::Sender<ComponentStatus>,
}

impl Shared {
    /// Looks at the machine when it is first needed; not for an actor's own thread.
    pub(crate) fn limiter(&self) -> &Limiter {
        self.limiter.get_or_init(Limiter::detect)
    }

    /// Removes what an earlier daemon left half-done; once.
    fn open(&self) -> Result<(), ActorError> {
        let mut opened = self.opened.lock();
        if !*opened {
            let data = &self.config.data_dir;
            match sweep(data, self.config.follow_linked_data, self.config.resolver()) {
                0 => {}
                files => tracing::info!(files, "files of pushes that were cut off removed"),
            }
            self.blobs
                .open()
                .map_err(|error| ActorError::new(format!("{}: {error}", data.display())))?;
            *opened = true;
        }
        Ok(())
    }

    /// A component's row.
    pub(crate) fn status_of(&self, key: &ComponentKey) -> Option<ComponentStatus> {
        self.board.lock().get(key).cloned()
    }

    /// Ends when this node has nothing to do with a component any more.
    pub(crate) async fn forgotten(&self, key: &ComponentKey) {
        let mut news = self.news.subscribe();
        while self.board.lock().contains_key(key) {
            // Also after it fell behind.
            if let Err(broadcast::error::RecvError::Closed) = news.recv().await {
                return;
            }
        }
    }

    /// All rows.
    pub(crate) fn statuses(&self) -> Vec<ComponentStatus> {
        self.board.lock().values().cloned().collect()
    }

    /// Changes the port table, one at a time, and stores it if it changed.
    pub(crate) fn change_ports<T>(&self, change: impl FnOnce(&mut Ports) -> T) -> T {
        let mut ports = self.ports.lock();
        let before = ports.clone();
        let result = change(&mut ports);
        if *ports != before {
            let path = self.config.data_dir.join(PORTS_FILE);
            if let Err(error) = write_json(&path, &*ports, Durable::No) {
                tracing::warn!(path = %path.display(), %error, "cannot be written");
            }
        }
        result
    }
}

/// `assignments.json`: what was last wanted, for starts without the registry.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Assignments {
    version: u16,
    index: u64,
    pub(crate) assignments: Vec<Assignment>,
}

struct Entry {
    child: Child<ComponentActor>,
    wanted: Arc<Mutex<Wanted>>,
    /// Being forgotten: its directory is about to go.
    leaving: bool,
}

/// The actor.
pub struct Runtime {
    pub(crate) shared: Arc<Shared>,
    /// What components were told of their leases.
    pub(crate) told_leases: BTreeMap<ReplicaKey, Lease>,
    entries: BTreeMap<ComponentKey, Entry>,
    index: u64,
    /// What is in `assignments.json` for sure; `None`: not known, or about to change.
    stored: Option<Vec<Assignment>>,
    /// Found when it was made: what was wanted, and what has a directory.
    found: Vec<(ComponentKey, Option<Assignment>)>,
    flushing: bool,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("index", &self.index)
            .field("components", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Actor for Runtime {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<Assign>()
            .ask::<ListComponents>()
            .ask::<ReadDuty>()
            .ask::<RestartComponents>()
            .ask::<StartComponents>()
            .ask::<CheckSpec>()
            .ask::<FindForeign>()
            .ask::<ClaimContainers>()
            .ask::<WriteFile>()
            .ask::<ReadFile>()
            .ask::<RemoveData>()
            .ask::<ReadOddities>()
            .ask::<ReadEngine>()
            .ask::<HaveBlobs>()
            .ask::<PutBlobPart>()
            .ask::<ReadBlobPart>()
            .ask::<EnsureBlobs>()
            .ask::<ExecInput>()
            .ask::<ExecResize>()
            .ask::<ReadUsage>()
            .subscription::<ReadLogs>()
            .subscription::<WatchComponents>()
            .subscription::<Exec>();
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        self.shared.begun.get_or_init(|| scope.now());
        // Told by an earlier incarnation, or only by this node's disk.
        let sure = self.shared.taken.lock().is_some();
        for (key, assignment) in std::mem::take(&mut self.found) {
            self.add(scope, key, Wanted { assignment, dropped: false, sure, cause: "reconcile" });
        }
        self.flush(scope);
        self.follow_leases(scope);
        scope.every(self.shared.config.blob_sweep, Self::sweep_blobs);
        if self.shared.config.repair {
            scope.every(REPAIR_EVERY, Self::repair);
        }
        Ok(())
    }
}

impl Runtime {
    fn load(shared: Arc<Shared>) -> Result<Self, ActorError> {
        let data = &shared.config.data_dir;
        make_dir(&data.join("components"), 0o700)
            .map_err(|error| ActorError::new(format!("{}: {error}", data.display())))?;
        shared.open()?;
        let path = data.join(ASSIGNMENTS_FILE);
        let stored = match read_json::<Assignments>(&path) {
            Ok(stored) => stored.unwrap_or_default(),
            Err(error) => {
                // The registry says it again; what runs keeps running until then.
                tracing::error!(path = %path.display(), %error, "cannot be read: taken as empty");
                Assignments::default()
            }
        };
        if stored.version > FILES_VERSION {
            return Err(ActorError::new(format!(
                "{}: written by a newer Weft (version {}, this one reads {FILES_VERSION}): upgrade this node",
                path.display(),
                stored.version
            )));
        }
        match read_json::<Ports>(&data.join(PORTS_FILE)) {
            Ok(ports) => *shared.ports.lock() = ports.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "{PORTS_FILE} cannot be read: new ports are chosen")
            }
        }
        let mut found: BTreeMap<ComponentKey, Option<Assignment>> =
            scan(data).into_iter().map(|key| (key, None)).collect();
        for assignment in stored.assignments {
            found.insert(assignment.key.clone(), Some(assignment));
        }
        shared.board.lock().clear();
        set_peers(&shared, found.values().flatten());
        shared.book.lock().want(&leases::wanted(found.values().flatten()));
        Ok(Self {
            shared,
            told_leases: BTreeMap::new(),
            entries: BTreeMap::new(),
            index: stored.index,
            stored: None,
            found: found.into_iter().collect(),
            flushing: false,
        })
    }

    fn add(&mut self, scope: &Scope<Self>, key: ComponentKey, wanted: Wanted) {
        self.spawn_child(scope, key, Arc::new(Mutex::new(wanted)));
    }

    fn spawn_child(&mut self, scope: &Scope<Self>, key: ComponentKey, wanted: Arc<Mutex<Wanted>>) {
        let (shared, parent) = (self.shared.clone(), scope.clone());
        let (own, slot) = (key.clone(), wanted.clone());
        let make = move |incarnation: Incarnation| {
            let (shared, parent) = (shared.clone(), parent.clone());
            let (key, wanted) = (own.clone(), slot.clone());
            let wall = incarnation.clock.wall();
            async move { Ok(ComponentActor::make(shared, key, wanted, parent, wall)) }
        };
        // One component's defects must not take the others down soon: the limit is wide.
        let spec = ChildSpec {
            intensity: Intensity { max: 20, within: Duration::from_secs(60) },
            ..ChildSpec::default()
        };
        let child = scope.child::<ComponentActor>(&key.to_string(), spec, make);
        self.entries.insert(key, Entry { child, wanted, leaving: false });
    }

    /// Components of a replica that are here.
    pub(crate) fn components_of(&self, of: &ReplicaKey) -> Vec<ComponentKey> {
        let theirs = |key: &&ComponentKey| leases::replica(key) == *of;
        self.entries.keys().filter(theirs).cloned().collect()
    }

    /// Everything that is here.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ComponentKey> {
        self.entries.keys()
    }

    /// What is wanted of a component.
    pub(crate) fn assignment(&self, key: &ComponentKey) -> Option<Assignment> {
        self.entries.get(key)?.wanted.lock().assignment.clone()
    }

    /// Whether anything of a service is here, or was not cleared away yet.
    pub(crate) fn has_service(&self, service: &str) -> bool {
        self.entries.keys().any(|key| key.service == service)
    }

    /// Users, by number, that components of a replica run as, as far as their definitions say.
    pub(crate) fn users_of(&self, of: &ReplicaKey) -> Vec<u32> {
        let theirs = self.entries.iter().filter(|(key, _)| leases::replica(key) == *of);
        theirs
            .filter_map(|(_, entry)| {
                let wanted = entry.wanted.lock();
                let user = &wanted.assignment.as_ref()?.spec.user;
                user.split(':').next()?.parse().ok()
            })
            .collect()
    }

    /// Bytes of memory that a component may use, by its definition; 0: as many as there are.
    pub(crate) fn memory_limit(&self, of: &ComponentKey) -> u64 {
        let wanted = self.entries.get(of).map(|entry| entry.wanted.lock());
        let spec = wanted.as_ref().and_then(|wanted| Some(&wanted.assignment.as_ref()?.spec));
        spec.and_then(|spec| spec.resources.memory).unwrap_or(0)
    }

    /// A component's actor.
    pub(crate) fn child(&self, key: &ComponentKey) -> Option<&Child<ComponentActor>> {
        self.entries.get(key).filter(|entry| !entry.leaving).map(|entry| &entry.child)
    }

    /// Makes a component's actor read again what is wanted.
    fn poke(&self, scope: &Scope<Self>, key: &ComponentKey) {
        let Some(entry) = self.entries.get(key).filter(|entry| !entry.leaving) else { return };
        match entry.child.post(|actor, scope| actor.wanted_changed(scope)) {
            // A new incarnation reads it when it starts.
            Ok(()) | Err(Refusal::Gone) => {}
            Err(Refusal::Full) => {
                let key = key.clone();
                scope.after(POST_RETRY, move |runtime, scope| runtime.poke(scope, &key)).detach();
            }
        }
    }

    fn assign(&mut self, scope: &Scope<Self>, assignments: &[Assignment], returning: bool) {
        set_peers(&self.shared, assignments.iter());
        self.reserve_ports(scope, assignments);
        self.shared.book.lock().want(&leases::wanted(assignments.iter()));
        self.shared.leased.notify_one();
        let listed: BTreeMap<_, _> = assignments.iter().map(|a| (&a.key, a)).collect();
        for (key, entry) in &self.entries {
            if !listed.contains_key(key) {
                let mut wanted = entry.wanted.lock();
                wanted.assignment = None;
                wanted.dropped = true;
                drop(wanted);
                if returning {
                    self.shared.stale.lock().insert(key.clone());
                }
                self.poke(scope, key);
            }
        }
        for (key, assignment) in listed {
            self.shared.stale.lock().remove(key);
            let assignment = assignment.clone();
            let fresh = Wanted {
                assignment: Some(assignment),
                dropped: false,
                sure: true,
                cause: "deploy",
            };
            let Some(entry) = self.entries.get(key) else {
                self.add(scope, key.clone(), fresh);
                continue;
            };
            let mut wanted = entry.wanted.lock();
            if wanted.sure && wanted.assignment == fresh.assignment {
                continue;
            }
            *wanted = fresh;
            drop(wanted);
            self.poke(scope, key);
        }
    }

    /// Gives every route a port before anything starts, so that peers can be told of it.
    fn reserve_ports(&self, scope: &Scope<Self>, assignments: &[Assignment]) {
        let host = self.shared.config.host;
        let wall = scope.wall();
        self.shared.change_ports(|ports| {
            for assignment in assignments {
                let routes = &assignment.spec.routes;
                let done = ports.ensure(
                    &assignment.key,
                    routes,
                    wall,
                    random,
                    |_| true,
                    |port| is_free(host, port),
                );
                // Tried again, and reported, when it starts.
                if let Err(error) = done {
                    tracing::warn!(%error, "no port reserved");
                }
            }
        });
    }

    /// Host ports that other components of this node have, by the component that wants them too.
    fn ports_taken(&self, message: &CheckSpec) -> BTreeMap<String, String> {
        let mut taken = BTreeMap::new();
        for (key, entry) in &self.entries {
            let wanted = entry.wanted.lock();
            let Some(theirs) = wanted.assignment.as_ref() else { continue };
            if key.service == message.service && key.replica == message.replica {
                continue;
            }
            for spec in &message.components {
                let clash = spec.ports.iter().find(|port| {
                    theirs.spec.ports.iter().any(|other| {
                        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
                        port.host == other.host
                            && port.udp == other.udp
                            && (port.host_ip == other.host_ip
                                || any(&port.host_ip)
                                || any(&other.host_ip))
                    })
                });
                if let Some(port) = clash {
                    let text = format!("host port {} is taken by {key} on this node", port.host);
                    taken.insert(spec.name.clone(), text);
                }
            }
        }
        taken
    }

    /// A component has been stopped for good.
    pub(crate) fn forget(&mut self, scope: &Scope<Self>, key: ComponentKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.leaving = true;
        let stopped = entry.child.stop();
        let dir = component_dir(&self.shared.config.data_dir, &key);
        let components = self.shared.config.data_dir.join("components");
        let (shared, own) = (self.shared.clone(), key.clone());
        let work = async move {
            stopped.await;
            // Its last words are in there until they are recorded.
            let told = async {
                while shared.outbox.lock().holds(&own) {
                    tokio::time::sleep(LAST_WORDS_LOOK).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, told).await;
            let removed = tokio::task::spawn_blocking(move || {
                // Of a shim that was killed.
                if let Ok(Some(spec)) = read_json::<ShimSpec>(&dir.join(SPEC_FILE)) {
                    spec.hold.remove();
                }
                let removed = std::fs::remove_dir_all(&dir);
                // The directories above, if this was the last one in them.
                for above in dir.ancestors().skip(1).take_while(|above| **above != *components) {
                    let _ = std::fs::remove_dir(above);
                }
                removed
            });
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(%error, "a component's directory cannot be removed");
            }
        };
        scope.spawn_then(work, move |runtime, (), scope| {
            let Some(entry) = runtime.entries.remove(&key) else { return };
            if entry.wanted.lock().assignment.is_some() {
                // Wanted again meanwhile.
                runtime.spawn_child(scope, key, entry.wanted);
                return;
            }
            runtime.shared.stale.lock().remove(&key);
            let wall = scope.wall();
            runtime.shared.change_ports(|ports| ports.release(&key, wall));
            let gone = runtime.shared.board.lock().remove(&key);
            if let Some(mut status) = gone {
                status.state = ComponentState::Removed;
                status.since = wall;
                let _ = runtime.shared.news.send(status);
            }
        });
    }

    /// A component's row has changed.
    pub(crate) fn publish(&mut self, status: ComponentStatus) {
        let mut board = self.shared.board.lock();
        if board.get(&status.key) != Some(&status) {
            board.insert(status.key.clone(), status.clone());
            let _ = self.shared.news.send(status);
        }
    }

    /// Sends what the monitor has not recorded yet; one batch at a time, in order.
    pub(crate) fn flush(&mut self, scope: &Scope<Self>) {
        let transitions = self.shared.outbox.lock().batch();
        if self.flushing || transitions.is_empty() {
            return;
        }
        self.flushing = true;
        let ids: Vec<_> = transitions.iter().map(|transition| transition.id).collect();
        let keys: Vec<_> = transitions.iter().map(|transition| transition.key.clone()).collect();
        let fabric = scope.fabric().clone();
        let ask = async move {
            let to = Address::here(ActorKind::Monitor);
            fabric.ask(to, Observed { transitions }, Call::within(RECORD_WITHIN)).await
        };
        scope.spawn_then(ask, move |runtime, answer, scope| {
            if let Err(error) = answer {
                tracing::debug!(%error, "the monitor did not record: trying again");
                let again = |runtime: &mut Self, scope: &Scope<Self>| {
                    runtime.flushing = false;
                    runtime.flush(scope);
                };
                scope.after(RECORD_RETRY, again).detach();
                return;
            }
            runtime.shared.outbox.lock().recorded(&ids);
            let mut of: BTreeMap<ComponentKey, Vec<Uuid>> = BTreeMap::new();
            for (key, id) in keys.into_iter().zip(ids) {
                of.entry(key).or_default().push(id);
            }
            for (key, ids) in of {
                runtime.recorded(scope, key, ids);
            }
            runtime.flushing = false;
            runtime.flush(scope);
        });
    }

    /// Has a component forget what is recorded.
    fn recorded(&self, scope: &Scope<Self>, key: ComponentKey, ids: Vec<Uuid>) {
        let Some(entry) = self.entries.get(&key) else { return };
        let own = ids.clone();
        // A new incarnation tells it again, which does no harm: it has the same ids.
        if let Err(Refusal::Full) = entry.child.post(move |actor, _| actor.recorded(&own)) {
            scope
                .after(POST_RETRY, move |runtime, scope| runtime.recorded(scope, key, ids))
                .detach();
        }
    }
}

/// A list that cannot be acted upon: there is a newer one, or another one of that position.
fn stale(node: &str, message: &str, cause: String) -> Failure {
    Failure::new(FailureKind::Conflict, message)
        .node(node)
        .step("assign")
        .cause(cause)
        .help(format!(
            "if desired state was set back on purpose, as from a backup: stop weftd, remove {ASSIGNMENTS_FILE} from its data directory, start it again"
        ))
}

impl Handle<Assign> for Runtime {
    fn handle(&mut self, mut message: Assign, reply: Reply<Assign>, scope: &Scope<Self>) {
        for assignment in &mut message.assignments {
            recipe::fill(&self.shared.config, &mut assignment.spec);
        }
        // What is wanted is ordered by the position of desired state it was read at. An older list
        // is not acted upon, and its sender must know: it is to read again and say what is true.
        let node = &self.shared.config.node_name;
        {
            let mut taken = self.shared.taken.lock();
            let index = message.index;
            match judge(self.index, taken.as_ref(), index, &message.assignments) {
                Verdict::Older => {
                    let cause = format!("position {index} was said, {} is known", self.index);
                    let text = "the assignments are older than what is known";
                    return reply.fail(stale(node, text, cause));
                }
                Verdict::Contradicts => {
                    let cause = format!("two different lists were said for position {index}");
                    return reply.fail(stale(node, "the assignments contradict themselves", cause));
                }
                Verdict::Take => *taken = Some((index, message.assignments.clone())),
            }
        }
        self.index = message.index;
        self.assign(scope, &message.assignments, message.returning);
        // The registry says it again every few seconds: nothing to write, and to sync, then.
        if self.stored.as_ref() == Some(&message.assignments) {
            return reply.ok(());
        }
        self.stored = None;
        let data = self.shared.config.data_dir.clone();
        let stored = Assignments {
            version: FILES_VERSION,
            index: message.index,
            assignments: message.assignments,
        };
        let write = tokio::task::spawn_blocking;
        scope.spawn_then(
            async move {
                let written = move || store_assignments(&data, &stored).map(|()| stored);
                write(written).await
            },
            |runtime, written, _| {
                let problem = match written {
                    Ok(Ok(stored)) => {
                        // Unless a newer one is being written.
                        if stored.index == runtime.index {
                            runtime.stored = Some(stored.assignments);
                        }
                        return reply.ok(());
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                reply.fail(
                    Failure::new(FailureKind::Unavailable, "the assignments cannot be stored")
                        .step("assign")
                        .cause(problem)
                        .help("make room on the node's disk; it is tried again"),
                );
            },
        );
    }
}

/// Two writes may be under way at once; the newer one stays.
fn store_assignments(data: &Path, stored: &Assignments) -> std::io::Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let path = data.join(ASSIGNMENTS_FILE);
    if let Ok(Some(there)) = read_json::<Assignments>(&path)
        && there.index > stored.index
    {
        return Ok(());
    }
    write_json(&path, stored, Durable::Yes)
}

fn set_peers<'a>(shared: &Shared, assignments: impl Iterator<Item = &'a Assignment>) {
    let peer = |assignment: &Assignment| Peer {
        routes: assignment.spec.routes.iter().map(|route| route.name.clone()).collect(),
        restart: assignment.spec.restart,
    };
    *shared.peers.lock() = assignments.map(|a| (a.key.clone(), peer(a))).collect();
}

/// Every component that has a directory.
pub(crate) fn scan(data: &Path) -> Vec<ComponentKey> {
    let list = |dir: &Path| -> Vec<(String, PathBuf)> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                entry.file_type().ok()?.is_dir().then(|| (name, entry.path()))
            })
            .collect()
    };
    let mut keys = Vec::new();
    for (service, dir) in list(&data.join("components")) {
        for (replica, dir) in list(&dir) {
            let Ok(replica) = replica.parse() else { continue };
            for (component, _) in list(&dir) {
                keys.push(ComponentKey { service: service.clone(), replica, component });
            }
        }
    }
    keys
}
