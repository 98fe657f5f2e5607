//! Nodes, operators, tokens and trust (design §3).

use std::time::Duration;

use weft_protocol::{
    GroupRecord, NodeRecord, OperatorRecord, ReportNode, ServiceSpec, TokenRecord, format_time,
    valid_name,
};
use weft_wire::{Failure, FailureKind, NodeId, WallTime};

use super::apply::Change;
use super::refusal::{conflict, exhausted, invalid, list, removed, token};
use super::{ClusterState, NODES_MAX, TOKENS_MAX};

/// Tokens that are used or expired are remembered this long, so that the answer can say so.
const TOKEN_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest name of a consensus group, in bytes.
const GROUP_NAME_MAX: usize = 64;

/// Labels that operators may give one node.
const LABELS_MAX: usize = 64;

impl ClusterState {
    pub(super) fn bootstrap(
        &mut self,
        node: &NodeRecord,
        operator: &OperatorRecord,
        ca: &str,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        if self.index != 0 || !self.nodes.is_empty() {
            return Err(conflict("this is a cluster already: its first records are there"));
        }
        check_name(&node.name)?;
        self.nodes.insert(node.id, NodeRecord { ca: ca.to_owned(), ..node.clone() });
        self.format = 1;
        self.operators.insert(operator.id, operator.clone());
        self.cas.push(ca.to_owned());
        out.extend([Change::Node(node.id), Change::Operator(operator.id), Change::Trust]);
        Ok(())
    }

    /// Whether a machine may join with that token under that name at that time; the token.
    ///
    /// # Errors
    /// A [`Failure`] that says what to do.
    pub fn check_join(
        &self,
        secret_hash: &str,
        name: &str,
        at: WallTime,
    ) -> Result<&TokenRecord, Failure> {
        let Some(found) = self.tokens.get(secret_hash) else {
            return Err(token(
                "the join token is not known to this cluster: it was never made here, or is long over",
            ));
        };
        if let Some(by) = found.used_by {
            let who = self.nodes.get(&by).map_or_else(String::new, |n| format!(" by {}", n.name));
            return Err(token(format!(
                "the join token was used already{who}: it is good for one join"
            )));
        }
        if at >= found.expires_at {
            return Err(token(format!(
                "the join token expired at {}",
                format_time(found.expires_at)
            )));
        }
        if !found.name.is_empty() && found.name != name {
            return Err(invalid(format!(
                "the join token is for a node named `{}`, not `{name}`",
                found.name
            ))
            .help("join under that name, or make another token with `weft node token`"));
        }
        check_name(name)?;
        if let Some(node) = self.nodes.values().find(|node| node.name == name) {
            return Err(conflict(format!("there is a node named `{name}` already"))
                .node(&node.name)
                .help(format!(
                    "join under another name (taken: {}), or remove that node first with `weft node remove {name}`",
                    self.node_names()
                )));
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(exhausted(format!(
                "the cluster has {NODES_MAX} nodes, the most it may have"
            ))
            .help("remove one with `weft node remove`"));
        }
        Ok(found)
    }

    /// Refuses a node that would not understand what is agreed (design §6).
    ///
    /// # Errors
    /// [`FailureKind::Unsupported`].
    pub fn check_format(&self, name: &str, version: &str, format: u32) -> Result<(), Failure> {
        if format >= self.format {
            return Ok(());
        }
        let message = format!(
            "Weft {} of this machine understands format level {format}, the cluster agrees at {}",
            version.chars().take(64).collect::<String>().escape_debug(),
            self.format
        );
        Err(Failure::new(FailureKind::Unsupported, message)
            .node(name)
            .step("compare versions")
            .help("install on it the version that the other nodes run, and join again; the token is still good"))
    }

    pub(super) fn add_node(
        &mut self,
        node: &NodeRecord,
        secret_hash: &str,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        self.check_join(secret_hash, &node.name, at)?;
        self.check_format(&node.name, &node.version, node.format)?;
        if self.denied.contains(&format!("node/{}", node.id)) {
            return Err(removed(&format!("node {}", node.id)).node(&node.name));
        }
        if self.nodes.contains_key(&node.id) {
            return Err(conflict(format!("node {} is there already", node.id)).node(&node.name));
        }
        if let Some(token) = self.tokens.get_mut(secret_hash) {
            token.used_by = Some(node.id);
        }
        self.nodes.insert(node.id, node.clone());
        out.extend([Change::Node(node.id), Change::Tokens]);
        Ok(())
    }

