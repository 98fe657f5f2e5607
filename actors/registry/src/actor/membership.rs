//! Tokens, joining, certificates (design §3). The node that leads signs.

use std::time::Duration;

use weft_identity::{
    CertificateChain, Fingerprint, IdentityError, IssuingCa, JoinToken, Subject, Validity,
    VerifiedCsr, check_renewal, check_skew,
};
use weft_link::Reply;
use weft_protocol::{
    Applied, Capacity, Command, GroupRecord, IssueToken, IssuedToken, JoinCluster, JoinedCluster,
    NeedGroup, NodeRecord, OperatorRecord, PeerAddress, RenewLeaf, RenewedLeaf, ReportNode,
    TokenRecord,
};
use weft_supervision::{Handle, Scope};
use weft_wire::{Failure, FailureKind, Identity, NodeId, OperatorId, Role};

use super::Registry;
use super::publish::differs;
use crate::state::REMOVED;

/// Longest life of a join token.
const TOKEN_LIFE_MAX: u64 = 7 * 24 * 3600;

fn internal(step: &str, error: &IdentityError) -> Failure {
    Failure::new(FailureKind::Internal, "the certificate could not be made").step(step).cause(error)
}

fn bad_request(error: &IdentityError) -> Failure {
    Failure::new(FailureKind::Invalid, "the certificate request cannot be used").cause(error)
}

fn forbidden(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Forbidden, message)
}

impl Handle<IssueToken> for Registry {
    fn handle(&mut self, message: IssueToken, reply: Reply<IssueToken>, scope: &Scope<Self>) {
        if !self.leads() {
            self.forward(message, reply, scope);
            return;
        }
        let made = match self.make_token(&message, scope) {
            Ok(made) => made,
            Err(refusal) => return reply.fail(refusal),
        };
        let (issued, secret_hash) = made;
        let token = TokenRecord {
            secret_hash,
            name: message.name,
            expires_at: issued.expires_at,
            used_by: None,
            by: reply.caller().identity.to_string(),
        };
        let proposal = self.own(Command::AddToken { token }, reply.caller().clone(), scope);
        let then = move |_: &mut Self, answer: Result<Applied, Failure>, _: &Scope<Self>| {
            reply.send(answer.map(|_| issued));
        };
        self.propose(proposal, Box::new(then), scope);
    }
}

impl Handle<JoinCluster> for Registry {
    fn handle(&mut self, message: JoinCluster, reply: Reply<JoinCluster>, scope: &Scope<Self>) {
        if !self.leads() {
            self.forward(message, reply, scope);
            return;
        }
        // Signed before it is applied: if either fails, nobody has joined and the token is good.
        let (joined, command) = match self.admit(message, scope) {
            Ok(admitted) => admitted,
            Err(refusal) => return reply.fail(refusal),
        };
        let proposal = self.own(command, reply.caller().clone(), scope);
        let then = move |_: &mut Self, answer: Result<Applied, Failure>, _: &Scope<Self>| {
            reply.send(answer.map(|_| joined));
        };
        self.propose(proposal, Box::new(then), scope);
    }
}

impl Handle<RenewLeaf> for Registry {
    fn handle(&mut self, message: RenewLeaf, reply: Reply<RenewLeaf>, scope: &Scope<Self>) {
        if !self.leads() {
            self.forward(message, reply, scope);
            return;
        }
        let (renewed, record) = match self.renew(&message, &reply.caller().identity, scope) {
            Ok(renewed) => renewed,
            Err(refusal) => return reply.fail(refusal),
        };
        let Some(command) = record else { return reply.ok(renewed) };
        // The new key is recorded before its certificate is handed out.
        let proposal = self.own(command, reply.caller().clone(), scope);
        let then = move |_: &mut Self, answer: Result<Applied, Failure>, _: &Scope<Self>| {
            reply.send(answer.map(|_| renewed));
        };
        self.propose(proposal, Box::new(then), scope);
    }
}

