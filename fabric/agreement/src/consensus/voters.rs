//! Whether a change of voters may be tried: pure.

use std::collections::BTreeSet;

use weft_wire::NodeId;

/// Whether more than half of `config` live.
fn majority(config: &BTreeSet<NodeId>, live: &BTreeSet<NodeId>) -> bool {
    config.intersection(live).count() * 2 > config.len()
}

/// Refuses, and says why, what would leave the present or the new voters without a living
/// majority: a change is agreed on by majorities of both (joint consensus).
pub(crate) fn check(
    configs: &[BTreeSet<NodeId>],
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
    live: &BTreeSet<NodeId>,
) -> Result<(), String> {
    if voters.is_empty() {
        return Err("a group needs at least one voter".into());
    }
    if let Some(both) = voters.intersection(learners).next() {
        return Err(format!("{both} cannot be a voter and a learner"));
    }
    if configs.is_empty() {
        return Err("the group has no members yet: bootstrap it on one node first".into());
    }
    let counts = |config: &BTreeSet<NodeId>| {
        let dead: Vec<String> = config.difference(live).map(ToString::to_string).collect();
        format!(
            "{} of {} live, {} are needed; not alive: {}",
            config.intersection(live).count(),
            config.len(),
            config.len() / 2 + 1,
            dead.join(", ")
        )
    };
    if let Some(config) = configs.iter().find(|config| !majority(config, live)) {
        return Err(format!(
            "the present voters have no majority to agree on it: {}",
            counts(config)
        ));
    }
    if !majority(voters, live) {
        return Err(format!("the new voters would have no majority: {}", counts(voters)));
    }
    Ok(())
}
