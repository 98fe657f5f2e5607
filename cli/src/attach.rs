//! Attaching to a node: the local socket if there is one, else the context's nodes in order;
//! by name if `--node` says so (design §10, orchestration §7).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use weft_identity::Expect;
use weft_link::{Call, Client, Items, LinkError};
use weft_protocol::{AttachInfo, ClusterNodes, DescribeNode};
use weft_wire::{
    ActorKind, Address, AskError, Clock, Message, Subscription, SystemClock, TraceContext, WallTime,
};

use crate::context::{Context, Operator, unauthenticated};
use crate::error::{CliError, Exit, Result};

/// One node may take this long to answer a dial.
const DIAL: Duration = Duration::from_millis(1500);
/// All of them together.
const TOTAL: Duration = Duration::from_secs(5);

/// A live connection to a node that has said who it is.
#[derive(Debug)]
pub(crate) struct Attached {
    client: Client,
    /// Under which this command's requests are found in every node's audit.
    trace: TraceContext,
    /// What the node said about itself and the caller; `None`: it does not know the question.
    pub(crate) info: Option<AttachInfo>,
    /// Its name, or its address if it did not say one.
    label: String,
    version: String,
    /// For people: `local socket …` or `ip:port`.
    pub(crate) via: String,
    /// The certificate's end; `None` over the local socket.
    pub(crate) expires_at: Option<WallTime>,
}

impl Attached {
    /// The node's name, or its address if it would not say.
    pub(crate) fn node(&self) -> &str {
        self.info.as_ref().map_or(&self.label, |info| &info.node)
    }

    fn call(&self, within: Duration) -> Call {
        Call { trace: self.trace, ..Call::within(within) }
    }

    fn error(&self, error: AskError, what: &str) -> CliError {
        CliError::from_ask(error, what, self.node(), &self.version)
    }

    /// Asks, and says what went wrong in an operator's words.
    ///
    /// # Errors
    /// As [`CliError::from_ask`].
    pub(crate) async fn ask<M: Message>(
        &self,
        to: Address,
        message: M,
        within: Duration,
    ) -> Result<M::Reply> {
        self.client
            .ask(to, message, self.call(within))
            .await
            .map_err(|error| self.error(error, M::NAME))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// As [`CliError::from_ask`].
    pub(crate) async fn subscribe<S: Subscription>(
        &self,
        to: Address,
        message: S,
        within: Duration,
    ) -> Result<Items<S::Item>> {
        self.client
            .subscribe(to, message, self.call(within))
            .await
            .map_err(|error| self.error(error, S::NAME))
    }

    /// The next item of a stream; `None` at its end.
    ///
    /// # Errors
    /// As [`CliError::from_ask`].
    pub(crate) async fn item<T>(&self, items: &mut Items<T>) -> Result<Option<T>> {
        items.next().await.transpose().map_err(|error| self.error(error, "the stream"))
    }

    /// As [`Attached::item`]; where the stream is `bounded`, silence of `within` is an error.
    ///
    /// # Errors
    /// Exit 7 for silence; as [`CliError::from_ask`].
    pub(crate) async fn next<T>(
        &self,
        items: &mut Items<T>,
        bounded: bool,
        within: Duration,
    ) -> Result<Option<T>> {
        if !bounded {
            return self.item(items).await;
        }
        match tokio::time::timeout(within, self.item(items)).await {
            Ok(item) => item,
            Err(_) => Err(CliError::timeout(format!("{} fell silent", self.node()))),
        }
    }
}

/// Finds a node to talk to.
#[derive(Debug)]
pub(crate) struct Attacher<'a> {
    context: &'a Context,
}

/// What was tried and what came of it.
#[derive(Debug, Default)]
struct Tried {
    lines: Vec<String>,
    /// Whether every failure was a refusal of the certificate.
    refusals: usize,
}

impl Tried {
    fn add(&mut self, where_: &str, error: &CliError) {
        let cause = &error.failure.cause;
        let text = if cause.is_empty() { &error.failure.message } else { cause };
        self.lines.push(format!("{where_}: {text}"));
        self.refusals += usize::from(error.exit == Exit::Unauthenticated);
    }

