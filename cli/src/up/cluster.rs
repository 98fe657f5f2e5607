//! Bringing a local cluster up, step by step: the first node by `init`, the others by real join
//! tokens, then the example service through the context an operator would use.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use weft_config::cli::NodeEntry;
use weft_identity::JoinToken;
use weft_protocol::files::{FILES_VERSION, PortsFile, ProcessFile};
use weft_protocol::{ClusterNodes, ClusterPs, ComponentRow, IssueToken, NodeState, ReadState};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::state::{UpFile, daemon, remember};
use crate::args::Up;
use crate::attach::{Attached, Attacher, local};
use crate::commands::App;
use crate::commands::definition::{Source, resolve};
use crate::commands::init::{NodePlan, OperatorPlan, make_cluster, save_context};
use crate::commands::join::{is_node, join};
use crate::commands::{deploy, find_node};
use crate::context::{Context, read_ports};
use crate::error::{CliError, Result};
use crate::output::views::{UpNodeView, UpServiceView, UpView};
use crate::paths::{make_private_dir, open_log, tail, write_file};

/// A daemon has this long to be ready, on a machine that is busy building.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Nodes of a new cluster, unless told otherwise.
pub(crate) const NODES: u8 = 3;
/// Replicas of the example service, where there are as many nodes.
const REPLICAS: usize = 3;
/// The example service.
pub(crate) const HELLO: &str = "hello";
/// The context's name in the file that `up` writes.
const CONTEXT: &str = "up";

/// Where the programs are that `up` needs: beside this one.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) weft: PathBuf,
    pub(crate) weftd: PathBuf,
    pub(crate) hello: Option<PathBuf>,
}

impl Programs {
    /// Looks beside this executable.
    ///
    /// # Errors
    /// Names what is missing and how to get it.
    pub(crate) fn find(hello: bool) -> Result<Self> {
        let weft = std::env::current_exe()
            .map_err(|error| CliError::failed("cannot tell where weft itself is").cause(error))?;
        Self::beside(weft, hello)
    }

    fn beside(weft: PathBuf, hello: bool) -> Result<Self> {
        let dir = weft.parent().unwrap_or(Path::new("/")).to_owned();
        let need = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                return Ok(path);
            }
            let error =
                CliError::failed(format!("{name} is not beside weft, in {}", dir.display()));
            Err(if name == HELLO {
                error.help("build it with `cargo build -p weft-hello`, or use --no-hello")
            } else {
                error.help("build it with `cargo build -p weft-node`, or install both together")
            })
        };
        let weftd = need("weftd")?;
        let hello = hello.then(|| need(HELLO)).transpose()?;
        Ok(Self { weft, weftd, hello })
    }
}

/// A node of the local cluster.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    /// Its daemon as started by this process.
    pub(crate) child: Option<Child>,
    /// Where it listens, once it does.
    pub(crate) ports: Option<PortsFile>,
}

/// A local cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) programs: Programs,
    pub(crate) nodes: Vec<Node>,
    pub(crate) file: UpFile,
    pub(crate) id: String,
    pub(crate) services: Vec<UpServiceView>,
    /// Components as they were when all was up.
    pub(crate) rows: Vec<ComponentRow>,
}

