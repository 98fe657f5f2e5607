//! `join`: this machine becomes a node. Its key is made here and stays here; the cluster is known
//! by the token's fingerprints before the secret is said (design §3).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use weft_identity::{
    CertificateChain, IdentityFiles, JoinToken, TrustBundle, joiner_client_config,
};
use weft_link::{JOIN_PROTOCOLS, join_ask};
use weft_protocol::files::{FILES_VERSION, NodeSeed};
use weft_protocol::{JoinCluster, JoinedCluster, VERSION};
use weft_wire::{AskError, Clock, FailureKind, Identity, NodeId, SystemClock, Target, codec};

use super::App;
use super::init::{NodePlan, identity_error, name_from, parse_address, write_node};
use crate::args::Join;
use crate::attach::lookup;
use crate::context::unauthenticated;
use crate::error::{CliError, Exit, Result};
use crate::paths::{Staging, absolute, check_free};

/// One address may take this long.
const DIAL: Duration = Duration::from_secs(5);

/// What became of a join.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    pub(crate) name: String,
}

#[derive(Serialize)]
struct View {
    cluster: String,
    node: String,
    name: String,
    data_dir: String,
    node_file: String,
}

pub(crate) async fn run(app: &App, args: &Join) -> Result<Exit> {
    let token = if args.token == "-" { from_input()? } else { args.token.clone() };
    let token = read_token(&token)?;
    check_name(&token, args.name.as_deref())?;
    let name =
        args.name.clone().or_else(|| token.name.clone()).or_else(host_name).ok_or_else(|| {
            CliError::usage("this machine's host name is no node name").help("use --name NAME")
        })?;
    let data = match &args.data {
        Some(dir) => absolute(dir)?,
        None => app.env.data_dir(&name)?,
    };
    let plan = NodePlan {
        name,
        data,
        bind: parse_address(&args.bind)?,
        advertise: args.advertise.clone(),
        gateway: parse_address(&args.gateway)?,
        chaos: false,
    };
    if args.dry_run {
        plan.node_file()?;
        check_free(&plan.data)?;
        app.output.would(format!(
            "join cluster {} as {} in {}, by {}",
            token.cluster,
            plan.name,
            plan.data.display(),
            token.addresses.join(", ")
        ))?;
        return Ok(Exit::Ok);
    }
    let joined = join(&token, &plan, app.global.timeout.unwrap_or(DIAL)).await?;
    let node_file = plan.data.join("node.toml").display().to_string();
    let view = View {
        cluster: joined.cluster.clone(),
        node: joined.node.to_string(),
        name: joined.name.clone(),
        data_dir: plan.data.display().to_string(),
        node_file: node_file.clone(),
    };
    let text = format!(
        "cluster   {}\nnode      {} ({})\n\nNext:\n  weftd run --config {node_file}",
        joined.cluster, joined.node, joined.name
    );
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}

/// The first line of standard input: a token among the arguments can be read by every user of the
/// machine.
///
/// # Errors
/// Exit 2 if nothing can be read.
fn from_input() -> Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| CliError::usage("no token on standard input").cause(error))?;
    Ok(line.trim().to_owned())
}

/// A token that fixes the name admits no other.
///
/// # Errors
/// Exit 2, naming both.
fn check_name(token: &JoinToken, wanted: Option<&str>) -> Result<()> {
    match (token.name.as_deref(), wanted) {
        (Some(fixed), Some(wanted)) if fixed != wanted => {
            Err(CliError::usage(format!("the token is for node {fixed}, not for {wanted}"))
                .help(format!(
                    "leave --name out, or make a token with `weft node token --name {wanted}`"
                ))
                .step("read the join token"))
        }
        _ => Ok(()),
    }
}

/// Reads a token's text.
///
/// # Errors
/// Exit 3, saying what is wrong with it.
pub(crate) fn read_token(text: &str) -> Result<JoinToken> {
    let refuse = |error: weft_identity::TokenError| {
        unauthenticated(error.to_string()).step("read the join token")
    };
    let token: JoinToken = text.parse().map_err(refuse)?;
    token.check_not_expired(SystemClock.wall()).map_err(refuse)?;
    Ok(token)
}