    fn nobody(self, context: &Context) -> CliError {
        if !self.lines.is_empty() && self.refusals == self.lines.len() {
            return unauthenticated("no node accepts the operator certificate")
                .details(self.lines)
                .help("run `weft login`, on a node's machine if the certificate has expired");
        }
        let error = CliError::new(Exit::NoNode, "no-node", "no node is reachable");
        if let (true, Some(socket)) = (self.lines.is_empty(), &context.socket) {
            let data = socket.parent().unwrap_or(Path::new("/")).display();
            return error.cause(format!("the daemon of {data} is not running")).help(format!(
                "start it with `weftd run --config {data}/node.toml`, or add another node's \
                 address to context {} in {}",
                context.name,
                context.file.display()
            ));
        }
        if self.lines.is_empty() {
            return error.help(format!(
                "context {} in {} names no node: add one, or run this on a node's machine",
                context.name,
                context.file.display()
            ));
        }
        error.details(self.lines).help(
            "check that the daemons run and that the addresses are right, or name another \
             configuration with --config",
        )
    }
}

impl<'a> Attacher<'a> {
    pub(crate) const fn new(context: &'a Context) -> Self {
        Self { context }
    }

    /// Attaches to the named node, or to any.
    ///
    /// # Errors
    /// Exit 5 naming each address that was tried and what came of it; exit 3 when the certificate
    /// is the reason; exit 1 for a node that does not exist.
    pub(crate) async fn attach(&self, node: Option<&str>) -> Result<Attached> {
        match node {
            None => self.any(true, None).await,
            Some(name) => self.named(name).await,
        }
    }

    /// As [`Attacher::attach`] to any node, by certificate only.
    ///
    /// # Errors
    /// As [`Attacher::attach`].
    pub(crate) async fn by_certificate(&self) -> Result<Attached> {
        self.any(false, None).await
    }

    /// Over the local socket only.
    ///
    /// # Errors
    /// Exit 5 when there is none, or nobody answers on it.
    pub(crate) async fn locally(&self) -> Result<Attached> {
        let Some(socket) = self.context.live_socket() else {
            return Err(CliError::new(Exit::NoNode, "no-node", "there is no local node to ask")
                .help(format!(
                    "context {} names no live socket: run this on a node's machine, or start its \
                     daemon",
                    self.context.name
                )));
        };
        local(&socket, DIAL).await
    }

    /// The first that answers; `skip` was tried already.
    async fn any(&self, socket_too: bool, skip: Option<&str>) -> Result<Attached> {
        let until = SystemClock.now() + TOTAL;
        let mut tried = Tried::default();
        if socket_too && let Some(socket) = self.context.live_socket() {
            match local(&socket, DIAL).await {
                Ok(attached) => return Ok(attached),
                Err(error) => tried.add(&format!("socket {}", socket.display()), &error),
            }
        }
        if self.context.nodes.is_empty() {
            return Err(tried.nobody(self.context));
        }
        let operator = self.operator().map_err(|error| error.details(tried.lines.clone()))?;
        for entry in self.context.nodes.iter().filter(|e| skip != Some(e.name.as_str())) {
            let left = until.saturating_duration_since(SystemClock.now()).min(DIAL);
            let place = format!("{} at {}", entry.name, entry.address);
            if left.is_zero() {
                tried.lines.push(format!("{place}: not tried, time was up"));
                continue;
            }
            match remote(&entry.address, &operator, Expect::AnyNode, left).await {
                Ok(attached) => return Ok(attached),
                Err(error) => tried.add(&place, &error),
            }
        }
        Err(tried.nobody(self.context))
    }