impl Handle<ReportNode> for Registry {
    fn handle(&mut self, message: ReportNode, reply: Reply<ReportNode>, scope: &Scope<Self>) {
        let Identity::Node(id) = reply.caller().identity else {
            return reply.fail(forbidden("only a node reports where it is"));
        };
        if !self.leads() {
            self.forward(message, reply, scope);
            return;
        }
        let same = self.state().node(id).is_some_and(|known| !differs(known, &message));
        if same {
            let index = self.state().index();
            return reply.ok(Applied { index, revision: 0, changed: false, operation: 0 });
        }
        let proposal =
            self.own(Command::UpdateNode { id, report: message }, reply.caller().clone(), scope);
        self.propose(proposal, Box::new(move |_, answer, _| reply.send(answer)), scope);
    }
}

impl Handle<NeedGroup> for Registry {
    fn handle(&mut self, message: NeedGroup, reply: Reply<NeedGroup>, scope: &Scope<Self>) {
        if !self.leads() {
            return self.forward(message, reply, scope);
        }
        let NeedGroup { name } = message;
        if self.state().group(&name).is_some() {
            let index = self.state().index();
            return reply.ok(Applied { index, revision: 0, changed: false, operation: 0 });
        }
        let voters = {
            let voters = self.agreement.group.status().voters.clone();
            let state = self.state();
            voters.into_iter().filter(|id| state.node(*id).is_some()).collect()
        };
        let command = Command::FoundGroup { group: GroupRecord { name, voters } };
        let proposal = self.own(command, reply.caller().clone(), scope);
        self.propose(proposal, Box::new(move |_, answer, _| reply.send(answer)), scope);
    }
}

impl Registry {
    fn issuer(&self) -> Result<&IssuingCa, Failure> {
        self.config.issuer.as_deref().ok_or_else(|| {
            Failure::new(FailureKind::Internal, format!("{} has no issuing CA", self.name()))
                .node(self.name())
        })
    }

