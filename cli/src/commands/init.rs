//! `init`: a cluster's first node, its certificates, the first operator and their context.
//! Either all of it is there afterwards, or nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;
use weft_config::cli::{CliConfig, CliFile, Context, NodeEntry};
use weft_config::node::{NodeConfig, NodeFile, NodeFlags, load};
use weft_identity::{
    IdentityError, IdentityFiles, IssuingCa, PrivateKey, Subject, TrustBundle, Validity,
};
use weft_protocol::files::{FILES_VERSION, NodeSeed};
use weft_protocol::{Capacity, Command, FORMAT_LEVEL, NodeRecord, OperatorRecord, VERSION};
use weft_wire::{Clock, ClusterId, Identity, NodeId, OperatorId, Role, SystemClock, WallTime};

use super::App;
use super::definition::invalid;
use crate::args::Init;
use crate::context::file_of;
use crate::error::{CliError, Exit, Result};
use crate::paths::{Staging, absolute, check_free, write_file};

/// How a node is set up; the same for the first one and for those that join.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    /// Its name.
    pub(crate) name: String,
    /// Its data directory, absolute.
    pub(crate) data: PathBuf,
    /// Where its fabric listens.
    pub(crate) bind: SocketAddr,
    /// Where others reach it; `None`: where it listens.
    pub(crate) advertise: Option<String>,
    /// Where its gateway listens.
    pub(crate) gateway: SocketAddr,
    /// Whether `weft chaos` may break it.
    pub(crate) chaos: bool,
}

impl NodePlan {
    /// The node file's text, checked as the daemon will check it.
    ///
    /// # Errors
    /// Exit 2, drawn, for what the daemon would refuse.
    pub(crate) fn node_file(&self) -> Result<String> {
        if self.bind.ip().is_unspecified() {
            return Err(CliError::usage(format!(
                "--bind {}: that is every interface of this machine",
                self.bind
            ))
            .help(
                "name the address that the other nodes reach, such as the overlay network's; a \
                 node file may later say `[fabric] allow_wildcard = true`",
            ));
        }
        let mut config = NodeConfig::new(&self.name, &self.data);
        config.fabric.bind = self.bind;
        config.fabric.advertise = self.advertise.clone().unwrap_or_default();
        config.gateway_bind = self.gateway;
        config.chaos = self.chaos;
        let text = config.to_toml();
        let file = NodeFile { name: "node.toml", text: &text, dir: None };
        load(Some(file), [], &NodeFlags::default()).map_err(|errors| invalid(&errors))?;
        Ok(text)
    }

    /// What others are told until the daemon reports where it listens.
    pub(crate) fn address(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.bind.to_string())
    }
}

/// Where the operator's side of a new cluster goes.
#[derive(Debug, Clone)]
pub(crate) struct OperatorPlan {
    /// Name in the audit.
    pub(crate) name: String,
    /// The CLI file.
    pub(crate) file: PathBuf,
    /// The context's name in it.
    pub(crate) context: String,
    /// Directory of certificate, key and bundle.
    pub(crate) identity: PathBuf,
}

/// The ids of a new cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) operator: OperatorId,
}

#[derive(Serialize)]
struct View {
    cluster: String,
    node: String,
    name: String,
    data_dir: String,
    node_file: String,
    context: String,
    context_name: String,
    operator: String,
    operator_name: String,
}