/// Joins: asks each address of the token in turn, and writes the data directory.
///
/// # Errors
/// Exit 3 for a refused token, 5 when nobody answers; nothing is left behind.
pub(crate) async fn join(token: &JoinToken, plan: &NodePlan, within: Duration) -> Result<Joined> {
    // All that can fail here fails before the token is used up.
    plan.node_file()?;
    let staging = Staging::start(&plan.data)?;
    let files = IdentityFiles::node(staging.path());
    let key = files.key_or_create().map_err(|e| identity_error(&e))?;
    let message = JoinCluster {
        secret: codec::encode(&token.secret)
            .map_err(|e| CliError::failed("cannot use the join token").cause(e))?,
        cluster: token.cluster.to_string(),
        csr: key.csr().map_err(|e| identity_error(&e))?,
        name: plan.name.clone(),
        version: VERSION.to_owned(),
        clock: SystemClock.wall(),
        format: weft_protocol::FORMAT_LEVEL,
    };
    let reply = ask(token, message, within).await?;
    write(staging, &files, token, plan, &reply).map_err(|error| {
        // The cluster has counted the node in; say how to take it out again.
        let help = format!(
            "the cluster already lists node {}: `weft node remove {} --force` there, then join \
             again with a new token",
            reply.name, reply.node
        );
        error.details([help])
    })?;
    Ok(Joined { cluster: reply.cluster, node: reply.node, name: reply.name })
}

async fn ask(token: &JoinToken, message: JoinCluster, within: Duration) -> Result<JoinedCluster> {
    let mut tried = Vec::new();
    let mut refused = None;
    for address in &token.addresses {
        let socket = match lookup(address, within).await {
            Ok(socket) => socket,
            Err(error) => {
                tried.push(format!("{address}: {}", error.failure.cause));
                continue;
            }
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tls = joiner_client_config(&token.fingerprints, token.cluster, JOIN_PROTOCOLS, &clock)
            .map_err(|error| CliError::failed("cannot set up TLS").cause(error))?;
        // Whichever node answers forwards it to the one that applies.
        match join_ask(socket, tls, Target::Here, message.clone(), within).await {
            Ok(reply) => return Ok(reply),
            // The cluster has spoken; asking another node changes nothing.
            Err(AskError::Failed(failure)) if failure.kind != FailureKind::Unavailable => {
                return Err(refusal(failure));
            }
            Err(AskError::Failed(failure)) => {
                tried.push(format!("{address}: {failure}"));
                refused = Some(failure);
            }
            Err(error) => tried.push(format!("{address}: {error}")),
        }
    }
    if let Some(failure) = refused {
        return Err(CliError::from_failure(failure).step("join").details(tried));
    }
    Err(CliError::new(Exit::NoNode, "no-node", "no node of the cluster is reachable")
        .step("join")
        .details(tried)
        .help(
            "check the network between the machines (udp), and make a new token if the cluster's \
             addresses have changed",
        ))
}

/// A refused token or machine: exit 3, whatever kind the node gave it, unless it is the name that
/// clashes or a limit that is reached.
fn refusal(failure: weft_wire::Failure) -> CliError {
    let token = matches!(
        failure.kind,
        FailureKind::Unauthenticated | FailureKind::Forbidden | FailureKind::NotFound
    );
    let mut error = CliError::from_failure(failure).step("join");
    if token {
        error.exit = Exit::Unauthenticated;
    }
    error
}

fn write(
    staging: Staging,
    files: &IdentityFiles,
    token: &JoinToken,
    plan: &NodePlan,
    reply: &JoinedCluster,
) -> Result<()> {
    let wrong = |what: &str| CliError::failed(format!("the cluster's answer does not fit: {what}"));
    let chain = CertificateChain::from_pem(&reply.certificate, "the issued certificate")
        .map_err(|e| identity_error(&e))?;
    let own = chain.inspect().map_err(|e| identity_error(&e))?;
    if own.cluster != token.cluster || own.identity != Identity::Node(reply.node) {
        return Err(wrong("the certificate is for somebody else"));
    }
    let bundle =
        TrustBundle::from_pem(&reply.bundle, "the trust bundle").map_err(|e| identity_error(&e))?;
    if !token.fingerprints.iter().any(|pinned| bundle.contains(pinned)) {
        return Err(wrong("the trust bundle holds no CA that the token names"));
    }
    files.save_certificate(&chain).map_err(|e| identity_error(&e))?;
    files.save_bundle(&bundle).map_err(|e| identity_error(&e))?;
    // A token may fix the name.
    let plan = NodePlan { name: reply.name.clone(), ..plan.clone() };
    let seed = NodeSeed {
        version: FILES_VERSION,
        cluster: reply.cluster.clone(),
        node: reply.node,
        name: reply.name.clone(),
        bootstrap: None,
        peers: reply.peers.clone(),
    };
    write_node(staging.path(), &plan.node_file()?, &seed)?;
    staging.finish()
}

/// The host name up to its first dot, made into a node's name.
fn host_name() -> Option<String> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    name_from(host.split('.').next().unwrap_or_default())
}

