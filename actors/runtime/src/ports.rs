//! Host ports of routes (orchestration §13): random in 10000–60000, one table per node, the same
//! port again for the same route as long as it is free.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_protocol::{ComponentKey, RouteSpec};
use weft_wire::WallTime;

/// Both ends are handed out.
pub(crate) const RANGE: std::ops::RangeInclusive<u16> = 10_000..=60_000;
/// So many ports are tried before giving up.
pub(crate) const TRIES: u32 = 100;
/// A released port stays reserved for its route this long.
pub(crate) const RESERVED: Duration = Duration::from_secs(600);

/// Which port belongs to which route. Kept in `route-ports.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// By `service/replica/component/route`.
    routes: BTreeMap<String, Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    port: u16,
    /// When its component was forgotten.
    released: Option<WallTime>,
}

/// No free port was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no free port in 10000-60000 for route `{0}` after {TRIES} tries: free some, then `weft restart`"
)]
pub(crate) struct Exhausted(String);

fn name(key: &ComponentKey, route: &str) -> String {
    format!("{key}/{route}")
}

impl Ports {
    /// The ports of a component's routes, in order. A port it has already is kept if
    /// `still_good`; a new one must be `free`. All or nothing.
    ///
    /// # Errors
    /// [`Exhausted`]; then nothing has changed.
    pub(crate) fn ensure(
        &mut self,
        key: &ComponentKey,
        routes: &[RouteSpec],
        now: WallTime,
        mut random: impl FnMut() -> u64,
        still_good: impl Fn(u16) -> bool,
        free: impl Fn(u16) -> bool,
    ) -> Result<Vec<u16>, Exhausted> {
        let mut new = self.clone();
        new.routes.retain(|_, held| held.released.is_none_or(|at| now.since(at) < RESERVED));
        let mut ports = Vec::with_capacity(routes.len());
        for route in routes {
            let name = name(key, &route.name);
            let own = new.routes.get(&name).map(|held| held.port).filter(|port| still_good(*port));
            let port = match own {
                Some(port) => port,
                None => (0..TRIES)
                    .map(|_| {
                        let span = u64::from(RANGE.end() - RANGE.start()) + 1;
                        RANGE.start() + u16::try_from(random() % span).unwrap_or(0)
                    })
                    .find(|port| !new.routes.values().any(|h| h.port == *port) && free(*port))
                    .ok_or_else(|| Exhausted(name.clone()))?,
            };
            new.routes.insert(name, Held { port, released: None });
            ports.push(port);
        }
        *self = new;
        Ok(ports)
    }

    /// The port of one route, if it has one.
    pub(crate) fn get(&self, key: &ComponentKey, route: &str) -> Option<u16> {
        self.routes.get(&name(key, route)).map(|held| held.port)
    }

    /// Its routes are no more; their ports stay reserved for a while.
    pub(crate) fn release(&mut self, key: &ComponentKey, now: WallTime) {
        let prefix = name(key, "");
        for (name, held) in &mut self.routes {
            if name.starts_with(&prefix) {
                held.released = Some(now);
            }
        }
    }
}

/// Whether a listener could be opened there now.
pub(crate) fn is_free(host: IpAddr, port: u16) -> bool {
    TcpListener::bind((host, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(replica: u32) -> ComponentKey {
        ComponentKey { service: "web".into(), replica, component: "api".into() }
    }

    fn route(name: &str) -> RouteSpec {
        RouteSpec {
            name: name.into(),
            port: 443,
            mode: weft_protocol::RouteMode::L4,
            hostname: String::new(),
            public: false,
            backend_tls: None,
        }
    }

    fn counter() -> impl FnMut() -> u64 {
        let mut n = 0;
        move || {
            n += 1;
            n
        }
    }

    const T0: WallTime = WallTime::from_micros(0);

    #[test]
    fn a_route_gets_its_port_again_and_another_one_when_it_is_taken() {
        let mut ports = Ports::default();
        let routes = [route("a"), route("b")];
        let first = ports.ensure(&key(1), &routes, T0, counter(), |_| true, |_| true).unwrap();
        assert_ne!(first[0], first[1]);
        ports.release(&key(1), T0);
        let again = ports.ensure(&key(1), &routes, T0, counter(), |_| true, |_| true).unwrap();
        assert_eq!(first, again);
        let taken = first[0];
        let moved =
            ports.ensure(&key(1), &routes, T0, counter(), |p| p != taken, |_| true).unwrap();
        assert_ne!(moved[0], taken);
        assert_eq!(moved[1], first[1]);
    }

    #[test]
    fn a_released_port_is_reserved_for_ten_minutes() {
        let mut ports = Ports::default();
        let port = ports.ensure(&key(1), &[route("")], T0, || 7, |_| true, |_| true).unwrap();
        ports.release(&key(1), T0);
        let soon = T0.plus(RESERVED - Duration::from_secs(1));
        assert!(ports.ensure(&key(2), &[route("")], soon, || 7, |_| true, |_| true).is_err());
        let later = T0.plus(RESERVED);
        assert_eq!(ports.ensure(&key(2), &[route("")], later, || 7, |_| true, |_| true), Ok(port));
    }

    #[test]
    fn exhaustion_names_the_range_and_leaves_nothing_half_allocated() {
        let mut ports = Ports::default();
        let before = ports.clone();
        let only = RANGE.start() + 1;
        let error = ports
            .ensure(&key(1), &[route("a"), route("b")], T0, counter(), |_| true, |p| p == only)
            .unwrap_err();
        assert!(error.to_string().contains("10000-60000"), "{error}");
        assert_eq!(ports, before);
    }

    proptest! {
        #[test]
        fn no_two_routes_share_a_port(seed in any::<u64>(), count in 1u32..60) {
            let mut state = seed;
            let mut ports = Ports::default();
            let mut all = Vec::new();
            for replica in 0..count {
                let random = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state >> 33
                };
                let got =
                    ports.ensure(&key(replica), &[route("")], T0, random, |_| true, |_| true)?;
                prop_assert!(RANGE.contains(&got[0]));
                all.extend(got);
            }
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
        }
    }
}
