//! Results of the newest requests, so that a retry is answered instead of applied again.

use std::collections::{HashMap, VecDeque};

use weft_protocol::Applied;
use weft_wire::RequestId;

use super::REQUESTS_KEPT;

/// Bounded by position, not by time, so that every node forgets the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    /// Oldest first.
    order: VecDeque<(RequestId, Applied)>,
    found: HashMap<RequestId, Applied>,
}

impl Requests {
    pub(crate) fn get(&self, request: RequestId) -> Option<&Applied> {
        self.found.get(&request)
    }

    pub(crate) fn remember(&mut self, request: RequestId, applied: Applied) {
        let newest = applied.index;
        self.found.insert(request, applied.clone());
        self.order.push_back((request, applied));
        while let Some((old, at)) = self.order.front()
            && at.index.saturating_add(REQUESTS_KEPT) <= newest
        {
            self.found.remove(old);
            self.order.pop_front();
        }
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(RequestId, Applied)> {
        self.order.iter()
    }
}

impl FromIterator<(RequestId, Applied)> for Requests {
    fn from_iter<I: IntoIterator<Item = (RequestId, Applied)>>(iter: I) -> Self {
        let mut requests = Self::default();
        for (request, applied) in iter {
            requests.remember(request, applied);
        }
        requests
    }
}

impl PartialEq for Requests {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Requests {}
