//! The one door of change: a proposal in, what it did out.

use weft_protocol::{Applied, Command, CommandRef, DeployOptions, Desired, Epoch, Proposal};
use weft_wire::{Failure, FailureKind, NodeId, OperatorId, WallTime};

use super::refusal::{conflict, unknown_component};
use super::{ClusterState, Service};

/// One thing that is different now; what shells act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node is there, new or with other details.
    Node(NodeId),
    /// A node is gone for ever.
    NodeRemoved(NodeId),
    /// An operator is there, new or with other details.
    Operator(OperatorId),
    /// The trust bundle or the deny list differs.
    Trust,
    /// Join tokens differ.
    Tokens,
    /// The format level was raised.
    Format(u32),
    /// A service's record differs.
    Service(String),
    /// A replica is on another node.
    Placed {
        /// The service.
        service: String,
        /// From 1.
        replica: u32,
        /// Where it was; the same as `node` if only its story differs.
        from: Option<NodeId>,
        /// Where it is now.
        node: NodeId,
    },
    /// A replica is nowhere.
    Unplaced {
        /// The service.
        service: String,
        /// From 1.
        replica: u32,
        /// Where it was.
        from: NodeId,
        /// Why, for people; empty: the command says it.
        reason: String,
    },
    /// Operations have another owner or have ended.
    Operations,
    /// There is another group beside `control`.
    Group(String),
}

impl ClusterState {
    /// Applies `proposal` at position `index`, which must be the next one.
    ///
    /// A request that was applied before is answered with what it did then, and changes nothing:
    /// the answer's index is then an earlier one.
    ///
    /// # Errors
    /// A [`Failure`] that says what to do; the state is as before, and the position still free.
    pub fn apply(
        &mut self,
        proposal: &Proposal,
        index: u64,
    ) -> Result<(Applied, Vec<Change>), Failure> {
        if let Some(done) = self.requests.get(proposal.request) {
            return Ok((done.clone(), Vec::new()));
        }
        if index != self.index.saturating_add(1) {
            return Err(Failure::new(
                FailureKind::Internal,
                format!("change {index} does not follow change {}", self.index),
            ));
        }
        if !matches!(proposal.command, Command::Bootstrap { .. }) {
            gate(proposal.command.format(), self.format)?;
        }
        let at = proposal.at;
        let draft = self.draft(&proposal.command);
        let mut changes = Vec::new();
        let out = &mut changes;
        let mut revision = 0;
        match &proposal.command {
            Command::Bootstrap { node, operator, ca } => {
                self.bootstrap(node, operator, ca, out)?;
            }
            Command::AddNode { node, secret_hash } => self.add_node(node, secret_hash, at, out)?,
            Command::UpdateNode { id, report } => self.update_node(*id, report, out)?,
            Command::RemoveNode { id, force } => self.remove_node(*id, *force, out)?,
            Command::AddToken { token } => self.add_token(token, at, out)?,
            Command::PutOperator { operator } => self.put_operator(operator, out)?,
            Command::Deploy { spec, options } => {
                let by = self.who(proposal);
                revision = self.deploy(spec, options, by, (index, at), out)?;
            }
            Command::Scale { service, replicas } => {
                let by = self.who(proposal);
                revision = self.scale(service, *replicas, by, (index, at), out)?;
            }
            Command::Rollback { service, revision: to } => {
                let by = self.who(proposal);
                if *to != 0 || !self.turn_back(service, index, &by, at, out)? {
                    let spec = self.earlier(service, *to)?;
                    let options = DeployOptions { if_changed: true, ..DeployOptions::default() };
                    let by = self.who(proposal);
                    revision = self.deploy(&spec, &options, by, (index, at), out)?;
                } else {
                    revision = self.service(service).map_or(0, |record| record.revision);
                }
            }
            Command::Rollout { service, operation, step } => {
                self.roll(service, *operation, step, at, out)?;
            }
            Command::SetDesired { target, desired } => {
                self.set_desired(target, *desired, at, out)?;
            }
            Command::Restart { target } => self.restart(target, at, out)?,
            Command::Undeploy { service } => self.undeploy(service, at, out)?,
            Command::Purge { service } => self.purge(service, index, out)?,
            Command::Place { moves } => self.place(moves, at, out),
            Command::TrustIssuer { node } => self.trust_issuer(*node, out)?,
            Command::Drain { node, on } => self.drain(*node, *on, out)?,
            Command::LabelNode { node, set, remove } => {
                self.label_node(*node, set, remove, out)?;
            }
            Command::RaiseFormat { level } => self.raise_format(*level, out)?,
            Command::Operations { changes } => self.operate(changes, at, out),
            Command::FoundGroup { group } => self.found_group(group, out)?,
        }
        self.index = index;
        let changed = !changes.is_empty();
        let mut operation = 0;
        if let (Some(draft), true) = (draft, changed) {
            operation = index;
            self.begin(draft, proposal, index, revision);
        }
        if let (Command::Drain { node, on: false }, true) = (&proposal.command, changed) {
            self.call_off_drain(*node, proposal);
        }
        let applied = Applied { index, revision, changed, operation };
        self.requests.remember(proposal.request, applied.clone());
        Ok((applied, changes))
    }

