//! Storing a definition and putting it in force (orchestration §8, the part that is agreed).

use std::collections::{BTreeMap, BTreeSet};

use weft_protocol::{
    CommandRef, DeployOptions, Desired, Revision, RevisionVerdict, ServiceRecord, ServiceSpec,
    Stateful, check_shipped, valid_name,
};
use weft_wire::{Failure, FailureKind, WallTime};

use super::apply::{Change, raise_epoch, want};
use super::refusal::{conflict, invalid, unknown_component};
use super::{COMPONENTS_MAX, ClusterState, REPLICAS_MAX, REVISIONS_KEPT, Service};

impl ClusterState {
    /// The revision that is now in force.
    pub(super) fn deploy(
        &mut self,
        spec: &ServiceSpec,
        options: &DeployOptions,
        by: String,
        (index, at): (u64, WallTime),
        out: &mut Vec<Change>,
    ) -> Result<u64, Failure> {
        check(spec)?;
        self.not_busy(&spec.name)?;
        if !options.component.is_empty() && spec.component(&options.component).is_none() {
            return Err(unknown_component(spec, &options.component));
        }
        let effective = self.effective(spec, options);
        if !effective.node.is_empty()
            && !self.nodes.values().any(|node| node.name == effective.node)
        {
            return Err(invalid(format!(
                "service `{}` is pinned to `{}`, which is not a node of this cluster",
                spec.name, effective.node
            ))
            .service(&spec.name)
            .node(&effective.node)
            .step("place")
            .help(format!("set `node` to one of {}, or leave it out", self.node_names())));
        }

        if let Some(refused) = self.route_taken(&effective) {
            return Err(refused);
        }
        if effective.files != spec.files {
            return Err(invalid(format!(
                "`files` of service `{}` are another component's too: they are not what was deployed",
                spec.name
            ))
            .service(&spec.name)
            .component(&options.component)
            .help(format!("deploy the whole service: `weft deploy {}`", spec.name)));
        }

        // Nothing below refuses.
        let is_new = !self.services.contains_key(&spec.name);
        let service = self.services.entry(spec.name.clone()).or_insert_with(|| Service {
            record: ServiceRecord {
                name: spec.name.clone(),
                revision: 0,
                spec: effective.clone(),
                active: effective.active,
                desired: Vec::new(),
                epochs: Vec::new(),
                undeployed: false,
                rollout: None,
                created_at: at,
                updated_at: at,
            },
            revisions: Vec::new(),
            generations: BTreeMap::new(),
        });
        let record = &mut service.record;
        let before = record.clone();

        if is_new || !same_definition(&before.spec, &effective) {
            // One that was rolled back keeps its number.
            let newest = service.revisions.last().map_or(0, |revision| revision.number);
            record.revision = newest.max(record.revision).saturating_add(1);
            service.revisions.push(Revision {
                verdict: RevisionVerdict::Open,
                number: record.revision,
                spec: effective.clone(),
                by,
                at,
            });
            let good = before.rollout.as_ref().map_or(before.revision, |r| r.other.revision);
            let mut surplus = service.revisions.len().saturating_sub(REVISIONS_KEPT);
            service.revisions.retain(|revision| {
                // An update that fails returns to it, and after failures it may be the oldest.
                let goes = surplus > 0 && revision.number != good;
                surplus -= usize::from(goes);
                !goes
            });
        }
        let targeted: Vec<_> = effective
            .components
            .iter()
            .filter(|c| options.component.is_empty() || c.name == options.component)
            .map(|c| c.name.clone())
            .collect();
        if !options.if_changed && !is_new {
            for component in targeted.iter().filter(|c| before.spec.component(c).is_some()) {
                raise_epoch(record, component, true);
            }
        }
        record.undeployed = false;
        if options.component.is_empty() || is_new || before.undeployed {
            record.active = spec.active;
            record.desired.clear();
        } else if spec.active {
            want(record, &options.component, Desired::Running);
        }
        for component in options.stopped.iter().filter(|name| effective.component(name).is_some()) {
            want(record, component, Desired::Stopped);
        }
        record.spec = effective;
        record.spec.active = record.active;
        record.desired.retain(|(name, _)| record.spec.component(name).is_some());
        let revision = record.revision;
        let after = record.clone();
        let rollout = match is_new {
            true => None,
            false => self.update_of(&before, &after, index, at),
        };
        let Some(Service { record, .. }) = self.services.get_mut(&spec.name) else {
            return Err(Failure::new(FailureKind::Internal, "a service vanished"));
        };
        record.rollout = rollout.map(Box::new);
        if is_new || *record != before {
            record.updated_at = at;
            out.push(Change::Service(spec.name.clone()));
        }
        self.trim(&spec.name, out);
        Ok(revision)
    }