/// Whether a directory holds a node already.
pub(crate) fn is_node(data: &Path) -> bool {
    data.join("node.json").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_identity::Fingerprint;
    use weft_wire::{ClusterId, Failure};

    fn token(addresses: &[&str], life: Duration) -> JoinToken {
        JoinToken::issue(
            ClusterId::new(uuid::Uuid::now_v7()),
            addresses.iter().map(|a| (*a).to_owned()).collect(),
            vec![Fingerprint::of(b"ca")],
            SystemClock.wall().plus(life),
            None,
        )
        .expect("token")
    }

    fn plan(dir: &Path) -> NodePlan {
        NodePlan {
            name: "n2".into(),
            data: dir.join("n2"),
            bind: "127.0.0.1:0".parse().expect("address"),
            advertise: None,
            gateway: "127.0.0.1:0".parse().expect("address"),
            chaos: false,
        }
    }

    #[test]
    fn a_truncated_token_ends_with_3_and_says_so() {
        let text = token(&["127.0.0.1:1"], Duration::from_secs(60)).to_text().expect("text");
        let error = read_token(&text[..text.len() - 5]).expect_err("refused");
        assert_eq!(error.exit, Exit::Unauthenticated);
        assert!(error.to_string().contains("cut short"), "{error}");
        assert!(read_token("hello").expect_err("refused").to_string().contains("weft node token"));
    }

    #[test]
    fn a_name_other_than_the_tokens_is_refused_before_the_token_is_used_up() {
        let mut token = token(&["127.0.0.1:1"], Duration::from_secs(60));
        assert_eq!(check_name(&token, Some("n5")), Ok(()));
        token.name = Some("n4".into());
        assert_eq!(check_name(&token, None), Ok(()));
        assert_eq!(check_name(&token, Some("n4")), Ok(()));
        let error = check_name(&token, Some("n5")).expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("n4, not for n5"), "{error}");
    }

    #[test]
    fn an_expired_token_is_refused_before_anybody_is_asked() {
        let mut old = token(&["127.0.0.1:1"], Duration::ZERO);
        old.expires_at = SystemClock.wall().minus(Duration::from_secs(3600));
        let error = read_token(&old.to_text().expect("text")).expect_err("refused");
        assert_eq!(error.exit, Exit::Unauthenticated);
        assert!(error.to_string().contains("expired"), "{error}");
    }

    #[tokio::test]
    async fn a_join_that_nobody_answers_names_each_address_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let token = token(&["127.0.0.1:1", "no-such-host.invalid:2"], Duration::from_secs(60));
        let error =
            join(&token, &plan(dir.path()), Duration::from_millis(300)).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::NoNode, "{error}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("no-such-host"), "{text}");
        assert!(std::fs::read_dir(dir.path()).expect("reads").next().is_none());
    }

    #[tokio::test]
    async fn a_directory_that_has_a_node_is_refused_before_anybody_is_asked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let plan = plan(dir.path());
        std::fs::create_dir(&plan.data).expect("makes");
        std::fs::write(plan.data.join("node.json"), "{}").expect("writes");
        let token = token(&["127.0.0.1:1"], Duration::from_secs(60));
        let error = join(&token, &plan, DIAL).await.expect_err("refused");
        assert_eq!(error.exit, Exit::Failed);
        assert!(error.to_string().contains("already belongs to a node"), "{error}");
    }

    #[test]
    fn a_refused_token_ends_with_3_and_a_clash_of_names_with_1() {
        let refused = refusal(Failure::new(FailureKind::Unauthenticated, "token used"));
        assert_eq!(refused.exit, Exit::Unauthenticated);
        let clash = refusal(Failure::new(FailureKind::Conflict, "name taken"));
        assert_eq!(clash.exit, Exit::Failed);
    }

    #[test]
    fn the_secret_travels_as_its_32_bytes() {
        let token = token(&["127.0.0.1:1"], Duration::from_secs(60));
        let bytes = codec::encode(&token.secret).expect("encodes");
        assert_eq!(bytes.len(), 32);
        assert_eq!(Fingerprint::of(&bytes), token.secret_hash());
    }
}