pub(crate) fn run(app: &App, args: &Init) -> Result<Exit> {
    let data = match &args.data {
        Some(dir) => absolute(dir)?,
        None => app.env.data_dir(&args.name)?,
    };
    let file = file_of(&app.global, &app.env)?;
    let context = app
        .global
        .context
        .clone()
        .or_else(|| std::env::var("WEFT_CONTEXT").ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "default".to_owned());
    let beside = file.parent().unwrap_or(Path::new("/"));
    let operator = OperatorPlan {
        name: args.operator.clone().unwrap_or_else(login_name),
        identity: beside.join("identities").join(&context),
        context,
        file,
    };
    let node = NodePlan {
        name: args.name.clone(),
        data,
        bind: parse_address(&args.bind)?,
        advertise: args.advertise.clone(),
        gateway: parse_address(&args.gateway)?,
        chaos: false,
    };
    if args.dry_run {
        check(&node, &operator)?;
        app.output.would(format!(
            "make a cluster: node {} in {}, operator {} as context {} in {}",
            node.name,
            node.data.display(),
            operator.name,
            operator.context,
            operator.file.display()
        ))?;
        return Ok(Exit::Ok);
    }
    let made = make_cluster(&node, &operator, SystemClock.wall())?;
    let node_file = node.data.join("node.toml").display().to_string();
    let view = View {
        cluster: made.cluster.to_string(),
        node: made.node.to_string(),
        name: node.name.clone(),
        data_dir: node.data.display().to_string(),
        node_file: node_file.clone(),
        context: operator.file.display().to_string(),
        context_name: operator.context.clone(),
        operator: made.operator.to_string(),
        operator_name: operator.name.clone(),
    };
    let text = format!(
        "cluster   {}\nnode      {} ({})\noperator  {} ({}), context {} in {}\n\nNext:\n  \
         weftd run --config {node_file}\n  weft node list\n  \
         weft node token            # then, on another machine: weft join <token>",
        made.cluster,
        made.node,
        node.name,
        made.operator,
        operator.name,
        operator.context,
        operator.file.display()
    );
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}

/// Refuses what is in the way before anything is made.
fn check(node: &NodePlan, operator: &OperatorPlan) -> Result<String> {
    let text = node.node_file()?;
    check_free(&node.data)?;
    let config = CliConfig::load(&operator.file, None).map_err(|errors| invalid(&errors))?;
    if let Some(known) = config.contexts.get(&operator.context) {
        return Err(CliError::failed(format!(
            "{} already has a context {} (cluster {})",
            operator.file.display(),
            operator.context,
            known.cluster
        ))
        .help("choose another name with --context, or another file with --config"));
    }
    check_free(&operator.identity)?;
    Ok(text)
}

/// Makes a cluster of one node: data directory, certificates, operator, context.
///
/// # Errors
/// When anything is in the way or cannot be written; nothing is left behind then.
pub(crate) fn make_cluster(
    node: &NodePlan,
    operator: &OperatorPlan,
    now: WallTime,
) -> Result<Made> {
    let node_file = check(node, operator)?;
    let made = Made {
        cluster: ClusterId::new(Uuid::now_v7()),
        node: NodeId::new(Uuid::now_v7()),
        operator: OperatorId::new(Uuid::now_v7()),
    };
    let data = Staging::start(&node.data)?;
    let person = Staging::start(&operator.identity)?;
    let ca = IssuingCa::create(made.cluster, now).map_err(|e| identity_error(&e))?;
    let mut bundle = TrustBundle::new();
    bundle.insert(ca.certificate()).map_err(|e| identity_error(&e))?;

    let node_files = IdentityFiles::node(data.path());
    node_files.save_ca(&ca).map_err(|e| identity_error(&e))?;
    let node_key = issue(
        &node_files,
        &ca,
        &bundle,
        &Subject { cluster: made.cluster, identity: Identity::Node(made.node) },
        Validity::node(now),
    )?;
    let person_key = issue(
        &IdentityFiles::operator(person.path()),
        &ca,
        &bundle,
        &Subject { cluster: made.cluster, identity: Identity::Operator(made.operator) },
        Validity::operator(now),
    )?;
    let bootstrap = Command::Bootstrap {
        node: NodeRecord {
            id: made.node,
            name: node.name.clone(),
            address: node.address(),
            zone: String::new(),
            labels: Vec::new(),
            version: VERSION.to_owned(),
            key_fingerprint: node_key.public_key_fingerprint().to_string(),
            ca: ca.to_pem(),
            capacity: Capacity::default(),
            format: FORMAT_LEVEL,
            extra_labels: Vec::new(),
            draining: false,
            joined_at: now,
        },
        operator: OperatorRecord {
            id: made.operator,
            name: operator.name.clone(),
            role: Role::Admin,
            key_fingerprint: person_key.public_key_fingerprint().to_string(),
            created_at: now,
        },
        ca: ca.to_pem(),
    };
    let seed = NodeSeed {
        version: FILES_VERSION,
        cluster: made.cluster.to_string(),
        node: made.node,
        name: node.name.clone(),
        bootstrap: Some(bootstrap),
        peers: Vec::new(),
    };
    write_node(data.path(), &node_file, &seed)?;
    place(data, person, node, operator, made.cluster)?;
    Ok(made)
}