    /// Another number of replicas, as a revision of its own.
    pub(super) fn scale(
        &mut self,
        name: &str,
        replicas: u32,
        by: String,
        at: (u64, WallTime),
        out: &mut Vec<Change>,
    ) -> Result<u64, Failure> {
        let target = CommandRef { service: name.to_owned(), component: String::new() };
        let mut spec = self.deployed(&target)?.record.spec.clone();
        spec.replicas = replicas;
        let options = DeployOptions { if_changed: true, ..DeployOptions::default() };
        self.deploy(&spec, &options, by, at, out)
    }

    /// A route that another service's is in the way of: two of one node cannot listen on one port for
    /// one host name (orchestration §3.3). The names that services have by themselves are their own.
    fn route_taken(&self, spec: &ServiceSpec) -> Option<Failure> {
        let listens = |spec: &ServiceSpec| -> Vec<(u16, String, String)> {
            let of = |component: &weft_protocol::ComponentSpec| {
                let name = component.name.clone();
                let named = component.routes.iter().filter(|route| !route.hostname.is_empty());
                named
                    .map(move |route| (route.port, route.hostname.to_lowercase(), name.clone()))
                    .collect::<Vec<_>>()
            };
            spec.components.iter().flat_map(of).collect()
        };
        let wanted = listens(spec);
        let apart = |other: &ServiceSpec| {
            !spec.node.is_empty() && !other.node.is_empty() && spec.node != other.node
        };
        let others = self.services.values().map(|service| &service.record).filter(|record| {
            record.name != spec.name && !record.undeployed && !apart(&record.spec)
        });
        for record in others {
            for (port, host, holder) in listens(&record.spec) {
                let Some((_, _, component)) =
                    wanted.iter().find(|(p, h, _)| (*p, h) == (port, &host))
                else {
                    continue;
                };
                let name = &record.name;
                return Some(
                    conflict(format!("port {port} of `{host}` is a route of `{name}/{holder}`"))
                        .service(&spec.name)
                        .component(component)
                        .step("check routes")
                        .help(
                            "give the route another `port` or `hostname`, or undeploy the holder",
                        ),
                );
            }
        }
        None
    }

    /// What is in force after the deploy: for one component, all the others as they are.
    fn effective(&self, spec: &ServiceSpec, options: &DeployOptions) -> ServiceSpec {
        if options.component.is_empty() {
            return spec.clone();
        }
        let Some(new) = spec.component(&options.component) else { return spec.clone() };
        match self.services.get(&spec.name).map(|service| &service.record) {
            Some(record) if !record.undeployed => {
                let mut merged = record.spec.clone();
                match merged.components.iter_mut().find(|c| c.name == new.name) {
                    Some(old) => *old = new.clone(),
                    None => merged.components.push(new.clone()),
                }
                merged
            }
            _ => {
                let mut only = spec.clone();
                only.components.retain(|c| c.name == new.name);
                only
            }
        }
    }
}

/// `active` is a wish, not part of the definition: stopping and starting makes no revision.
fn same_definition(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    if a.active == b.active {
        return a == b;
    }
    let mut a = a.clone();
    a.active = b.active;
    a == *b
}

/// What every node relies on; definition files are checked for much more before they get here.
fn check(spec: &ServiceSpec) -> Result<(), Failure> {
    let refuse = |what: String, help: &str| Err(invalid(what).service(&spec.name).help(help));
    if !valid_name(&spec.name) {
        return refuse(
            format!("`{}` is not a name for a service", spec.name.escape_debug()),
            "use 1 to 48 lower-case letters, digits and hyphens, not at either end",
        );
    }
    if spec.components.is_empty() || spec.components.len() > COMPONENTS_MAX {
        return refuse(
            format!("service `{}` has {} components", spec.name, spec.components.len()),
            "a service has 1 to 100 `[[components]]`",
        );
    }
    if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
        return refuse(
            format!("service `{}` asks for {} replicas", spec.name, spec.replicas),
            "`replicas` is 1 to 1000; to run none, use `weft stop`",
        );
    }
    if let Err(what) = check_shipped(&spec.files) {
        return refuse(what, "deploy it with `weft deploy`, from where the files are");
    }
    if spec.failover.stateful == Stateful::Snapshot {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!("service `{}`: `stateful = \"snapshot\"` is not in this version", spec.name),
        )
        .service(&spec.name)
        .help("use `stateful = \"wait\"`"));
    }
    let mut seen = BTreeSet::new();
    for component in &spec.components {
        if !valid_name(&component.name) {
            return refuse(
                format!("`{}` is not a name for a component", component.name.escape_debug()),
                "use 1 to 48 lower-case letters, digits and hyphens, not at either end",
            );
        }
        if !seen.insert(&component.name) {
            return refuse(
                format!("service `{}` has two components `{}`", spec.name, component.name),
                "give each component a name of its own",
            );
        }
    }
    Ok(())
}
