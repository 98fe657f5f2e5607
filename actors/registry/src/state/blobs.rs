//! Which blobs agreed state refers to: those must stay, all others may go.

use std::collections::BTreeSet;

use super::ClusterState;

impl ClusterState {
    /// Digests of every file that a kept revision of any service ships.
    pub fn blobs(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for service in self.services.values() {
            let kept = service.revisions.iter().map(|revision| &revision.spec);
            let other = service.record.rollout.iter().map(|rollout| &rollout.other.spec);
            for spec in kept.chain([&service.record.spec]).chain(other) {
                all.extend(spec.files.iter().map(|file| file.digest.clone()));
            }
        }
        all
    }
}