    async fn named(&self, name: &str) -> Result<Attached> {
        let mut first = None;
        let entry = self.context.nodes.iter().find(|entry| entry.name == name);
        if let Some(entry) = entry {
            let operator = self.operator()?;
            match remote(&entry.address, &operator, Expect::AnyNode, DIAL).await {
                // Another node may have taken the address over.
                Ok(attached) if attached.node() == name => return Ok(attached),
                Ok(other) => {
                    let text = format!("{} answered there", other.node());
                    first = Some(format!("{name} at {}: {text}", entry.address));
                }
                Err(error) if error.exit == Exit::Unauthenticated => return Err(error),
                Err(error) => {
                    let mut tried = Tried::default();
                    tried.add(&format!("{name} at {}", entry.address), &error);
                    first = tried.lines.pop();
                }
            }
        }
        // Any other node knows where it is.
        let any = match self.any(true, first.as_ref().map(|_| name)).await {
            Ok(any) => any,
            Err(error) => return Err(error.details(first)),
        };
        if any.node() == name {
            return Ok(any);
        }
        let rows = any.ask(Address::here(ActorKind::Gateway), ClusterNodes {}, TOTAL).await?;
        let row = crate::commands::find_node(&rows, name)?;
        let operator = self.operator()?;
        remote(&row.address, &operator, Expect::Node(row.id), DIAL).await.map_err(|error| {
            if error.exit == Exit::Unauthenticated {
                return error;
            }
            let mut tried = Tried::default();
            tried.lines.extend(first);
            tried.add(&format!("{name} at {}", row.address), &error);
            // Mostly it is the same address, and the same answer.
            tried.lines.dedup();
            CliError::new(Exit::NoNode, "no-node", format!("node {name} is not reachable"))
                .node(name)
                .details(tried.lines)
                .help(format!(
                    "{} says it is {}; leave --node out to ask any node",
                    any.node(),
                    row.state
                ))
        })
    }

    /// The operator's identity, valid now.
    fn operator(&self) -> Result<Operator> {
        let operator = self.context.identity()?;
        if operator.expired() {
            let ago = SystemClock.wall().since(operator.not_after());
            return Err(unauthenticated(format!(
                "the operator certificate expired {} ago",
                weft_protocol::uptime(ago)
            ))
            .help("run `weft login` on a node's machine: its local socket issues a new one"));
        }
        Ok(operator)
    }
}

/// A command is where a trace begins.
fn new_trace() -> TraceContext {
    TraceContext::begin(uuid::Uuid::new_v4())
}

/// Over a Unix socket.
pub(crate) async fn local(socket: &Path, within: Duration) -> Result<Attached> {
    let label = socket.display().to_string();
    let client =
        Client::connect_local(socket, within).await.map_err(|error| unreachable(&label, &error))?;
    let via = format!("local socket {label}");
    let (label, version) = said(&client, &label);
    let trace = new_trace();
    describe(Attached { client, trace, info: None, label, version, via, expires_at: None }, within)
        .await
}

/// Over QUIC.
pub(crate) async fn remote(
    address: &str,
    operator: &Operator,
    expect: Expect,
    within: Duration,
) -> Result<Attached> {
    let until = SystemClock.now() + within;
    let credentials = operator
        .stored
        .credentials()
        .map_err(|error| unauthenticated("cannot use the operator certificate").cause(error))?;
    let trust = operator.trust()?;
    let socket = lookup(address, within).await?;
    let left = until.saturating_duration_since(SystemClock.now());
    let client = Client::connect(socket, &credentials, &trust, expect, left)
        .await
        .map_err(|error| refused(address, error))?;
    let (label, version) = said(&client, address);
    let attached = Attached {
        client,
        trace: new_trace(),
        info: None,
        label,
        version,
        via: address.to_owned(),
        expires_at: Some(operator.not_after()),
    };
    describe(attached, within).await
}

/// The first address of `host:port`.
pub(crate) async fn lookup(address: &str, within: Duration) -> Result<SocketAddr> {
    match tokio::time::timeout(within, tokio::net::lookup_host(address)).await {
        Ok(Ok(mut all)) => all.next().ok_or_else(|| unreachable(address, &"no such host")),
        Ok(Err(error)) => Err(unreachable(address, &error)),
        Err(_) => Err(unreachable(address, &"the name was not resolved in time")),
    }
}