/// Moves everything to its place and writes the context; what was moved is removed again if a
/// later step fails.
fn place(
    data: Staging,
    person: Staging,
    node: &NodePlan,
    operator: &OperatorPlan,
    cluster: ClusterId,
) -> Result<()> {
    data.finish()?;
    let undo = |error: CliError, with_identity: bool| {
        // Already failing: what cannot be removed is named by the next `init`.
        let _ = std::fs::remove_dir_all(&node.data);
        if with_identity {
            let _ = std::fs::remove_dir_all(&operator.identity);
        }
        error
    };
    person.finish().map_err(|error| undo(error, false))?;
    let mut nodes = Vec::new();
    if node.bind.port() != 0 || node.advertise.is_some() {
        nodes.push(NodeEntry {
            name: node.name.clone(),
            address: node.address(),
            ..NodeEntry::default()
        });
    }
    let context = Context {
        cluster: cluster.to_string(),
        identity_dir: operator.identity.clone(),
        nodes,
        socket: Some(node.data.join("weft.sock")),
    };
    save_context(operator, &context).map_err(|error| undo(error, true))
}

/// Writes a context into the CLI file; the first one becomes the current one.
///
/// # Errors
/// Names the file; it is as it was before.
pub(crate) fn save_context(operator: &OperatorPlan, context: &Context) -> Result<()> {
    let failed = |error: weft_config::cli::EditError| {
        CliError::failed("cannot write the CLI file").cause(error)
    };
    let config = CliConfig::load(&operator.file, None).map_err(|errors| invalid(&errors))?;
    let mut file = CliFile::open(&operator.file).map_err(failed)?;
    file.set_context(&operator.context, context).map_err(failed)?;
    if config.current_context.is_empty() {
        file.use_context(&operator.context).map_err(failed)?;
    }
    file.save().map_err(failed)
}

/// A key, a certificate for it and the bundle, written where `files` says.
fn issue(
    files: &IdentityFiles,
    ca: &IssuingCa,
    bundle: &TrustBundle,
    subject: &Subject,
    validity: Validity,
) -> Result<PrivateKey> {
    let make = || -> Result<PrivateKey, IdentityError> {
        let key = files.key_or_create()?;
        let chain = ca.sign_csr(&key.csr()?, subject, validity)?;
        files.save_certificate(&chain)?;
        files.save_bundle(bundle)?;
        Ok(key)
    };
    make().map_err(|error| identity_error(&error))
}

/// `node.toml` and `node.json`.
///
/// # Errors
/// Names the file.
pub(crate) fn write_node(dir: &Path, node_file: &str, seed: &NodeSeed) -> Result<()> {
    write_file(&dir.join("node.toml"), node_file)?;
    let text = serde_json::to_string_pretty(seed)
        .map_err(|error| CliError::failed("cannot write node.json").cause(error))?;
    write_file(&dir.join("node.json"), &text)
}

pub(crate) fn identity_error(error: &IdentityError) -> CliError {
    CliError::failed("cannot make the certificates").cause(error)
}

/// `ip:port`, as the arguments were checked to be.
///
/// # Errors
/// Exit 2 otherwise.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| CliError::usage(format!("`{text}`: expected ip:port")))
}

