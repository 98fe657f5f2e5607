//! `weftd run`: one node put together, from its file to its orderly stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_agreement::{
    Consensus, ConsensusConfig, Door, Membership, MembershipConfig, Profile, Timing,
};
use weft_config::macp::MacpSettings;
use weft_config::node::{Loaded, NodeConfig, NodeDriver, ReconcileMode};
use weft_gateway::{HttpFace, MacpFace};
use weft_identity::{Credentials, DenyList, IdentityError, IdentityFiles, IssuingCa, Trust};
use weft_link::{
    AuditSink, Call, Directory, Fabric, FabricConfig, GoodBye, LinkConfig, ListenConfig,
    LocalConfig, PeerEntry,
};
use weft_protocol::files::{FILES_VERSION, PortsFile};
use weft_protocol::{Capacity, ReadState, ReportNode};
use weft_registry::Control;
use weft_runtime::Needs;
use weft_supervision::{ChildSpec, EXIT_GAVE_UP, Tree, TreeConfig, block_on_system};
use weft_wire::{ActorKind, Address, Backoff, Clock, ClusterId, Identity, SystemClock};

use crate::addresses::{advertised, bind_again};
use crate::args::Run;
use crate::data_dir::DataDir;
use crate::holders::Holders;
use crate::reload::{self, Reread};
use crate::renewal::Renewal;
use crate::{audit, logging, overlay, removal, service_manager, session_only, sessions};

/// Exit code for a configuration that cannot be used (orchestration §7).
const EXIT_USAGE: u8 = 2;
/// Exit code of a node that was removed from its cluster: not allowed (orchestration §7). The
/// service manager must not start it again.
const EXIT_REMOVED: u8 = 4;
/// The registry may take so long to say which service needs which.
const NEEDS_WITHIN: Duration = Duration::from_secs(2);
/// Actors may take so long to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Audit records that may wait to be stored.
const AUDIT_WAITING: usize = 10_000;
/// The last audit records may take so long to be stored.
const AUDIT_WITHIN: Duration = Duration::from_secs(2);
/// Between attempts at what somebody else has to make possible.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10), jitter: 0.0 };

/// Any error that ends the daemon, rendered once, in `run`.
pub(crate) type Fatal = Box<dyn std::error::Error>;