    pub(super) fn update_node(
        &mut self,
        id: NodeId,
        report: &ReportNode,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(&id) else {
            let text = id.to_string();
            return Err(if self.denied.contains(&format!("node/{text}")) {
                removed(&format!("node {text}"))
            } else {
                self.unknown_node(&text)
            });
        };
        let fresh = NodeRecord {
            address: report.address.clone(),
            version: report.version.clone(),
            zone: report.zone.clone(),
            labels: report.labels.clone(),
            key_fingerprint: if report.key_fingerprint.is_empty() {
                node.key_fingerprint.clone()
            } else {
                report.key_fingerprint.clone()
            },
            ca: if report.ca.is_empty() { node.ca.clone() } else { report.ca.clone() },
            capacity: report.capacity,
            format: report.format,
            ..node.clone()
        };
        if fresh != *node {
            *node = fresh;
            out.push(Change::Node(id));
        }
        Ok(())
    }

    pub(super) fn remove_node(
        &mut self,
        id: NodeId,
        force: bool,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let text = format!("node/{id}");
        let Some(node) = self.nodes.get(&id) else {
            // Removed before: that is what was asked for.
            return if self.denied.contains(&text) {
                Ok(())
            } else {
                Err(self.unknown_node(&id.to_string()))
            };
        };
        if self.nodes.len() == 1 {
            return Err(conflict(format!(
                "{} is the last node of the cluster: without it nothing is left",
                node.name
            ))
            .node(&node.name)
            .help("stop its daemon and delete its data directory instead"));
        }
        let mut services: Vec<&str> = self
            .placements
            .values()
            .filter(|placement| placement.node == id)
            .map(|placement| placement.service.as_str())
            .collect();
        services.dedup();
        if !services.is_empty() && !force {
            return Err(conflict(format!(
                "replicas are placed on {}: {}",
                node.name,
                list(services.into_iter())
            ))
            .node(&node.name)
            .help(format!(
                "`weft node drain {}` moves what can be moved; `weft node remove {} --force` places them anew on the other nodes, except those whose data is there: they wait until their service is undeployed and deployed again, or its definition names another `node`",
                node.name, node.name
            )));
        }
        // Whatever its key signs from now on, or has signed, is worth nothing; who holds such a
        // certificate renews it at once.
        let (ca, name) = (node.ca.clone(), node.name.clone());
        if self.cas.len() > 1 {
            self.cas.retain(|known| *known != ca);
        }
        let gone: Vec<(String, u32)> = self
            .placements
            .values()
            .filter(|placement| placement.node == id)
            .map(|placement| (placement.service.clone(), placement.replica))
            .collect();
        self.nodes.remove(&id);
        self.denied.insert(text);
        out.extend([Change::NodeRemoved(id), Change::Trust]);
        for (service, replica) in gone {
            let keeps = self.services.get(&service).is_some_and(|s| keeps_data(&s.record.spec));
            if keeps && let Some(place) = self.placements.get_mut(&(service.clone(), replica)) {
                // Not to be replaced by an empty one behind anybody's back: an operator decides.
                place.reason = format!("its data was on {name}, which was removed");
                place.previous = None;
                out.push(Change::Service(service));
                continue;
            }
            self.placements.remove(&(service.clone(), replica));
            out.push(Change::Unplaced { service, replica, from: id, reason: String::new() });
        }
        Ok(())
    }

    pub(super) fn trust_issuer(
        &mut self,
        id: NodeId,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let Some(node) = self.nodes.get(&id) else {
            return Err(self.unknown_node(&id.to_string()));
        };
        if node.ca.is_empty() {
            return Err(
                conflict(format!("{} has not told its issuing CA", node.name)).node(&node.name)
            );
        }
        if !self.cas.contains(&node.ca) {
            self.cas.push(node.ca.clone());
            out.push(Change::Trust);
        }
        Ok(())
    }