    fn make_token(
        &self,
        message: &IssueToken,
        scope: &Scope<Self>,
    ) -> Result<(IssuedToken, String), Failure> {
        if !(1..=TOKEN_LIFE_MAX).contains(&message.ttl_secs) {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!("a join token cannot be good for {} seconds", message.ttl_secs),
            )
            .help("choose 1 second to 7 days"));
        }
        let addresses: Vec<String> = self
            .peers()
            .into_iter()
            .map(|peer| peer.address)
            .filter(|address| !address.is_empty())
            .collect();
        if addresses.is_empty() {
            return Err(Failure::new(
                FailureKind::Unavailable,
                format!("{} does not listen yet, so a token would name no address", self.name()),
            )
            .node(self.name())
            .help("try again in a moment; `weft status` says what it waits for"));
        }
        let step = "make a join token";
        let fingerprints = self.bundle().map_err(|e| internal(step, &e))?.fingerprints();
        let expires_at = scope.wall().plus(Duration::from_secs(message.ttl_secs));
        let name = (!message.name.is_empty()).then(|| message.name.clone());
        let token = JoinToken::issue(self.cluster, addresses, fingerprints, expires_at, name)
            .map_err(|e| internal(step, &e))?;
        let text = token.to_text().map_err(|e| internal(step, &e))?;
        Ok((IssuedToken { token: text, expires_at }, token.secret_hash().to_string()))
    }

    /// Everything about a join but storing it.
    fn admit(
        &self,
        message: JoinCluster,
        scope: &Scope<Self>,
    ) -> Result<(JoinedCluster, Command), Failure> {
        let now = scope.wall();
        if message.cluster != self.config.seed.cluster {
            return Err(Failure::new(
                FailureKind::Unauthenticated,
                format!(
                    "the join token is for cluster {}, but this is cluster {}",
                    message.cluster.chars().take(64).collect::<String>().escape_debug(),
                    self.config.seed.cluster
                ),
            )
            .node(self.name())
            .step("check the join token")
            .help("make a token on a node of this cluster with `weft node token`"));
        }
        check_skew(message.clock, now).map_err(|skew| {
            Failure::new(FailureKind::Invalid, skew.to_string())
                .node(&message.name)
                .step("compare clocks")
                .help("set the clock, for example by NTP, and join again")
        })?;
        self.state().check_format(&message.name, &message.version, message.format)?;
        let given = Fingerprint::of(&message.secret);
        // Every record is looked at, whichever fits: time tells nothing about the stored hashes.
        let fixed = self.state().tokens().fold(String::new(), |found, token| {
            let same = token
                .secret_hash
                .parse::<Fingerprint>()
                .is_ok_and(|known| known.equals_constant_time(&given));
            if same { token.name.clone() } else { found }
        });
        let name = if fixed.is_empty() { message.name.clone() } else { fixed };
        let secret_hash = given.to_string();
        self.state().check_join(&secret_hash, &name, now).map(drop)?;

        let csr = VerifiedCsr::verify(&message.csr).map_err(|error| bad_request(&error))?;
        let id = NodeId::new(uuid::Uuid::new_v4());
        let chain = self.sign(&csr, Identity::Node(id), Validity::node(now))?;
        let node = NodeRecord {
            id,
            name: name.clone(),
            // It does not listen yet; it reports where once it does.
            address: String::new(),
            zone: String::new(),
            labels: Vec::new(),
            version: message.version.chars().take(64).collect(),
            key_fingerprint: csr.public_key_fingerprint().to_string(),
            ca: String::new(),
            capacity: Capacity::default(),
            format: message.format,
            extra_labels: Vec::new(),
            draining: false,
            joined_at: now,
        };
        let joined = JoinedCluster {
            cluster: self.config.seed.cluster.clone(),
            node: id,
            name,
            certificate: chain.to_pem(),
            bundle: self.bundle_pem()?,
            peers: self.peers(),
        };
        Ok((joined, Command::AddNode { node, secret_hash }))
    }

    /// A renewed certificate, and what has to be recorded for it, if anything.
    fn renew(
        &self,
        message: &RenewLeaf,
        caller: &Identity,
        scope: &Scope<Self>,
    ) -> Result<(RenewedLeaf, Option<Command>), Failure> {
        let csr = VerifiedCsr::verify(&message.csr).map_err(|error| bad_request(&error))?;
        match caller {
            Identity::Node(id) => {
                let node = self.member(*id)?;
                if !message.holder.is_empty() && message.holder != caller.to_string() {
                    return Err(forbidden(format!(
                        "{} renews its own certificate only",
                        node.name
                    ))
                    .node(&node.name));
                }
                self.renew_node(&node, &csr, scope)
            }
            Identity::Joiner => {
                let id = message.holder.strip_prefix("node/").and_then(|id| id.parse().ok());
                let Some(id) = id else {
                    return Err(Failure::new(
                        FailureKind::Invalid,
                        "the request does not say whose certificate has expired",
                    )
                    .help("an expired operator certificate is renewed on a node: `weft login`"));
                };
                let node = self.member(id)?;
                let recorded = node.key_fingerprint.parse::<Fingerprint>().map_err(|cause| {
                    forbidden(format!("no key is recorded for {}", node.name))
                        .node(&node.name)
                        .cause(cause)
                })?;
                check_renewal(&message.csr, &recorded).map_err(|error| {
                    Failure::new(
                        FailureKind::Unauthenticated,
                        format!("the request does not prove to come from {}", node.name),
                    )
                    .node(&node.name)
                    .cause(error)
                    .help("join the machine again with a new token")
                })?;
                self.renew_node(&node, &csr, scope)
            }
            Identity::Operator(id) => {
                let operator = self.state().operator(*id).cloned().ok_or_else(|| {
                    forbidden(format!("operator {id} is not known to the cluster"))
                })?;
                self.renew_operator(&operator, &csr, scope)
            }
            Identity::Local { .. } => {
                let operators: Vec<OperatorRecord> =
                    self.state().operators().into_iter().cloned().collect();
                let wanted = |o: &&OperatorRecord| {
                    if message.operator.is_empty() {
                        o.role == Role::Admin
                    } else {
                        o.name == message.operator
                    }
                };
                let operator = operators.iter().find(wanted).ok_or_else(|| {
                    let names: Vec<_> = operators.iter().map(|o| o.name.as_str()).collect();
                    Failure::new(
                        FailureKind::NotFound,
                        format!("no operator `{}`", message.operator),
                    )
                    .help(format!("the operators are {}", names.join(", ")))
                })?;
                self.renew_operator(operator, &csr, scope)
            }
            Identity::Service(_) => Err(forbidden("services do not renew certificates here")),
        }
    }

    fn renew_node(
        &self,
        node: &NodeRecord,
        csr: &VerifiedCsr,
        scope: &Scope<Self>,
    ) -> Result<(RenewedLeaf, Option<Command>), Failure> {
        let identity = Identity::Node(node.id);
        let chain = self.sign(csr, identity.clone(), Validity::node(scope.wall()))?;
        let key_fingerprint = csr.public_key_fingerprint().to_string();
        let record = (node.key_fingerprint != key_fingerprint).then(|| Command::UpdateNode {
            id: node.id,
            report: ReportNode {
                address: node.address.clone(),
                version: node.version.clone(),
                zone: node.zone.clone(),
                labels: node.labels.clone(),
                key_fingerprint,
                ca: node.ca.clone(),
                capacity: node.capacity,
                format: node.format,
            },
        });
        Ok((self.renewed(&chain, &node.name, &identity)?, record))
    }

    fn renew_operator(
        &self,
        operator: &OperatorRecord,
        csr: &VerifiedCsr,
        scope: &Scope<Self>,
    ) -> Result<(RenewedLeaf, Option<Command>), Failure> {
        let id: OperatorId = operator.id;
        if self.state().denied().contains(&format!("operator/{id}")) {
            return Err(forbidden(format!("operator {} is refused", operator.name)));
        }
        let identity = Identity::Operator(id);
        let chain = self.sign(csr, identity.clone(), Validity::operator(scope.wall()))?;
        let key_fingerprint = csr.public_key_fingerprint().to_string();
        let record = (operator.key_fingerprint != key_fingerprint).then(|| Command::PutOperator {
            operator: OperatorRecord { key_fingerprint, ..operator.clone() },
        });
        Ok((self.renewed(&chain, &operator.name, &identity)?, record))
    }

    fn renewed(
        &self,
        chain: &CertificateChain,
        name: &str,
        identity: &Identity,
    ) -> Result<RenewedLeaf, Failure> {
        let leaf = chain.inspect().map_err(|error| internal("read the new certificate", &error))?;
        Ok(RenewedLeaf {
            certificate: chain.to_pem(),
            bundle: self.bundle_pem()?,
            not_after: leaf.not_after,
            name: name.to_owned(),
            holder: identity.to_string(),
        })
    }

    fn sign(
        &self,
        csr: &VerifiedCsr,
        identity: Identity,
        validity: Validity,
    ) -> Result<CertificateChain, Failure> {
        let subject = Subject { cluster: self.cluster, identity };
        self.issuer()?
            .sign(csr, &subject, validity)
            .map_err(|error| internal("sign the certificate", &error).node(self.name()))
    }

    /// The node of that id, unless it was removed or never was.
    fn member(&self, id: NodeId) -> Result<NodeRecord, Failure> {
        self.state().node(id).cloned().ok_or_else(|| {
            let removed = self.state().denied().contains(&format!("node/{id}"));
            forbidden(if removed {
                format!("node {id} {REMOVED}, and its id is refused for ever")
            } else {
                format!("node {id} is not of this cluster")
            })
            .help("join the machine again with a new token and an empty data directory")
        })
    }

    fn bundle_pem(&self) -> Result<String, Failure> {
        Ok(self.bundle().map_err(|error| internal("read the trust bundle", &error))?.to_pem())
    }

    /// All nodes, the one that leads first.
    fn peers(&self) -> Vec<PeerAddress> {
        let leader = self.agreement.group.status().leader;
        // Where this node is may not have been agreed yet, and whoever joins has to find it.
        let here = (self.config.report)().map(|report| report.address);
        let state = self.state();
        let mut nodes = state.nodes();
        nodes.sort_by_key(|node| Some(node.id) != leader);
        nodes
            .into_iter()
            .map(|node| PeerAddress {
                id: node.id,
                name: node.name.clone(),
                address: match &here {
                    Some(here) if node.id == self.config.seed.node => here.clone(),
                    _ => node.address.clone(),
                },
            })
            .collect()
    }
}
