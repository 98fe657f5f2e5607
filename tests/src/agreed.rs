//! What tests of agreement look at: who leads, whether the nodes have settled, which processes run
//! and whether every node has the same state.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use weft_protocol::StateView;

use crate::nodes::NetCluster;
use crate::writer::state;
use crate::{DEADLINE, bin_dir};

impl NetCluster {
    /// `weft cluster status --json` on a node, if it answers.
    pub fn status(&self, node: usize) -> Option<Value> {
        serde_json::from_str(&self.weft(node, &["cluster", "status", "--json"]).stdout).ok()
    }

    /// Waits until as many nodes vote as are to, all are ready and close behind a leader whom a
    /// node knows; its number.
    ///
    /// # Panics
    /// If they do not within [`DEADLINE`].
    #[track_caller]
    pub fn settled(&self, through: usize) -> usize {
        let nodes = self.len();
        let voters = match nodes {
            0..=2 => 1,
            3 | 4 => 3,
            _ => 5,
        };
        let (leader, _) = self.wait_until("all voters follow a leader", DEADLINE, |cluster| {
            let status = cluster.status(through)?;
            let group = status["groups"].as_array()?.first()?.clone();
            let rows = status["nodes"].as_array()?;
            let close = |row: &Value| row["state"] == "ready" && row["lag"].as_u64() < Some(20);
            (status["no_majority"].is_null()
                && group["voters"].as_array()?.len() == voters
                && rows.len() == nodes
                && rows.iter().all(close))
            .then(|| status["leader"].as_str().map(str::to_owned))?
        });
        self.node_number(&leader)
    }

    /// Waits until a node says that another than `not` leads and that a majority is with it; the
    /// leader and how long that took.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`].
    #[track_caller]
    pub fn led_by_another(&self, through: usize, not: usize) -> (usize, Duration) {
        let old = self.node_name(not);
        let (name, after) = self.wait_until("another node leads", DEADLINE, |cluster| {
            let status = cluster.status(through)?;
            let leader = status["leader"].as_str().filter(|name| *name != old)?.to_owned();
            status["no_majority"].is_null().then_some(leader)
        });
        (self.node_number(&name), after)
    }

    /// Processes of a service's `hello` on a node, whatever Weft says of them.
    pub fn copies(&self, node: usize, service: &str) -> Vec<u32> {
        self.hellos(node).into_iter().filter(|(of, _)| of == service).map(|(_, pid)| pid).collect()
    }

    /// Every process of `hello` on a node, with its service.
    pub fn hellos(&self, node: usize) -> Vec<(String, u32)> {
        let program = bin_dir().join("hello");
        let service = |pid: u32| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let name = environ
                .split(|byte| *byte == 0)
                .find_map(|pair| pair.strip_prefix(b"WEFT_SERVICE="))?;
            (exe == program).then(|| String::from_utf8_lossy(name).into_owned())
        };
        self.node_pids(node).into_iter().filter_map(|pid| Some((service(pid)?, pid))).collect()
    }

    /// How many processes each service has on all nodes together.
    pub fn all_copies(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for (service, _) in (0..self.len()).flat_map(|node| self.hellos(node)) {
            *found.entry(service).or_default() += 1;
        }
        found
    }

    /// Waits until every service of `wanted` has so many processes and no other has any.
    ///
    /// # Panics
    /// If that is not so within [`DEADLINE`].
    #[track_caller]
    pub fn runs_exactly(&self, wanted: &[(&str, usize)]) {
        let wanted: BTreeMap<String, usize> =
            wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let mut found = BTreeMap::new();
        let what = format!("exactly {wanted:?} run");
        self.wait_until(&what, DEADLINE, |cluster| {
            let now = cluster.all_copies();
            if now != found {
                eprintln!("processes: {now:?}");
                found = now;
            }
            (found == wanted).then_some(())
        });
    }

    /// Node of a service's first replica, as a node has it in agreed state.
    pub fn place_of(&self, through: usize, service: &str) -> Option<usize> {
        self.places(through).remove(&(service.to_owned(), 1))
    }

    /// Nodes by service and replica, as a node has them in agreed state.
    pub fn places(&self, through: usize) -> BTreeMap<(String, u32), usize> {
        state(self, through).map(|state| places(self, &state)).unwrap_or_default()
    }

    /// Waits until every node has the same state, and gives it.
    ///
    /// # Panics
    /// If they have not within [`DEADLINE`].
    #[track_caller]
    pub fn one_state(&self) -> StateView {
        let mut seen = Vec::new();
        let (one, _) = self.wait_until("every node has the same state", DEADLINE, |cluster| {
            let states: Result<Vec<_>, _> = (0..cluster.len()).map(|n| state(cluster, n)).collect();
            let states = states.ok()?;
            let now: Vec<u64> = states.iter().map(|state| state.index).collect();
            if now != seen {
                eprintln!("state at {now:?}");
                seen = now;
            }
            let first = states.first()?;
            states.iter().all(|state| state == first).then(|| first.clone())
        });
        one
    }
}

/// Nodes by service and replica.
///
/// # Panics
/// If a replica is on no node of the cluster.
pub fn places(cluster: &NetCluster, state: &StateView) -> BTreeMap<(String, u32), usize> {
    let places = state.placements.iter().map(|place| {
        let id = place.node.to_string();
        let node = state.node(&id).unwrap_or_else(|| panic!("{id} is not a node"));
        ((place.service.clone(), place.replica), cluster.node_number(&node.name))
    });
    places.collect()
}