    pub(super) fn drain(
        &mut self,
        id: NodeId,
        on: bool,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Err(self.unknown_node(&id.to_string()));
        };
        if node.draining != on {
            node.draining = on;
            out.push(Change::Node(id));
        }
        Ok(())
    }

    pub(super) fn label_node(
        &mut self,
        id: NodeId,
        set: &[String],
        remove: &[String],
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        for label in set.iter().chain(remove) {
            check_label(label)?;
        }
        let Some(node) = self.nodes.get_mut(&id) else {
            return Err(self.unknown_node(&id.to_string()));
        };
        let key = |label: &str| label.split_once('=').map_or(label, |(key, _)| key).to_owned();
        let mut labels = node.extra_labels.clone();
        labels.retain(|have| !remove.iter().chain(set).any(|other| key(other) == key(have)));
        labels.extend(set.iter().cloned());
        labels.sort();
        labels.dedup();
        if labels.len() > LABELS_MAX {
            return Err(exhausted(format!(
                "{} would have {} labels, the most is {LABELS_MAX}",
                node.name,
                labels.len()
            ))
            .node(&node.name));
        }
        if labels != node.extra_labels {
            node.extra_labels = labels;
            out.push(Change::Node(id));
        }
        Ok(())
    }

    pub(super) fn raise_format(
        &mut self,
        level: u32,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        if let Some(node) = self.nodes().into_iter().find(|node| node.format < level) {
            return Err(conflict(format!(
                "{} understands format level {}, not {level}",
                node.name, node.format
            ))
            .node(&node.name)
            .help("upgrade it first"));
        }
        if level > self.format {
            self.format = level;
            out.push(Change::Format(level));
        }
        Ok(())
    }

    pub(super) fn found_group(
        &mut self,
        group: &GroupRecord,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let unknown = group.voters.iter().find(|id| !self.nodes.contains_key(id));
        if let Some(id) = unknown {
            return Err(conflict(format!("{id}, which is to vote in it, is no node any more")));
        }
        if group.voters.is_empty() || group.name.is_empty() || group.name.len() > GROUP_NAME_MAX {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!("a group needs a voter, and a name of 1 to {GROUP_NAME_MAX} bytes"),
            ));
        }
        // Who was first decides who begins it.
        if !self.groups.contains_key(&group.name) {
            self.groups.insert(group.name.clone(), group.clone());
            out.push(Change::Group(group.name.clone()));
        }
        Ok(())
    }

    pub(super) fn add_token(
        &mut self,
        new: &TokenRecord,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        if !new.name.is_empty() {
            check_name(&new.name)?;
        }
        if new.used_by.is_some() || new.expires_at <= at {
            return Err(invalid("a join token must be unused and expire later than now"));
        }
        if self.tokens.contains_key(&new.secret_hash) {
            return Err(conflict("that join token is there already"));
        }
        let open = |t: &&TokenRecord| t.used_by.is_none() && t.expires_at > at;
        if self.tokens.values().filter(open).count() >= TOKENS_MAX {
            return Err(exhausted(format!(
                "{TOKENS_MAX} join tokens are open, the most there may be"
            ))
            .help("use some, or wait until they expire"));
        }
        self.tokens.retain(|_, old| old.expires_at.plus(TOKEN_MEMORY) > at);
        self.tokens.insert(new.secret_hash.clone(), new.clone());
        out.push(Change::Tokens);
        Ok(())
    }

    pub(super) fn put_operator(
        &mut self,
        operator: &OperatorRecord,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let text = format!("operator/{}", operator.id);
        if self.denied.contains(&text) {
            return Err(removed(&text));
        }
        if operator.name.is_empty()
            || self.operators.values().any(|o| o.name == operator.name && o.id != operator.id)
        {
            return Err(conflict(format!("there is another operator named `{}`", operator.name)));
        }
        if self.operators.get(&operator.id) != Some(operator) {
            self.operators.insert(operator.id, operator.clone());
            out.push(Change::Operator(operator.id));
        }
        Ok(())
    }
}

/// Whether its replicas write what must not be lost without a word.
fn keeps_data(spec: &ServiceSpec) -> bool {
    spec.components.iter().any(|component| !component.volumes.is_empty())
}

fn check_label(label: &str) -> Result<(), Failure> {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let fine = |text: &str| {
        text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    };
    if !key.is_empty() && fine(key) && fine(value) {
        return Ok(());
    }
    let shown: String = label.chars().take(64).collect();
    Err(invalid(format!("`{}` is not a label", shown.escape_debug()))
        .help("write `key=value` or `key`, of letters, digits and `-_./`, 63 at most each"))
}

fn check_name(name: &str) -> Result<(), Failure> {
    if valid_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(invalid(format!("`{}` is not a name for a node", shown.escape_debug()))
        .help("use 1 to 48 lower-case letters, digits and hyphens, not at either end"))
}