/// The login name, made into a name as the cluster takes them.
fn login_name() -> String {
    let raw = ["LOGNAME", "USER"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_default();
    name_from(&raw).unwrap_or_else(|| "operator".to_owned())
}

/// What of a text can be a name; `None` if nothing can.
pub(crate) fn name_from(text: &str) -> Option<String> {
    let plain: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(48)
        .collect();
    let name = plain.trim_matches('-').to_owned();
    weft_protocol::valid_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const NOW: WallTime = WallTime::from_micros(1_795_000_000_000_000);

    fn plans(dir: &Path) -> (NodePlan, OperatorPlan) {
        let node = NodePlan {
            name: "n1".into(),
            data: dir.join("n1"),
            bind: "127.0.0.1:7443".parse().expect("address"),
            advertise: None,
            gateway: "127.0.0.1:0".parse().expect("address"),
            chaos: true,
        };
        let operator = OperatorPlan {
            name: "ada".into(),
            file: dir.join("conf/weft.toml"),
            context: "default".into(),
            identity: dir.join("conf/identities/default"),
        };
        (node, operator)
    }

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .map(|all| {
                all.filter_map(|e| e.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
                    .collect()
            })
            .unwrap_or_default();
        names.sort();
        names
    }

    #[test]
    fn a_new_cluster_has_all_its_parts_and_they_fit_together() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, operator) = plans(dir.path());
        let made = make_cluster(&node, &operator, NOW).expect("makes");

        let stored = IdentityFiles::node(&node.data).load().expect("node identity");
        assert_eq!(stored.own.identity, Identity::Node(made.node));
        assert_eq!(stored.own.cluster, made.cluster);
        let person = IdentityFiles::operator(&operator.identity).load().expect("operator identity");
        assert_eq!(person.own.identity, Identity::Operator(made.operator));
        assert_eq!(person.bundle, stored.bundle);

        let text = std::fs::read_to_string(node.data.join("node.json")).expect("reads");
        let seed: NodeSeed = serde_json::from_str(&text).expect("parses");
        assert_eq!((seed.node, seed.cluster), (made.node, made.cluster.to_string()));
        match seed.bootstrap {
            Some(Command::Bootstrap { node: record, operator: person, ca }) => {
                assert!(record.ca.contains("CERTIFICATE"));
                assert_eq!(record.key_fingerprint, stored.own.public_key_fingerprint.to_string());
                assert_eq!(person.role, Role::Admin);
                assert!(ca.contains("BEGIN CERTIFICATE") && !ca.contains("PRIVATE KEY"));
            }
            other => panic!("{other:?}"),
        }
        let config = CliConfig::load(&operator.file, None).expect("parses");
        let (name, context) = config.context(None).expect("current");
        assert_eq!(name, "default");
        assert_eq!(context.cluster, made.cluster.to_string());
        assert_eq!(context.identity_dir, operator.identity);
        assert_eq!(context.nodes[0].address, "127.0.0.1:7443");
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, operator) = plans(dir.path());
        make_cluster(&node, &operator, NOW).expect("makes");
        for path in [
            node.data.join("identity/node.key"),
            node.data.join("identity/ca.key"),
            operator.identity.join("operator.key"),
            operator.file.clone(),
        ] {
            let mode = std::fs::metadata(&path).expect("is there").mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        assert_eq!(std::fs::metadata(&node.data).expect("is").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_second_init_is_refused_and_names_the_node_that_is_there() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, operator) = plans(dir.path());
        make_cluster(&node, &operator, NOW).expect("makes");
        let error = make_cluster(&node, &operator, NOW).expect_err("refused").to_string();
        assert!(error.contains("node n1") && error.contains("weftd run"), "{error}");
    }

    #[test]
    fn a_context_of_that_name_is_not_overwritten_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, operator) = plans(dir.path());
        make_cluster(&node, &operator, NOW).expect("makes");
        let before = std::fs::read_to_string(&operator.file).expect("reads");
        let second = NodePlan { data: dir.path().join("other"), ..node };
        let error = make_cluster(&second, &operator, NOW).expect_err("refused").to_string();
        assert!(error.contains("--context"), "{error}");
        assert_eq!(std::fs::read_to_string(&operator.file).expect("reads"), before);
        assert_eq!(entries(dir.path()), ["conf", "n1"]);
    }

    #[test]
    fn when_the_context_cannot_be_written_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, mut operator) = plans(dir.path());
        // A directory where the CLI file should be.
        operator.file = dir.path().join("blocked");
        operator.identity = dir.path().join("ids/default");
        std::fs::create_dir(&operator.file).expect("makes");
        assert!(make_cluster(&node, &operator, NOW).is_err());
        assert!(!node.data.exists() && !operator.identity.exists());
        assert_eq!(entries(&dir.path().join("ids")), Vec::<String>::new());
    }

    #[test]
    fn a_wildcard_address_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, operator) = plans(dir.path());
        let node = NodePlan { bind: "0.0.0.0:7443".parse().expect("address"), ..node };
        let error = make_cluster(&node, &operator, NOW).expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(entries(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn names_are_made_from_what_there_is() {
        assert_eq!(name_from("Ada.Lovelace"), Some("ada-lovelace".into()));
        assert_eq!(name_from("-"), None);
        assert_eq!(name_from(""), None);
    }
}
