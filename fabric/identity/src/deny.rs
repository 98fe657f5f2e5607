//! The deny list: identities that were removed and are refused for ever (design §3).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use weft_wire::Identity;

/// A set of identities. Serialised as a list in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Identity>", into = "Vec<Identity>")]
pub struct DenyList {
    denied: HashSet<Identity>,
}

impl DenyList {
    /// Denies nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an identity; whether it is new.
    pub fn insert(&mut self, identity: Identity) -> bool {
        self.denied.insert(identity)
    }

    /// Takes an identity off again; whether it was there. Nodes are never taken off (their ids are
    /// not used again), operators may be.
    pub fn remove(&mut self, identity: &Identity) -> bool {
        self.denied.remove(identity)
    }

    /// Whether an identity is refused.
    pub fn contains(&self, identity: &Identity) -> bool {
        !self.denied.is_empty() && self.denied.contains(identity)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.denied.len()
    }

    /// Whether nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.denied.is_empty()
    }
}

impl From<Vec<Identity>> for DenyList {
    fn from(denied: Vec<Identity>) -> Self {
        denied.into_iter().collect()
    }
}

impl From<DenyList> for Vec<Identity> {
    fn from(list: DenyList) -> Self {
        let mut all: Self = list.denied.into_iter().collect();
        all.sort_by_cached_key(Identity::to_string);
        all
    }
}

impl FromIterator<Identity> for DenyList {
    fn from_iter<I: IntoIterator<Item = Identity>>(identities: I) -> Self {
        Self { denied: identities.into_iter().collect() }
    }
}