/// Runs the node until it is told to stop or gives up.
pub(crate) fn run(args: &Run) -> ExitCode {
    if args.session_only {
        return session_only::run();
    }
    let Some(config) = load(args) else { return ExitCode::from(EXIT_USAGE) };
    logging::init(&config);
    for key in config.without_effect() {
        tracing::warn!(file = %args.config().display(), "{key}");
    }
    let macp = match MacpSettings::of_node(&config.sessions, std::env::vars()) {
        Ok(macp) => macp,
        Err(error) => {
            eprintln!("error: MACP sessions: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let (file, flags) = (args.config().to_owned(), args.flags());
    let reread: Reread = Box::new(move || {
        let loaded = weft_config::node::load_file(&file, std::env::vars(), &flags);
        loaded.map(|loaded| loaded.config).map_err(|mistakes| mistakes.to_string())
    });
    match start(config, macp, reread) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  cause: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints every value of the configuration and where it came from.
pub(crate) fn explain(args: &Run) -> ExitCode {
    let Some(config) = load(args) else { return ExitCode::from(EXIT_USAGE) };
    for line in config.explain() {
        println!("{} = {}  # {}; {}", line.key, line.value, line.origin, line.about);
    }
    ExitCode::SUCCESS
}

/// Removes every container of a node whose daemon does not run, and prints how many.
pub(crate) fn remove_containers(args: &Run) -> ExitCode {
    let Some(config) = load(args) else { return ExitCode::from(EXIT_USAGE) };
    logging::init(&config);
    let removed = (|| -> Result<usize, Fatal> {
        // Held meanwhile: no daemon starts them again.
        let data = DataDir::open(&config.node.data_dir, &config.node.name)?;
        let Some(search) = engine_search(&config) else { return Ok(0) };
        let node = data.seed.node.to_string();
        let boxes = weft_runtime::Boxes { search: &search, node: &node };
        Ok(block_on_system(async |_| weft_runtime::remove_containers(boxes).await)?)
    })();
    match removed {
        Ok(removed) => {
            println!("{removed}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(args: &Run) -> Option<NodeConfig> {
    match weft_config::node::load_file(args.config(), std::env::vars(), &args.flags()) {
        Ok(Loaded { config, warnings }) => {
            if !warnings.is_empty() {
                eprintln!("{warnings}");
            }
            Some(config)
        }
        Err(errors) => {
            eprintln!("{errors}");
            None
        }
    }
}

fn start(
    config: NodeConfig,
    macp: Option<MacpSettings>,
    reread: Reread,
) -> Result<ExitCode, Fatal> {
    let data = DataDir::open(&config.node.data_dir, &config.node.name)?;
    if let Some(removed) = data.removed()? {
        say_removed(&data, &removed.how);
        // The daemon before this one may not have come to it.
        return Ok(block_on_system(async |_| {
            let mut stop = StopSignal::new()?;
            Ok::<_, std::io::Error>(halt(&config, &data, &Needs::new(), &mut stop).await)
        })??);
    }
    let cluster: ClusterId = data.seed.cluster.parse()?;
    let files = IdentityFiles::node(data.path());
    let stored = files.load()?;
    let own = &stored.own;
    if own.identity != Identity::Node(data.seed.node) || own.cluster != cluster {
        return Err(format!(
            "{} is the certificate of {} in cluster {}, but {} is node/{} in cluster {cluster}\n  help: restore the certificate that belongs to this data directory",
            files.certificate_path().display(),
            own.identity,
            own.cluster,
            data.path().display(),
            data.seed.node,
        )
        .into());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let trust = Trust::new(cluster, stored.bundle.clone(), DenyList::new(), clock.clone())?;
    let credentials = stored.credentials()?;
    let issuer = issuing_ca(&files, cluster, clock.wall())?;

    let node = Node { config, macp, data, cluster, files, trust, credentials, clock };
    block_on_system(async |runtime| node.live(runtime, issuer, reread).await)?
}

struct Node {
    config: NodeConfig,
    /// `None`: no sessions are served here.
    macp: Option<MacpSettings>,
    data: DataDir,
    cluster: ClusterId,
    files: IdentityFiles,
    trust: Trust,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
}

impl Node {
    async fn live(
        self,
        runtime: Arc<tokio::runtime::Runtime>,
        issuer: IssuingCa,
        reread: Reread,
    ) -> Result<ExitCode, Fatal> {
        let mut stop = StopSignal::new()?;
        let hangup = reload::listen()?;
        let seed = &self.data.seed;
        let name = self.config.node.name.clone();

        let renewal = Renewal {
            files: self.files.clone(),
            credentials: self.credentials.clone(),
            trust: self.trust.clone(),
            node: seed.node,
            clock: self.clock.clone(),
        };
        let (audit_sink, audit_entries) = AuditSink::channel(AUDIT_WAITING);
        let fabric = Fabric::new(
            FabricConfig { node: seed.node, name: name.clone(), audit: audit_sink },
            LinkConfig::new(self.cluster, weft_protocol::VERSION),
        );
        fabric.set_directory(self.first_directory());

        if renewal.is_expired() && !renewed_by_own_ca(&renewal, &issuer) {
            let removed = tokio::select! {
                removed = self.renew_expired(&renewal) => removed,
                () = stop.wait() => return Ok(ExitCode::SUCCESS),
            };
            if let Some(how) = removed {
                self.note_removed(&how);
                return Ok(halt(&self.config, &self.data, &Needs::new(), &mut stop).await);
            }
        }

        // A database that this build cannot use is no matter for a supervisor.
        weft_registry::preflight(self.data.path()).await?;

        // Addresses first: nothing is started on a node that cannot be reached.
        let bound = tokio::select! {
            bound = self.bind(&fabric) => bound?,
            () = stop.wait() => return Ok(ExitCode::SUCCESS),
        };

        let agreement = Agreed::start(&self, &fabric, &runtime).await?;
        let tree = Tree::build(TreeConfig {
            chaos: self.config.chaos,
            clock: self.clock.clone(),
            ..TreeConfig::new(fabric.clone(), runtime)
        })?;
        self.add_actors(&tree, &bound, issuer, &agreement)?;
        tree.start().await?;
        self.data.write("ports.json", &bound.ports)?;

        let mut helpers = tokio::task::JoinSet::new();
        let stop_audit = audit::Stop::default();
        let auditor =
            tokio::spawn(audit::write_batches(fabric.clone(), audit_entries, stop_audit.clone()));
        helpers.spawn(renewal.clone().keep(fabric.clone()));
        helpers.spawn(service_manager::watchdog(fabric.clone()));
        if let Some(groups) = agreement.groups.clone() {
            helpers.spawn(groups.tend(fabric.clone(), self.macp.is_some()));
        }
        helpers.spawn(reload::watch(hangup, self.config.explain(), reread));

        tracing::info!(
            node = %name,
            id = %self.data.seed.node,
            fabric = %bound.ports.fabric,
            gateway = %bound.ports.gateway,
            version = weft_protocol::VERSION,
            "ready"
        );
        service_manager::ready(&name);

        let watch = overlay::Watch {
            fabric: fabric.clone(),
            data: &self.data,
            wanted: self.config.fabric.bind,
            advertise: self.config.fabric.advertise.clone(),
            told: bound.told.clone(),
        };
        let mut needs = None;
        let code = tokio::select! {
            never = watch.keep() => match never {},
            () = stop.wait() => {
                tracing::info!("stopping; components go on");
                ExitCode::SUCCESS
            }
            reason = tree.finished() => {
                tracing::error!(%reason, "giving up; the service manager should start weftd again");
                ExitCode::from(EXIT_GAVE_UP)
            }
            how = removal::noticed(&fabric, &renewal, &seed.peers) => {
                self.note_removed(&how);
                needs = Some(service_needs(&fabric).await);
                ExitCode::from(EXIT_REMOVED)
            }
        };
        service_manager::stopping();
        helpers.shutdown().await;
        // While there still is a registry to store the last records.
        stop_audit.now();
        let auditor_ends = auditor.abort_handle();
        if tokio::time::timeout(AUDIT_WITHIN, auditor).await.is_err() {
            auditor_ends.abort();
        }
        if let Some(face) = &bound.macp {
            face.drain(sessions::DRAIN).await;
        }
        // Peers need not suspect a node that says it goes.
        // Its components run on, and nothing of it is placed elsewhere meanwhile.
        let back_in = needs.is_none().then_some(self.config.planned_stop);
        agreement.parts.membership.stop(back_in).await;
        tree.stop(STOP_WITHIN).await;
        agreement.consensus.stop().await;
        fabric.close(GoodBye { reason: "the daemon stops".to_owned() }).await;
        match needs {
            // After the actors, which would start again what ends.
            Some(needs) => Ok(halt(&self.config, &self.data, &needs, &mut stop).await),
            None => Ok(code),
        }
    }

    fn note_removed(&self, how: &str) {
        say_removed(&self.data, how);
        if let Err(error) = self.data.note_removed(self.clock.wall(), how) {
            // Then the next daemon is told anew.
            tracing::error!(%error, "the removal cannot be noted");
        }
    }

    /// Who is who before agreed state has been read or replicated.
    fn first_directory(&self) -> Directory {
        let seed = &self.data.seed;
        let mut directory = Directory::default();
        let own = PeerEntry { id: seed.node, name: seed.name.clone(), address: None };
        directory.nodes.insert(seed.node, own);
        for peer in &seed.peers {
            let entry = PeerEntry {
                id: peer.id,
                name: peer.name.clone(),
                address: peer.address.parse().ok(),
            };
            directory.nodes.insert(peer.id, entry);
        }
        directory
    }

    /// Renews an expired certificate by proof of key, trying until it works: without one the node
    /// is of no use, and whoever can issue may come back any time. Says so if it was removed.
    async fn renew_expired(&self, renewal: &Renewal) -> Option<String> {
        let peers: Vec<SocketAddr> =
            self.data.seed.peers.iter().filter_map(|peer| peer.address.parse().ok()).collect();
        tracing::warn!("the node's certificate has expired; renewing it by proof of key");
        service_manager::status("waiting for a new certificate: the node's has expired");
        for attempt in 0u32.. {
            match renewal.by_key(&peers).await {
                Ok(()) => return None,
                Err(error) => match removal::said(&error) {
                    Some(how) => return Some(how),
                    None => tracing::warn!(%error, "certificate not renewed; trying again"),
                },
            }
            tokio::time::sleep(RETRY.delay(attempt, 0.5)).await;
        }
        None
    }

    async fn bind(&self, fabric: &Fabric) -> Result<Bound, Fatal> {
        let last = self.data.last_ports();
        // With port 0, the ports of the last run are tried first: peers know them.
        let wanted = self.config.fabric.bind;
        let remembered = last
            .as_ref()
            .and_then(|ports| ports.fabric.parse::<SocketAddr>().ok())
            .filter(|known| wanted.port() == 0 && known.ip() == wanted.ip());
        let listen = |bind| {
            fabric.listen(ListenConfig {
                bind,
                credentials: self.credentials.clone(),
                trust: self.trust.clone(),
            })
        };
        let interface = overlay::noted(&self.data, wanted);
        let instead = || overlay::instead(wanted, interface.as_deref()?);
        let fabric_address = bind_again(remembered, wanted, listen, instead).await?;

        let wanted = self.config.gateway_bind;
        let remembered = last
            .as_ref()
            .and_then(|ports| ports.gateway.strip_prefix("http://")?.parse::<SocketAddr>().ok())
            .filter(|known| wanted.port() == 0 && known.ip() == wanted.ip());
        let http = remembered
            .and_then(|address| HttpFace::bind(address).ok())
            .map_or_else(|| HttpFace::bind(wanted), Ok)
            .map_err(|error| {
                format!("cannot listen on {wanted} (tcp): {error}; change `[gateway] bind`, or stop what uses the port")
            })?;

        let remembered = last.as_ref().and_then(|ports| ports.sessions.parse().ok());
        let macp = match &self.macp {
            Some(settings) => {
                let holders = Holders::new(self.trust.clone(), fabric.clone());
                let face = sessions::listen(settings, remembered, Some(Arc::new(holders)));
                Some(face.map_err(|error| -> Fatal { error })?)
            }
            None => None,
        };

        let socket = self.data.path().join("weft.sock");
        fabric.listen_local(&socket, self.local_config()?)?;

        let (configured, wanted) = (&self.config.fabric.advertise, self.config.fabric.bind);
        let mut advertised = advertised(configured, fabric_address)?;
        if fabric_address.ip() != wanted.ip() {
            advertised = overlay::moved(configured, wanted, fabric_address);
        }
        Ok(Bound {
            told: Arc::new(Mutex::new(advertised.clone())),
            ports: PortsFile {
                version: FILES_VERSION,
                fabric: advertised,
                gateway: http.url(),
                socket: socket.to_string_lossy().into_owned(),
                sessions: macp.as_ref().map(|face| face.address().to_string()).unwrap_or_default(),
            },
            http,
            macp,
        })
    }

    fn local_config(&self) -> Result<LocalConfig, Fatal> {
        let group = &self.config.socket_group;
        if group.is_empty() {
            return Ok(LocalConfig { group: None });
        }
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        match group_id(group, &groups) {
            Some(id) => Ok(LocalConfig { group: Some(id) }),
            None => Err(format!(
                "`[local] socket_group` is `{group}`: there is no such group on this machine"
            )
            .into()),
        }
    }

    fn report_of(&self, bound: &Bound, ca: &str) -> ReportNode {
        ReportNode {
            address: bound.ports.fabric.clone(),
            version: weft_protocol::VERSION.to_owned(),
            zone: self.config.node.zone.clone(),
            labels: self.config.node.labels.clone(),
            key_fingerprint: self.credentials.own().public_key_fingerprint.to_string(),
            ca: ca.to_owned(),
            capacity: capacity(),
            format: self.config.format_level.unwrap_or(weft_protocol::FORMAT_LEVEL),
        }
    }

    fn add_actors(
        &self,
        tree: &Tree,
        bound: &Bound,
        issuer: IssuingCa,
        agreed: &Agreed,
    ) -> Result<(), Fatal> {
        let data_dir: PathBuf = self.data.path().to_owned();
        let name = self.config.node.name.clone();
        let seed = self.data.seed.clone();

        let registry = weft_registry::RegistryConfig {
            data_dir: data_dir.clone(),
            seed: seed.clone(),
            voter_replace_after: self.config.voter_replace_after,
            reschedule_after: self.config.reschedule_after,
            trust: self.trust.clone(),
            report: {
                let report = self.report_of(bound, &issuer.to_pem());
                let credentials = self.credentials.clone();
                let told = bound.told.clone();
                // Key and address as they are now: what is recorded must not fall back.
                Arc::new(move || {
                    let key_fingerprint = credentials.own().public_key_fingerprint.to_string();
                    let address = told.lock().ok()?.clone();
                    Some(ReportNode { key_fingerprint, address, ..report.clone() })
                })
            },
            issuer: Some(Arc::new(issuer)),
            event_retention: self.config.monitor.retention,
            audit_retention: weft_registry::RETENTION,
        };
        let agreement = agreed.parts.clone();
        tree.add(ActorKind::Registry, ChildSpec::default(), move |incarnation| {
            weft_registry::factory(registry.clone(), agreement.clone(), incarnation)
        });

        let report_only = self.config.reconcile == ReconcileMode::Report;
        let runtime = weft_runtime::RuntimeConfig {
            node_id: seed.node.to_string(),
            engine: engine_search(&self.config),
            allow_host_mounts: self.config.allow_host_mounts,
            default_network: self.config.default_network.clone(),
            default_user: self.config.default_user.clone(),
            report_only,
            repair: self.config.reconcile == ReconcileMode::Full,
            follow_linked_data: self.config.follow_linked_data,
            ..weft_runtime::RuntimeConfig::new(
                data_dir.clone(),
                name.clone(),
                weft_runtime::shim::program_beside(&std::env::current_exe()?),
            )
        };
        tree.add(ActorKind::Runtime, ChildSpec::default(), weft_runtime::factory(runtime));

        let wanted = &self.config.monitor;
        let monitor = weft_monitor::MonitorConfig {
            interval: wanted.interval,
            flap_threshold: wanted.flap_threshold,
            flap_window: wanted.flap_window,
            alert_command: wanted.alert_command.clone(),
            alert_after: wanted.alert_after,
            cooldown: wanted.cooldown,
            restart_threshold: wanted.restart_threshold,
            disk_low: wanted.disk_low,
            at_once: report_only,
            ..weft_monitor::MonitorConfig::new(name.clone(), data_dir, self.clock.now())
        };
        tree.add(ActorKind::Monitor, ChildSpec::default(), weft_monitor::factory(monitor));

        let kept = agreed.sessions.clone();
        let factory = weft_session_actor::factory(kept.owners, kept.modes);
        tree.add(ActorKind::Session, ChildSpec::default(), factory);

        let gateway = weft_gateway::GatewayConfig {
            cluster: self.cluster.to_string(),
            node_name: name,
            node: seed.node,
            fabric: bound.ports.fabric.parse().ok(),
            http: bound.http.clone(),
            macp: bound.macp.clone(),
        };
        tree.add(ActorKind::Gateway, ChildSpec::default(), weft_gateway::factory(gateway));
        Ok(())
    }
}

/// How to look for the container engine (`[node] driver`, `[engine] socket`); `None`: this node
/// runs processes only.
fn engine_search(config: &NodeConfig) -> Option<weft_runtime::Search> {
    let flavour = match config.node.driver {
        NodeDriver::Process => return None,
        NodeDriver::Auto => None,
        NodeDriver::Podman => Some(weft_runtime::Flavour::Podman),
        NodeDriver::Docker => Some(weft_runtime::Flavour::Docker),
    };
    let own = config.node.data_dir.join("engine");
    Some(weft_runtime::Search {
        flavour,
        ..weft_runtime::Search::of_environment(&config.engine_socket, Some(own))
    })
}

/// Says that this node is none any more, and what to do.
fn say_removed(data: &DataDir, how: &str) {
    let (name, id, dir) = (&data.seed.name, data.seed.node, data.path().display());
    tracing::error!(
        node = %name,
        %id,
        how,
        "this node was removed from the cluster, and its id is refused for ever: its components are stopped and weftd ends; everything in {dir} stays on disk. To use this machine again, run `weft node token` on a node of the cluster, then `weft join <token> --data <a new directory>` here"
    );
}

/// Which service needs which, as far as the registry says.
async fn service_needs(fabric: &Fabric) -> Needs {
    let call = Call::within(NEEDS_WITHIN);
    match fabric
        .ask(Address::here(ActorKind::Registry), ReadState { consistent: false }, call)
        .await
    {
        Ok(state) => state
            .services
            .into_iter()
            .map(|service| (service.name, service.spec.depends_on))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "services are stopped in no order");
            Needs::new()
        }
    }
}

/// Stops what this node still runs, unless told to stop at once.
async fn halt(
    config: &NodeConfig,
    data: &DataDir,
    needs: &Needs,
    stop: &mut StopSignal,
) -> ExitCode {
    let search = engine_search(config);
    let node = data.seed.node.to_string();
    let boxes = search.as_ref().map(|search| weft_runtime::Boxes { search, node: &node });
    tokio::select! {
        components = weft_runtime::stop_components(data.path(), needs, boxes) => {
            tracing::info!(components, "components stopped");
        }
        () = stop.wait() => tracing::warn!("told to end before all components were stopped"),
    }
    ExitCode::from(EXIT_REMOVED)
}

/// What agrees for this node, apart from its actors: it outlives their incarnations.
struct Agreed {
    parts: weft_registry::Agreement,
    consensus: Consensus,
    sessions: sessions::Kept,
    /// `None`: this node keeps sessions in its memory only.
    groups: Option<sessions::Groups>,
}

impl Agreed {
    async fn start(
        node: &Node,
        fabric: &Fabric,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Self, Fatal> {
        let data = node.data.path().to_owned();
        let profile = match node.config.membership {
            weft_config::node::Profile::Lan => Profile::Lan,
            weft_config::node::Profile::Wan => Profile::Wan,
        };
        let checkpoint_every = u64::from(node.config.checkpoint_every);
        let kept_behind = u64::from(node.config.log_kept);
        let first = node.data.seed.bootstrap.is_some();
        let memory_only = node.macp.as_ref().is_some_and(|macp| macp.memory_only);
        let retention = node.macp.as_ref().map_or(sessions::RETENTION, |macp| macp.retention);
        let modes = match &node.macp {
            Some(macp) => sessions::modes(macp)?,
            None => weft_session_actor::Modes::agreed(),
        };
        let own = (node.data.seed.node, node.clock.clone());
        let fabric = fabric.clone();
        // On the shared pool: no actor's thread holds an election up.
        let started = runtime.spawn(async move {
            let door = Door::new(fabric.clone());
            let membership =
                Membership::start(MembershipConfig::new(&data, profile), fabric.clone(), &door)?;
            let timing = timing(profile);
            let config = ConsensusConfig {
                timing,
                checkpoint_every,
                kept_behind,
                ..ConsensusConfig::new(&data)
            };
            let consensus = Consensus::open(config, fabric, &door).await?;
            let control = Control::default();
            let group = consensus.group(weft_registry::GROUP, control.machine()).await?;
            let others = weft_registry::Others::default();
            let (sessions, groups) = if memory_only {
                (sessions::Kept::in_memory(modes, own.1, retention), None)
            } else {
                let (opener, control) = (consensus.clone(), control.clone());
                let kept = sessions::Kept::agreed(modes, own.1, &data, retention).await?;
                let groups = sessions::Groups::new(kept, opener, control, others.clone(), own.0);
                // Those that are known already are there before anybody asks for them.
                if let Err(error) = groups.open().await {
                    // All else of the node goes on.
                    tracing::error!(%error, "a group of sessions is not opened: mend it and start weftd again");
                }
                (groups.kept.clone(), Some(groups))
            };
            door.attach();
            if first {
                group.bootstrap().await?;
            }
            let parts = weft_registry::Agreement { control, group, membership, others };
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Self {
                parts,
                consensus,
                sessions,
                groups,
            })
        });
        started.await?.map_err(|error| -> Fatal { error })
    }
}

/// Over a wide area a round trip alone may take what a heartbeat has in a local one.
fn timing(profile: Profile) -> Timing {
    match profile {
        Profile::Wan => Timing {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_secs(2),
            election_max: Duration::from_secs(4),
            ..Timing::default()
        },
        _ => Timing::default(),
    }
}

/// The node's own issuing CA; made at its first start. It signs for the cluster once the node
/// votes and its CA has joined the trust bundle (design §3).
fn issuing_ca(
    files: &IdentityFiles,
    cluster: ClusterId,
    now: weft_wire::WallTime,
) -> Result<IssuingCa, IdentityError> {
    if files.has_ca() {
        return files.load_ca();
    }
    let ca = IssuingCa::create(cluster, now)?;
    files.save_ca(&ca)?;
    Ok(ca)
}

/// What the machine has.
fn capacity() -> Capacity {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Capacity {
        cpu_millis: u64::try_from(cores).unwrap_or(0).saturating_mul(1_000),
        memory: memory.unwrap_or(0).saturating_mul(1_024),
    }
}

/// Whether an expired certificate could be renewed without anybody's help.
fn renewed_by_own_ca(renewal: &Renewal, ca: &IssuingCa) -> bool {
    match renewal.by_own_ca(ca) {
        Ok(()) => {
            tracing::info!("the node's certificate had expired; renewed by its own issuing CA");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "this node's issuing CA cannot renew its certificate");
            false
        }
    }
}

/// What this node listens on.
struct Bound {
    ports: PortsFile,
    /// As `ports.fabric`, but as it is now: the address of an overlay may change.
    told: overlay::Told,
    http: HttpFace,
    macp: Option<MacpFace>,
}

/// The id of a group, from the text of `/etc/group`.
fn group_id(name: &str, groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// SIGTERM and SIGINT.
struct StopSignal {
    term: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nweft:x:990:ann,bob\nweftish:x:991:\n";
        assert_eq!(group_id("weft", groups), Some(990));
        assert_eq!(group_id("wef", groups), None);
    }
}