/// Name and version as the node gave them when it was greeted.
fn said(client: &Client, otherwise: &str) -> (String, String) {
    let hello = client.hello();
    let name = if hello.name.is_empty() { otherwise } else { &hello.name };
    (name.to_owned(), hello.version.clone())
}

/// What a dial that failed means: a refusal is about certificates, all else about reachability.
fn refused(address: &str, error: LinkError) -> CliError {
    match error {
        LinkError::Refused(_) => unauthenticated(format!(
            "{address} and this operator do not trust each other"
        ))
        .cause(error)
        .help("run `weft login`; if that is refused too, the certificate is not of this cluster"),
        other => unreachable(address, &other),
    }
}

async fn describe(mut attached: Attached, within: Duration) -> Result<Attached> {
    let gateway = Address::here(ActorKind::Gateway);
    let call = attached.call(within);
    match attached.client.ask(gateway, DescribeNode {}, call).await {
        Ok(info) => attached.info = Some(info),
        // An older node: what it can do will show.
        Err(AskError::Unsupported { .. }) => {}
        Err(error @ AskError::Denied(_)) => {
            return Err(unauthenticated(format!("{} refuses this caller", attached.label))
                .cause(error)
                .help("run `weft login`"));
        }
        Err(error) => return Err(unreachable(&attached.label, &error)),
    }
    Ok(attached)
}

fn unreachable(label: &str, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(Exit::NoNode, "unreachable", format!("{label} cannot be reached")).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_config::cli::NodeEntry;

    fn context(nodes: &[(&str, &str)]) -> Context {
        Context {
            file: "/c/weft.toml".into(),
            name: "default".into(),
            cluster: String::new(),
            registry: String::new(),
            services_dir: "/c/services".into(),
            nodes: nodes
                .iter()
                .map(|(name, address)| NodeEntry {
                    name: (*name).into(),
                    address: (*address).into(),
                    ..NodeEntry::default()
                })
                .collect(),
            identity_dir: "/c/none".into(),
            socket: None,
        }
    }

    #[tokio::test]
    async fn a_daemon_of_this_machine_that_is_not_running_is_named_with_the_way_to_start_it() {
        let context = Context { socket: Some("/data/n1/weft.sock".into()), ..context(&[]) };
        let error = Attacher::new(&context).attach(None).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::NoNode);
        assert!(error.to_string().contains("weftd run --config /data/n1/node.toml"), "{error}");
    }

    #[tokio::test]
    async fn a_context_without_nodes_says_so_and_ends_with_5() {
        let context = context(&[]);
        let error = Attacher::new(&context).attach(None).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::NoNode);
        assert!(error.to_string().contains("names no node"), "{error}");
    }

    #[tokio::test]
    async fn without_an_operator_identity_it_ends_with_3() {
        let context = context(&[("n1", "127.0.0.1:9")]);
        let error = Attacher::new(&context).attach(None).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::Unauthenticated);
    }

    #[test]
    fn every_address_that_was_tried_is_named_with_its_error() {
        let context = context(&[]);
        let mut tried = Tried::default();
        tried.add("n1 at 127.0.0.1:1", &unreachable("x", &"refused"));
        tried.add("n2 at 127.0.0.1:2", &unauthenticated("denied"));
        let error = tried.nobody(&context);
        assert_eq!(error.exit, Exit::NoNode);
        let text = error.to_string();
        assert!(text.contains("n1 at 127.0.0.1:1: refused"), "{text}");
        assert!(text.contains("n2 at 127.0.0.1:2: denied"), "{text}");
    }

    #[test]
    fn when_all_refuse_the_certificate_it_ends_with_3() {
        let mut tried = Tried::default();
        tried.add("n1", &unauthenticated("expired"));
        let error = tried.nobody(&context(&[]));
        assert_eq!(error.exit, Exit::Unauthenticated);
        assert!(error.to_string().contains("weft login"), "{error}");
    }
}