    pub(super) fn deployed(&mut self, target: &CommandRef) -> Result<&mut Service, Failure> {
        if !self.services.contains_key(&target.service) {
            return Err(self.unknown_service(&target.service));
        }
        let Some(service) = self.services.get_mut(&target.service) else {
            return Err(Failure::new(FailureKind::Internal, "a service vanished"));
        };
        if service.record.undeployed {
            return Err(conflict(format!("service `{}` is undeployed", target.service))
                .service(&target.service)
                .component(&target.component)
                .help(format!("deploy it again with `weft deploy {}`", target.service)));
        }
        if !target.component.is_empty()
            && service.record.spec.component(&target.component).is_none()
        {
            return Err(unknown_component(&service.record.spec, &target.component));
        }
        Ok(service)
    }

    fn set_desired(
        &mut self,
        target: &CommandRef,
        desired: Desired,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let service = self.deployed(target)?;
        let record = &mut service.record;
        let before = (record.active, record.desired.clone());
        if target.component.is_empty() {
            record.desired.clear();
            match desired {
                Desired::Ignore => {
                    record.desired = record
                        .spec
                        .components
                        .iter()
                        .map(|component| (component.name.clone(), Desired::Ignore))
                        .collect();
                }
                Desired::Running | Desired::Stopped => {
                    record.active = desired == Desired::Running;
                    // The definition file's `active` line follows too (orchestration §10): a later
                    // deploy of what is stored must not undo this.
                    record.spec.active = record.active;
                }
            }
        } else {
            want(record, &target.component, desired);
        }
        if (record.active, &record.desired) != (before.0, &before.1) {
            record.updated_at = at;
            out.push(Change::Service(target.service.clone()));
        }
        Ok(())
    }

    fn restart(
        &mut self,
        target: &CommandRef,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        self.not_busy(&target.service)?;
        let record = &mut self.deployed(target)?.record;
        let components: Vec<_> = record
            .spec
            .components
            .iter()
            .filter(|c| target.component.is_empty() || c.name == target.component)
            .map(|c| c.name.clone())
            .collect();
        for component in components {
            raise_epoch(record, &component, false);
        }
        record.updated_at = at;
        out.push(Change::Service(target.service.clone()));
        Ok(())
    }

    fn undeploy(&mut self, name: &str, at: WallTime, out: &mut Vec<Change>) -> Result<(), Failure> {
        let Some(service) = self.services.get(name) else {
            return Err(self.unknown_service(name));
        };
        if service.record.undeployed {
            return Ok(());
        }
        self.not_busy(name)?;
        let Some(service) = self.services.get_mut(name) else {
            return Err(Failure::new(FailureKind::Internal, "a service vanished"));
        };
        service.record.rollout = None;
        service.record.undeployed = true;
        service.record.active = false;
        service.record.desired.clear();
        service.record.updated_at = at;
        out.push(Change::Service(name.to_owned()));
        self.trim(name, out);
        Ok(())
    }

    /// Forgets a service, and with it what generations its replicas had. Those rise by one an entry
    /// at most, so none is above the position of this one.
    fn purge(&mut self, name: &str, index: u64, out: &mut Vec<Change>) -> Result<(), Failure> {
        let Some(service) = self.services.get(name) else {
            return Err(self.unknown_service(name));
        };
        if !service.record.undeployed {
            return Err(conflict(format!("service `{name}` is deployed"))
                .service(name)
                .step("purge")
                .help(format!("tear it down first: `weft undeploy {name}`")));
        }
        self.services.remove(name);
        self.purged = index;
        out.push(Change::Service(name.to_owned()));
        Ok(())
    }
}

/// Notes what is wanted of one component, if it is not what the service wants anyway.
pub(super) fn want(record: &mut weft_protocol::ServiceRecord, component: &str, desired: Desired) {
    record.desired.retain(|(name, _)| name != component);
    let plain = if record.active { Desired::Running } else { Desired::Stopped };
    if desired != plain {
        record.desired.push((component.to_owned(), desired));
        record.desired.sort();
    }
}

/// Has a component started anew, and made anew or in place.
pub(super) fn raise_epoch(record: &mut weft_protocol::ServiceRecord, component: &str, make: bool) {
    let at = match record.epochs.iter().position(|(name, _)| name == component) {
        Some(at) => at,
        None => {
            let at = record.epochs.partition_point(|(name, _)| name.as_str() < component);
            record.epochs.insert(at, (component.to_owned(), Epoch::default()));
            at
        }
    };
    if let Some((_, epoch)) = record.epochs.get_mut(at) {
        epoch.start = epoch.start.saturating_add(1);
        if make {
            epoch.make = epoch.start;
        }
    }
}

/// Refuses what some node would not understand.
pub(super) fn gate(needed: u32, agreed: u32) -> Result<(), Failure> {
    if needed <= agreed {
        return Ok(());
    }
    let message =
        format!("the cluster agrees at format level {agreed}, this change needs {needed}");
    Err(Failure::new(FailureKind::Unsupported, message)
        .help("upgrade the daemons of all nodes; the level is raised by itself then"))
}