impl Cluster {
    /// Makes or opens the directory.
    ///
    /// # Errors
    /// When it runs already, or holds something else.
    pub(crate) fn open(app: &App, args: &Up, programs: Programs) -> Result<Self> {
        let (dir, made_dir) = match &args.dir {
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("weft-up-")
                    .tempdir()
                    .map_err(|e| CliError::io("make a directory in", &std::env::temp_dir(), &e))?;
                // From here on `down` removes it, or the clean-up of a failed `up`.
                (dir.keep(), true)
            }
            Some(dir) => {
                let dir = crate::paths::absolute(dir)?;
                let made = !dir.exists();
                make_private_dir(&dir)?;
                (dir, made)
            }
        };
        let dir = std::fs::canonicalize(&dir).map_err(|e| CliError::io("use", &dir, &e))?;
        let named = |count: u8| (1..=count).map(|i| format!("n{i}"));
        let file = match UpFile::read(&dir)? {
            Some(file) => {
                refuse_running(&dir, &file.nodes)?;
                // A stopped cluster starts again with the nodes it has, and more if asked for.
                let mut nodes = file.nodes.clone();
                nodes.extend(
                    named(args.nodes.unwrap_or(0)).filter(|name| !file.nodes.contains(name)),
                );
                UpFile { nodes, ..file }
            }
            None => {
                if !made_dir {
                    crate::paths::check_free(&dir)
                        .map_err(|e| e.help("choose an empty or new directory with --dir"))?;
                }
                let service = if args.no_hello { String::new() } else { HELLO.to_owned() };
                let nodes = named(args.nodes.unwrap_or(NODES)).collect();
                UpFile { version: FILES_VERSION, made_dir, nodes, service }
            }
        };
        file.write(&dir)?;
        remember(&app.env, &dir);
        let nodes = file
            .nodes
            .iter()
            .map(|name| Node { name: name.clone(), data: dir.join(name), child: None, ports: None })
            .collect();
        Ok(Self {
            dir,
            programs,
            nodes,
            file,
            id: String::new(),
            services: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// The CLI file.
    pub(crate) fn context_file(&self) -> PathBuf {
        self.dir.join("weft.toml")
    }

    fn operator(&self) -> OperatorPlan {
        OperatorPlan {
            name: "operator".into(),
            file: self.context_file(),
            context: CONTEXT.into(),
            identity: self.dir.join("operator"),
        }
    }

    /// Brings everything up.
    ///
    /// # Errors
    /// Names the step; whoever called stops what was started.
    pub(crate) async fn bring_up(&mut self, app: &App) -> Result<()> {
        let any_port = "127.0.0.1:0";
        let plan = |name: &str, data: &Path| -> Result<NodePlan> {
            Ok(NodePlan {
                name: name.to_owned(),
                data: data.to_owned(),
                bind: crate::commands::init::parse_address(any_port)?,
                advertise: None,
                gateway: crate::commands::init::parse_address(any_port)?,
                chaos: true,
            })
        };
        let operator = self.operator();
        let first = self.nodes.first().map(|n| (n.name.clone(), n.data.clone()));
        let Some((name, data)) = first else {
            return Err(CliError::usage("a cluster needs a node"));
        };
        if !is_node(&data) {
            app.output.progress(format!("init {name} in {}", data.display()));
            make_cluster(&plan(&name, &data)?, &operator, SystemClock.wall())?;
        }
        self.start(0)?;
        let first = self.ready(0).await?;
        self.id = first.info.as_ref().map(|i| i.cluster.clone()).unwrap_or_default();
        for at in 1..self.nodes.len() {
            let Some(node) = self.nodes.get(at) else { break };
            let (name, data) = (node.name.clone(), node.data.clone());
            if !is_node(&data) {
                app.output.progress(format!("join {name} in {}", data.display()));
                let token = token(&first, &name).await?;
                join(&token, &plan(&name, &data)?, READY).await?;
            }
            self.start(at)?;
        }
        let mut attached = vec![first];
        for at in 1..self.nodes.len() {
            attached.push(self.ready(at).await?);
        }
        for node in &attached {
            self.agreed(node).await?;
            self.all_linked(node).await?;
        }
        self.write_context(&operator)?;
        if self.file.service == HELLO && self.programs.hello.is_some() {
            self.deploy_hello(app).await?;
        }
        Ok(())
    }

    /// Starts a node's daemon in a process group of its own, so that the terminal's signals do
    /// not reach it.
    ///
    /// # Errors
    /// Names the program or the log.
    pub(crate) fn start(&mut self, at: usize) -> Result<()> {
        let weftd = self.programs.weftd.clone();
        let Some(node) = self.nodes.get_mut(at) else { return Ok(()) };
        let log = open_log(&node.data.join("weftd.log"))?;
        let other =
            log.try_clone().map_err(|e| CliError::io("use", &node.data.join("weftd.log"), &e))?;
        let child = Command::new(&weftd)
            .arg("run")
            .arg("--config")
            .arg(node.data.join("node.toml"))
            .current_dir(&node.data)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(other)
            .process_group(0)
            .spawn()
            .map_err(|e| CliError::io("start", &weftd, &e).node(&node.name))?;
        node.ports = None;
        node.child = Some(child);
        Ok(())
    }

    /// Waits until a started daemon answers on its local socket.
    ///
    /// # Errors
    /// When it ends or time runs out, with the end of its log.
    async fn ready(&mut self, at: usize) -> Result<Attached> {
        let until = SystemClock.now() + READY;
        let Some(node) = self.nodes.get_mut(at) else {
            return Err(CliError::failed("no such node"));
        };
        let fail = |message: String, data: &Path| {
            CliError::failed(message)
                .node(&node.name)
                .step("start the daemon")
                .details(tail(&data.join("weftd.log"), 15).into_iter().map(|l| format!("| {l}")))
                .help(format!("its whole log is {}", data.join("weftd.log").display()))
        };
        loop {
            let pid = match &mut node.child {
                Some(child) => match child.try_wait() {
                    Ok(None) => child.id(),
                    Ok(Some(status)) => {
                        let message = format!("the daemon of {} ended: {status}", node.name);
                        return Err(fail(message, &node.data));
                    }
                    Err(error) => {
                        return Err(fail(format!("cannot watch the daemon: {error}"), &node.data));
                    }
                },
                None => None,
            };
            // The files of an earlier run may still lie there: the pid says whose they are.
            let own = daemon(&node.data).is_some_and(|file| Some(file.pid) == pid);
            if own
                && let Some(ports) = read_ports(&node.data)
                && let Ok(attached) =
                    local(Path::new(&ports.socket), Duration::from_millis(500)).await
            {
                node.ports = Some(ports);
                return Ok(attached);
            }
            if SystemClock.now() >= until {
                let message = format!("{} was not ready within {} s", node.name, READY.as_secs());
                return Err(fail(message, &node.data));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a node has the cluster's first records: before that it knows no operator.
    async fn agreed(&self, from: &Attached) -> Result<()> {
        let until = SystemClock.now() + READY;
        loop {
            let registry = Address::here(ActorKind::Registry);
            let state = from.ask(registry, ReadState { consistent: false }, READY).await?;
            if !state.operators.is_empty() && !state.nodes.is_empty() {
                return Ok(());
            }
            if SystemClock.now() >= until {
                return Err(CliError::failed(format!(
                    "{} has no record of the cluster yet",
                    from.node()
                ))
                .step("agree on the first records"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a node sees all others.
    async fn all_linked(&self, from: &Attached) -> Result<()> {
        let until = SystemClock.now() + READY;
        loop {
            let rows = from.ask(Address::here(ActorKind::Gateway), ClusterNodes {}, READY).await?;
            let waiting: Vec<&str> = self
                .nodes
                .iter()
                .filter(|node| {
                    !find_node(&rows, &node.name).is_ok_and(|row| row.state == NodeState::Ready)
                })
                .map(|node| node.name.as_str())
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if SystemClock.now() >= until {
                return Err(CliError::failed(format!(
                    "{} sees no answer from {}",
                    from.node(),
                    waiting.join(", ")
                ))
                .step("link the nodes"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Writes the nodes' addresses, now that they are known, into the context.
    fn write_context(&self, operator: &OperatorPlan) -> Result<()> {
        let nodes = self
            .nodes
            .iter()
            .filter_map(|node| {
                let address = node.ports.as_ref()?.fabric.clone();
                Some(NodeEntry { name: node.name.clone(), address, ..NodeEntry::default() })
            })
            .collect();
        let context = weft_config::cli::Context {
            cluster: self.id.clone(),
            identity_dir: operator.identity.clone(),
            nodes,
            // Also the way to a new certificate, when the operator's has expired.
            socket: self.nodes.iter().find_map(|n| Some(n.ports.as_ref()?.socket.clone().into())),
        };
        save_context(operator, &context)
    }

    /// The context that was written.
    ///
    /// # Errors
    /// As [`Context::load`].
    pub(crate) fn context(&self, app: &App) -> Result<Context> {
        let global = crate::args::Global {
            config: Some(self.context_file()),
            context: Some(CONTEXT.into()),
            ..crate::args::Global::default()
        };
        Context::load(&global, &app.env)
    }

    async fn deploy_hello(&mut self, app: &App) -> Result<()> {
        let context = self.context(app)?;
        let services = self.dir.join("services");
        make_private_dir(&services)?;
        let path = services.join(format!("{HELLO}.toml"));
        if let (Some(program), false) = (&self.programs.hello, path.exists()) {
            write_file(&path, &hello_definition(program, self.nodes.len().min(REPLICAS)))?;
        }
        let attached = Attacher::new(&context).attach(None).await?;
        app.output.progress(format!("deploy {HELLO}"));
        let wanted = resolve(None, &Source::File(path), (&services, ""), &app.output)?;
        let options = weft_protocol::DeployOptions::default();
        // The change's own document is not the result of `up`.
        let quiet = app.output.without_results();
        let view = deploy::deploy(&attached, &quiet, wanted, options, app.deploy(), false).await?;
        let ps = attached
            .ask(Address::here(ActorKind::Gateway), ClusterPs { target: None }, app.question())
            .await?;
        let mut rows: Vec<_> = ps.rows.iter().filter(|r| r.status.key.service == HELLO).collect();
        rows.sort_by_key(|row| row.status.key.replica);
        self.services = vec![UpServiceView {
            name: HELLO.into(),
            revision: view.revision,
            urls: rows.iter().flat_map(|row| row.status.urls.clone()).collect(),
        }];
        self.rows = ps.rows;
        Ok(())
    }

    /// As `--json` has it.
    pub(crate) fn view(&self) -> UpView {
        UpView {
            cluster: self.id.clone(),
            context: self.context_file().display().to_string(),
            nodes: self
                .nodes
                .iter()
                .map(|node| {
                    let ports = node.ports.as_ref();
                    UpNodeView {
                        name: node.name.clone(),
                        fabric: ports.map(|p| p.fabric.clone()).unwrap_or_default(),
                        gateway: ports.map(|p| p.gateway.clone()).unwrap_or_default(),
                        pid: node.child.as_ref().and_then(Child::id).unwrap_or(0),
                        data_dir: node.data.display().to_string(),
                    }
                })
                .collect(),
            services: self.services.clone(),
            dir: self.dir.display().to_string(),
        }
    }
}

/// Refuses a directory whose cluster runs.
fn refuse_running(dir: &Path, nodes: &[String]) -> Result<()> {
    let running: Vec<&str> = nodes
        .iter()
        .filter(|name| daemon(&dir.join(name)).is_some_and(|d: ProcessFile| d.is_running()))
        .map(String::as_str)
        .collect();
    if running.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(format!("{} is up already: {} run", dir.display(), running.join(", ")))
        .help(format!(
            "use it with `--config {0}/weft.toml`, or stop it with `weft down --dir {0}`",
            dir.display()
        )))
}

async fn token(first: &Attached, name: &str) -> Result<JoinToken> {
    let message = IssueToken { ttl_secs: 600, name: name.to_owned() };
    let issued = first.ask(Address::here(ActorKind::Registry), message, READY).await?;
    crate::commands::join::read_token(&issued.token)
}

/// The example service's definition.
pub(crate) fn hello_definition(program: &Path, replicas: usize) -> String {
    let program = toml::Value::String(program.to_string_lossy().into_owned());
    format!(
        "# The example service of `weft up`. Change it and run `weft deploy {HELLO}`.\n\
         name = \"{HELLO}\"\n\
         version = \"{version}\"\n\
         replicas = {replicas}\n\
         \n\
         [[components]]\n\
         name = \"{HELLO}\"\n\
         cmd = [{program}]\n\
         health = {{ kind = \"http\", path = \"/health\", interval = \"1s\", timeout = \"1s\" }}\n\
         \n\
         [[components.routes]]\n\
         port = 8080\n",
        version = weft_protocol::VERSION,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Global;
    use crate::output::Output;
    use crate::paths::Env;

    fn app(runtime: &Path) -> App {
        App {
            global: Global::default(),
            output: Output::new(&Global { quiet: true, ..Global::default() }),
            env: Env { runtime_dir: Some(runtime.to_owned()), ..Env::default() },
        }
    }

    fn args(dir: &Path) -> Up {
        Up { nodes: None, dir: Some(dir.to_owned()), detach: true, no_hello: true, dry_run: false }
    }

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join(name);
        std::fs::write(&path, text).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        path
    }

    #[test]
    fn the_example_definition_parses_even_with_an_odd_path() {
        let text = hello_definition(Path::new("/a \"b\"\\c/hello"), 3);
        let parsed = weft_config::service::parse(&text, "hello.toml").expect("parses");
        assert_eq!(parsed.spec.replicas, 3);
        let component = &parsed.spec.components[0];
        assert_eq!(component.cmd, ["/a \"b\"\\c/hello"]);
        assert_eq!(component.health.as_ref().expect("has a probe").path, "/health");
        assert!(component.routes[0].name.is_empty());
    }

    #[test]
    fn what_is_missing_beside_weft_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let weft = dir.path().join("weft");
        let error = Programs::beside(weft.clone(), true).expect_err("missing").to_string();
        assert!(error.contains("weftd") && error.contains("cargo build"), "{error}");
        std::fs::write(dir.path().join("weftd"), "").expect("writes");
        let error = Programs::beside(weft.clone(), true).expect_err("missing").to_string();
        assert!(error.contains("--no-hello"), "{error}");
        assert!(Programs::beside(weft, false).is_ok());
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("precious"), "").expect("writes");
        let programs = Programs { weft: "/w".into(), weftd: "/d".into(), hello: None };
        let error = Cluster::open(&app(dir.path()), &args(dir.path()), programs)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn a_directory_that_is_up_already_is_refused_and_says_how_to_stop_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let up = dir.path().join("c");
        let programs = Programs { weft: "/w".into(), weftd: "/d".into(), hello: None };
        let cluster = Cluster::open(&app(dir.path()), &args(&up), programs.clone()).expect("opens");
        assert!(cluster.file.made_dir);
        std::fs::create_dir(up.join("n1")).expect("makes");
        let me = ProcessFile::of(std::process::id()).expect("named");
        let text = serde_json::to_string(&me).expect("JSON");
        std::fs::write(up.join("n1/weftd.json"), text).expect("writes");
        let error = Cluster::open(&app(dir.path()), &args(&up), programs).expect_err("refused");
        assert!(error.to_string().contains("weft down --dir"), "{error}");
    }

    #[test]
    fn a_cluster_that_is_started_again_has_the_nodes_it_had_and_more_only_if_asked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let programs = Programs { weft: "/w".into(), weftd: "/d".into(), hello: None };
        let names = |nodes| {
            let args = Up { nodes, ..args(&dir.path().join("c")) };
            let cluster = Cluster::open(&app(dir.path()), &args, programs.clone()).expect("opens");
            cluster.file.nodes.join(" ")
        };
        assert_eq!(names(Some(2)), "n1 n2");
        assert_eq!(names(None), "n1 n2");
        assert_eq!(names(Some(1)), "n1 n2");
        assert_eq!(names(Some(4)), "n1 n2 n3 n4");
    }

    #[tokio::test]
    async fn a_daemon_that_ends_at_once_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().expect("temp dir");
        let weftd = script(dir.path(), "weftd", "#!/bin/sh\necho no luck today >&2\nexit 78\n");
        let programs = Programs { weft: "/w".into(), weftd, hello: None };
        let app = app(dir.path());
        let mut cluster =
            Cluster::open(&app, &args(&dir.path().join("c")), programs).expect("opens");
        let text = cluster.bring_up(&app).await.expect_err("ends").to_string();
        for part in ["n1", "78", "no luck today", "weftd.log"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
